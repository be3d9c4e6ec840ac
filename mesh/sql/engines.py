"""How PostgreSQL and SQLite are connected to: the pools, and the settings of sessions.

Between us and a PostgreSQL server a *pooler* may stand (PgBouncer and its like) that gives each
transaction, or each session, one of its own connections to the server. Of what a session has only
the transaction can be relied on then: a prepared statement, a setting or a LISTEN of one client
stays behind in a connection that others get next. And a pooler refuses a client that asks for
settings as it connects. So there statements have no names, and each transaction sets what it needs.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import event, exc, func, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = [
    "ABANDONED",
    "HASTY",
    "LEAVING",
    "PLANNING",
    "FileConnection",
    "file_engine",
    "find_pooler",
    "server_engine",
]

LEAVING = 2.0
"""Seconds in which a server is to answer who leaves a transaction or a connection."""

ABANDONED = 60
"""Seconds without a statement after which a server, where it can, ends a transaction. The machine
of whoever began it may be gone without a word: what it had locked would stay so until the
server's TCP gives up the connection, by default after two hours."""

# It tells of connections that could not be closed in good order, with tracebacks. Who uses them
# says what is wrong.
logging.getLogger("sqlalchemy.pool.impl.AsyncAdaptedQueuePool.jobmesh").setLevel(logging.CRITICAL)

PLANNING = {
    # Tables here are empty one minute and long the next. A plan that was made when a table was
    # empty, and kept, can be a million times too slow.
    "plan_cache_mode": "force_custom_plan",
    # Joins here find the rows of a batch by their keys. The planner thinks that reading all of a
    # history of a million rows is cheaper than looking up ten thousand of them.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "random_page_cost": "1.1",
    "idle_in_transaction_session_timeout": f"{ABANDONED}s",
}
"""Settings of each session on PostgreSQL."""

HASTY = PLANNING | {
    "synchronous_commit": "off",
    # Everything here goes by an index, whatever the size of the table, so a plan may be kept:
    # making one takes longer than a claim.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "plan_cache_mode": "auto",
}
"""Those of the sessions for what need not be durable."""


def server_engine(
    url: URL, session: Mapping[str, str], *, pool_size: int, timeout: float, has_pooler: bool
) -> AsyncEngine:
    """For a PostgreSQL server. ``session`` are settings of each connection, with ``has_pooler``
    of each transaction; ``timeout`` is the seconds to connect in."""
    options: dict[str, Any] = {"server_settings": session, "connection_class": _Connection}
    if has_pooler:
        options = {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "connection_class": _setting_in_transactions(session),
        }
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=False,
        pool_logging_name="jobmesh",
        connect_args={"timeout": timeout, **options},
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def check(_: Any, record: Any, __: Any) -> None:
        # The driver noticed that the server went: connect anew, rather than fail.
        if record.driver_connection.is_closed():
            raise exc.DisconnectionError

    return engine


class _Connection(asyncpg.Connection):
    """Waits for ever for nobody who may have gone: others wait for the one that leaves."""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        if query.startswith("ROLLBACK"):  # as the driver's transactions do
            timeout = timeout or LEAVING
        return await super().execute(query, *args, timeout=timeout)

    async def close(self, *, timeout: float | None = None) -> None:
        with suppress(TimeoutError):  # then it has been aborted
            await super().close(timeout=timeout or LEAVING)


def _setting_in_transactions(session: Mapping[str, str]) -> type[_Connection]:
    """Connections whose transactions begin by setting this, in the same message."""
    settings = "".join(f" SET LOCAL {name} = '{value}';" for name, value in session.items())

    class Connection(_Connection):
        async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
            if query.startswith("BEGIN"):  # as the driver's transactions do
                query += settings
            return await super().execute(query, *args, timeout=timeout)

    return Connection


async def find_pooler(url: URL, timeout: float) -> bool:
    """Whether a pooler stands between us and the server: the process that the server says it
    runs is not the one that the connection was told of, for whoever would cancel a statement."""
    engine = server_engine(url, {}, pool_size=1, timeout=timeout, has_pooler=True)
    try:
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            running = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
            return bool(raw.get_server_pid() != running)
    finally:
        await engine.dispose()


class FileConnection(sqlite3.Connection):
    """Is over when it is closed. SQLite keeps one open, with its transaction and the lock on the
    file, as long as a statement is half done (sqlite.org/c3ref/close.html): as a cancelled one is
    whose cursor stands in a traceback, until the garbage collector comes by."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any, **options: Any) -> Any:
        cursor = super().cursor(*args, **options)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in self._cursors:
            cursor.close()
        self._cursors.clear()  # A driver in trouble may close it twice, and a cursor minds that.
        super().close()


def file_engine(url: URL) -> AsyncEngine:
    """For a SQLite file. Transactions begin as the execution options ``mesh_begin`` and
    ``mesh_sync`` say."""
    options = {"timeout": 30.0, "factory": FileConnection}
    engine = create_async_engine(url, connect_args=options)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # The driver's own BEGIN comes too late and is never IMMEDIATE: we say it ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL: a commit is on disk when it returns. NORMAL could lose the last ones when
        # the machine loses power (sqlite.org/pragma.html#pragma_synchronous).
        cursor.execute("PRAGMA synchronous=FULL")  # see begin(), and write(durable=...)
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        options = connection.get_execution_options()
        sync = options.get("mesh_sync", connection.info.get("mesh_sync", "FULL"))
        if sync != connection.info.get("mesh_sync", "FULL"):
            # It cannot be changed within a transaction.
            connection.exec_driver_sql(f"PRAGMA synchronous={sync}")
            connection.info["mesh_sync"] = sync
        connection.exec_driver_sql(f"BEGIN {options.get('mesh_begin', 'DEFERRED')}")

    return engine
