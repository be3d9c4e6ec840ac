"""The SQL master keeps the port's promises, and some of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.clock import Clock, SystemClock
from mesh.errors import ConfigError, MasterUnavailable
from mesh.job import State
from mesh.plugins import connect_master
from mesh.ports import Master, MasterSettings
from mesh.testing import ManualClock
from mesh.testing.conformance.master import MasterConformance, Story
from mesh.testing.servers import PostgresServer
from mesh.wire import Record
from mesh_master import merge
from mesh_master.store import SqlMaster


class SqliteHarness:
    ttl = 30.0

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'mesh.db'}"
        self.clock = ManualClock(round(time.time()))
        self.opened: list[Master] = []

    def settings(self) -> MasterSettings:
        return MasterSettings(clock=self.clock)

    async def connect(self) -> Master:
        master = connect_master(self.url, self.settings())
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


class TestSqlite(MasterConformance):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        harness = SqliteHarness(tmp_path)
        yield harness
        await harness.close()


class TestPostgres(MasterConformance):
    @pytest.fixture
    async def harness(self, postgres: PostgresServer) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(postgres.create_database())
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
            await master._writes.jobs.run(connection, rows)
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
