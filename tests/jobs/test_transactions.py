"""Jobs within the caller's own transaction: there if it commits, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from mesh import ConfigError, JobNotFound, KeyExists, MasterError, MasterUnavailable, Mesh, State
from mesh.clock import SystemClock
from mesh.held import Held, Stored
from mesh.sql.outbox import Outbox
from mesh.testing.servers import PostgresServer
from mesh_master.store import SqlMaster
from tests.chaos.proxy import Proxy

from .cluster_rig import PATIENCE, Rig


@asynccontextmanager
async def async_session(url: str) -> AsyncIterator[AsyncSession]:
    driver = "postgresql+asyncpg" if url.startswith("postgresql") else "sqlite+aiosqlite"
    engine = create_async_engine(driver + url[url.index("://") :])
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


def make_app(rig: Rig, **settings: Any) -> tuple[Mesh, list[int]]:
    app = rig.app(**settings)
    ran: list[int] = []

    @app.job
    async def order(n: int) -> int:
        ran.append(n)
        return n

    return app, ran


async def test_the_job_is_there_if_the_transaction_commits(rig: Rig) -> None:
    app, ran = make_app(rig)
    order = app.handlers["order"]
    async with rig.running(app), async_session(rig.master_url) as session:
        await session.execute(text("CREATE TABLE orders (n INTEGER)"))
        await session.commit()
        await session.execute(text("INSERT INTO orders VALUES (1)"))
        lost = await order.options(session=session).enqueue(1)
        await session.rollback()
        await session.execute(text("INSERT INTO orders VALUES (2)"))
        job = await order.options(session=session, key="2").enqueue(2)
        with pytest.raises(JobNotFound):
            await app.get_job(job.id)
        await session.commit()
        assert await job.result(PATIENCE) == 2
        with pytest.raises(JobNotFound):
            await lost.info()
        rows = await session.execute(text("SELECT n FROM orders"))
        assert list(rows.scalars()) == [2]
    assert ran == [2]


async def test_all_conditions_hold_within_it(rig: Rig) -> None:
    app, _ = make_app(rig)
    order = app.handlers["order"]
    async with async_session(rig.master_url) as session:
        await app.master()
        first = await order.options(session=session, key="k", delay=900).enqueue(1)
        same = await order.options(
            session=session, key="k", on_conflict="replace", delay=800
        ).enqueue(2)
        assert (same.id, same.existing, same.replaced) == (first.id, True, True)
        with pytest.raises(KeyExists):
            await order.options(session=session, key="k", on_conflict="raise").enqueue(3)
        jobs = await order.options(session=session, after=first).enqueue_many([(4,), (5,)])
        await session.commit()
    states = [(await job.info()).state for job in (first, *jobs)]
    assert states == [State.SCHEDULED, State.WAITING, State.WAITING]
    assert (await first.info()).payload == b'{"n":2}'
    await app.close()


async def test_sessions_without_an_event_loop(rig: Rig) -> None:
    app, _ = make_app(rig)
    order = app.handlers["order"]
    engine = create_engine(rig.master_url.replace("postgresql:", "postgresql+psycopg:"))

    def work() -> str:
        with Session(engine) as session:
            undone = app.sync(order.options(session=session).enqueue(1))
            session.rollback()
            job = app.sync(order.options(session=session).enqueue(2))
            session.commit()
            with pytest.raises(JobNotFound):
                app.sync(undone.info())
            try:
                return str(app.sync(job.info()).state)
            finally:
                app.sync.close()

    assert await asyncio.to_thread(work) == "scheduled"
    engine.dispose()
    await app.close()


async def test_asyncpgs_own_connection(postgres: PostgresServer) -> None:
    rig = Rig(url=postgres.create_database())
    app, ran = make_app(rig)
    order = app.handlers["order"]
    connection: Any = await asyncpg.connect(rig.master_url)
    async with rig.running(app):
        with pytest.raises(ConfigError, match=r"async with connection.transaction\(\)"):
            await order.options(session=connection).enqueue(0)
        transaction = connection.transaction()
        await transaction.start()
        await order.options(session=connection).enqueue(1)
        await transaction.rollback()
        async with connection.transaction():
            jobs = [await order.options(session=connection, key="k").enqueue(n) for n in (2, 3)]
        assert jobs[1].existing
        assert await jobs[1].result(PATIENCE) == 2
    await connection.close()
    assert ran == [2]


async def test_a_session_elsewhere_is_refused(rig: Rig, tmp_path: Path) -> None:
    app, _ = make_app(rig)
    order = app.handlers["order"]
    is_sqlite = rig.master_url.startswith("sqlite")
    async with async_session(f"sqlite:///{tmp_path}/other.db") as session:
        wanted = (MasterError, "the master's database") if is_sqlite else (ConfigError, "outbox")
        with pytest.raises(wanted[0], match=wanted[1]):
            await order.options(session=session).enqueue(1)
    await app.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_an_outbox_where_the_database_is_not_the_masters(
    rig: Rig, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    if kind == "postgres":
        url = request.getfixturevalue("postgres").create_database()
    app, ran = make_app(rig, outbox=url)
    order = app.handlers["order"]
    outbox = Outbox(url, app.clock, 5.0)
    async with rig.running(app), async_session(url) as session:
        await outbox.open()
        await order.options(session=session).enqueue(1)
        await session.rollback()
        job = await order.options(session=session, key="k").enqueue(2)
        later = await order.options(session=session, after=job).enqueue(3)
        await session.commit()
        assert await later.result(PATIENCE) == 3
        assert ran == [2, 3]
        async with outbox.take(10) as left:
            assert left.jobs == {}
        with pytest.raises(ConfigError, match="keys are looked at when the job has left"):
            await order.options(session=session, key="k", on_conflict="raise").enqueue(4)
    await outbox.close()


async def test_a_coordinator_that_dies_in_between_moves_the_jobs_again(
    rig: Rig, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    app, ran = make_app(rig, outbox=url)
    order = app.handlers["order"]
    outbox = Outbox(url, app.clock, 5.0)
    await outbox.open()
    async with async_session(url) as session:
        job = await order.options(session=session, key="k").enqueue(1)
        await session.commit()

    async def move_and_die() -> None:
        async with outbox.take(10) as taken:
            await (await app.master()).submit(list(taken.jobs.values()))
            raise LookupError("died")

    with pytest.raises(LookupError, match="died"):
        await move_and_die()
    async with rig.running(app):
        assert await job.result(PATIENCE) == 1
        other = await order.enqueue(2)
        assert await other.result(PATIENCE) == 2
    assert ran == [1, 2]
    await outbox.close()


async def test_a_job_that_the_master_refuses_holds_up_no_others(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    app, ran = make_app(rig, outbox=url)
    order = app.handlers["order"]
    outbox = Outbox(url, app.clock, 5.0)
    await outbox.open()
    store, tries = SqlMaster.submit, list[int]()

    async def submit(self: SqlMaster, jobs: Sequence[Held], within: Any = None) -> list[Stored]:
        if any(held.job.payload == b'{"n":13}' for held in jobs):
            tries.append(len(jobs))
            raise MasterError("13 is unlucky")
        return await store(self, jobs, within)

    monkeypatch.setattr(SqlMaster, "submit", submit)
    async with rig.running(app), async_session(url) as session:
        jobs = [await order.options(session=session).enqueue(n) for n in (1, 13, 2)]
        await session.commit()
        assert await jobs[0].result(PATIENCE) == 1
        assert await jobs[2].result(PATIENCE) == 2
        async with asyncio.timeout(PATIENCE):
            while "13 is unlucky" not in (said := await _refused(outbox)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert jobs[1].id in said
    assert tries.count(1) >= 3, "what is wrong may be of the moment"
    assert f"job {jobs[1].id} (order) is refused" in caplog.text
    assert sorted(ran) == [1, 2]
    await outbox.close()


async def test_jobs_that_are_moved_slowly_are_not_moved_again_from_the_first(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox's database ends a transaction that idles for long."""
    monkeypatch.setattr("mesh_master.outboxes._ONE_BY_ONE", 0.1)
    url = f"sqlite:///{tmp_path}/shop.db"
    app, ran = make_app(rig, outbox=url)
    order = app.handlers["order"]
    store, moved, batches = SqlMaster.submit, list[str](), list[int]()

    async def submit(self: SqlMaster, jobs: Sequence[Held], within: Any = None) -> list[Stored]:
        if len(jobs) > 1:
            batches.append(len(jobs))
            raise MasterError("one of them is wrong")
        await asyncio.sleep(0.3)  # a slow master
        moved.extend(held.job.id for held in jobs)
        return await store(self, jobs, within)

    monkeypatch.setattr(SqlMaster, "submit", submit)
    async with async_session(url) as session:
        outbox = Outbox(url, app.clock, 5.0)
        await outbox.open()
        jobs = [await order.options(session=session).enqueue(n) for n in range(3)]
        await session.commit()
        await outbox.close()
    async with rig.running(app):
        for job in jobs:
            await job.result(PATIENCE)
    assert moved == [job.id for job in jobs]
    assert batches == [3, 2], "what was moved is done with"
    assert sorted(ran) == [0, 1, 2]


