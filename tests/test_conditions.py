"""What holds jobs on a SQL master, where several meet at it, and by which indexes it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from mesh.held import After, Held, KeyRule
from mesh.job import State
from mesh.ports import MasterSettings
from mesh.sql import Database
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.conditions import end
from mesh.testing.servers import PostgresServer
from mesh.wire import Limit
from mesh_master.store import SqlMaster

PATIENCE = 10.0


@pytest.fixture(params=["sqlite", "postgres"])
async def master(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlMaster]:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    master = SqlMaster(url, MasterSettings(auto_migrate=True))
    await master.open()
    yield master
    await master.close()


@pytest.fixture
async def server_url(postgres: PostgresServer) -> str:
    return postgres.create_database()


@pytest.fixture
async def shared(server_url: str) -> AsyncIterator[SqlMaster]:
    """On a server, where others may write at the same time."""
    master = SqlMaster(server_url, MasterSettings(auto_migrate=True))
    await master.open()
    yield master
    await master.close()


@pytest.fixture
async def other(server_url: str, shared: SqlMaster) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Another's connection to the same server."""
    connection = await asyncpg.connect(server_url)
    yield connection
    await connection.close()


async def plans(database: Database, statements: list[tuple[str, Any]]) -> str:
    explain = "EXPLAIN QUERY PLAN" if database.is_local else "EXPLAIN"
    found: list[str] = []
    async with database.read() as connection:
        for statement, parameters in statements:
            if not statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
                continue
            several = isinstance(parameters, list)
            rows = await connection.exec_driver_sql(
                f"{explain} {statement}", parameters[0] if several else parameters
            )
            found += [str(row[-1]) for row in rows]
    return "\n".join(found)


async def test_letting_jobs_go_does_not_read_the_history(master: SqlMaster) -> None:
    past = [make_job() for _ in range(300)]
    for job in past:
        await master.submit([Held(job)])
    parents = [make_job() for _ in range(3)]
    await master.cancel([job.id for job in past], "they are the past")
    async with master.database.write() as connection:
        await connection.exec_driver_sql("ANALYZE")  # and of none that waits
    await master.submit([Held(make_job(), after=[After(parent.id)]) for parent in parents])
    await end(master, parents[0])
    await end(master, parents[1], State.FAILED)
    seen: list[tuple[str, Any]] = []

    @event.listens_for(master.database.engine.sync_engine, "before_cursor_execute")
    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    await master.unblock([parent.id for parent in parents])
    await master.unblock()
    event.remove(master.database.engine.sync_engine, "before_cursor_execute", note)
    plan = await plans(master.database, seen)
    for line in plan.splitlines():
        assert "jobs_state" not in line
        assert "autoindex_mesh_jobs" not in line or "SEARCH" in line
        assert "SCAN mesh_dependencies" not in line or "mesh_dependencies_open" in line
        assert "Seq Scan on mesh_jobs" not in line


async def test_a_job_that_cannot_be_read_holds_up_no_other(master: SqlMaster) -> None:
    parent, strange, child = make_job(), make_job(), make_job()
    await master.submit([Held(strange, after=[After(parent.id)])])
    async with master.database.write() as connection:
        table = master.tables.jobs
        await connection.execute(table.update().values(envelope=b"of a newer version"))
    await master.submit([Held(child, after=[After(parent.id)])])
    await end(master, parent)
    await master.unblock()
    found = await master.get_jobs([strange.id, child.id])
    assert [found[job.id].state for job in (strange, child)] == [State.WAITING, State.SCHEDULED]


async def test_who_ends_a_child_waits_for_nobody_who_waits_for_it(
    shared: SqlMaster, other: asyncpg.Connection[Any]
) -> None:
    failed, open_one = make_job(), make_job()
    child = make_job()
    await shared.submit([Held(child, after=[After(failed.id), After(open_one.id)])])
    await end(shared, failed, State.FAILED)
    async with other.transaction():
        # As one who closes the other dependency, and goes on to lock the child.
        await other.execute(
            "SELECT 1 FROM mesh_dependencies WHERE parent_id = $1 FOR UPDATE", open_one.id
        )
        async with asyncio.timeout(PATIENCE):
            await shared.unblock([failed.id])
    assert (await shared.get_jobs([child.id]))[child.id].state is State.CANCELLED


