"""The SQL master keeps the port's promises, and some of its own."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from mesh.clock import Clock, SystemClock
from mesh.errors import ConfigError, LeaseLost, MasterUnavailable
from mesh.job import State
from mesh.plugins import connect_master
from mesh.ports import Master, MasterSettings
from mesh.sql import InsertNew
from mesh.testing import ManualClock
from mesh.testing.conformance import (
    ConditionsConformance,
    EventsConformance,
    HistoryConformance,
    SchedulesConformance,
    StatisticsConformance,
)
from mesh.testing.conformance.master import MasterConformance, Story
from mesh.testing.servers import PostgresServer
from mesh.wire import Record
from mesh_master import merge
from mesh_master.plain import NEW_COLUMNS, sort_out
from mesh_master.store import SqlMaster


class Suites(
    MasterConformance,
    ConditionsConformance,
    EventsConformance,
    HistoryConformance,
    SchedulesConformance,
    StatisticsConformance,
):
    """All that a master is held to."""


class SqliteHarness:
    ttl = 30.0

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'mesh.db'}"
        self.clock = ManualClock(round(time.time()))
        self.opened: list[Master] = []

    def settings(self) -> MasterSettings:
        return MasterSettings(clock=self.clock)

    async def connect(self, **settings: Any) -> Master:
        master = connect_master(self.url, replace(self.settings(), **settings))
        self.opened.append(master)
        await master.open()
        return master

    def now(self) -> float:
        return self.clock.time()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def close(self) -> None:
        for master in self.opened:
            await master.close()


class PostgresHarness(SqliteHarness):
    """All tests share the tables, which take longer to make than a test does to run."""

    ttl = 1.0

    def __init__(self, url: str) -> None:
        self.url = url
        self.system: Clock = SystemClock()
        self.opened = []

    def settings(self) -> MasterSettings:
        return MasterSettings(auto_migrate=True, schema="history", table_prefix="m_")

    def now(self) -> float:
        return self.system.time()

    async def pass_time(self, seconds: float) -> None:
        await self.system.sleep(seconds)

    async def close(self) -> None:
        await super().close()
        master = SqlMaster(self.url, self.settings())
        await master.database.open()
        async with master.database.write() as connection:
            # Forgetting jobs counts: what was counted goes last.
            counted = [master.tables.totals, master.tables.series]
            others = [t for t in master.tables.metadata.sorted_tables if t not in counted]
            for table in (*others, *counted):
                await connection.execute(delete(table))
        await master.database.close()


class MariaHarness(PostgresHarness):
    def settings(self) -> MasterSettings:
        return MasterSettings(auto_migrate=True, table_prefix="m_")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master that is new, to be copied: that takes a tenth of the time it takes to make one."""
    folder = tmp_path_factory.mktemp("migrated")

    async def make() -> None:
        master = SqlMaster(f"sqlite:///{folder / 'mesh.db'}", MasterSettings())
        await master.open()
        await master.close()

    asyncio.run(make())
    return folder


