"""What is counted as it happens is what a plain count over all rows gives, whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Insert, Table, bindparam, select

from mesh.filter import JobFilter
from mesh.fingerprint import fingerprint
from mesh.held import After, Held, KeyRule
from mesh.job import TERMINAL, State
from mesh.ports import RUN_TIMES, MasterSettings
from mesh.sql.migrate import Migrations
from mesh.testing.clock import ManualClock
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.master import Story, record
from mesh.testing.servers import PostgresServer
from mesh.wire import Record
from mesh_master import merge, schema
from mesh_master.migrations.versions import r0010_statistics
from mesh_master.store import SqlMaster
from mesh_master.tables import COUNTED

BEGIN = 1_800_000_000.0
WORKERS = ["w-1", "w-2"]
ENDS = [State.SUCCEEDED, State.FAILED, State.CANCELLED]

STEPS = ["record", "record", "record", "again", "hold", "submit", "take_back", "cancel"]
STEPS += ["retry", "unblock", "remove", "roll_up", "pass_time"]

Sums = Counter[tuple[Any, ...]]


async def counted(master: SqlMaster) -> tuple[Sums, Sums]:
    """What the tables of statistics say: jobs by state, name and lane; things by the minute."""
    totals, series = master.tables.totals, master.tables.series
    jobs: Sums = Counter()
    things: Sums = Counter()
    async with master.database.read() as connection:
        for row in await connection.execute(select(totals)):
            jobs[row.state, row.name, row.lane] += row.jobs
        of_lanes: Sums = Counter()
        for row in await connection.execute(select(series)):
            for name in COUNTED:
                if row.span > 0:
                    things[row.at, row.name, row.lane, name] += row._mapping[name]
                if row.span < 0 or row.shard != 0:
                    of_lanes[row.at, row.lane, name] += row._mapping[name]
    for (at, _, lane, name), count in things.items():
        of_lanes[at, lane, name] -= count
    assert not without_none(of_lanes)
    return without_none(jobs), without_none(things)


async def told(master: SqlMaster) -> tuple[Sums, Sums]:
    """The same from the jobs and attempts themselves."""
    jobs, attempts = master.tables.jobs, master.tables.attempts
    totals: Sums = Counter()
    things: Sums = Counter()
    of: dict[str, tuple[str, str]] = {}

    def add(whose: str, at: float, *names: str, by: int = 1) -> None:
        for name in names:
            things[at // 60 * 60, *of[whose], name] += by

    def add_run(whose: str, begun: float | None, ended: float) -> None:
        if begun is not None:
            ran = max(0, round((ended - begun) * 1e6))
            add(whose, ended, f"ran_{sum(ran >= bound * 1e6 for bound in RUN_TIMES)}")
            add(whose, ended, "ran", by=ran)

    async with master.database.read() as connection:
        for job in await connection.execute(select(jobs)):
            of[job.id] = (job.name, job.lane)
            totals[job.state, job.name, job.lane] += 1
            add(job.id, job.enqueued_at, "enqueued")
            if job.started_at is not None and (job.state == "running" or job.finished_at):
                wait = job.started_at - max(job.due_at or 0, job.enqueued_at)
                add(job.id, job.started_at, "started", "waits")
                add(job.id, job.started_at, "waited", by=max(0, round(wait * 1e6)))
            if job.finished_at is not None:
                add(job.id, job.finished_at, job.state)
                add_run(job.id, job.started_at, job.finished_at)
        for one in await connection.execute(select(attempts)):
            if one.started_at is not None:
                add(one.job_id, one.started_at, "started")
            if one.finished_at is not None:
                if one.outcome == "retrying":
                    add(one.job_id, one.finished_at, "retried")
                add_run(one.job_id, one.started_at, one.finished_at)
    return without_none(totals), without_none(things)


def without_none(sums: Sums) -> Sums:
    return Counter({key: n for key, n in sums.items() if n})


@st.composite
def stories(draw: st.DrawFn) -> Story:
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["due_at"] = BEGIN + draw(st.integers(-5, 100))
    return Story(
        BEGIN + draw(st.integers(0, 200)) + draw(st.sampled_from([0.0, 0.25, 0.9999])),
        name=draw(st.sampled_from(["a", "b's"])),
        lane=draw(st.sampled_from("xy")),
        **options,
    )


@st.composite
def records(draw: st.DrawFn, story: Story) -> list[Record]:
    """Some of what may be told of a job, in an order in which it may come."""
    found: list[Record] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["accepted", "started", "retrying", "finished"]))
        if kind == "accepted":
            found.append(story.accepted())
            continue
        attempt = draw(st.integers(1, 3))
        run: dict[str, Any] = {
            "attempt": attempt,
            "worker": draw(st.sampled_from(WORKERS)),
            "at": draw(st.sampled_from([0.5, 1.002, 1.5, 59.25, 200])),
            "lost": draw(st.integers(0, attempt - 1)),
        }
        if kind == "finished":
            run["state"] = draw(st.sampled_from(ENDS))
        found.append(getattr(story, kind)(**run))
    return found


@st.composite
def plays(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Steps, each a kind and what it is about."""
    cast = draw(st.lists(stories(), min_size=1, max_size=4))
    steps: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(STEPS))
        some = draw(st.lists(st.sampled_from(cast), min_size=1, max_size=3, unique_by=id))
        if kind == "record":
            batch = [one for story in some for one in draw(records(story))]
            steps.append((kind, draw(st.permutations(batch))))
        else:
            steps.append((kind, some))
    return steps


