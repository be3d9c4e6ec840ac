"""What the master asks its database does not read the history, however long that is.

The statements are those that are really executed, and the plans those of sessions like the
master's own, of a history that was really written. With 2 million jobs: ``make databases``.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from benchmarks.listing import DAY, Past, Question, analyze, fill, questions
from mesh.filter import JobFilter
from mesh.held import After, Held
from mesh.job import TERMINAL, State, new_job_id
from mesh.ports import MasterSettings
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.master import Story
from mesh.testing.servers import MariaServer, PostgresServer
from mesh.wire import Limit
from mesh_master.store import SqlMaster

FEW, MANY = 12_000, 2_000_000

# The tables that grow with the history.
LONG = ("jobs", "attempts", "events", "tags")


@dataclass
class Filled:
    """A master with a history."""

    master: SqlMaster
    past: Past
    some: list[str] = field(default_factory=list)
    """Ids of ended jobs."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((kind, jobs), id=f"{kind}-{jobs}", marks=marks)
        for jobs, marks in ((FEW, ()), (MANY, (pytest.mark.databases, pytest.mark.timeout(3600))))
        for kind in ("sqlite", "postgres", "mariadb")
    ],
)
def where(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, int]:
    kind, jobs = request.param
    if kind == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('history') / 'mesh.db'}", jobs
    server: PostgresServer | MariaServer = request.getfixturevalue(kind)
    return server.create_database(), jobs


@pytest.fixture
async def filled(where: tuple[str, int]) -> AsyncIterator[Filled]:
    url, jobs = where
    master = SqlMaster(url, MasterSettings(auto_migrate=True))
    past = Past(jobs, queued=200)
    try:
        await master.open()
        if not await master.count_jobs():
            await write(master, past)
        ended = await master.list_jobs(JobFilter(states=[State.SUCCEEDED], limit=200))
        yield Filled(master, past, [job.id for job in ended])
    finally:
        await master.close()


async def write(master: SqlMaster, past: Past) -> None:
    """Past jobs and their events, and jobs that are held."""
    await fill(master, past)
    ended = await master.list_jobs(JobFilter(states=[State.SUCCEEDED], limit=200))
    events: list[dict[str, Any]] = [
        {"job_id": job.id, "seq": n, "at": past.end, "kind": "progress", "data": "{}"}
        for job in ended
        for n in range(60)
    ]
    async with master.database.write(timeout=None) as connection:
        await connection.execute(master.tables.events.insert(), events)
    await analyze(master)
    limited = (make_job(limits=[Limit(f"l-{n % 5}", 2)]) for n in range(100))
    later = (make_job(due_at=past.end + 3600 + n) for n in range(100))
    await master.submit([Held(job) for job in (*limited, *later)])


@dataclass
class Seen:
    """A statement that was executed, where, and with what."""

    engine: AsyncEngine
    text: str
    parameters: Any


@contextmanager
def watching(master: SqlMaster) -> Iterator[list[Seen]]:
    """Notes the statements that are executed within the block."""
    seen: list[Seen] = []
    listeners = []
    for engine in master.database.engines:

        def note(
            _: Any, __: Any, text: str, given: Any, *___: Any, engine: AsyncEngine = engine
        ) -> None:
            if text.startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
                seen.append(Seen(engine, text, given[0] if isinstance(given, list) else given))

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        listeners.append((engine, note))
    try:
        yield seen
    finally:
        for engine, note in listeners:
            event.remove(engine.sync_engine, "before_cursor_execute", note)


async def faults(filled: Filled, seen: list[Seen]) -> list[str]:
    """The plans that read what grows with the history."""
    found: list[str] = []
    # The way to a page that passes least goes past no more (``listing``).
    many = max(5000.0, sqrt(50 * filled.past.jobs))
    for one in {each.text: each for each in seen}.values():
        async with one.engine.connect() as connection:
            if filled.master.database.is_local:
                rows = await connection.exec_driver_sql(
                    f"EXPLAIN QUERY PLAN {one.text}", one.parameters
                )
                plan = "\n".join(str(row[-1]) for row in rows)
                wrong = _wrong_in_sqlite(plan, one.text)
            elif filled.master.database.kind == "mysql":
                aliases = {name: table for table, name in re.findall(r"(\w+) AS (\w+)", one.text)}
                shown = await _explained(
                    connection, one, "EXPLAIN FORMAT=JSON", "ANALYZE FORMAT=JSON"
                )
                plans = [_CONDITION.sub(r'\1"…"\2', each) for each in shown]
                wrong = [w for p in plans for w in _wrong_in_mariadb(json.loads(p), many, aliases)]
                plan = "\n".join(plans)
            else:
                shown = await _explained(
                    connection,
                    one,
                    "EXPLAIN (FORMAT JSON)",
                    "EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF)",
                )
                read = [json.loads(each) if isinstance(each, str) else each for each in shown]
                wrong = [what for (p,) in read for what in _wrong_in_postgres(p["Plan"], many)]
                plan = json.dumps(read, indent=1)
        found += [f"{what}\n{one.text}\n{plan}" for what in wrong]
    return found