class TestSqlite(Suites):
    @pytest.fixture
    async def harness(self, migrated: Path, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
        harness = SqliteHarness(tmp_path)
        yield harness
        await harness.close()


class TestMaria(Suites):
    @pytest.fixture
    async def harness(self, mariadb_url: str) -> AsyncIterator[MariaHarness]:
        harness = MariaHarness(mariadb_url)
        yield harness
        await harness.close()


class TestPostgres(Suites):
    @pytest.fixture
    async def harness(self, postgres_url: str) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(postgres_url)
        yield harness
        await harness.close()


async def test_a_write_that_saw_nothing_before_moves_no_job_back(tmp_path: Path) -> None:
    """Two recorders that meet at a new job have both seen no row of it: the statement itself
    must let the first terminal outcome stand."""
    master = SqlMaster(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings())
    await master.open()
    story = Story()
    batches: list[list[Record]] = [
        [story.finished(1, "w-1")],
        [story.finished(1, "w-2")],
        [story.accepted(), story.started(3, "w-3")],
    ]
    for records in batches:
        rows = merge.plan("a-1", records, heads={}).jobs
        async with master.database.write() as connection:
            await master.recording.jobs.run(connection, rows)
    info = (await master.get_jobs([story.id]))[story.id]
    assert (info.state, info.attempt, info.worker) == (State.SUCCEEDED, 1, "w-1")
    assert info.payload == story.job.payload
    await master.close()


async def test_another_clusters_master_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    shop = SqlMaster(url, MasterSettings(cluster="shop"))
    await shop.open()
    await shop.close()
    bank = SqlMaster(url, MasterSettings(cluster="bank"))
    with pytest.raises(ConfigError, match=r"'shop'.*'bank'"):
        await bank.open()
    await bank.close()
    apart = SqlMaster(url, MasterSettings(cluster="bank", table_prefix="bank_"))
    await apart.open()
    await apart.close()


async def test_a_master_that_is_not_there_is_named_without_its_password() -> None:
    master = SqlMaster(
        "postgresql://me:secret@127.0.0.1:1/shop", MasterSettings(connect_timeout=2.0)
    )
    with pytest.raises(MasterUnavailable, match=r"me:\*\*\*@127.0.0.1:1/shop") as caught:
        await master.open()
    assert "secret" not in str(caught.value)
    (check,) = await master.check()
    assert not check.ok
    await master.close()


class TestLargeBatches:
    """What goes by COPY and in two transactions on PostgreSQL tells the same story."""

    @pytest.fixture
    async def master(self, postgres: PostgresServer) -> AsyncIterator[SqlMaster]:
        settings = MasterSettings(auto_migrate=True)
        master = SqlMaster(postgres.create_database(), settings)
        await master.open()
        yield master
        await master.close()

    async def test_every_job_is_recorded_once_however_often_it_comes(
        self, master: SqlMaster
    ) -> None:
        stories = [Story() for _ in range(1500)]
        records: list[Record] = [story.accepted() for story in stories]
        records += [story.finished() for story in stories]
        lease = await master.acquire("recorder:a", "me", 30)
        assert lease is not None
        for _ in range(2):
            await master.record("a", records, lease)
        assert await master.count_jobs() == {State.SUCCEEDED: 1500}
        jobs = await master.get_jobs([story.id for story in stories])
        assert all(job.payload == stories[0].job.payload for job in jobs.values())
        assert {job.enqueued_at for job in jobs.values()} == {stories[0].begin}
        assert [agent.name for agent in await master.agents()] == ["a"]

    async def test_a_stale_lease_writes_neither_half(self, master: SqlMaster) -> None:
        lease = await master.acquire("recorder:a", "me", 30)
        assert lease is not None
        await master.release(lease)
        assert await master.acquire("recorder:a", "another", 30) is not None
        with pytest.raises(LeaseLost):
            await master.record("a", [Story().accepted() for _ in range(1500)], lease)
        assert await master.count_jobs() == {}

    async def test_jobs_that_were_held_are_told_from_new_ones(self, master: SqlMaster) -> None:
        """A copy knows no conflicts."""
        stories = [Story() for _ in range(1000)]
        await master.hold([story.job for story in stories[::3]])
        lease = await master.acquire("recorder:a", "me", 30)
        assert lease is not None
        await master.record("a", [story.accepted() for story in stories], lease)
        assert await master.count_jobs() == {State.QUEUED: 1000}
        assert await master.claim_due(2e9, 10, 30) == []

    async def test_moves_that_do_not_fit_are_looked_at(self, master: SqlMaster) -> None:
        """Of one job nothing is known, another went to a second worker."""
        stories = [Story() for _ in range(400)]
        lease = await master.acquire("recorder:a", "me", 30)
        assert lease is not None
        await master.record("a", [story.accepted() for story in stories[1:]], lease)
        await master.record("a", [stories[5].started(worker="w-2")], lease)
        ends: list[Record] = [story.finished(worker="w-1") for story in stories]
        for _ in range(2):
            await master.record("a", ends, lease)
            assert await master.count_jobs() == {State.SUCCEEDED: 400}
        told = {a.outcome: a.worker for a in await master.attempts(stories[5].id)}
        assert told == {"lost": "w-2", "succeeded": "w-1"}
        assert len(await master.attempts(stories[6].id)) == 1


async def test_a_copy_that_meets_a_conflict_after_all_is_an_insert(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = SqlMaster(postgres.create_database(), MasterSettings(auto_migrate=True))
    await master.open()
    stories = [Story() for _ in range(300)]
    await master.hold([stories[0].job])
    insert = InsertNew(master.database, master.tables.jobs, NEW_COLUMNS, "id")

    async def sees_none(*_: object) -> set[str]:
        return set()  # another transaction had not committed yet

    monkeypatch.setattr(insert, "_known", sees_none)
    rows = list(sort_out("a", [story.accepted() for story in stories]).new.values())
    async with master.database.write() as connection:
        stored = await insert.run(connection, rows)
    assert stored == {story.id for story in stories[1:]}
    assert await master.count_jobs() == {State.SCHEDULED: 1, State.QUEUED: 299}
    await master.close()
