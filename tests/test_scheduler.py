"""The scheduler makes one job for each slot, and keeps to each schedule's options."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import Mesh, Retry
from mesh.errors import ConfigError, InvalidArguments, ScheduleExists, ScheduleNotFound
from mesh.job import State, new_job_id
from mesh.ports import AgentSettings, JobFilter, JobInfo, Lease, MasterSettings
from mesh.recurring import Declaration, Definition, ScheduleInfo, slot_job_id
from mesh.roles import RoleOptions
from mesh.schedule import parse
from mesh.schedules import Declaring, declarations
from mesh.service import Group
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.servers import PostgresServer
from mesh.wire import ErrorInfo, Finished, Record, Started
from mesh_master.dispatcher import Dispatcher
from mesh_master.reconcile import ALIVE, reconcile
from mesh_master.scheduler import LATE, Scheduler, plan
from mesh_master.store import SqlMaster
from mesh_workers import worker_role

AHEAD = 60.0


@dataclass
class Rig:
    """A master, an agent, a scheduler, an app; time goes on by hand."""

    url: str
    clock: ManualClock
    master: SqlMaster
    agent: MemoryAgent
    scheduler: Scheduler
    app: Mesh

    async def pass_time(self, seconds: float) -> None:
        """Second by second, with a round in each."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            await self.scheduler.round()

    async def dispatch(self) -> None:
        """Bring held jobs to the agent, and record that it has them."""
        dispatcher = Dispatcher(
            self.master, lambda _: [self.agent], threshold=AHEAD, clock=self.clock
        )
        await dispatcher._round()
        batch = await (await self.agent.ledger()).read(10_000, 0)
        await self.record(batch.records)

    async def record(self, records: Any) -> None:
        lease = await self.master.acquire("recorder:a", "test", 10)
        assert lease is not None
        await self.master.record("a", records, lease)

    async def run(self, job: JobInfo, state: State | None = State.SUCCEEDED) -> None:
        """A worker ran the job; ``None``: it is at it."""
        told: dict[str, Any] = {
            **{"id": job.id, "attempt": 1, "at": self.clock.time(), "name": job.name},
            **{"lane": job.lane, "priority": 3, "enqueued_at": job.enqueued_at, "worker": "w"},
            **{"started_at": self.clock.time(), "lost": 0},
        }
        record: Record = Started(**told)
        if state is not None:
            error = ErrorInfo("E", "no") if state is State.FAILED else None
            record = Finished(**told, state=state, error=error)
        await self.record([record])

    async def jobs(self, schedule: str) -> list[JobInfo]:
        """By slot."""
        found = await self.master.list_jobs(JobFilter(schedule=schedule, limit=10_000))
        return sorted(found, key=lambda job: job.slot or 0.0)

    async def slots(self, schedule: str, state: State | None = None) -> list[float]:
        """The jobs' slots, in seconds since the rig began."""
        return [
            job.slot - 1_800_000_000
            for job in await self.jobs(schedule)
            if job.slot is not None and state in (None, job.state)
        ]


