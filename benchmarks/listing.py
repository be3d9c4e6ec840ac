"""How long looking at a long history takes: ``python -m benchmarks.listing``.

Makes a history of realistic jobs in PostgreSQL and in SQLite, or takes the one that it made in
``--folder`` before, asks each question many times with other values, and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import typer
from sqlalchemy import text

from mesh.definition import Definition
from mesh.filter import JobFilter
from mesh.fingerprint import fingerprint
from mesh.job import TERMINAL, State, made_job_id, state_version
from mesh.ports import MasterSettings
from mesh.sql import BulkUpsert, InsertNew
from mesh.testing.servers import PostgresServer
from mesh.wire import Defined, Event, Heartbeat, LaneLoad, Record
from mesh_master.plain import NEW_COLUMNS
from mesh_master.store import SqlMaster

DAY = 86_400.0
LANES = ["default", "mail", "reports", "media", "sync", "billing", "search", "slow"]
NAMES = [
    f"{app}.{what}"
    for what in ("send", "render", "import_rows", "charge", "index", "resize", "sync_account")
    for app in ("shop", "crm", "blog", "admin")
]
RARE_NAME, RARE_LANE = "admin.close_books", "closing"
ERRORS = ["TimeoutError", "ConnectionError", "ValueError", "HTTPStatusError", "KeyError"]
REASONS = ["upstream", "gateway", "parser", "quota", "checksum", "currency", "template", "timezone"]
RESULT = '{"sent":true,"bytes":18231,"to":"somebody@example.com"}'
TRACEBACK = "Traceback (most recent call last):\n" + '  File "/app/shop/work.py", line 42\n' * 12

Row = tuple[Any, ...]


class Past:
    """Jobs as a busy month leaves them, the same for the same number."""

    def __init__(self, jobs: int, queued: int) -> None:
        self.jobs = jobs
        self.queued = queued
        """Jobs at the end that have not begun."""
        self.end = time.time() // 3600 * 3600
        self._random = random.Random(6)
        self._weights = [1 / (n + 1) for n in range(len(NAMES))]

    def rows(self) -> Iterator[tuple[dict[str, Any], list[Row], list[Row]]]:
        """Each job's row, its tags, and rows of attempts before the last."""
        dice = self._random
        names = dice.choices(NAMES, self._weights, k=self.jobs)
        for number, name in enumerate(names):
            at = self.end - 30 * DAY * (1 - number / self.jobs)
            lane = LANES[(len(name) + ord(name[0])) % len(LANES)]
            if dice.random() < 0.02:
                lane = dice.choice(LANES)
            if number % (self.jobs // 40) == 7:
                name, lane = RARE_NAME, RARE_LANE
            job_id = made_job_id(at, f"{dice.getrandbits(80):020x}")
            row: dict[str, Any] = dict.fromkeys(NEW_COLUMNS)
            row |= {"id": job_id, "name": name, "lane": lane, "priority": 3, "enqueued_at": at}
            row |= {"payload": f'{{"order":{number},"note":"{"x" * 80}"}}', "agent": "nats-1"}
            tags: list[Row] = []
            if dice.random() < 0.3:
                tenant = str(int(dice.paretovariate(0.7)) % 5000)
                row["meta"] = f'{{"tenant":"{tenant}"}}'
                tags.append(("tenant", tenant, job_id))
            is_open = number >= self.jobs - self.queued - 50
            is_running = is_open and number < self.jobs - self.queued
            yield row, tags, self._ending(row, at, is_open, is_running)

    def _ending(self, row: dict[str, Any], at: float, is_open: bool, is_running: bool) -> list[Row]:
        dice, attempts = self._random, list[Row]()
        chance, attempt = dice.random(), 1
        state = State.SUCCEEDED
        if is_open:
            state = State.RUNNING if is_running else State.QUEUED
        elif chance < 0.05:
            state = State.FAILED
        elif chance < 0.06:
            state = State.CANCELLED
        elif chance < 0.063:
            state = State.EXPIRED
        began = at + dice.expovariate(2)
        if (state is State.FAILED or chance > 0.97) and not is_open:
            attempt = 2
            error = dice.choice(ERRORS)
            attempts.append(
                (row["id"], 1, "retrying", "w-1", began, began + 1, error, "no answer", TRACEBACK)
            )
            began += 10
        row |= {"state": state, "attempt": attempt, "version": state_version(state, attempt)}
        if state is not State.QUEUED and state is not State.EXPIRED:
            row |= {"started_at": began, "worker": f"worker-{dice.randrange(20)}"}
        if state in TERMINAL:
            row["finished_at"] = began + dice.lognormvariate(-2, 1.5)
        if state is State.SUCCEEDED:
            row["result"] = RESULT
        elif state is State.FAILED:
            error = dice.choices(ERRORS, [16, 8, 4, 2, 1])[0]
            about = dice.choice(REASONS)
            message = f"{about} of {about}-service said {dice.randrange(400, 599)} for order 'x'"
            row |= {"error_type": error, "error_message": message, "error_traceback": TRACEBACK}
            row["fingerprint"] = fingerprint(row["name"], error, message)
        elif state in TERMINAL:
            row |= {"error_type": state.capitalize(), "error_message": "by hand"}
        return attempts


async def fill(master: SqlMaster, past: Past) -> None:
    """Write the history as the recorder does, in its batches, into empty tables. Their indexes are
    made afterwards, which takes a fraction of the time."""
    tables, database = master.tables, master.database
    indexes = [
        index for table in (tables.jobs, tables.attempts, tables.tags) for index in table.indexes
    ]
    async with database.write(timeout=None) as connection:
        for index in indexes:
            await connection.run_sync(index.drop)
    tag = ("name", "value", "job_id")
    tags = BulkUpsert(database, tables.tags, tag, tag)
    error = ("error_type", "error_message", "error_traceback")
    columns = ("job_id", "attempt", "outcome", "worker", "started_at", "finished_at", *error)
    attempts = InsertNew(database, tables.attempts, columns, "job_id")
    began = time.perf_counter()
    size, batch = 8000, list[tuple[dict[str, Any], list[Row], list[Row]]]()

    async def write() -> None:
        rows = sorted(tuple(row[name] for name in NEW_COLUMNS) for row, *_ in batch)
        async with database.write(durable=False) as connection:
            await master.recording.new.run(connection, rows)
            await attempts.run(connection, sorted(a for *_, some in batch for a in some))
            each = sorted({one for _, some, _ in batch for one in some})
            await tags.run(connection, [dict(zip(tag, one, strict=True)) for one in each])
        batch.clear()

    for one in past.rows():
        batch.append(one)
        if len(batch) == size:
            await write()
    if batch:
        await write()
    took = time.perf_counter() - began
    typer.echo(f"  {past.jobs} jobs written in {took:.0f} s")
    began = time.perf_counter()
    for index in indexes:
        async with database.write(timeout=None) as connection:
            await connection.run_sync(index.create)
    took = time.perf_counter() - began
    typer.echo(f"  {len(indexes)} indexes made in {took:.0f} s")
    first = (await master.list_jobs(JobFilter(states=[State.SUCCEEDED], limit=1)))[0]
    loads = [LaneLoad(lane, 10, 3, 1) for lane in LANES]
    others: list[Record] = [
        *(Event(first.id, 2**32 + n, past.end, "progress", b'{"done":1}') for n in range(1000)),
        *(
            Heartbeat(f"worker-{n}", past.end, "nats-1", "host", n, "1", past.end, "running", loads)
            for n in range(200)
        ),
        *(Defined(name, "default", past.end, "", DEFINITION) for name in NAMES),
    ]
    lease = await master.acquire("recorder:nats-1", "benchmark", 60.0)
    assert lease is not None
    await master.record("nats-1", others, lease)
    await analyze(master)
    began = time.perf_counter()
    while await master.roll_up(90 * DAY, 5000) >= 5000:
        pass
    typer.echo(f"  rolled up in {time.perf_counter() - began:.0f} s")


async def analyze(master: SqlMaster) -> None:
    """Count what is in the tables, as servers do by themselves some time later."""
    if master.database.is_local:  # SQLite has no server that would
        return
    tables = ", ".join(table.fullname for table in master.tables.metadata.sorted_tables)
    word = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE"}[master.database.kind]
    async with master.database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"{word} {tables}"))


