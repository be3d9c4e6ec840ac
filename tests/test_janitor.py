"""The janitor forgets what is old, a little at a time, whoever else writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from mesh.cluster import Cluster
from mesh.config import Config
from mesh.errors import MasterUnavailable
from mesh.job import State
from mesh.ports import MasterSettings
from mesh.settings import Mode
from mesh.testing import ManualClock
from mesh.testing.conformance.master import Story, record
from mesh.testing.servers import PostgresServer
from mesh_master import forget
from mesh_master.janitor import Janitor
from mesh_master.store import SqlMaster

PATIENCE = 30.0
DAY = 86_400.0
INTERVAL = 777.0
TTL = 3e6
"""Long enough that no lease ends while the clock goes from one sweep to the next."""


class RestlessClock(ManualClock):
    """Rests take no time, and are counted. Between two sweeps it stands still, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.swept = asyncio.Event()
        self.asked = asyncio.Semaphore(0)
        """Of a lease, by its holder and by those who wait for it."""
        self.rested: list[float] = []

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if seconds == INTERVAL:
            self.swept.set()
        elif seconds == TTL / 3:
            self.asked.release()
        elif seconds is not None and seconds < 1:
            self.rested.append(seconds)
            await asyncio.sleep(0)
            return event.is_set()
        return await super().wait(event, seconds)

    async def next_sweep(self) -> None:
        self.swept.clear()
        await asyncio.sleep(0)  # the wait begins behind us in the loop
        self.advance(INTERVAL)
        async with asyncio.timeout(PATIENCE):
            await self.swept.wait()


@pytest.fixture
def clock() -> RestlessClock:
    return RestlessClock()


@pytest.fixture(params=["sqlite", "postgres"])
async def master(
    request: pytest.FixtureRequest, tmp_path: Path, clock: RestlessClock
) -> AsyncIterator[SqlMaster]:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    master = SqlMaster(url, MasterSettings(clock=clock, auto_migrate=True))
    await master.open()
    yield master
    await master.close()


def janitor_of(master: SqlMaster, clock: RestlessClock, **changes: Any) -> Janitor:
    options: dict[str, Any] = {
        "retention": lambda _: {State.SUCCEEDED: 7 * DAY},
        "holder": "me",
        "ttl": TTL,
    } | changes
    return Janitor(master, clock=clock, interval=INTERVAL, **options)


async def ended(master: SqlMaster, count: int, age: float, said: int = 0, **of: Any) -> list[Story]:
    stories = [Story(master.database.now() - age - 2, **of) for _ in range(count)]
    await record(master, *[s.accepted() for s in stories])
    if said:
        await record(master, *[s.event(seq) for s in stories for seq in range(said)])
    await record(master, *[s.finished() for s in stories])
    return stories


async def count(master: SqlMaster) -> int:
    return sum((await master.count_jobs()).values())


async def test_old_jobs_go_and_others_stay(master: SqlMaster, clock: RestlessClock) -> None:
    await ended(master, 120, 9 * DAY)
    own = await ended(master, 5, 9 * DAY, result_ttl=20 * DAY)
    new = await ended(master, 20, DAY)
    begun = Story(master.database.now() - 30 * DAY)
    await record(master, begun.accepted(), begun.started())
    janitor = janitor_of(master, clock, batch=50)
    async with janitor, asyncio.timeout(PATIENCE):
        await clock.swept.wait()
        assert (janitor.removed, janitor.sweeps) == (120, 1)
        assert len(clock.rested) >= 2
        stay = {story.id for story in [*own, *new, begun]}
        assert (await master.get_jobs(list(stay))).keys() == stay
        assert await count(master) == len(stay)
        await ended(master, 3, 8 * DAY)
        await clock.next_sweep()
        assert (janitor.removed, janitor.sweeps) == (123, 2)


async def test_what_was_counted_is_brought_together(
    master: SqlMaster, clock: RestlessClock
) -> None:
    await ended(master, 30, 5 * DAY)
    await ended(master, 30, 120 * DAY)
    series = master.tables.series
    async with (
        janitor_of(master, clock, retention=lambda _: {}, batch=1),
        asyncio.timeout(PATIENCE),
    ):
        await clock.swept.wait()
        async with master.database.read() as connection:
            rows = (await connection.execute(select(series))).all()
        # By the hour, once for the handler and once for the lane; what is older has gone.
        assert {(row.span, row.shard) for row in rows} == {(3600, 0), (-3600, 0)}
        assert sum(row.enqueued for row in rows) == 2 * 30


async def test_off_is_off(master: SqlMaster, clock: RestlessClock) -> None:
    await ended(master, 10, 900 * DAY)
    janitor = janitor_of(master, clock, retention=lambda _: {})
    async with janitor, asyncio.timeout(PATIENCE):
        await clock.swept.wait()
        assert (janitor.removed, janitor.sweeps) == (0, 1)
    assert await count(master) == 10