async def _explained(
    connection: AsyncConnection, one: Seen, explain: str, analyze: str
) -> list[Any]:
    """What it reads. Of what writes also what the planner thinks that it will read, as what it
    was to write has been written; that alone, if it cannot be written twice."""
    plans = []
    if re.match("INSERT|UPDATE|DELETE|WITH.*(INSERT|UPDATE|DELETE)", one.text, re.DOTALL):
        rows = await connection.exec_driver_sql(f"{explain} {one.text}", one.parameters)
        plans.append(rows.scalar_one())
    with suppress(IntegrityError):
        rows = await connection.exec_driver_sql(f"{analyze} {one.text}", one.parameters)
        plans.append(rows.scalar_one())
    await connection.rollback()
    return plans


# MariaDB leaves the quotes in them as they are, which is no JSON.
_CONDITION = re.compile(r'^(\s*"\w*condition": ).*?(,?)$', re.MULTILINE)


def _wrong_in_sqlite(plan: str, text: str) -> list[str]:
    wrong: list[str] = []
    for line in plan.splitlines():
        scan = re.match(r"SCAN (?:\w+ AS )?mesh_(\w+)(.*)", line)
        if scan is None or scan[1] not in LONG:
            continue
        # In the order of an index, as far as the limit goes.
        if not ("INDEX" in scan[2] and "LIMIT" in text and "B-TREE FOR ORDER BY" not in plan):
            wrong.append(line)
    return wrong


def _wrong_in_postgres(node: Mapping[str, Any], many: float, is_limited: bool = False) -> list[str]:
    kind, wrong = node["Node Type"], list[str]()
    if node.get("Relation Name", "").removeprefix("mesh_") in LONG and kind != "ModifyTable":
        if "Actual Rows" in node:
            each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            reads = each * node["Actual Loops"]
        else:
            reads = 0 if is_limited else node["Plan Rows"]
        if kind == "Seq Scan" or reads > many:
            wrong.append(f"{kind} on {node['Relation Name']}, {reads:.0f} rows")
    if kind == "Limit":
        is_limited = True
    elif kind in ("Sort", "Hash", "Aggregate"):
        is_limited = False  # it takes all there is before it gives the first
    for child in node.get("Plans", ()):
        wrong += _wrong_in_postgres(child, many, is_limited)
    return wrong


def _wrong_in_mariadb(node: Any, many: float, aliases: Mapping[str, str]) -> list[str]:
    wrong: list[str] = []
    if isinstance(node, list):
        return [what for each in node for what in _wrong_in_mariadb(each, many, aliases)]
    if not isinstance(node, dict):
        return wrong
    name = node.get("table_name", "")
    if aliases.get(name, name).removeprefix("mesh_") in LONG:
        reads = (node.get("r_rows") or 0) * (node.get("r_loops") or 0)
        if "r_rows" not in node:
            reads = node.get("rows", 0)
        way = node.get("access_type")  # an INSERT's table has none
        if way == "ALL" or reads > many:
            wrong.append(f"{way} of {name}, {reads:.0f} rows")
    for child in node.values():
        wrong += _wrong_in_mariadb(child, many, aliases)
    return wrong