async def test_many_ends_at_once(shared: SqlMaster) -> None:
    url = shared.database.sync_url.render_as_string(hide_password=False)
    masters = [shared, *(SqlMaster(url, shared.settings) for _ in range(2))]
    for one in masters[1:]:
        await one.open()
    parents = [make_job() for _ in range(60)]
    children = [
        Held(make_job(), after=[After(a.id), After(b.id)])
        for a, b in zip(parents[::2], parents[1::2], strict=True)
        for _ in range(20)
    ]
    await shared.submit(children)
    for n, parent in enumerate(parents):
        await end(shared, parent, State.FAILED if n % 4 == 1 else State.SUCCEEDED)
    asks = [[p.id for p in parents[::2]], [p.id for p in parents[1::2]], None]
    await asyncio.gather(*(m.unblock(ask) for m, ask in zip(masters * 2, asks * 2, strict=True)))
    await shared.unblock()
    states = await shared.count_jobs()
    assert (states[State.SCHEDULED], states[State.CANCELLED]) == (300, 300)
    assert not (await shared.unblock()).waits
    for one in masters[1:]:
        await one.close()


async def test_a_key_that_is_forgotten_meanwhile_is_taken(
    shared: SqlMaster, other: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await shared.submit([Held(make_job(key="k"))])
    look = shared._holding._holders
    looked: list[bool] = []

    async def late(*arguments: Any, **more: Any) -> Any:
        if not looked:  # the janitor, after the key was found taken
            looked.append(True)
            await other.execute("DELETE FROM mesh_keys")
        return await look(*arguments, **more)

    monkeypatch.setattr(shared._holding, "_holders", late)
    job = make_job(key="k")
    (stored,) = await shared.submit([Held(job)])
    assert (stored.job_id, stored.existing) == (job.id, False)
    assert await shared.find_key("k") == job.id


async def test_a_key_that_is_taken_meanwhile_is_not_forgotten(
    shared: SqlMaster, other: asyncpg.Connection[Any]
) -> None:
    await shared.submit([Held(make_job(key="k"), KeyRule(period=0.01))])
    async with other.transaction():
        # As one who found that its time is over, and takes it.
        await other.execute("UPDATE mesh_keys SET until = NULL")
        async with asyncio.TaskGroup() as tasks:
            sweep = tasks.create_task(shared.sweep(0.0, 100))
            await waits_for_a_lock(other)
            await other.execute("COMMIT; BEGIN")
    assert sweep.result() == 0
    assert await other.fetchval("SELECT count(*) FROM mesh_keys") == 1


async def test_dispatchers_wait_for_nobody_who_changes_a_limit(
    shared: SqlMaster, other: asyncpg.Connection[Any]
) -> None:
    held, free = (make_job(limits=[Limit(key, concurrency=1)]) for key in ("held", "free"))
    await shared.submit([Held(held), Held(free)])
    async with other.transaction():
        # As an application that brings a new rule in a transaction of its own.
        await other.execute("UPDATE mesh_limits SET concurrency = 2 WHERE key = 'held'")
        async with asyncio.timeout(PATIENCE):
            claimed = await shared.claim_gated(shared.database.now() + 1, 10, 60.0)
        assert [job.id for job in claimed.jobs] == [free.id]
    claimed = await shared.claim_gated(shared.database.now() + 1, 10, 60.0)
    assert [job.id for job in claimed.jobs] == [held.id]


async def test_who_replaces_a_job_and_who_lets_it_go_do_not_block_each_other(
    shared: SqlMaster, other: asyncpg.Connection[Any]
) -> None:
    job = make_job(limits=[Limit("c", concurrency=1)])
    await shared.submit([Held(job)])
    async with other.transaction():
        # As one who replaces it, and goes on to change the limit.
        await other.execute("SELECT 1 FROM mesh_jobs FOR UPDATE")
        async with asyncio.timeout(PATIENCE):
            claimed = await shared.claim_gated(shared.database.now() + 1, 10, 60.0)
        assert claimed.jobs == []


async def waits_for_a_lock(connection: asyncpg.Connection[Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'relation'"
        while not await connection.fetchval(waiting):
            await connection.execute("SELECT pg_sleep(0.01)")


async def test_a_blocking_session_does_not_stop_who_it_waits_for(
    shared: SqlMaster, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = asyncio.Event()
    go_on = asyncio.Event()
    insert = shared._holding._insert

    async def slow(*arguments: Any) -> None:
        await insert(*arguments)
        if not stored.is_set():  # its transaction has the key
            stored.set()
            await go_on.wait()

    monkeypatch.setattr(shared._holding, "_insert", slow)
    engine = create_engine(server_url.replace("postgresql:", "postgresql+psycopg:"))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(shared.submit([Held(make_job(key="k"))]))
        await stored.wait()
        with Session(engine) as session:
            session.execute(text("SET lock_timeout = '3s'"))
            tasks.create_task(soon(go_on))
            (second,) = await shared.submit([Held(make_job(key="k"))], session)
            session.commit()
    engine.dispose()
    assert (second.existing, second.job_id) == (True, first.result()[0].job_id)


async def soon(event: asyncio.Event) -> None:
    await asyncio.sleep(0.2)
    event.set()
