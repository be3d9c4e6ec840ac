"""Schema migrations: Alembic's revisions, run on a ``Database`` connection.

There is no ``env.py``, and Alembic's ``op`` and ``context`` proxies are not used: they are
globals, and two databases may be migrated in one process at once. Instead each revision's
``upgrade`` is given what it needs: ``def upgrade(op: Operations, **names)``.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select, text
from sqlalchemy.schema import CreateSchema

from mesh.sql.database import Database

__all__ = ["Migrations", "Standing"]

# Alembic tells at INFO how it works, which is nobody's business in an application's log.
_alembic_log = logging.getLogger("alembic")
if _alembic_log.level == logging.NOTSET:
    _alembic_log.setLevel(logging.WARNING)

Standing = Literal["absent", "older", "current", "newer"]


class Migrations:
    """The revisions in a folder, for one database."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        version_table: str,
        schema: str | None = None,
        names: Mapping[str, Any],
    ) -> None:
        """``names`` are the arguments of each ``upgrade``, next to ``op``. ``schema`` is made
        if it is not there."""
        self._database = database
        self._script = ScriptDirectory(str(folder))
        self._schema = schema
        self._names = dict(names)
        self._options = {"version_table": version_table, "version_table_schema": schema}

    @property
    def head(self) -> str:
        """The revision that this code needs."""
        head = self._script.get_current_head()
        assert head is not None, "there is at least one revision"
        return head

    async def current(self) -> str | None:
        """The revision that the database is at; ``None``: it has none."""
        async with self._database.read() as connection:
            return await connection.run_sync(self._current)

    async def upgrade(self) -> None:
        """Bring the database to ``head``, in one transaction. Any number of processes may do
        so at once: one works, the others find it done. A newer database is left as it is."""
        async with self._database.write() as connection:
            if not self._database.is_local:
                await connection.execute(select(func.pg_advisory_xact_lock(self._lock_key())))
            if await connection.run_sync(self._standing) in ("absent", "older"):
                await connection.run_sync(self._upgrade)

    async def standing(self) -> Standing:
        """Where the database is, seen from this code."""
        async with self._database.read() as connection:
            return await connection.run_sync(self._standing)

    def sql(self) -> str:
        """The statements that bring an empty database to ``head``."""
        output = StringIO()
        context = MigrationContext.configure(
            dialect=self._database.sync_url.get_dialect()(),
            opts=self._options | {"as_sql": True, "output_buffer": output, "fn": self._steps},
        )
        with context.begin_transaction():
            if self._schema is not None:
                context.impl.execute(CreateSchema(self._schema, if_not_exists=True))
            context.run_migrations(op=Operations(context), **self._names)
        return output.getvalue()

    def _lock_key(self) -> int:
        return zlib.crc32(f"{self._schema}.{self._options['version_table']}".encode())

    def _current(self, connection: Connection) -> str | None:
        context = MigrationContext.configure(connection, opts=self._options)
        return context.get_current_revision()

    def _standing(self, connection: Connection) -> Standing:
        current = self._current(connection)
        if current is None:
            return "absent"
        if current == self.head:
            return "current"
        known = {revision.revision for revision in self._script.walk_revisions()}
        return "older" if current in known else "newer"

    def _upgrade(self, connection: Connection) -> None:
        if self._schema is not None:
            connection.execute(CreateSchema(self._schema, if_not_exists=True))
        # Alembic looks whether a transaction is open, and leaves it to us then.
        connection.execute(text("SELECT 1"))
        context = MigrationContext.configure(connection, opts=self._options | {"fn": self._steps})
        context.run_migrations(op=Operations(context), **self._names)

    def _steps(self, revision: Any, _: MigrationContext) -> Any:
        return self._script._upgrade_revs("head", revision)
