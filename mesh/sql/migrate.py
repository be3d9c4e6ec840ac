"""Schema migrations: Alembic's revisions, run on a ``Database`` connection.

There is no ``env.py``, and Alembic's ``op`` and ``context`` proxies are not used: they are
globals, and two databases may be migrated in one process at once. Instead each revision's
``upgrade`` is given what it needs: ``def upgrade(op: Operations, **names)``.

Revisions are numbered, ``0001`` and on. One that only adds says in ``works_with`` the oldest
code, by the newest revision which that knows, that works with the schema it makes; one that does
not say so needs its own code. An upgrade writes down what that comes to, for older code to read.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateSchema

from mesh.errors import MeshError
from mesh.sql.database import Database
from mesh.sql.faults import is_blocked

__all__ = ["Migrations", "Standing"]

# Alembic tells at INFO how it works, which is nobody's business in an application's log.
_alembic_log = logging.getLogger("alembic")
if _alembic_log.level == logging.NOTSET:
    _alembic_log.setLevel(logging.WARNING)

# A change of a table waits for the transactions that use it, and all others wait behind it: so it
# gives up soon, also before the server would take the two for a deadlock, and tries again.
_LOCK_TIMEOUT = 0.5
_TRIES = 60

Standing = Literal["absent", "older", "current", "newer"]


@cache
def _script(folder: Path) -> ScriptDirectory:
    """The revisions there, read and run as modules once in a process, not at each connection."""
    return ScriptDirectory(str(folder))


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
        note: Callable[[Operations, str], None],
    ) -> None:
        """``names`` are the arguments of each ``upgrade``, next to ``op``. ``schema`` is made
        if it is not there. ``note`` writes down in the database which code it works with."""
        self._database = database
        self._script = _script(folder)
        self._schema = schema
        self._names = dict(names)
        self._note = note
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

    @property
    def works_with(self) -> str:
        """The oldest code, by the newest revision it knows, that works with ``head``."""
        return max(
            getattr(each.module, "works_with", each.revision)
            for each in self._script.walk_revisions()
        )

    async def upgrade(
        self, allow: Callable[[AsyncConnection], Awaitable[None]] | None = None
    ) -> None:
        """Bring the database to ``head``, in one transaction where the database has such for
        tables, while others use it. Any number of processes may do so at once: one works, the
        others find it done. A newer database is left as it is. ``allow`` is asked before older
        tables are touched, and raises if they must not be."""
        for tries in range(_TRIES):
            if tries:
                await asyncio.sleep(_LOCK_TIMEOUT)
            try:
                await self._try_upgrade(allow)
                break
            except MeshError as error:
                if tries == _TRIES - 1 or not is_blocked(error):
                    raise

    async def _try_upgrade(
        self, allow: Callable[[AsyncConnection], Awaitable[None]] | None
    ) -> None:
        async with (
            self._database.write(timeout=None) as connection,
            self._database.dialect.alone(connection, self._lock_key()),
        ):
            await self._database.dialect.wait_briefly(connection, _LOCK_TIMEOUT)
            standing = await connection.run_sync(self._standing)
            if standing == "older" and allow is not None:
                await allow(connection)
            if standing in ("absent", "older"):
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
            self._run(context)
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
        self._run(MigrationContext.configure(connection, opts=self._options | {"fn": self._steps}))

    def _run(self, context: MigrationContext) -> None:
        op = Operations(context)
        context.run_migrations(op=op, **self._names)
        self._note(op, self.works_with)

    def _steps(self, revision: Any, _: MigrationContext) -> Any:
        return self._script._upgrade_revs("head", revision)
