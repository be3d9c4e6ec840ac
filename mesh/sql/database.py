"""A database connection pool with the few differences between databases settled.

Knows for each dialect: the driver, how a write transaction begins, whether rows can be claimed
with SKIP LOCKED, whether it can notify. Everything else is SQLAlchemy Core.

Leases and due times are judged by the database server's clock (``now``), so that a machine
whose clock is wrong does no harm: the offset is measured on connecting and again each minute,
and carried on with the monotonic clock in between.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import Executable, Select, Table, event, exc, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.clock import Clock, SystemClock
from mesh.errors import ConfigError, MeshError
from mesh.plugins import hide_password

__all__ = ["Database", "DatabaseErrors", "Insert"]

Insert = postgresql.Insert | sqlite.Insert

_RESYNC = 60.0

# Result codes that say something of the file, not of the statement (sqlite.org/rescode.html).
_SQLITE_AWAY = (
    "SQLITE_BUSY",
    "SQLITE_CANTOPEN",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_LOCKED",
    "SQLITE_READONLY",
)

_DRIVERS = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


@dataclass(frozen=True, slots=True)
class DatabaseErrors:
    """What the owner of a database raises."""

    unavailable: type[MeshError]
    """Nothing was written."""
    failed: type[MeshError]
    """The database refused a statement."""
    in_doubt: type[MeshError]
    """The connection broke during a commit: written or not, nobody knows."""


class _SqliteLocks:
    """One write lock per file and event loop.

    SQLite lets one connection write at a time, and its own waiting is a sleep of up to 100 ms.
    Within a process we queue instead.
    """

    _locks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = (
        WeakKeyDictionary()
    )

    @classmethod
    def get(cls, path: str) -> asyncio.Lock:
        locks = cls._locks.setdefault(asyncio.get_running_loop(), {})
        return locks.setdefault(path, asyncio.Lock())


class Database:
    """A pool of connections to one database."""

    def __init__(
        self,
        url: str,
        errors: DatabaseErrors,
        *,
        what: str,
        clock: Clock | None = None,
        connect_timeout: float = 5.0,
        pool_size: int = 5,
    ) -> None:
        """``what`` names the owner in messages, such as ``master`` or ``agent pg-1``."""
        self.url = hide_password(url)
        self.what = what
        self._errors = errors
        self._clock = clock or SystemClock()
        self._connect_timeout = connect_timeout
        self._pool_size = pool_size
        self._parsed = self._parse(url)
        self._engine: AsyncEngine | None = None
        self._server_time = 0.0
        self._measured_at = float("-inf")

    def _parse(self, url: str) -> URL:
        scheme, _, rest = url.partition("://")
        driver = _DRIVERS.get(scheme.partition("+")[0])
        if driver is None:
            raise ConfigError(f"{self.what}: no driver for the URL scheme '{scheme}'")
        try:
            return make_url(f"{driver}://{rest}")
        except exc.ArgumentError as error:
            raise ConfigError(f"{self.what}: '{self.url}' is not a database URL") from error

    # what it is ------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """A file (or memory) of this machine, that no server guards."""
        return self._parsed.get_backend_name() == "sqlite"

    @property
    def skips_locked(self) -> bool:
        """Several connections may claim rows at once (``FOR UPDATE SKIP LOCKED``)."""
        return not self.is_local

    @property
    def notifies(self) -> bool:
        """``notify`` and ``listen`` work."""
        return not self.is_local

    @property
    def sync_url(self) -> URL:
        """For tools that need no event loop."""
        return self._parsed

    @property
    def engine(self) -> AsyncEngine:
        if self._engine is None:
            raise self._errors.unavailable(f"{self.what} at {self.url} is not open")
        return self._engine

    def insert(self, table: Table) -> Insert:
        """An INSERT that has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
        return sqlite.insert(table) if self.is_local else postgresql.insert(table)

    def claiming(self, select: Select[Any]) -> Select[Any]:
        """The select, such that rows it returns are locked and rows others locked are left out.

        Within ``write``; where there is one writer at a time, nothing needs to be said.
        """
        return select.with_for_update(skip_locked=True) if self.skips_locked else select

    # life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Raises ``errors.unavailable`` if the server does not answer in time."""
        if self._engine is None:
            self._engine = self._create_engine()
        try:
            async with asyncio.timeout(self._connect_timeout):
                async with self.read() as connection:
                    await self._measure(connection)
        except TimeoutError:
            await self.close()
            raise self._unavailable(f"no answer in {self._connect_timeout:g} s") from None
        except BaseException:
            await self.close()
            raise

    def _create_engine(self) -> AsyncEngine:
        if not self.is_local:
            return create_async_engine(
                self._parsed,
                pool_size=self._pool_size,
                max_overflow=self._pool_size,
                pool_pre_ping=False,
                connect_args={"timeout": self._connect_timeout},
            )
        engine = create_async_engine(self._parsed, connect_args={"timeout": 30.0})

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _: Any) -> None:
            # The driver's own BEGIN comes too late and is never IMMEDIATE: we say it ourselves.
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            # FULL: a commit is on disk when it returns. NORMAL could lose the last ones when
            # the machine loses power (sqlite.org/pragma.html#pragma_synchronous).
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            mode = connection.get_execution_options().get("mesh_begin", "DEFERRED")
            connection.exec_driver_sql(f"BEGIN {mode}")

        return engine

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    # transactions ----------------------------------------------------------------------------

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes nothing."""
        async with self._translated(), self.engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end of the block, rolled back if the block raises."""
        if self.is_local:
            async with _SqliteLocks.get(str(self._parsed.database)):
                async with self._transaction() as connection:
                    yield connection
        else:
            async with self._transaction() as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._translated(), self.engine.connect() as connection:
            if self.is_local:
                await connection.execution_options(mesh_begin="IMMEDIATE")
            if self._clock.monotonic() - self._measured_at > _RESYNC:
                await self._measure(connection)
            yield connection
            try:
                await connection.commit()
            except (exc.DBAPIError, OSError, TimeoutError) as error:
                if self._is_connection_error(error):
                    raise self._errors.in_doubt(
                        f"{self.what} at {self.url}: the connection broke during commit "
                        f"({_first_line(error)})"
                    ) from error
                raise

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError, asyncpg.PostgresError, OSError) as error:
            if self._is_connection_error(error):
                raise self._unavailable(_first_line(error)) from error
            raise self._errors.failed(
                f"{self.what} at {self.url}: {_first_line(error)}"
            ) from error

    def _unavailable(self, reason: str) -> MeshError:
        advice = (
            "check that the folder exists and can be written"
            if self.is_local
            else "check that the server runs, the host and port, the account and the database name"
        )
        return self._errors.unavailable(f"{self.what} at {self.url}: {reason}; {advice}")

    @staticmethod
    def _is_connection_error(error: BaseException) -> bool:
        if isinstance(error, OSError | exc.TimeoutError):
            return True
        original = getattr(error, "orig", error)
        # SQLAlchemy wraps asyncpg's exception in its own; the cause is what happened.
        cause = getattr(original, "__cause__", None) or original
        if isinstance(cause, sqlite3.OperationalError):
            return getattr(cause, "sqlite_errorname", "").startswith(_SQLITE_AWAY)
        return bool(
            getattr(error, "connection_invalidated", False)
            or isinstance(
                cause,
                OSError
                | asyncpg.PostgresConnectionError
                | asyncpg.InterfaceError
                | asyncpg.OperatorInterventionError
                | asyncpg.InsufficientResourcesError
                | asyncpg.InvalidAuthorizationSpecificationError
                | asyncpg.InvalidCatalogNameError,
            )
        )

    # time ------------------------------------------------------------------------------------

    def now(self) -> float:
        """The database server's time, seconds since the epoch."""
        if self.is_local:
            return self._clock.time()
        return self._server_time + (self._clock.monotonic() - self._measured_at)

    async def _measure(self, connection: AsyncConnection) -> None:
        if self.is_local:
            # Also proves that the file can be opened.
            await connection.execute(text("SELECT 1"))
            self._measured_at = self._clock.monotonic()
            return
        before = self._clock.monotonic()
        result = await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))
        self._server_time = float(result.scalar_one())
        self._measured_at = (before + self._clock.monotonic()) / 2

    # waking up -------------------------------------------------------------------------------

    async def notify(self, connection: AsyncConnection, channel: str, payload: str = "") -> None:
        """Wake the listeners of a channel when this transaction commits. A no-op where the
        database cannot; listeners there must poll."""
        if self.notifies:
            await connection.execute(
                text("SELECT pg_notify(:channel, :payload)"),
                {"channel": channel, "payload": payload},
            )

    @asynccontextmanager
    async def listen(self, channel: str, wake: Callable[[str], None]) -> AsyncIterator[None]:
        """Call ``wake(payload)`` for each notification, within the block.

        The connection may break unnoticed: poll as well, seldom. Where the database cannot
        notify, the block runs and ``wake`` is never called.
        """
        if not self.notifies:
            yield
            return
        async with self._translated(), self.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None

            def heard(_: Any, __: int, ___: str, payload: object) -> None:
                wake(str(payload))

            await raw.add_listener(channel, heard)
            try:
                yield
            finally:
                if not raw.is_closed():
                    await raw.remove_listener(channel, heard)

    async def execute(self, statement: Executable, rows: Sequence[dict[str, Any]]) -> None:
        """Run one statement for each row, in a transaction of its own."""
        async with self.write() as connection:
            await connection.execute(statement, list(rows))


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    text_ = str(original).strip() or type(original).__name__
    # SQLAlchemy's asyncpg wrapper begins with the class: "<class '…'>: message".
    return text_.partition(">: ")[2].splitlines()[0] if text_.startswith("<class") else (
        text_.splitlines()[0]
    )
