"""A database connection pool with the few differences between databases settled.

What differs is known by its ``dialect``. Everything else is SQLAlchemy Core.

Its parts: ``server_time`` knows the server's clock, ``notice`` says what is sent to those who
listen.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, MetaData, Table, inspect, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateSchema

from mesh.clock import Clock, SystemClock
from mesh.errors import MeshError
from mesh.plugins import hide_password
from mesh.sql.dialect import Insert, Query
from mesh.sql.dialects import parse_url
from mesh.sql.engines import LEAVING
from mesh.sql.faults import FAULTS, Conflict, first_line, is_away, is_conflict, is_full, was_refused
from mesh.sql.server_time import ServerTime

__all__ = ["A_FILE", "ONE_WRITER", "PATIENCE", "Database", "DatabaseErrors", "Executor"]

PATIENCE = 30.0
"""Seconds for a transaction. An answer that takes longer is not coming: the network is gone."""

# Connections kept out of the pool for lone statements, of each kind: taking one costs as much
# as a short statement.
_KEPT = 2

# The advisory lock under which tables are made; any number that others are unlikely to use.
_MAKING_TABLES = 0x6A6F626D657368

_A_POOLER = "a connection pooler stands between, and LISTEN is lost in it"

A_FILE = "the database is a file"
ONE_WRITER = "the database has one writer at a time"
"""Why some databases cannot what others can."""


class Executor(Protocol):
    """What runs statements in a transaction: ``AsyncConnection`` is one."""

    async def execute(self, statement: Any, parameters: Any = None, /) -> Any: ...


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

    _locks: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]]] = (
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
        self._connect_timeout = connect_timeout
        self._pool_size = pool_size
        self.dialect, self._parsed = parse_url(url, what)
        """What this kind of database can, and how."""
        self._engine: AsyncEngine | None = None
        self._hasty: AsyncEngine | None = None
        """Its connections do not wait for the disk."""
        self._has_pooler = False
        self._kept: dict[bool, list[tuple[AsyncConnection, Any]]] = {True: [], False: []}
        """Connections at hand for ``driver``, by ``durable``, with the driver's own."""
        self._time = ServerTime(clock or SystemClock(), query=self.dialect.clock)

    # what it is ------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """A file (or memory) of this machine, that no server guards."""
        return self.dialect.is_local

    @property
    def kind(self) -> str:
        """SQLAlchemy's name of the dialect, such as ``postgresql``."""
        return self.dialect.name

    @property
    def skips_locked(self) -> bool:
        """Several connections may claim rows at once (``FOR UPDATE SKIP LOCKED``)."""
        return self.dialect.skips_locked

    @property
    def notifies(self) -> bool:
        """Notifications can be sent, and heard by those who are connected to the server itself."""
        return self.dialect.notifies

    @property
    def listens(self) -> bool:
        """``listen`` hears notifications. Known once it was open."""
        return self.notifies and not self._has_pooler

    @property
    def why_deaf(self) -> str:
        """Why ``listen`` hears nothing, where it does not."""
        return _A_POOLER if self._has_pooler else "the database has no NOTIFY"

    @property
    def has_schemas(self) -> bool:
        """Tables may live in a named schema."""
        return self.dialect.has_schemas

    @property
    def place(self) -> str:
        """Tells one database from another within this process: the file, or the URL."""
        if self.is_local and self._parsed.database:
            return str(Path(self._parsed.database).resolve())
        return str(self._parsed)

    @property
    def sync_url(self) -> URL:
        """For tools that need no event loop."""
        return self._parsed

    @property
    def engine(self) -> AsyncEngine:
        if self._engine is None:
            raise self._errors.unavailable(f"{self.what} at {self.url} is not open")
        return self._engine

    @property
    def engines(self) -> set[AsyncEngine]:
        """Of all connections: for those who listen to what is executed."""
        return {engine for engine in (self._engine, self._hasty) if engine is not None}

    def insert(self, table: Table) -> Insert:
        """An INSERT that has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
        return self.dialect.insert(table)

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        """Seconds since the epoch of a column of ``Moment``s."""
        return self.dialect.epoch(moment)

    def claiming(self, query: Query, *, of: Table | None = None) -> Query:
        """The query, such that rows it returns are locked (``of`` one table, if it joins several)
        and rows others locked are left out.

        Within ``write``; where there is one writer at a time, nothing needs to be said.
        """
        return self.dialect.claiming(query, of) if self.skips_locked else query

    def locking(self, query: Query, *, shared: bool = False) -> Query:
        """The query, such that rows it returns are locked, waiting for others to let go;
        ``shared``: only against those who would change them.

        Within ``write``. Order it: transactions that lock in the same order cannot deadlock.
        """
        return self.dialect.locking(query, shared=shared) if self.skips_locked else query

    def refused(self, error: BaseException) -> MeshError:
        """What the owner raises for a statement that failed in somebody else's transaction."""
        return self._translate(error)

    def once(self, query: Query, name: str) -> Query:
        """The query, run once and by itself, wherever the planner puts it in a statement.

        For whatever locks rows, or has a LIMIT, within another statement.
        """
        return self.dialect.once(query, name)

    def among(self, column: ColumnElement[Any], query: Query) -> ColumnElement[bool]:
        """Whether the column is one of the few that the query finds, which is run first.

        As a join the planner would choose its order, and a plan made while the table was empty
        reads all of it until the next ANALYZE.
        """
        return self.dialect.among(column, query)

    def follows(
        self, columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """Whether two columns are behind two values, in the order of the first and then of the
        second. Where an index is to be gone by, say the same of the first alone too."""
        return self.dialect.follows(columns, values)

    def precedes(
        self, columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """Whether two columns come before two values, as ``follows`` says."""
        return self.dialect.precedes(columns, values)

    def each_once(
        self, column: ColumnElement[Any], where: Sequence[ColumnElement[bool]], limit: int
    ) -> Query:
        """The different values that a column has where the conditions are met, from the smallest
        on: where the database can, from one to the next by the index, however many rows have it.
        """
        return self.dialect.each_once(column, where, limit)

    # life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Raises ``errors.unavailable`` if the server does not answer in time."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._reach()
        except TimeoutError:
            raise self._unavailable(f"no answer in {self._connect_timeout:g} s") from None

    async def _reach(self) -> None:
        while True:
            try:
                if self.is_local:
                    await asyncio.to_thread(self._try_file)
                if self._engine is not None:
                    return await self._measure(self._engine)
                return await self._connect_anew()
            except FAULTS as error:
                # SQLite's waiting does not cover the change to WAL, which others may be making.
                if not (self.is_local and "locked" in first_line(error)):
                    raise self._translate(error) from error
            await asyncio.sleep(0.02)

    async def _connect_anew(self) -> None:
        engine, hasty = await self._create_engines()
        try:
            await self._measure(engine)
        except BaseException:
            await engine.dispose()
            raise
        if self._engine is None:
            # Not before: who uses it must know the server's time.
            self._engine, self._hasty = engine, hasty
        else:  # Another opened it meanwhile.
            await engine.dispose()

    async def _measure(self, engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await self._time.measure(connection)

    def _try_file(self) -> None:
        # A file that cannot be opened shows here: aiosqlite would leave a thread behind that
        # complains when the event loop is gone.
        sqlite3.connect(self._parsed.database or ":memory:").close()

    async def missing(self, metadata: MetaData) -> list[str]:
        """The names of those of the tables that are not there."""

        def look(connection: Connection) -> list[str]:
            tables, seen = metadata.sorted_tables, inspect(connection)
            return [t.fullname for t in tables if not seen.has_table(t.name, schema=t.schema)]

        async with self.read() as connection:
            return await connection.run_sync(look)

    async def create_missing(self, metadata: MetaData) -> None:
        """Create those of the tables that are not there, and their schema; any number of
        processes may do so at once."""
        if not await self.missing(metadata):
            return
        async with (
            self.write(timeout=None) as connection,
            self.dialect.alone(connection, _MAKING_TABLES),
        ):
            if metadata.schema:
                await connection.execute(CreateSchema(metadata.schema, if_not_exists=True))
            await connection.run_sync(metadata.create_all)

    async def server_version(self) -> str:
        """Such as ``PostgreSQL 17.2``."""
        async with self.read() as connection:
            shown = await connection.execute(text(self.dialect.version))
            return self.dialect.version_text(shown.scalar_one())

    async def _create_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """The one for all, and that for what need not be durable."""
        self._has_pooler = await self.dialect.find_pooler(self._parsed, self._connect_timeout)
        make = partial(
            self.dialect.engine,
            self._parsed,
            pool_size=self._pool_size,
            timeout=self._connect_timeout,
            has_pooler=self._has_pooler,
        )
        engine = make(durable=True)
        return engine, make(durable=False) if self.dialect.hastes else engine

    async def close(self) -> None:
        """Within some seconds also where the server does not answer."""
        kept = [connection for each in self._kept.values() for connection, _ in each]
        for each in self._kept.values():
            each.clear()
        engines = self.engines
        self._engine = self._hasty = None
        try:
            # A file answers.
            async with asyncio.timeout(None if self.is_local else LEAVING):
                for connection in kept:
                    await connection.close()
                for engine in engines:
                    await engine.dispose()
        except TimeoutError:
            for engine in engines:
                await engine.dispose(close=False)  # what is left ends with the process

    # transactions ----------------------------------------------------------------------------

    @asynccontextmanager
    async def read(self, *, timeout: float | None = PATIENCE) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes nothing; ``errors.unavailable`` after ``timeout`` seconds, or
        never."""
        try:
            async with asyncio.timeout(timeout), self.engine.connect() as connection:
                yield connection
        except FAULTS as error:
            raise self._translate(error) from error

    @asynccontextmanager
    async def write(
        self, *, timeout: float | None = PATIENCE, durable: bool = True
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end of the block, rolled back if the block raises.

        ``durable=False`` does not wait for the disk: a crash of the server, or of the machine,
        may undo the transaction as a whole. For what is then done again, such as a claim.
        After ``timeout`` seconds raises ``errors.unavailable`` if nothing was committed, or
        ``errors.in_doubt`` if the commit had begun.
        """
        committing = committed = False
        engine = self._engine_for(durable)
        try:
            async with (
                asyncio.timeout(timeout),
                self._turn(),
                engine.connect() as connection,
            ):
                if self.is_local:
                    sync = "FULL" if durable else "NORMAL"
                    await connection.execution_options(mesh_begin="IMMEDIATE", mesh_sync=sync)
                await self._time.measure_now_and_then(connection)
                yield connection
                committing = True
                await connection.commit()
                committed = True
        except FAULTS as error:
            if not committed:
                in_doubt = committing and not was_refused(error)
                raise self._translate(error, in_doubt) from error

    @asynccontextmanager
    async def driver(
        self, *, timeout: float | None = PATIENCE, durable: bool = True
    ) -> AsyncIterator[Any]:
        """The driver's own connection, for one statement: see ``Alone``. Of asyncpg alone.

        Raises in the block's place as ``Alone.run`` says.
        """
        is_sent = False
        kept = self._kept[durable]
        try:
            async with asyncio.timeout(timeout):
                connection, raw = kept.pop() if kept else await self._connect(durable)
                if raw.is_closed():
                    await connection.close()
                    connection, raw = await self._connect(durable)
                try:
                    async with raw.transaction() if self._has_pooler else nullcontext():
                        await self._time.measure_now_and_then(connection)
                        is_sent = True
                        yield raw
                except BaseException as error:
                    if not was_refused(error):
                        await connection.invalidate()
                    await connection.close()
                    raise
                if len(kept) < _KEPT:
                    kept.append((connection, raw))
                else:
                    await connection.close()
        except FAULTS as error:
            if is_conflict(error):
                raise Conflict from error
            raise self._translate(error, is_sent and not was_refused(error)) from error

    async def _connect(self, durable: bool) -> tuple[AsyncConnection, Any]:
        connection = await self._engine_for(durable).connect()
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        raw = (await connection.get_raw_connection()).driver_connection
        return connection, raw

    def _engine_for(self, durable: bool) -> AsyncEngine:
        return self.engine if durable or self._hasty is None else self._hasty

    def _turn(self) -> AbstractAsyncContextManager[object]:
        """What a writer of this process must hold to write."""
        return _SqliteLocks.get(self.place) if self.is_local else nullcontext()

    def _translate(self, error: BaseException, in_doubt: bool = False) -> MeshError:
        if not is_away(error):
            return self._errors.failed(f"{self.what} at {self.url}: {first_line(error)}")
        reason = "no answer in time" if isinstance(error, TimeoutError) else first_line(error)
        if in_doubt:
            return self._errors.in_doubt(
                f"{self.what} at {self.url}: the commit was sent and not confirmed ({reason})"
            )
        return self._unavailable(reason, is_full=is_full(error))

    def _unavailable(self, reason: str, *, is_full: bool = False) -> MeshError:
        if is_full:
            advice = "free some of its disk, or give it a larger one"
        elif self.is_local:
            advice = (
                "check that the folder exists and can be written, and that no process was stopped "
                "while it wrote to the file"
            )
        else:
            advice = (
                "check that the server runs, the host and port, the account and the database name"
            )
        return self._errors.unavailable(f"{self.what} at {self.url}: {reason}; {advice}")

    # time ------------------------------------------------------------------------------------

    def now(self) -> float:
        """The database server's time, seconds since the epoch."""
        return self._time.now()

    @property
    def clock_skew(self) -> float:
        """Seconds that the server's clock is ahead of this machine's, when last measured."""
        return self._time.skew

    # waking up -------------------------------------------------------------------------------

    @asynccontextmanager
    async def listen(
        self, channel: str, wake: Callable[[str], None]
    ) -> AsyncIterator[asyncio.Event]:
        """Call ``wake(payload)`` for each notification, within the block.

        Yields an event that is set when the connection is known to be broken; it may break
        unnoticed too, so poll as well, seldom. Unless the database ``listens`` the block runs and
        ``wake`` is never called.
        """
        broken = asyncio.Event()
        if not self.listens:
            yield broken
            return
        try:
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                raw = (await connection.get_raw_connection()).driver_connection
                assert raw is not None

                def heard(_: Any, __: int, ___: str, payload: object) -> None:
                    wake(str(payload))

                def ended(_: Any) -> None:
                    broken.set()

                raw.add_termination_listener(ended)
                try:
                    async with asyncio.timeout(self._connect_timeout):
                        await raw.add_listener(channel, heard)
                    yield broken
                finally:
                    raw.remove_termination_listener(ended)
                    # Nobody's after that: the server, which may not answer, would have to forget
                    # the channel.
                    await connection.invalidate()
        except FAULTS as error:
            raise self._translate(error) from error
