"""The schema is the sum of its migrations, and is what the code expects."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text, update

from mesh.errors import SchemaMismatch
from mesh.job import State, made_job_id
from mesh.ports import MasterSettings
from mesh.testing.conformance.master import Story, record
from mesh.testing.servers import MariaServer, PostgresServer
from mesh_master import presence, queries, schema
from mesh_master.rescuing import suspects_in
from mesh_master.store import SqlMaster
from tests.revisions import ADDS, TAKES, TODAY, TOMORROW, with_revision


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
    assert (await migrations.standing(), await migrations.current()) == ("current", TODAY)
    await migrations.upgrade()
    assert await _differences(master) == []
    await master.open()


async def _differences(master: SqlMaster) -> list[Any]:
    """Between the tables that there are and those of the code."""
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
        return await connection.run_sync(differences)


async def test_on_mariadb(mariadb: MariaServer) -> None:
    """Its changes of tables are no transactions; else all is as elsewhere."""
    settings = MasterSettings(auto_migrate=False, table_prefix="shop_")
    masters = [SqlMaster(mariadb.create_database(), settings)]
    masters += [SqlMaster(_url(masters[0]), settings) for _ in range(2)]
    for master in masters:
        await master.database.open()
    every = [schema.migrations(master.database, settings) for master in masters]
    await asyncio.gather(*[migrations.upgrade() for migrations in every])
    assert {await migrations.standing() for migrations in every} == {"current"}
    assert await _differences(masters[0]) == []
    for master in masters:
        await master.close()


async def test_by_hand_on_mariadb(mariadb: MariaServer) -> None:
    master = SqlMaster(mariadb.create_database(), MasterSettings(auto_migrate=False))
    migrations = schema.migrations(master.database, master.settings)
    mariadb.run_script(master.database.sync_url.database or "", migrations.sql())
    await master.open()
    assert await migrations.standing() == "current"
    await master.close()


def _url(master: SqlMaster) -> str:
    return master.database.sync_url.render_as_string(hide_password=False)


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
    cluster = version.replace("schema_version", "cluster")
    async with master.database.write() as connection:
        await connection.execute(text(f"UPDATE {version} SET version_num = '9999'"))
        await connection.execute(
            text(f"UPDATE {cluster} SET value = '9998' WHERE key = 'schema_works_with'")
        )
    with pytest.raises(
        SchemaMismatch, match=r"newer than this code.*9998 or later.*upgrade jobmesh"
    ):
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
    others = [
        SqlMaster(_url(master), replace(master.settings, auto_migrate=True)) for _ in range(6)
    ]
    for other in others:
        await other.database.open()
    every = [schema.migrations(m.database, m.settings) for m in [master, *others]]
    await asyncio.gather(*[migrations.upgrade() for migrations in every])
    assert {await migrations.standing() for migrations in every} == {"current"}
    await asyncio.gather(*[other.close() for other in others])


@pytest.mark.parametrize("of", ["claims", "suspects"])
async def test_frequent_looks_use_their_index(master: SqlMaster, of: str) -> None:
    await schema.migrations(master.database, master.settings).upgrade()
    query, index = {
        "claims": (queries.due(master.tables, 2e9, 1e9, 100), "shop_jobs_due"),
        "suspects": (
            suspects_in(master.tables, State.QUEUED, 2e9, 100, made_job_id(1e9, "0" * 20)),
            "shop_jobs_state",
        ),
    }[of]
    compiled = query.compile(
        dialect=master.database.engine.dialect, compile_kwargs={"literal_binds": True}
    )
    explain = "EXPLAIN QUERY PLAN" if master.database.is_local else "EXPLAIN"
    async with master.database.write() as connection:
        if not master.database.is_local:
            # An empty table is read whole whatever the indexes.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await connection.execute(text(f"{explain} {compiled}"))
        assert index in str(plan.all())


# Schemas that are newer than the code -------------------------------------------------------------


@pytest.fixture
async def old(master: SqlMaster) -> SqlMaster:
    """Code of today, at work."""
    await schema.upgrade(master.database, master.tables, master.settings)
    await master.open()
    return master


@contextmanager
def newer_code(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_FOLDER", folder)
        yield


async def upgrade(master: SqlMaster, *, force: bool = False) -> None:
    await schema.upgrade(master.database, master.tables, master.settings, force=force)


async def test_older_code_works_with_a_schema_that_says_so(old: SqlMaster, tmp_path: Path) -> None:
    await old.presence.tell()
    with newer_code(with_revision(tmp_path, ADDS, works_with=TODAY)):
        await upgrade(old)
    await record(old, (story := Story()).accepted())
    again = SqlMaster(old.database.sync_url.render_as_string(False), old.settings)
    await again.open()
    await record(again, story.finished())
    assert await again.count_jobs() == {State.SUCCEEDED: 1}
    told = {check.subject: check for check in await again.check()}["master: schema"]
    assert told.ok
    assert "newer than this code, which works with it" in told.detail
    await again.close()


async def test_older_code_that_is_at_work_is_not_cut_off(old: SqlMaster, tmp_path: Path) -> None:
    tomorrow = with_revision(tmp_path, TAKES)
    await old.presence.tell()
    with newer_code(tomorrow):
        with pytest.raises(SchemaMismatch, match=rf"{gethostname()}.*--force"):
            await upgrade(old)
        with pytest.raises(SchemaMismatch, match="is at work"):
            await schema.ensure(old.database, old.tables, replace(old.settings, auto_migrate=True))
    await old.open()  # nothing has changed
    async with old.database.write() as connection:
        cluster = old.tables.cluster
        await connection.execute(
            update(cluster)
            .where(cluster.c.key.startswith("code:"))
            .values(value=f'{{"at": {old.database.now() - presence.GONE}, "process": "it"}}')
        )
    with newer_code(tomorrow):
        await upgrade(old)
    with pytest.raises(SchemaMismatch, match=rf"newer than this code.*{TOMORROW} or later"):
        await old.open()


async def test_it_can_be_cut_off_by_force(old: SqlMaster, tmp_path: Path) -> None:
    await old.presence.tell()
    with newer_code(with_revision(tmp_path, TAKES)):
        await upgrade(old, force=True)
        assert await schema.migrations(old.database, old.settings).standing() == "current"


async def test_newer_code_says_what_an_older_schema_needs(old: SqlMaster, tmp_path: Path) -> None:
    says = rf"older schema.*{TOMORROW}.*`mesh db upgrade` with"
    with (
        newer_code(with_revision(tmp_path, ADDS, works_with=TODAY)),
        pytest.raises(SchemaMismatch, match=says),
    ):
        await old.open()


async def test_nobody_queues_behind_an_upgrade_that_waits(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    master = SqlMaster(postgres.create_database(), MasterSettings(auto_migrate=True))
    await master.open()
    reader = await asyncpg.connect(
        master.database.sync_url.set(drivername="postgresql").render_as_string(False)
    )
    reading = reader.transaction()
    await reading.start()
    await reader.execute("SELECT count(*) FROM mesh_jobs")
    with newer_code(with_revision(tmp_path, ADDS, works_with=TODAY)):
        upgrading = asyncio.create_task(upgrade(master))
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with asyncio.timeout(30):
            while True:
                async with master.database.read() as connection:
                    if (await connection.execute(waits)).scalar_one():
                        break
            # While the reader still reads.
            await record(master, Story().accepted())
        assert not upgrading.done()
        await reading.rollback()
        await upgrading
        assert await schema.migrations(master.database, master.settings).standing() == "current"
    await reader.close()
    await master.close()


def test_what_is_said_to_work_with_older_code_only_adds(tmp_path: Path) -> None:
    assert taken_away(with_revision(tmp_path / "adds", ADDS, works_with=TODAY), tmp_path) == []
    (gone,) = taken_away(with_revision(tmp_path / "takes", TAKES, works_with=TODAY), tmp_path)
    assert gone == "schedules.zone"
    assert taken_away(schema._FOLDER, tmp_path) == []


def taken_away(folder: Path, scratch: Path) -> list[str]:
    """What revisions that say they work with older code have changed, in SQLite's words, though
    that older code needs it."""
    versions = ScriptDirectory(str(folder))
    before: dict[str, dict[str, Any]] = {}
    gone: list[str] = []
    for script in reversed(list(versions.walk_revisions())):
        engine = create_engine(f"sqlite:///{scratch / script.revision}-{folder.parent.name}.db")
        with engine.begin() as connection:
            context = MigrationContext.configure(connection)
            for each in reversed(list(versions.iterate_revisions(script.revision, "base"))):
                each.module.upgrade(op=Operations(context), prefix="", schema=None)
            seen = inspect(connection)
            tables = {
                t: {c["name"]: c for c in seen.get_columns(t)} for t in seen.get_table_names()
            }
        engine.dispose()
        if getattr(script.module, "works_with", script.revision) < script.revision:
            for table, columns in before.items():
                now = tables.get(table, {})
                gone += [
                    f"{table}.{name}"
                    for name, column in columns.items()
                    if str(now.get(name)) != str(column)
                ]
                gone += [
                    f"{table}.{name} is needed"
                    for name, column in now.items()
                    if name not in columns and not column["nullable"] and column["default"] is None
                ]
        before = tables
    return gone