async def _refused(outbox: Outbox) -> str:
    async with outbox.database.read() as connection:
        return str((await connection.execute(select(outbox.refused))).all())


async def test_what_cannot_be_read_stays_in_the_outbox(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    app, _ = make_app(rig, outbox=url)
    outbox = Outbox(url, app.clock, 5.0)
    await outbox.open()
    async with async_session(url) as session:
        await session.execute(outbox.table.insert().values(job=b"no job at all"))
        job = await app.handlers["order"].options(session=session).enqueue(1)
        await session.commit()
    async with rig.running(app):
        assert await job.result(PATIENCE) == 1
    assert "row 1 stays: " in caplog.text
    async with outbox.database.read() as connection:
        rows = (await connection.execute(outbox.table.select())).all()
    assert [row.job for row in rows] == [b"no job at all"]
    await outbox.close()


async def test_an_outbox_that_hangs_is_not_waited_for_without_end(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.sql.outbox._PATIENCE", 1.0)
    url, proxy = postgres.create_database(), Proxy(postgres.port)
    await proxy.start()
    outbox = Outbox(url.replace(f":{postgres.port}", f":{proxy.port}"), SystemClock(), 5.0)
    await outbox.open()
    await proxy.become("hang")
    with pytest.raises(MasterUnavailable, match="no answer in time"):
        async with asyncio.timeout(PATIENCE), outbox.take(10):
            pass
    await proxy.become("pass")
    async with outbox.take(10) as taken:
        assert not taken.jobs
    await outbox.close()
    await proxy.close()
