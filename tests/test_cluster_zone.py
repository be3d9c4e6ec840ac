"""Schedules that name no time zone are read in the cluster's, as it is now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mesh import Mesh
from mesh.job import State, new_job_id
from mesh.ports import AgentSettings, JobFilter, MasterSettings
from mesh.recurring import Definition, ScheduleInfo
from mesh.roles import RoleOptions, make_role
from mesh.schedule import every, parse
from mesh.schedules import declarations
from mesh.service import Service
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.servers import PostgresServer
from mesh_master.control import Follower
from mesh_master.reconcile import reconcile
from mesh_master.scheduler import Scheduler
from mesh_master.store import SqlMaster

PATIENCE = 60.0
TICK = 0.05
"""Seconds of the manual clock that pass with each look at a running coordinator."""


def at(hour: int, minute: int = 0, second: int = 0, day: int = 15) -> float:
    """A moment of January 2027 in UTC, when Amsterdam is an hour ahead."""
    return datetime(2027, 1, day, hour, minute, second, tzinfo=UTC).timestamp()


@dataclass
class Rig:
    url: str
    clock: ManualClock
    master: SqlMaster
    place: str = field(default_factory=lambda: f"memory://{new_job_id()}")
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def app(self, **config: Any) -> Mesh:
        app = Mesh(
            master=self.url,
            agents={"a": self.place},
            clock=self.clock,
            auto_migrate=True,
            **config,
        )
        self.stack.push_async_callback(app.close)

        @app.job
        async def work() -> None:
            """Never run here."""

        return app

    def scheduler(self, zone: str, ahead: float = 60.0) -> Scheduler:
        agent = MemoryAgent("a", self.place, AgentSettings(clock=self.clock))
        return Scheduler(
            self.master,
            {"a": agent},
            ahead=ahead,
            holder="test",
            timezone=zone,
            clock=self.clock,
        )

    async def coordinate(self, app: Mesh) -> Service:
        service = make_role("coordinator", app, RoleOptions())
        await service.start()
        self.stack.push_async_callback(service.stop)
        return service

    async def set_zone(self, zone: str | None) -> None:
        await self.master.change_settings(lambda s: replace(s, timezone=zone))

    async def until(self, condition: Callable[[], Awaitable[bool]], tick: float = TICK) -> None:
        """Let time go on, slowly, until it is so."""
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                self.clock.advance(tick)
                await asyncio.sleep(0.02)

    def go_to(self, moment: float) -> None:
        self.clock.advance(moment - self.clock.time())

    async def get(self, name: str) -> ScheduleInfo:
        found = await self.master.schedules.get(name)
        assert found is not None
        return found

    async def slots(self, name: str, *states: State) -> list[float]:
        """Those of jobs that were not taken back."""
        jobs = await self.master.list_jobs(JobFilter(schedule=name, limit=1000))
        return sorted(
            job.slot for job in jobs if job.slot is not None and (not states or job.state in states)
        )


@pytest.fixture(params=["sqlite", "postgres"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    clock = ManualClock(at(9, 29, 30))
    master = SqlMaster(url, MasterSettings(clock=clock, auto_migrate=True))
    await master.open()
    rig = Rig(url, clock, master)
    async with rig.stack:
        yield rig
    await master.close()


class TestARunningCoordinator:
    async def test_a_new_zone_moves_what_names_none(self, rig: Rig) -> None:
        app = rig.app()
        work = app.get_handler("work")
        app.schedule(work, "30 9 * * *", name="floats")
        app.schedule(work, "30 9 * * *", name="utc", timezone="UTC")
        app.schedule(work, "30 11 * * * tz Europe/Helsinki", name="helsinki")
        await rig.coordinate(app)
        half_past = at(9, 30)

        async def all_made() -> bool:
            names = ("floats", "utc", "helsinki")
            return all([await rig.slots(name) == [half_past] for name in names])

        await rig.until(all_made)
        await rig.set_zone("America/St_Johns")  # three hours and a half behind

        async def taken_back() -> bool:
            schedule = await rig.get("floats")
            return not schedule.pending and await rig.slots("floats") == []

        await rig.until(taken_back)
        assert rig.clock.time() < half_past
        assert (await rig.get("floats")).next_slot == at(13, 0)
        rig.go_to(at(12, 59, 20))

        async def made_anew() -> bool:
            return await rig.slots("floats") == [at(13, 0)]

        await rig.until(made_anew, 0.5)
        await rig.set_zone(None)

        async def in_utc() -> bool:
            return (await rig.get("floats")).next_slot == at(9, 30, day=16)

        await rig.until(in_utc, 0.5)
        for name in ("utc", "helsinki"):
            assert (await rig.get(name)).revision == 1
            assert await rig.slots(name) == [half_past]

    async def test_one_that_starts_knows_the_zone_before_its_first_job(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By what it reads as it opens the master: what it is told later comes too late."""
        monkeypatch.setattr(Follower, "_take", lambda *_: None)
        await rig.set_zone("Europe/Amsterdam")
        await rig.app().schedules.create("work", "30 10 * * *", name="s")
        assert (await rig.get("s")).next_slot == at(9, 30)
        for day in (15, 16):
            rig.go_to(at(9, 29, 30, day=day))
            service = await rig.coordinate(rig.app())

            async def made(day: int = day) -> bool:
                return at(9, 30, day=day) in await rig.slots("s")

            await rig.until(made)
            await service.stop()
        assert (await rig.get("s")).revision == 1

    async def test_its_own_configuration_wins(self, rig: Rig) -> None:
        await rig.set_zone("Asia/Tokyo")
        await rig.coordinate(rig.app(timezone="Europe/Amsterdam"))
        await rig.app().schedules.create("work", "30 10 * * *", name="s")
        assert (await rig.get("s")).zone == "Asia/Tokyo"

        async def made() -> bool:
            return await rig.slots("s") == [at(9, 30)]

        await rig.until(made)


