"""What is known after a run: what processes wrote down, and what master and agents say."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from mesh import Mesh, State
from mesh.errors import MeshError
from mesh.events import Lifecycle
from mesh.job import TERMINAL
from mesh.ports import JobFilter, JobInfo

from .cluster import Cluster
from .journal import Entry

__all__ = [
    "Drained",
    "Evidence",
    "Row",
    "Seen",
    "drain",
    "gather",
    "odd_lines",
    "unkept_leases",
    "watch",
]

Seen = dict[str, list[tuple[State, int]]]
"""The states, with attempts, that a job was seen in, in order, each change once."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job at the end."""

    id: str
    name: str
    state: State
    attempt: int
    n: str | None
    """The name that its producer gave it."""
    key: str | None = None
    schedule: str | None = None
    slot: float | None = None
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    entries: Sequence[Entry]
    rows: Sequence[Row]
    attempts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """What the history has of earlier attempts: their outcomes by job and number."""
    seen: Seen = field(default_factory=dict)
    stories: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    """Of some jobs, their lifecycle events, with the attempt of each."""
    orders: frozenset[str] = frozenset()
    """What transactions committed."""
    left: Mapping[str, int] = field(default_factory=dict)
    """What is still somewhere, and is not to be."""
    drained: bool = True
    connections: Mapping[str, int] = field(default_factory=dict)
    """To the database servers, at the end."""
    processes: int = 0
    growth: Mapping[str, float] = field(default_factory=dict)
    """Megabytes that a process's memory grew by, after its first seconds."""


async def watch(app: Mesh, seen: Seen, stop: asyncio.Event) -> None:
    """Look at the history all the time, through all that befalls it."""
    while not stop.is_set():
        try:
            master = await app.master()
            for info in await master.list_jobs(JobFilter(limit=500)):
                _note(seen, info)
            open_states = [state for state in State if state not in TERMINAL]
            for info in await master.list_jobs(JobFilter(states=open_states, limit=500)):
                _note(seen, info)
        except (MeshError, OSError):
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)


def _note(seen: Seen, info: JobInfo) -> None:
    if info.schedule is not None:
        return  # it may be taken back before it is due
    states = seen.setdefault(info.id, [])
    if not states or states[-1] != (info.state, info.attempt):
        states.append((info.state, info.attempt))


# draining -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drained:
    is_all: bool
    seconds: float
    left: Mapping[str, int]


async def drain(cluster: Cluster, app: Mesh, patience: float) -> Drained:
    """Wait until nothing is under way any more. Schedules are paused first. ``patience``: seconds
    without anything getting less."""
    started = last = time.monotonic()
    least: int | None = None
    left: Mapping[str, int] = {}
    for name in ("each", "latest"):
        await app.schedules.pause(name)
    while True:
        try:
            left = await _left(cluster, app)
        except (MeshError, OSError) as error:
            left = {f"cannot ask: {error}": 1}
        now = time.monotonic()
        cluster.journal.write("left", left=left)
        if not left:
            return Drained(True, now - started, {})
        total = sum(left.values())
        if least is None or total < least:
            least, last = total, now
        if now - last > patience:
            await _dump(cluster)
            return Drained(False, now - started, left)
        await asyncio.sleep(0.3)


_TABLES = ("mesh_jobs", "mesh_agent_jobs", "mesh_agent_ledger")
_ASK: Mapping[str, Sequence[str]] = {
    "mariadb": (
        "SELECT * FROM information_schema.innodb_trx",
        "SHOW FULL PROCESSLIST",
        f"CHECK TABLE {', '.join(_TABLES)}",
    ),
    "postgresql": ("SELECT * FROM pg_stat_activity WHERE state <> 'idle'",),
    "sqlite": ("PRAGMA integrity_check",),
}


async def _dump(cluster: Cluster) -> None:
    """Ask the databases what holds up what is left: ``left.txt``, for people."""
    ended = ", ".join(f"'{state}'" for state in sorted(TERMINAL))
    jobs, *others = _TABLES
    rows = [f"SELECT * FROM {jobs} WHERE state NOT IN ({ended})"]
    rows += [f"SELECT * FROM {table}" for table in others]
    lines = []
    for database in (*cluster.databases("master"), *cluster.databases("agent")):
        for query in (*_ASK[database.dialect.name], *rows):
            lines.append(f"{database.url.database}: {query}")
            try:
                async with database.connect() as connection:
                    found = (await connection.execute(text(query))).mappings()
                    lines += [str(dict(row))[:1000] for row in found]
            except (SQLAlchemyError, OSError) as error:  # it is away, or has no such table
                lines.append(str(error).partition("\n")[0])
    (cluster.folder / "left.txt").write_text("\n".join(lines))