DEFINITION = Definition(lane="default").encode()

Question = Callable[[], Awaitable[Any]]


def questions(master: SqlMaster, end: float, some: Sequence[str]) -> dict[str, Question]:
    """What is asked, by what it is called."""
    dice = random.Random(1)

    def listing(**given: Any) -> Question:
        async def ask() -> Any:
            chosen = {k: v() if callable(v) else v for k, v in given.items()}
            return await master.list_jobs(JobFilter(limit=50, **chosen))

        return ask

    def deep(pages: int, **given: Any) -> Question:
        """A page far behind the first: the pages before it are asked for, and not measured."""
        where: JobFilter = JobFilter(limit=50, **given)

        async def ask() -> Any:
            nonlocal where
            jobs = await master.list_jobs(where)
            if jobs:
                where = where.next_page(jobs[-1])
            return jobs

        async def begin() -> None:
            nonlocal where
            jobs = await master.list_jobs(replace(where, limit=50 * pages))
            where = where.next_page(jobs[-1])

        ask.begin = begin  # type: ignore[attr-defined]
        return ask

    async def detail() -> Any:
        job_id = dice.choice(some)
        await master.get_jobs([job_id])
        await master.attempts(job_id)
        return await master.events(job_id)

    def name() -> str:
        return dice.choice(NAMES)

    def lane() -> str:
        return dice.choice(LANES)

    def since(most: float = 30 * DAY) -> Callable[[], float]:
        return lambda: end - dice.random() * most

    failed, succeeded, running = [State.FAILED], [State.SUCCEEDED], [State.RUNNING]
    hour, day, month = 3600.0, DAY, 30 * DAY
    return {
        "count_jobs()": master.count_jobs,
        "count_jobs(name, lane)": lambda: master.count_jobs(JobFilter(name=name(), lane=lane())),
        "count_jobs(failed)": lambda: master.count_jobs(JobFilter(states=failed)),
        "series, an hour": lambda: master.series(end - hour, end, 60),
        "series, an hour by name": lambda: master.series(end - hour, end, 60, by="name"),
        "series, a day by 5 minutes": lambda: master.series(end - day, end, 300),
        "series, a day by lane": lambda: master.series(end - day, end, 300, by="lane"),
        "series, a day of one handler": lambda: master.series(end - day, end, 300, name=name()),
        "series, a month by the hour": lambda: master.series(end - month, end, hour),
        "failures, a day": lambda: master.failures(end - day),
        "failures, all": lambda: master.failures(),
        "list": listing(),
        "list running": listing(states=running),
        "list failed": listing(states=failed),
        "list succeeded": listing(states=succeeded),
        "list ended": listing(states=sorted(TERMINAL)),
        "list by name": listing(name=name),
        "list by rare name": listing(name=RARE_NAME),
        "list by name's beginning": listing(name="crm.*"),
        "list by lane": listing(lane=lane),
        "list by rare lane": listing(lane=RARE_LANE),
        "list by tag": listing(meta=lambda: {"tenant": str(dice.randrange(1, 1000))}),
        "list by frequent tag": listing(meta={"tenant": "1"}),
        "list by error": listing(error=lambda: dice.choice(ERRORS)),
        "list by fingerprint": listing(
            fingerprint=lambda: (
                fingerprint(NAMES[0], "ValueError", f"{r} of {r}-service said 500 for order 'x'")
                if (r := dice.choice(REASONS))
                else ""
            )
        ),
        "list since": listing(since=since()),
        "list since, until": listing(since=end - 20 * day, until=end - 19 * day),
        "list failed since": listing(states=failed, since=since()),
        "list failed until": listing(states=failed, until=since()),
        "state, name": listing(states=failed, name=name),
        "state, rare name": listing(states=failed, name=RARE_NAME),
        "state, rare name, by enqueuing": listing(
            states=succeeded, name=RARE_NAME, order="enqueued"
        ),
        "running, name": listing(states=running, name=name),
        "state, lane": listing(states=failed, lane=lane),
        "state, rare lane": listing(states=failed, lane=RARE_LANE),
        "name, lane": listing(name=name, lane=lane),
        "name, another's lane": listing(name=NAMES[0], lane=RARE_LANE),
        "name, error": listing(name=name, error=lambda: dice.choice(ERRORS)),
        "rare name, error": listing(name=RARE_NAME, error="KeyError"),
        "state, name, lane": listing(states=failed, name=name, lane=lane),
        "state, name, another's lane": listing(
            states=succeeded, name=NAMES[0], lane=RARE_LANE, order="enqueued"
        ),
        "tag, failed": listing(meta={"tenant": "1"}, states=failed),
        "tag, rare name": listing(meta={"tenant": "1"}, name=RARE_NAME),
        "200 pages deep": deep(200),
        "200 pages deep, failed": deep(200, states=failed),
        "200 pages deep, name": deep(200, name=NAMES[2]),
        "200 pages deep, lane": deep(200, lane=LANES[1]),
        "a job, its attempts and events": detail,
        "backlog()": master.backlog,
        "workers()": master.workers,
        "handlers()": master.handlers,
    }


