"""The master's schema: is it this code's, and how to bring it up to date."""

from __future__ import annotations

from pathlib import Path

from mesh.errors import SchemaMismatch
from mesh.ports import MasterSettings
from mesh.sql import Database
from mesh.sql.migrate import Migrations

__all__ = ["ensure", "migrations"]

_FOLDER = Path(__file__).parent / "migrations"


def migrations(database: Database, settings: MasterSettings) -> Migrations:
    """The master's migrations, for the prefix and schema of the settings."""
    schema = settings.schema if database.has_schemas else None
    return Migrations(
        database,
        _FOLDER,
        version_table=f"{settings.table_prefix}schema_version",
        schema=schema,
        names={"prefix": settings.table_prefix, "schema": schema},
    )


async def ensure(database: Database, settings: MasterSettings) -> None:
    """Migrate if the settings allow it. Raises ``SchemaMismatch`` if the schema is not, or
    would still not be, this code's."""
    schema = migrations(database, settings)
    standing = await schema.standing()
    automatic = settings.auto_migrate
    if automatic is None:
        automatic = database.is_local
    if automatic and standing in ("absent", "older"):
        await schema.upgrade()
        standing = await schema.standing()
    if standing == "current":
        return
    if standing == "newer":
        raise SchemaMismatch(
            f"master at {database.url}: its schema is newer than this code, which knows "
            f"revisions up to {schema.head}; upgrade jobmesh in this process"
        )
    found = "has no jobmesh tables" if standing == "absent" else "has an older schema"
    raise SchemaMismatch(
        f"master at {database.url} {found} (needed: revision {schema.head}, table prefix "
        f"'{settings.table_prefix}'); run `mesh db upgrade`, or set auto_migrate=True"
    )