async def _left(cluster: Cluster, app: Mesh) -> dict[str, int]:
    left: Counter[str] = Counter()
    master = await app.master()
    for state, jobs in (await master.count_jobs()).items():
        if state not in TERMINAL:
            left[f"jobs {state}"] = jobs
    for name in cluster.agent_names:
        agent = await app.agent(name)
        for lane, depth in (await agent.depth()).items():
            left[f"on {name} in {lane}"] = depth.total
        ledger = await agent.ledger()
        try:
            left[f"in the ledger of {name}"] = await ledger.lag()
        finally:
            await ledger.close()
    async with cluster.database().connect() as connection:
        for table, what in (("slots", "true"), ("dependencies", "is_open")):
            query = text(f"SELECT count(*) FROM mesh_{table} WHERE {what}")
            left[table] = (await connection.execute(query)).scalar_one()
    return {what: number for what, number in left.items() if number}


# gathering ------------------------------------------------------------------------------------


async def gather(cluster: Cluster, app: Mesh, seen: Seen, drained: Drained) -> Evidence:
    """All that can be known."""
    master = await app.master()
    rows: list[Row] = []
    where = JobFilter(limit=1000)
    while page := await master.list_jobs(where):
        rows += map(_row, page)
        where = where.next_page(page[-1])
    stories = {}
    # Some of each kind of end: reading the events of all would take as long as the run.
    ended = [row for row in rows if row.state in TERMINAL]  # of others it is never all told
    for row in ended[:: max(1, len(ended) // 300)]:
        events = (await app.get_job(row.id)).events()
        told = [Lifecycle.decode(e.data) async for e in events if e.kind == "lifecycle"]
        stories[row.id] = [(moment.event, moment.attempt) for moment in told]
    attempts: dict[str, dict[int, str]] = {}
    async with cluster.database().connect() as connection:
        found = await connection.execute(text("SELECT job_id, attempt, outcome FROM mesh_attempts"))
        for job_id, attempt, outcome in found:
            attempts.setdefault(str(job_id), {})[attempt] = outcome
        orders = frozenset((await connection.execute(text("SELECT n FROM orders"))).scalars())
    return Evidence(
        entries=cluster.entries(),
        rows=rows,
        attempts=attempts,
        seen=seen,
        stories=stories,
        orders=orders,
        left=drained.left,
        connections=await _connections(cluster),
        processes=sum(member.process is not None for member in cluster.members) + 1,  # the driver
        drained=drained.is_all,
    )


_CONNECTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE user = 'mesh'",
}


async def _connections(cluster: Cluster) -> dict[str, int]:
    found: dict[str, int] = {}
    for server in ("master", "agent"):
        for database in cluster.databases(server)[:1]:  # a server has them all
            if (query := _CONNECTIONS.get(database.dialect.name)) is not None:
                async with database.connect() as connection:
                    found[server] = (await connection.execute(text(query))).scalar_one()
    return found


def _row(info: JobInfo) -> Row:
    payload = json.loads(info.payload or b"{}")
    return Row(
        info.id,
        info.name,
        info.state,
        info.attempt,
        payload.get("n") or None,
        info.key,
        info.schedule,
        info.slot,
        info.workflow,
    )


# what processes said --------------------------------------------------------------------------

_UNKEPT = re.compile(r"(\S+ \S+),\d+ .*(leases of \d+ jobs are not extended|the lease )")


def unkept_leases(folder: Path) -> list[Entry]:
    """Where workers say that they could not keep leases, for want of an answer or of time: faults,
    as those of the nemesis are."""
    ahead = time.time() - time.monotonic()
    entries: list[Entry] = []
    for path in (folder / "logs").glob("*.log"):
        for line in path.read_text("utf-8", "replace").splitlines():
            if found := _UNKEPT.match(line):
                # By the process's own log, in whose second it was said.
                said = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").timestamp() - ahead
                number = f"{path.stem} {len(entries)}"
                about = {"fault": "lease not kept", "concerns": path.stem, "number": number}
                entries.append({"t": said, "e": "fault", **about})
                entries.append({"t": said + 1, "e": "mended", "number": number})
    return entries


_MARKS = re.compile(
    r"never retrieved|Traceback \(most recent call last\)|Unclosed|was never awaited|"
    r"Fatal Python error|AssertionError"
)


def odd_lines(folder: Path) -> Counter[str]:
    """Lines of logs that nobody is to see, whatever broke, and how often."""
    odd: Counter[str] = Counter()
    for path in (folder / "logs").glob("*.log"):
        for line in path.read_text("utf-8", "replace").splitlines():
            if _MARKS.search(line):
                odd[re.sub(r"[0-9a-f-]{36}|0x[0-9a-f]+|\d+", "…", line)[:160]] += 1
    return odd
