"""The schema is the sum of its migrations, and is what the code expects."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from mesh.errors import SchemaMismatch
from mesh.ports import MasterSettings
from mesh.testing.servers import PostgresServer
from mesh_master import queries, schema
from mesh_master.store import SqlMaster


@pytest.fixture(params=["sqlite", "postgres"])
async def master(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlMaster]:
    """On an empty database, connected, not migrated."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'mesh.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    settings = MasterSettings(auto_migrate=False, schema="history", table_prefix="shop_")
    master = SqlMaster(url, settings)
    await master.database.open()
    yield master
    await master.close()


async def test_the_migrations_make_the_tables_of_the_code(master: SqlMaster) -> None:
    migrations = schema.migrations(master.database, master.settings)
    assert await migrations.standing() == "absent"
    await migrations.upgrade()
    assert (await migrations.standing(), await migrations.current()) == ("current", "0010")
    await migrations.upgrade()
    in_schema = master.tables.metadata.schema

    def differences(connection: Connection) -> list[Any]:
        options = {
            "version_table": "shop_schema_version",
            "version_table_schema": in_schema,
            "include_schemas": in_schema is not None,
            "include_name": lambda name, kind, _: kind != "schema" or name == in_schema,
            "compare_type": True,
            "compare_server_default": True,
        }
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, master.tables.metadata))

    async with master.database.read() as connection:
        assert await connection.run_sync(differences) == []
    await master.open()


async def test_the_sql_can_be_run_by_hand(master: SqlMaster) -> None:
    migrations = schema.migrations(master.database, master.settings)
    script = migrations.sql()
    if master.database.is_local:
        with sqlite3.connect(master.database.place) as by_hand:
            by_hand.executescript(script)
        by_hand.close()
    else:
        async with master.database.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            await raw.execute(script)
    assert await migrations.standing() == "current"
    await master.open()


async def test_a_schema_that_does_not_fit_says_what_to_do(master: SqlMaster) -> None:
    with pytest.raises(SchemaMismatch, match=r"has no jobmesh tables.*`mesh db upgrade`"):
        await master.open()
    await master.database.open()
    await schema.migrations(master.database, master.settings).upgrade()
    await master.open()
    version = f"{'history.' if master.tables.metadata.schema else ''}shop_schema_version"
    async with master.database.write() as connection:
        await connection.execute(text(f"UPDATE {version} SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match=r"newer than this code.*upgrade jobmesh"):
        await master.open()
    # Nor does an upgrade touch it.
    await schema.migrations(master.database, master.settings).upgrade()
    checks = await master.check()
    assert [check.ok for check in checks] == [False]


async def test_a_failed_migration_leaves_nothing(
    master: SqlMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mesh_master.migrations.versions import r0001_initial

    migrations = schema.migrations(master.database, master.settings)

    def upgrade(**_: Any) -> None:
        raise RuntimeError("halfway")

    module = migrations._script.get_revision("0001").module
    assert module.__file__ == r0001_initial.__file__
    first_steps = module.upgrade

    def fail(**names: Any) -> None:
        first_steps(**names)
        upgrade()

    monkeypatch.setattr(module, "upgrade", fail)
    with pytest.raises(RuntimeError, match="halfway"):
        await migrations.upgrade()
    monkeypatch.undo()
    assert await migrations.standing() == "absent"
    await migrations.upgrade()
    await master.open()


_OPEN = """
import asyncio, sys
from mesh.ports import MasterSettings
from mesh_master.store import SqlMaster

async def main():
    master = SqlMaster(sys.argv[1], MasterSettings(auto_migrate=True))
    await master.open()
    assert await master.count_jobs() == {}
    await master.close()

asyncio.run(main())
"""


async def test_many_processes_may_start_at_once(master: SqlMaster) -> None:
    url = master.database.sync_url.set(drivername=master.database.sync_url.get_backend_name())
    shown = url.render_as_string(hide_password=False)
    starts = [
        asyncio.create_subprocess_exec(
            sys.executable, "-c", _OPEN, shown, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    processes = await asyncio.gather(*starts)
    told = await asyncio.gather(*[process.communicate() for process in processes])
    assert [process.returncode for process in processes] == [0] * 4, told


async def test_many_may_migrate_at_once(master: SqlMaster) -> None:
    url = master.database.sync_url.render_as_string(hide_password=False)
    others = [SqlMaster(url, replace(master.settings, auto_migrate=True)) for _ in range(6)]
    for other in others:
        await other.database.open()
    every = [schema.migrations(m.database, m.settings) for m in [master, *others]]
    await asyncio.gather(*[migrations.upgrade() for migrations in every])
    assert {await migrations.standing() for migrations in every} == {"current"}
    await asyncio.gather(*[other.close() for other in others])


async def test_claims_use_the_index_of_held_jobs(master: SqlMaster) -> None:
    await schema.migrations(master.database, master.settings).upgrade()
    query = queries.due(master.tables, 2e9, 1e9, 100)
    compiled = query.compile(
        dialect=master.database.engine.dialect, compile_kwargs={"literal_binds": True}
    )
    explain = "EXPLAIN QUERY PLAN" if master.database.is_local else "EXPLAIN"
    async with master.database.write() as connection:
        if not master.database.is_local:
            # An empty table is read whole whatever the indexes.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await connection.execute(text(f"{explain} {compiled}"))
        assert "shop_jobs_due" in str(plan.all())