class Play:
    """Steps on a master, and what has gone from it."""

    def __init__(self, master: SqlMaster, clock: ManualClock) -> None:
        self.master = master
        self.clock = clock
        self.last: list[Record] = []
        self.gone: Sums = Counter()

    async def step(self, kind: str, what: Any) -> None:
        master = self.master
        if kind == "record":
            self.last = what
            await record(master, *what)
        elif kind == "again":
            await record(master, *self.last)
        elif kind == "submit":
            # The second runs after the first, and has a key that may be taken.
            first, *others = what
            rule = KeyRule(on_conflict="replace")
            job = make_job(lane="y", name="a", key="k", enqueued_at=BEGIN)
            await master.submit([Held(first.job), Held(job, rule=rule)])
            after = [After(first.id)]
            await master.submit([Held(story.job, after=after) for story in others])
        elif kind in ("hold", "take_back"):
            await getattr(master, kind)([story.job for story in what])
        elif kind == "cancel":
            await master.cancel([story.id for story in what], "no")
        elif kind == "retry":
            await master.retry([story.id for story in what])
        elif kind == "unblock":
            await master.unblock()
        elif kind == "remove":
            before = (await told(master))[1]
            await master.remove([story.id for story in what])
            before.subtract((await told(master))[1])
            self.gone.update(before)
        elif kind == "roll_up":
            await master.roll_up(90 * 86_400.0, 100)
        else:
            self.clock.advance(100)

    async def check(self) -> None:
        totals, series = await told(self.master)
        series.update(self.gone)
        assert await counted(self.master) == (totals, without_none(series))
        states: Counter[State] = Counter()
        for (state, *_), jobs in totals.items():
            states[State(state)] += jobs
        assert await self.master.count_jobs() == states
        where = JobFilter(states=sorted(TERMINAL), name="b*", lane="x")
        assert await self.master.count_jobs(where) == {
            State(state): jobs
            for (state, name, lane), jobs in totals.items()
            if state in TERMINAL and name == "b's" and lane == "x"
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_counted_is_what_there_is(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    clock = ManualClock(BEGIN + 300)
    with asyncio.Runner() as runner:
        master = SqlMaster(url, MasterSettings(auto_migrate=True, clock=clock))
        runner.run(master.open())
        play = Play(master, clock)

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(plays())
        def check(steps: list[tuple[str, Any]]) -> None:
            for step in steps:
                runner.run(play.step(*step))
            runner.run(play.check())

        check()
        runner.run(master.close())


async def test_those_who_count_at_once_lose_nothing(postgres: PostgresServer) -> None:
    """Recorders of several agents, in parts, while two janitors roll up what they count."""
    url = postgres.create_database()
    masters = [SqlMaster(url, MasterSettings(auto_migrate=True)) for _ in range(3)]
    for master in masters:
        await master.open()
    now = masters[0].database.now()
    done = asyncio.Event()

    async def play(master: SqlMaster, agent: str) -> None:
        for turn in range(4):
            stories = [
                Story(now - 600 * turn - n % 3, name=f"n{n % 5}", lane=f"l{n % 2}")
                for n in range(1200)
            ]
            await record(master, *[s.accepted() for s in stories], agent=agent)
            runs = [s.retrying() if n % 4 else s.started() for n, s in enumerate(stories)]
            ends = [s.finished(attempt=1 + bool(n % 4), at=30) for n, s in enumerate(stories)]
            await record(master, *runs, agent=agent)
            await record(master, *ends[::2], *ends, agent=agent)
            await master.cancel([s.id for s in stories[::7]], "too late")

    async def roll_up(master: SqlMaster) -> None:
        while not done.is_set():
            await master.roll_up(90 * 86_400.0, 30)

    async with asyncio.TaskGroup() as tasks:
        rolling = [tasks.create_task(roll_up(master)) for master in masters[1:]]
        await asyncio.gather(play(masters[0], "a-1"), play(masters[1], "a-2"))
        done.set()
        await asyncio.gather(*rolling)
    while await masters[0].roll_up(90 * 86_400.0, 500):
        pass
    assert await counted(masters[2]) == await told(masters[2])
    assert sum((await masters[2].count_jobs()).values()) == 9600
    for master in masters:
        await master.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_history_from_before_is_counted_too(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    master = SqlMaster(url, MasterSettings(auto_migrate=True))
    before = r0010_statistics.down_revision
    with monkeypatch.context() as patch:
        patch.setattr(
            Migrations, "_steps", lambda self, at, _: self._script._upgrade_revs(before, at)
        )
        await master.database.open()
        await schema.migrations(master.database, master.settings).upgrade()
    jobs, attempts = master.tables.jobs, master.tables.attempts
    begin = master.database.now() // 60 * 60
    if begin % 3600 == 0:
        begin -= 60  # or stories would cross the hour, by which what is long ago is counted
    # As those of old wrote it.
    known = [column for column in jobs.c if column.name not in ("fingerprint", "terms")]
    async with master.database.write() as connection:
        for n in range(40):
            story = Story(begin - n * 3 * 3600 - n, name=f"n{n % 3}", lane="xy"[n % 2])
            end = story.finished(attempt=1 + n % 2, at=n, state=ENDS[n % 3])
            records: list[Record] = [story.accepted(), *([story.retrying()] if n % 2 else []), end]
            plan = merge.plan("a-1", records[: 1 + n % 4], {})
            for row in plan.jobs:
                old = {c.name: row[c.name] for c in known if c.name in row}
                await connection.execute(insert_of(jobs, old), old)
            for row in plan.attempts:
                await connection.execute(attempts.insert(), row)
    await master.open()

    def by_the_hour(sums: Sums) -> Sums:
        long_ago: Sums = Counter()
        for (at, *rest), count in sums.items():
            long_ago[at // 3600 * 3600 if at < begin - 2 * 86_400 else at, *rest] += count
        return without_none(long_ago)

    totals, things = await told(master)
    there, happened = await counted(master)
    assert there == totals
    assert by_the_hour(happened) == by_the_hour(things)
    assert len(happened) < len(things)
    failed = await master.list_jobs(JobFilter(states=[State.FAILED]))
    assert failed
    assert {job.fingerprint for job in failed} == {
        fingerprint(job.name, job.error_type, job.error_message) for job in failed
    }
    assert sum(group.count for group in await master.failures()) == len(failed)
    await master.close()


def insert_of(table: Table, row: Mapping[str, Any]) -> Insert:
    return table.insert().values({name: bindparam(name) for name in row})