@pytest.fixture(params=["sqlite", "postgres"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    clock, place = ManualClock(), f"memory://{new_job_id()}"
    master = SqlMaster(url, MasterSettings(clock=clock, auto_migrate=True))
    agent = MemoryAgent("a", place, AgentSettings(clock=clock))
    app = make_app(url, place, clock)
    await master.open()
    yield Rig(url, clock, master, agent, make_scheduler(master, agent, clock), app)
    await app.close()
    await master.close()


def make_scheduler(master: SqlMaster, agent: MemoryAgent, clock: ManualClock) -> Scheduler:
    return Scheduler(master, {"a": agent}, ahead=AHEAD, holder="test", clock=clock)


def make_app(url: str, agent: str, clock: ManualClock, **config: Any) -> Mesh:
    app = Mesh(master=url, agents={"a": agent}, clock=clock, **config)

    @app.job(lane="nightly")
    async def work(n: int = 0) -> None:
        """Never run here."""

    return app


class TestMaking:
    async def test_each_slot_gets_one_job_ahead_of_its_time(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "*/5 * * * * *", 7, name="s")
        await rig.scheduler.round()
        assert await rig.slots("s") == list(range(5, 61, 5))
        await rig.pass_time(34)
        assert await rig.slots("s") == list(range(5, 61, 5))
        await rig.pass_time(1)
        assert await rig.slots("s") == list(range(5, 96, 5))
        first = (await rig.jobs("s"))[0]
        assert (first.name, first.lane, first.payload) == ("work", "nightly", b'{"n":7}')
        assert (first.state, first.due_at) == (State.SCHEDULED, first.slot)
        assert first.schedule == "s"

    async def test_schedulers_that_all_believe_to_lead_do_no_harm(self, rig: Rig) -> None:
        for n in range(5):
            await rig.app.schedules.create("work", f"*/{n + 1} * * * * *", name=f"s{n}")
        others = [
            SqlMaster(rig.url, MasterSettings(clock=rig.clock, auto_migrate=True)) for _ in range(2)
        ]
        for master in others:
            await master.open()
        schedulers = [make_scheduler(m, rig.agent, rig.clock) for m in (rig.master, *others)]
        for _ in range(30):
            await asyncio.gather(*(scheduler.round() for scheduler in schedulers))
            rig.clock.advance(random.choice([0.3, 1, 4]))
        for n in range(5):
            slots = await rig.slots(f"s{n}")
            expected = range(int(slots[0]), int(slots[-1]) + 1, n + 1)
            minutes = [s for s in range(int(slots[0]), int(slots[-1]) + 1) if s % 60 % (n + 1) == 0]
            assert slots == (minutes if 60 % (n + 1) else list(expected))
        for master in others:
            await master.close()

    async def test_a_job_says_what_it_is_for(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every minute", name="s", meta={"a": "b"})
        await rig.pass_time(30)
        await rig.dispatch()
        rig.clock.advance(30)
        (delivery,) = await (await rig.agent.consume("nightly", lease=30)).pull(10)
        assert (delivery.job.schedule, delivery.job.slot) == ("s", 1_800_000_060.0)
        assert delivery.job.meta == {"a": "b"}

    async def test_jitter_moves_the_start_and_not_the_slot(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every 10 seconds", name="s", jitter=5)
        await rig.scheduler.round()
        jobs = await rig.jobs("s")
        delays = [(job.due_at or 0) - (job.slot or 0) for job in jobs]
        assert [job.slot for job in jobs] == [1_800_000_000 + n for n in range(10, 61, 10)]
        assert all(0 <= delay < 5 for delay in delays)
        assert len(set(delays)) == 6

    async def test_it_ends(self, rig: Rig) -> None:
        end = datetime.fromtimestamp(1_800_000_003, UTC)
        await rig.app.schedules.create("work", "every second", name="s", end=end)
        await rig.pass_time(5)
        assert await rig.slots("s") == [1, 2]
        assert (await rig.app.schedules.get("s")).next_slot is None

    async def test_what_it_cannot_read_stops_no_other(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = await rig.app.schedules.create("work", "every second", name="broken")
        definition = msgspec.structs.replace(broken.definition, expression="every blue moon")
        await rig.master.schedules.update("broken", 1, quietly=True, definition=definition)
        await rig.app.schedules.create("work", "every second", name="whole")
        await rig.scheduler.round()
        assert len(await rig.slots("whole")) == 60
        assert "blue" in caplog.text


class TestMissedSlots:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, [3540]),
            ({"missed": "skip"}, [3540]),
            ({"missed": "ignore"}, []),
            ({"missed": "catch_up"}, list(range(60, 3541, 60))),
            ({"missed": "catch_up", "catch_up_limit": 3}, [3420, 3480, 3540]),
        ],
    )
    async def test_after_an_hour_without_a_scheduler(
        self, rig: Rig, options: dict[str, Any], expected: list[int]
    ) -> None:
        await rig.app.schedules.create("work", "every minute", name="s", **options)
        rig.clock.advance(3600)
        await rig.scheduler.round()
        # The one of this very moment is late, not missed.
        assert await rig.slots("s") == [*expected, 3600, 3660]

    async def test_a_little_late_is_not_missed(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every second", name="s", missed="ignore")
        rig.clock.advance(LATE)
        await rig.scheduler.round()
        assert await rig.slots("s") == list(range(1, 61 + int(LATE)))

    async def test_a_slot_is_not_missed_because_the_leader_dies(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await rig.app.schedules.create("work", "every hour", name="s", missed="ignore")
        acquire, make_round = rig.master.acquire, rig.scheduler.round
        did: asyncio.Queue[str] = asyncio.Queue()

        async def acquire_and_say(*args: Any) -> Lease | None:
            lease = await acquire(*args)
            did.put_nowait("asked for the lease")
            return lease

        async def make_round_and_say() -> float:
            pause = await make_round()
            did.put_nowait("made a round")
            return pause

        # A moment before the slot it had said that it lived, but not made the job yet.
        rig.clock.advance(3599.9)
        assert await acquire("scheduler", "dead", 10.0)
        monkeypatch.setattr(rig.master, "acquire", acquire_and_say)
        monkeypatch.setattr(rig.scheduler, "round", make_round_and_say)
        await rig.scheduler.start()
        while await asyncio.wait_for(did.get(), 30) == "asked for the lease":
            rig.clock.advance(10 / 3)
        await rig.scheduler.stop()
        assert (await rig.slots("s"))[0] == 3600


class TestOverlap:
    async def test_skip(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every second", name="s", overlap="skip")
        await rig.pass_time(3)
        assert await rig.slots("s", State.SKIPPED) == [2, 3]
        first = (await rig.jobs("s"))[0]
        await rig.run(first, None)
        await rig.pass_time(1)
        await rig.run(first)
        await rig.pass_time(1)
        assert await rig.slots("s", State.SKIPPED) == [2, 3, 4]
        assert await rig.slots("s", State.SCHEDULED) == [5]

    async def test_queue(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every second", name="s", overlap="queue")
        await rig.pass_time(4)
        assert await rig.slots("s", State.SCHEDULED) == [1]
        assert await rig.slots("s", State.WAITING) == [2]
        assert await rig.slots("s", State.SKIPPED) == [3, 4]
        assert len(await rig.master.claim_due(rig.clock.time(), 10, 1.0)) == 1
        await rig.run((await rig.jobs("s"))[0])
        await rig.scheduler.round()
        assert await rig.slots("s", State.SCHEDULED) == [2]
        assert [j.slot for j in await rig.master.claim_due(rig.clock.time(), 10, 1.0)] == [
            1_800_000_002
        ]


class TestChanging:
    async def test_pausing_takes_back_what_has_not_begun(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every second", name="s")
        await rig.scheduler.round()
        await rig.dispatch()
        rig.clock.advance(31)
        await rig.scheduler.round()  # more, still on the master
        assert len(await rig.slots("s")) == 91
        assert (await rig.agent.depth())["nightly"].total == 60
        await rig.app.schedules.pause("s")
        await rig.scheduler.round()
        # Those whose time has come may run.
        assert (await rig.agent.depth())["nightly"].total == 31
        assert await rig.slots("s") == list(range(1, 32))
        ends = Counter(job.state for job in await rig.jobs("s"))
        assert ends == {State.QUEUED: 31, State.CANCELLED: 29}
        await rig.pass_time(40)
        assert await rig.slots("s") == list(range(1, 32))

    async def test_resuming_begins_now(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every 5 seconds", name="s")
        await rig.scheduler.round()
        await rig.dispatch()
        await rig.app.schedules.pause("s")
        await rig.pass_time(12)
        await rig.app.schedules.resume("s")
        await rig.pass_time(2)
        assert await rig.slots("s") == list(range(15, 75, 5))

    async def test_a_quick_pause_and_resumption_loses_no_slot(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every second", name="s")
        await rig.scheduler.round()
        await rig.dispatch()
        await rig.app.schedules.pause("s")
        await rig.app.schedules.resume("s")
        await rig.pass_time(3)
        assert await rig.slots("s") == list(range(1, 63))

    async def test_an_update_holds_from_now_on(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every 7 seconds", name="s")
        await rig.scheduler.round()
        await rig.dispatch()
        await rig.app.schedules.update("s", 9, expression="*/10 * * * * *", priority="high")
        await rig.pass_time(2)
        assert await rig.slots("s") == [10, 20, 30, 40, 50, 60]
        jobs = [job for job in await rig.jobs("s") if job.slot is not None]
        assert {job.payload for job in jobs} == {b'{"n":9}'}
        assert {job.priority for job in jobs} == {4}

    async def test_what_an_agent_does_not_give_back_stays_the_job_of_its_slot(
        self, rig: Rig
    ) -> None:
        await rig.app.schedules.create("work", "every 5 seconds", name="s")
        await rig.scheduler.round()
        await rig.dispatch()
        before = [job.id for job in await rig.jobs("s")]
        rig.agent.go_down()
        await rig.app.schedules.update("s", 1)
        await rig.pass_time(15)
        jobs = await rig.jobs("s")
        assert [job.id for job in jobs][: len(before)] == before
        assert await rig.slots("s") == list(range(5, 71, 5))

    async def test_deleting_leaves_the_history(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every second", name="s")
        await rig.scheduler.round()
        await rig.run((await rig.jobs("s"))[0])
        await rig.app.schedules.delete("s")
        with pytest.raises(ScheduleNotFound):
            await rig.app.schedules.get("s")
        await rig.scheduler.round()
        assert [job.state for job in await rig.jobs("s")] == [State.SUCCEEDED]
        await rig.app.schedules.create("work", "every second", name="s")

    async def test_run_now_moves_nothing(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every hour", 3, name="s")
        before = await rig.app.schedules.get("s")
        job = await rig.app.schedules.run_now("s")
        assert await rig.app.schedules.get("s") == before
        info = await job.info()
        assert (info.schedule, info.slot, info.payload) == ("s", None, b'{"n":3}')
        await rig.dispatch()
        assert (await rig.agent.depth())["nightly"].ready == 1

    async def test_failures_disable(self, rig: Rig) -> None:
        await rig.app.schedules.create(
            "work", "every minute", name="s", disable_after_failures=2, overlap="skip"
        )
        for state in (State.FAILED, State.SUCCEEDED, State.FAILED, State.FAILED):
            await rig.pass_time(60)
            assert (await rig.app.schedules.get("s")).state == "active"
            await rig.run((await rig.jobs("s"))[-1], state)
        await rig.pass_time(3)
        disabled = await rig.app.schedules.get("s")
        assert (disabled.state, disabled.reason) == ("disabled", "its last 2 jobs failed")
        await rig.app.schedules.resume("s")
        await rig.pass_time(3)
        assert (await rig.app.schedules.get("s")).state == "active"


class TestTheCode:
    """What processes have in their code, and what follows."""

    async def declare(self, rig: Rig, app: Mesh, *, starting: bool = False) -> None:
        await rig.master.schedules.declare(declarations(app), starting=starting)
        await reconcile(rig.master.schedules, "UTC")

    def app(self, rig: Rig, *expressions: str, **config: Any) -> Mesh:
        app = make_app(rig.url, "memory://x", rig.clock, **config)
        for n, expression in enumerate(expressions):
            app.schedule(app.get_handler("work"), expression, n, name=f"s{n}")
        return app

    async def test_it_is_made(self, rig: Rig) -> None:
        await self.declare(rig, self.app(rig, "every hour", "@daily"), starting=True)
        found = await rig.app.schedules.list()
        assert [(s.name, s.state, s.source) for s in found] == [
            ("s0", "active", "code"),
            ("s1", "active", "code"),
        ]

    async def test_a_new_version_changes_it(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        await self.declare(rig, self.app(rig, "every hour"), starting=True)
        rig.clock.advance(100)
        await self.declare(rig, self.app(rig, "every day"), starting=True)
        schedule = await rig.app.schedules.get("s0")
        assert schedule.definition.expression == parse("every day").text
        assert schedule.revision == 2
        assert "updated from the code" in caplog.text

    async def test_an_old_version_does_not_change_it_back(self, rig: Rig) -> None:
        """A rolling deployment: the old one's processes even start anew."""
        old, new = self.app(rig, "every hour"), self.app(rig, "every day")
        await self.declare(rig, old, starting=True)
        for _ in range(20):
            rig.clock.advance(10)
            await self.declare(rig, new, starting=True)
            await self.declare(rig, old, starting=True)
        schedule = await rig.app.schedules.get("s0")
        assert (schedule.definition.expression, schedule.revision) == (parse("every day").text, 2)
        # Rolled back: the new one's processes have gone.
        rig.clock.advance(ALIVE + 1)
        await self.declare(rig, old)
        schedule = await rig.app.schedules.get("s0")
        assert schedule.definition.expression == parse("every hour").text

    async def test_what_a_person_changed_stays_under_keep_database(self, rig: Rig) -> None:
        app = self.app(rig, "every hour", schedules_existing="keep_database")
        await self.declare(rig, app, starting=True)
        await rig.app.schedules.update("s0", expression="every 2 hours")
        rig.clock.advance(100)
        await self.declare(rig, app, starting=True)
        newer = self.app(rig, "every day", schedules_existing="keep_database")
        await self.declare(rig, newer, starting=True)
        schedule = await rig.app.schedules.get("s0")
        assert schedule.definition.expression == parse("every 2 hours").text

    async def test_the_code_counts_when_a_process_starts(self, rig: Rig) -> None:
        app = self.app(rig, "every hour")
        await self.declare(rig, app, starting=True)
        rig.clock.advance(1)
        await rig.app.schedules.update("s0", expression="every 2 hours")
        await rig.app.schedules.pause("s0")
        await self.declare(rig, app)
        schedule = await rig.app.schedules.get("s0")
        assert schedule.definition.expression == parse("every 2 hours").text
        rig.clock.advance(1)
        await self.declare(rig, app, starting=True)
        schedule = await rig.app.schedules.get("s0")
        assert schedule.definition.expression == parse("every hour").text
        assert (schedule.state, schedule.next_slot) == ("paused", None)

    @pytest.mark.parametrize("orphaned", ["disable", "ignore", "delete"])
    async def test_what_the_code_has_no_more(self, rig: Rig, orphaned: str) -> None:
        with_it = self.app(rig, "every hour", schedules_orphaned=orphaned)
        without = self.app(rig, schedules_orphaned=orphaned)
        await rig.app.schedules.create("work", "every hour", name="made-at-run-time")
        await self.declare(rig, with_it, starting=True)
        for _ in range(5):
            rig.clock.advance(10)
            await self.declare(rig, with_it)
            await self.declare(rig, without)
            assert (await rig.app.schedules.get("s0")).state == "active"
        for _ in range(5):
            rig.clock.advance(10)
            await self.declare(rig, without)
        left = {s.name: s.state for s in await rig.app.schedules.list()}
        expected = {"disable": {"s0": "disabled"}, "ignore": {"s0": "active"}, "delete": {}}
        assert left == {"made-at-run-time": "active", **expected[orphaned]}
        await rig.scheduler.round()
        await self.declare(rig, with_it, starting=True)
        assert (await rig.app.schedules.get("s0")).state == "active"

    async def test_nobody_alive_orphans_nothing(self, rig: Rig) -> None:
        await self.declare(rig, self.app(rig, "every hour"), starting=True)
        rig.clock.advance(10_000)
        await reconcile(rig.master.schedules, "UTC")
        assert (await rig.app.schedules.get("s0")).state == "active"

    async def test_two_apps_share_a_cluster(self, rig: Rig) -> None:
        one = self.app(rig, "every hour", prefix="one-")
        two = self.app(rig, "every day", prefix="two-")
        for _ in range(10):
            await self.declare(rig, one)
            await self.declare(rig, two)
            rig.clock.advance(10)
        names = {s.name: s.state for s in await rig.app.schedules.list()}
        assert names == {"one-s0": "active", "two-s0": "active"}
        assert (await two.schedules.get("s0")).name == "two-s0"
        await two.close()

    async def test_one_of_run_time_is_not_taken_over(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        await rig.app.schedules.create("work", "every 3 hours", name="s0")
        await self.declare(rig, self.app(rig, "every hour"), starting=True)
        await self.declare(rig, self.app(rig, "every hour"), starting=True)
        schedule = await rig.app.schedules.get("s0")
        assert schedule.definition.expression == parse("every 3 hours").text
        assert caplog.text.count("run time") == 1


class TestSaying:
    """Errors come at import, or at the call."""

    def app(self) -> Mesh:
        return make_app("sqlite:///never.db", "memory://never", ManualClock())

    def test_as_a_decorator(self) -> None:
        app = self.app()

        @app.schedule("0 2 * * *", 5, timezone="Europe/Amsterdam", name="night")
        @app.schedule(timedelta(minutes=90))
        @app.job(lane="mail", priority="low")
        def nightly(n: int = 1) -> None: ...

        assert set(app.schedules) == {"night", "nightly"}
        night = app.schedules.declared["night"]
        assert (night.payload, night.lane, night.priority) == ('{"n":5}', "mail", 2)
        assert night.schedule_in("UTC") == parse("0 2 * * *", "Europe/Amsterdam")

    def test_limits_in_time_are_each_jobs(self) -> None:
        app = self.app()

        @app.schedule("every day at 06:00", expires=60)
        @app.job(expires=5, deadline=600)
        def daily() -> None: ...

        definition = app.schedules.declared["daily"]
        slot = definition.next_slot(1_800_000_000.0, "UTC")
        assert slot is not None
        ahead = definition.job("daily", new_job_id(), now=slot - 5, slot=slot)
        assert (ahead.expires_at, ahead.deadline) == (slot + 60, slot + 600)
        caught_up = definition.job("daily", new_job_id(), now=slot + 5000, slot=slot)
        assert (caught_up.expires_at, caught_up.deadline) == (slot + 5060, slot + 5600)
        plain = app.get_handler("work")
        app.schedule(plain, "every day", name="plain")
        job = app.schedules.declared["plain"].job("plain", new_job_id(), now=slot)
        assert (job.expires_at, job.deadline) == (0.0, 0.0)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"expires": datetime.now(UTC)}, "schedule: expires=.*give seconds"),
            ({"retry": Retry(when=callable)}, "a function cannot travel"),
            ({"missed": "skipp"}, "did you mean 'skip'"),
            ({"overlap": "never"}, "must be one of allow, skip, queue"),
            ({"overlapp": "skip"}, "did you mean 'overlap'"),
            ({"catch_up_limit": 0}, "from 1 to"),
            ({"timezone": "Europe/Amsterdm"}, "Europe/Amsterdam"),
            ({"priority": "hihg"}, "did you mean 'high'"),
            ({"name": "a b"}, "schedule name 'a b'"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], error: str) -> None:
        app = self.app()
        with pytest.raises(ConfigError, match=error):
            app.schedule(app.get_handler("work"), "every day", **options)
        assert not app.schedules.declared

    def test_wrong_everything_else(self) -> None:
        app = self.app()
        work = app.get_handler("work")
        with pytest.raises(ValueError, match="did you mean 'minutes'"):
            app.schedule(work, "every 5 minuts")
        with pytest.raises(InvalidArguments, match="argument 'n'"):
            app.schedule(work, "every day", "seven")
        with pytest.raises(ConfigError, match="say when"):
            app.schedule(work)  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="must stand above"):
            app.schedule("every day")(lambda: None)  # type: ignore[type-var]
        app.schedule(work, "every day")
        with pytest.raises(ConfigError, match="two schedules are named 'work'"):
            app.schedule(work, "every hour")

    async def test_at_run_time(self, rig: Rig) -> None:
        await rig.app.schedules.create("work", "every day", name="s")
        with pytest.raises(ScheduleExists, match="'s'"):
            await rig.app.schedules.create("work", "every day", name="s")
        with pytest.raises(ScheduleNotFound, match="did you mean 's'"):
            await rig.app.schedules.pause("ss")
        with pytest.raises(ConfigError, match="say the expression too"):
            await rig.app.schedules.update("s", timezone="Europe/Paris")


EXPRESSIONS = [
    "every 7 seconds",
    "*/20 * * * *",
    "0 2 * * * tz Europe/Amsterdam",
    "every 3 hours tz Australia/Lord_Howe",
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(EXPRESSIONS),
    st.integers(1_690_000_000, 1_720_000_000),
    st.lists(st.floats(0.01, 9.0), min_size=1, max_size=60),
)
def test_no_slot_is_lost_or_doubled_whenever_rounds_come(
    expression: str, begin: int, pauses: list[float]
) -> None:
    definition = Definition(handler="h", expression=expression, payload="{}", lane="l")
    now, made = float(begin), []
    schedule = ScheduleInfo(
        *("s", definition, "", "api", "active", 1, now, now), definition.next_slot(now, "UTC")
    )
    for pause in pauses:
        now += pause
        slots, next_slot = plan(schedule, now, AHEAD, "UTC")
        made += slots
        schedule = replace(schedule, next_slot=next_slot)
    expected = [
        slot.timestamp()
        for slot in definition.schedule_in("UTC").between(
            datetime.fromtimestamp(begin + 1e-6, UTC),
            datetime.fromtimestamp(now + AHEAD + 1e-6, UTC),
        )
    ]
    assert made == expected


def test_a_slots_id_is_a_time_ordered_uuid() -> None:
    from mesh.job import is_job_id

    ids = [slot_job_id("s", 1_800_000_000.0 + n, 1) for n in range(100)]
    assert all(is_job_id(job_id) for job_id in ids)
    assert ids == sorted(ids)
    assert (
        len({*ids, slot_job_id("s", 1_800_000_000.0, 2), slot_job_id("t", 1_800_000_000.0, 1)})
        == 102
    )


async def test_a_worker_declares_what_its_code_has(rig: Rig) -> None:
    app = Mesh(rig.url, clock=rig.clock, prefix="shop-")

    @app.schedule("every hour")
    @app.job
    async def work() -> None: ...

    group = worker_role(app, RoleOptions())
    assert isinstance(group, Group)
    (declaring,) = [member for member in group.members if isinstance(member, Declaring)]
    declared, store = asyncio.Event(), declaring._master.schedules
    declare = store.declare

    async def signalling(found: Sequence[Declaration], *, starting: bool) -> None:
        await declare(found, starting=starting)
        declared.set()

    store.declare = signalling  # type: ignore[method-assign, assignment]
    async with declaring, asyncio.timeout(30):
        await declared.wait()
    found = await rig.master.schedules.declarations()
    assert {d.name for d in found} == {"", "shop-work"}
    await reconcile(rig.master.schedules, "UTC")
    assert [s.name for s in await rig.app.schedules.list()] == ["shop-work"]
    await app.close()
