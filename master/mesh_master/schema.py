"""The master's schema: does this code work with it, and how to bring it up to date.

Processes of several versions use it while a cluster is upgraded: first the schema is, by the new
code, and then one process after the other. So a schema newer than the code is refused only if a
revision said so (``works_with``), which stands in the table ``cluster``. A revision that ends what
older code can do is refused in turn while such code is at work (``presence``).
"""

from __future__ import annotations

from pathlib import Path

from alembic.operations import Operations
from sqlalchemy import Column, MetaData, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import SchemaMismatch
from mesh.ports import MasterSettings
from mesh.sql import Database, String
from mesh.sql.migrate import Migrations
from mesh_master import presence
from mesh_master.tables import Tables

__all__ = ["ensure", "migrations", "upgrade"]

_FOLDER = Path(__file__).parent / "migrations"

_WORKS_WITH = "schema_works_with"
"""The key in ``cluster`` of the oldest code that works with the schema."""


def migrations(database: Database, settings: MasterSettings) -> Migrations:
    """The master's migrations, for the prefix and schema of the settings."""
    schema = settings.schema if database.has_schemas else None
    cluster = f"{settings.table_prefix}cluster"

    def note(op: Operations, works_with: str) -> None:
        columns = (Column("key", String), Column("value", String))
        table = Table(cluster, MetaData(), *columns, schema=schema)
        key, value = op.inline_literal(_WORKS_WITH), op.inline_literal(works_with)
        op.execute(table.delete().where(table.c.key == key))
        op.execute(table.insert().values(key=key, value=value))

    return Migrations(
        database,
        _FOLDER,
        version_table=f"{settings.table_prefix}schema_version",
        schema=schema,
        names={"prefix": settings.table_prefix, "schema": schema},
        note=note,
    )


async def upgrade(
    database: Database, tables: Tables, settings: MasterSettings, *, force: bool = False
) -> None:
    """Bring the schema up to date, while others use it. Raises ``SchemaMismatch`` if code that
    could not go on is at work, unless by ``force``."""
    schema = migrations(database, settings)
    oldest = schema.works_with

    async def allow(connection: AsyncConnection) -> None:
        seen = await presence.at_work(database, tables, connection)
        older = {revision: who for revision, who in seen.items() if revision < oldest}
        if older and not force:
            shown = "; ".join(f"{who}, of revision {known}" for known, who in older.items())
            raise SchemaMismatch(
                f"master at {database.url}: code older than revision {oldest} cannot work with "
                f"revision {schema.head}, and is at work: {shown}. Upgrade or stop those "
                f"processes, and run `mesh db upgrade` {presence.GONE:g} s after; or now, with "
                "--force, and they fail"
            )

    await schema.upgrade(allow)


async def ensure(database: Database, tables: Tables, settings: MasterSettings) -> None:
    """Migrate if the settings allow it. Raises ``SchemaMismatch`` if this code does not, or
    would still not, work with the schema."""
    schema = migrations(database, settings)
    standing = await schema.standing()
    automatic = settings.auto_migrate
    if automatic is None:
        automatic = database.is_local
    if automatic and standing in ("absent", "older"):
        await upgrade(database, tables, settings)
        standing = await schema.standing()
    if standing == "current":
        return
    if standing == "newer":
        works_with = await _works_with(database, tables)
        if works_with is not None and works_with <= schema.head:
            return
        raise SchemaMismatch(
            f"master at {database.url}: its schema is newer than this code, which knows "
            f"revisions up to {schema.head}, and works with code of revision "
            f"{works_with or await schema.current()} or later; upgrade jobmesh in this process"
        )
    found = "has no jobmesh tables" if standing == "absent" else "has an older schema"
    raise SchemaMismatch(
        f"master at {database.url} {found} (needed: revision {schema.head}, table prefix "
        f"'{settings.table_prefix}'); run `mesh db upgrade` with this code, or set "
        "auto_migrate=True"
    )


async def _works_with(database: Database, tables: Tables) -> str | None:
    cluster = tables.cluster.c
    async with database.read() as connection:
        found = await connection.execute(select(cluster.value).where(cluster.key == _WORKS_WITH))
        value: str | None = found.scalar_one_or_none()
        return value