async def test_a_transaction_is_small(
    master: SqlMaster, clock: RestlessClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is of a job, and however many jobs: 20 rows each."""
    monkeypatch.setattr(forget, "ROOM", 20)
    talkative = await ended(master, 30, 9 * DAY, said=10, meta={"a": "b"})
    deleted = watch_deletes(master)
    janitor = janitor_of(master, clock)
    async with janitor, asyncio.timeout(PATIENCE):
        await clock.swept.wait()
        assert janitor.removed == 30
    assert await count(master) == 0
    assert [await master.events(story.id) for story in talkative] == [[]] * 30
    assert sum(deleted) >= 30 + 30 + 300
    assert max(deleted) <= 20


def watch_deletes(master: SqlMaster) -> list[int]:
    """How many rows each transaction deletes from now on."""
    from sqlalchemy import event

    deleted = [0]
    for engine in master.database.engines:

        @event.listens_for(engine.sync_engine, "commit")
        def commit(_: Any) -> None:
            deleted.append(0)

        @event.listens_for(engine.sync_engine, "after_cursor_execute")
        def executed(_: Any, cursor: Any, statement: str, *__: Any) -> None:
            if statement.startswith("DELETE"):
                deleted[-1] += cursor.rowcount

    return deleted


async def test_one_works_and_another_takes_over(master: SqlMaster, clock: RestlessClock) -> None:
    first, second = (janitor_of(master, clock, holder=name) for name in ("one", "two"))
    async with first, second, asyncio.timeout(PATIENCE):
        for _ in range(2):
            await clock.asked.acquire()
        await clock.swept.wait()
        await ended(master, 5, 9 * DAY)
        (leads,) = (janitor for janitor in (first, second) if janitor.sweeps)
        await leads.stop()
        clock.swept.clear()
        clock.advance(TTL / 3)  # then the other asks again
        await clock.swept.wait()
        assert sorted([first.removed, second.removed]) == [0, 5]
        assert leads.removed == 0


async def test_a_master_that_is_away_is_tried_again(
    master: SqlMaster, clock: RestlessClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended(master, 5, 9 * DAY)
    outlived = master.outlived
    fails = iter([True])

    async def away(*arguments: Any) -> Any:
        if next(fails, False):
            raise MasterUnavailable("away")
        return await outlived(*arguments)

    monkeypatch.setattr(master, "outlived", away)
    janitor = janitor_of(master, clock)
    async with janitor, asyncio.timeout(PATIENCE):
        await clock.swept.wait()
        assert (janitor.removed, janitor.sweeps) == (0, 0)
        await clock.next_sweep()
        assert (janitor.removed, janitor.sweeps) == (5, 1)


async def test_who_does_not_keep_up_rests_less(
    master: SqlMaster, clock: RestlessClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended(master, 60, 9 * DAY)
    remove = master.remove

    async def remove_slowly(job_ids: Sequence[str]) -> set[str]:
        gone = await remove(job_ids)
        clock.advance(0.5)
        if janitor.removed == 20:
            clock.advance(INTERVAL)  # the next sweep should have begun
        return gone

    monkeypatch.setattr(master, "remove", remove_slowly)
    janitor = janitor_of(master, clock, batch=10)
    async with janitor, asyncio.timeout(PATIENCE):
        await clock.swept.wait()
    assert janitor.removed == 60
    assert clock.rested[:2] == [0.5, 0.5]
    assert set(clock.rested[2:6]) == {0.01}


async def test_it_stops_between_two_batches(
    master: SqlMaster, clock: RestlessClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended(master, 60, 9 * DAY)
    remove = master.remove
    janitor = janitor_of(master, clock, batch=10)

    async def remove_and_stop(job_ids: Sequence[str]) -> set[str]:
        gone = await remove(job_ids)
        janitor.stopping.set()
        return gone

    monkeypatch.setattr(master, "remove", remove_and_stop)
    async with janitor, asyncio.timeout(PATIENCE):
        await janitor.wait()
    assert 10 <= janitor.removed < 60
    assert await count(master) == 60 - janitor.removed


async def test_the_clusters_settings_count_as_the_master_has_them(
    master: SqlMaster, clock: RestlessClock
) -> None:
    """At the first sweep too, and an archive stays whole."""
    await ended(master, 5, 9 * DAY)
    cluster = Cluster(Config.build("sqlite:///a.db"))
    await master.change_settings(lambda s: replace(s, mode=Mode.ARCHIVE))
    janitor = janitor_of(master, clock, retention=lambda s: cluster.under(s).retention)
    async with janitor, asyncio.timeout(PATIENCE):
        await clock.swept.wait()
        assert (janitor.removed, janitor.sweeps) == (0, 1)
        change = {"mode": Mode.ACTIVE, "retention": {"succeeded": 10 * DAY}}
        await master.change_settings(lambda s: replace(s, **change))
        await clock.next_sweep()
        assert (janitor.removed, janitor.sweeps) == (0, 2)
        await master.change_settings(lambda s: replace(s, retention=None))
        await clock.next_sweep()
        assert (janitor.removed, janitor.sweeps) == (5, 3)