class TestTheScheduler:
    async def test_processes_that_know_different_zones_declare_the_same(self, rig: Rig) -> None:
        apps = [rig.app(), rig.app(timezone="Asia/Tokyo"), rig.app(timezone="Europe/Paris")]
        for app in apps:
            app.schedule(app.get_handler("work"), every().day.at("10:30"), name="s")
        assert declarations(apps[0]) == declarations(apps[1]) == declarations(apps[2])
        scheduler = rig.scheduler("Europe/Amsterdam")
        for n in range(9):
            await rig.master.schedules.declare(declarations(apps[n % 3]), starting=True)
            rig.clock.advance(3)
            await scheduler.round()
        schedule = await rig.get("s")
        assert (schedule.revision, schedule.zone) == (1, "Europe/Amsterdam")
        assert await rig.slots("s") == [at(9, 30)]

    async def test_of_two_that_differ_the_leader_decides(self, rig: Rig) -> None:
        """Whoever made it, or pauses and resumes it."""
        scheduler, other = rig.scheduler("Europe/Amsterdam"), rig.app(timezone="Asia/Tokyo")
        await other.schedules.create("work", "30 10 * * *", name="s")
        await other.schedules.create("work", "every minute", name="often")
        for second in (31, 34, 36):
            rig.go_to(at(9, 29, second))
            await scheduler.round()
        assert (await rig.get("s")).next_slot == at(9, 30, day=16)
        assert await rig.slots("s") == [at(9, 30)]
        assert await rig.slots("often") == [at(9, 30)]
        await other.schedules.pause("s")
        await other.schedules.resume("s")
        for second in (38, 40, 42):
            rig.go_to(at(9, 29, second))
            await scheduler.round()
        assert await rig.slots("s") == [at(9, 30)]

    async def test_slots_of_both_zones_get_one_job(self, rig: Rig) -> None:
        await rig.app().schedules.create("work", "*/5 * * * * *", name="s")
        scheduler = rig.scheduler("UTC")
        begin = rig.clock.time()
        for zone in ("Asia/Tokyo", "UTC", "Europe/Amsterdam", "Asia/Kolkata"):
            for _ in range(7):
                await scheduler.round()
                rig.clock.advance(1)
            scheduler.timezone = zone
        slots = await rig.slots("s")
        assert slots == [begin + 5 * (n + 1) for n in range(len(slots))]
        assert slots[-1] > rig.clock.time()

    async def test_a_change_while_no_coordinator_runs(self, rig: Rig) -> None:
        """What is missed is missed by the clock of the new zone."""
        app = rig.app()
        await app.schedules.create("work", "30 10 * * *", name="missed")
        await app.schedules.create("work", "30 10 * * *", name="one-by-one", missed="catch_up")
        await rig.scheduler("UTC").round()
        rig.go_to(at(12, 0, day=18))
        scheduler = rig.scheduler("Europe/Amsterdam")
        for _ in range(3):
            await scheduler.round()
            rig.clock.advance(2)
        assert await rig.slots("missed") == [at(9, 30, day=18)]
        # Since 10:30 UTC of the first day, which it had not come to.
        assert await rig.slots("one-by-one") == [at(9, 30, day=day) for day in (16, 17, 18)]

    async def test_overlap_is_by_the_new_zones_slots(self, rig: Rig) -> None:
        await rig.app().schedules.create("work", "30-31 10 * * *", name="s", overlap="skip")
        scheduler = rig.scheduler("UTC")
        await scheduler.round()
        scheduler.timezone = "Europe/Amsterdam"
        for moment in (at(9, 29, 33), at(9, 29, 36), at(9, 30), at(9, 31)):
            rig.go_to(moment)
            await scheduler.round()
        assert await rig.slots("s", State.SCHEDULED) == [at(9, 30)]
        assert await rig.slots("s", State.SKIPPED) == [at(9, 31)]

    async def test_rows_of_before_stay_in_utc_until_declared_again(self, rig: Rig) -> None:
        written = '{"handler":"work","expression":"30 9 * * *","payload":"{}","lane":"default"}'
        old = Definition.decode(written)
        assert old.encode() == written
        schedule = ScheduleInfo(
            *("s", old, "", "code", "active", 1, 1.0, 1.0), next_slot=at(9, 30), code_hash=old.hash
        )
        assert await rig.master.schedules.insert(schedule)
        scheduler = rig.scheduler("Europe/Amsterdam")
        await scheduler.round()
        assert (await rig.slots("s"), (await rig.get("s")).revision) == ([at(9, 30)], 1)
        app = rig.app()
        app.schedule(app.get_handler("work"), "30 9 * * *", name="s")
        await rig.master.schedules.declare(declarations(app), starting=True)
        rig.clock.advance(2)
        await reconcile(rig.master.schedules, "Europe/Amsterdam")
        assert (await rig.get("s")).next_slot == at(8, 30, day=16)


class TestTheDefinition:
    @pytest.mark.parametrize(
        ("options", "follows"),
        [
            ({}, True),
            ({"timezone": "UTC"}, False),
            ({"timezone": "Europe/London"}, False),
            ({"expression": "every day at 02:00 tz UTC"}, False),
            ({"expression": every().day.at("02:00")}, True),
            ({"expression": every().day.at("02:00").in_tz("UTC").on("mon")}, False),
            ({"expression": parse("0 2 * * *", "UTC")}, False),
        ],
    )
    def test_it_tells_who_names_a_zone(self, options: dict[str, Any], follows: bool) -> None:
        app = Mesh("sqlite:///never.db", timezone="Asia/Tokyo")

        @app.job
        def work() -> None: ...

        app.schedule(work, options.pop("expression", "0 2 * * *"), **options)
        definition = app.schedules.declared["work"]
        again = Definition.decode(definition.encode())
        assert (again, again.hash) == (definition, definition.hash)
        assert again.cluster_zone is follows
        assert "Asia" not in definition.encode()
        midnight = at(0)
        assert (again.next_slot(midnight, "UTC") != again.next_slot(midnight, "Asia/Kolkata")) is (
            follows
        )