async def measure(master: SqlMaster, end: float, runs: int, only: str) -> None:
    newest = await master.list_jobs(JobFilter(states=[State.SUCCEEDED], limit=200))
    some = [job.id for job in newest]
    typer.echo(f"  {'':34} {'p50':>8} {'p95':>8}   ms")
    for name, ask in questions(master, end, some).items():
        if only not in name:
            continue
        begin = getattr(ask, "begin", None)
        if begin is not None:
            await begin()
        await ask()
        took: list[float] = []
        for _ in range(runs):
            began = time.perf_counter()
            await ask()
            took.append((time.perf_counter() - began) * 1000)
            if sum(took) > 4000:
                break
        cut = quantiles(took, n=20, method="inclusive") if len(took) > 1 else took * 19
        mark = "" if cut[18] < 100 else "   <<<"
        typer.echo(f"  {name:34} {cut[9]:8.1f} {cut[18]:8.1f}{mark}")


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[SqlMaster]:
    """A master of that kind in the folder."""
    settings = MasterSettings(auto_migrate=True)
    if kind == "sqlite":
        master = SqlMaster(f"sqlite:///{folder / 'mesh.db'}", settings)
        await master.open()
        yield master
        await master.close()
        return
    place = folder / "postgres"
    place.mkdir(exist_ok=True)
    is_new = not (place / "data").exists()
    with PostgresServer(place) as server:
        url = server.create_database() if is_new else server.url("mesh_1")
        master = SqlMaster(url, settings)
        await master.open()
        yield master
        await master.close()
        server.stop()


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    for kind in arguments.kind or ["postgres", "sqlite"]:
        typer.echo(kind)
        past = Past(arguments.jobs, arguments.queued)
        async with opened(kind, folder) as master:
            if not await master.count_jobs():
                await fill(master, past)
            newest = (await master.list_jobs(JobFilter(limit=1)))[0]
            await measure(master, newest.enqueued_at, arguments.runs, arguments.only)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2_000_000)
    parser.add_argument("--queued", type=int, default=20_000, help="of these, not begun")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--kind", action="append", choices=["postgres", "sqlite"])
    parser.add_argument("--only", default="", help="questions whose names have this")
    parser.add_argument("--folder", type=Path, help="keep the history here, for the next run")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="mesh-listing-") as temporary:
        asyncio.run(run(arguments, arguments.folder or Path(temporary)))


if __name__ == "__main__":
    main()