def duties(filled: Filled) -> dict[str, Question]:
    """What coordinators ask all day."""
    master, now = filled.master, filled.past.end
    some = filled.some[:100]

    async def record() -> None:
        lease = await master.acquire("recorder:nats-2", "tests", 60.0)
        assert lease is not None
        stories = [Story(now) for _ in range(50)]
        await master.record("nats-2", [story.accepted() for story in stories], lease)
        await master.record(
            "nats-2", [story.started() for story in stories] + [stories[0].event(0)], lease
        )
        await master.record("nats-2", [story.finished() for story in stories], lease)
        await master.release(lease)

    async def forget() -> None:
        for kept in (60.0, 40 * DAY):
            found = await master.outlived(dict.fromkeys(TERMINAL, kept), 20)
            await master.remove(found.job_ids)
        await master.sweep(now - DAY, 100)
        await master.roll_up(90 * DAY, 100)

    async def unblock() -> None:
        await master.submit([Held(make_job(), after=[After(some[0])])])
        await master.submit([Held(make_job(), after=[After(new_job_id())])])
        await master.unblock(some)
        await master.unblock()

    async def dispatch() -> None:
        await master.hold([make_job(due_at=now + 5)])
        for job in await master.claim_due(now + 7200, 100, 30.0):
            await master.unclaim([job.id])
        await master.claim_gated(now + 7200, 100, 30.0)
        await master.claim_gated(now + 7200, 100, 30.0, leaving_out=["mail"])
        await master.claim_due(now + 7200, 100, 30.0, leaving_out=["mail"])

    async def steer() -> None:
        await master.submit([Held(make_job())])
        await master.find_key("a-key")
        await master.cancel(some[:3], "a test")
        await master.retry(some[:3])

    async def look() -> None:
        await master.known(some)
        await master.get_jobs(some)
        await master.waits(some)
        await master.links(some[0])
        await master.last_events(some)

    return {
        "record": record,
        "forget": forget,
        "unblock": unblock,
        "dispatch": dispatch,
        "steer": steer,
        "look": look,
    }


FILTERS: list[dict[str, Any]] = [
    *({"states": [state]} for state in State),
    *({"states": [state], "lane": "mail", "name": "shop.send"} for state in State),
    {"states": sorted(TERMINAL), "order": "enqueued"},
    {"states": sorted(TERMINAL), "order": "finished"},
    {"name": "shop.*"},
    {"app": "shop."},
    {"app": "shop.", "states": [State.FAILED]},
    {"schedule": "nightly"},
    {"key": "a-key"},
    {"workflow": new_job_id()},
    {"parent": new_job_id()},
    {"retried": True, "states": [State.FAILED]},
    {"retried": False, "states": [State.FAILED]},
    {"meta": {"tenant": "1", "region": "eu"}},
    {"error": "ValueError", "states": [State.FAILED]},
    {"fingerprint": "0123456789abcdef", "retried": False},
    {"since": 1.0, "until": 2e9, "order": "enqueued"},
    {"since": 1.0, "until": 2e9, "order": "finished"},
    {"until": 2e9, "lane": "mail"},
]


# These two read what failed, by an index: a twentieth of this history.
READ_ALL_FAILURES = ("failures, all", "{'retried': True, ")


async def test_what_coordinators_ask(filled: Filled) -> None:
    wrong: list[str] = []
    for name, ask in duties(filled).items():
        with watching(filled.master) as seen:
            await ask()
        assert seen, name
        wrong += [f"{name}: {fault}" for fault in await faults(filled, seen)]
    assert not wrong, "\n\n".join(wrong)


async def test_what_people_ask(filled: Filled) -> None:
    wrong: list[str] = []
    for name, ask in questions(filled.master, filled.past.end, filled.some).items():
        if begin := getattr(ask, "begin", None):
            await begin()
        with watching(filled.master) as seen:
            await ask()
        wrong += [f"{name}: {fault}" for fault in await faults(filled, seen)]
    for where in FILTERS:
        with watching(filled.master) as seen:
            page = await filled.master.list_jobs(JobFilter(**where, limit=20))
            if page:
                await filled.master.list_jobs(JobFilter(**where, limit=20).next_page(page[-1]))
        wrong += [f"{where}: {fault}" for fault in await faults(filled, seen)]
    if filled.past.jobs > FEW:
        wrong = [fault for fault in wrong if not fault.startswith(READ_ALL_FAILURES)]
    assert not wrong, "\n\n".join(wrong)


async def test_that_indexes_are_missing_is_seen(filled: Filled) -> None:
    async with filled.master.database.write(timeout=None) as connection:
        for index in filled.master.tables.jobs.indexes:
            await connection.run_sync(index.drop)
    with watching(filled.master) as seen:
        await filled.master.claim_due(filled.past.end + 7200, 100, 30.0)
    assert await faults(filled, seen)
