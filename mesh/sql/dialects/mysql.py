"""MariaDB and MySQL, by asyncmy.

What is not as elsewhere: an UPDATE returns no rows; a change of the schema ends the transaction;
there is no waking; each assignment of a statement sees what those before it have set
(``mysql_insert`` orders them). Connections read what is committed (READ COMMITTED): the default,
REPEATABLE READ, would lock the gaps between rows, and show old ones. Text is compared byte by
byte, as elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, Table, event, exc, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.errors import ConfigError
from mesh.sql.dialect import Dialect, Insert, Query
from mesh.sql.dialects import mysql_types
from mesh.sql.dialects.mysql_insert import MySQLInsert
from mesh.sql.engines import ABANDONED

__all__ = ["MariaDB", "MySQL"]

# The driver logs what the server remarks on, such as an index that is like another.
logging.getLogger("asyncmy").setLevel(logging.ERROR)

_PATIENCE = 60
"""Seconds for a lock."""


class MySQL(Dialect):
    name = "mysql"
    names = frozenset({"mariadb"})
    drivername = mysql_types.DRIVERNAME
    options = frozenset({"unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert"})
    returns_changes = False
    clock = "SELECT unix_timestamp(sysdate(6))"
    version = "SELECT version()"
    session: Sequence[str] = ()
    """More that each connection sets. (MySQL has no limit for a transaction that does nothing.)"""

    def engine(
        self, url: URL, *, durable: bool, pool_size: int, timeout: float, has_pooler: bool
    ) -> AsyncEngine:
        try:
            engine = create_async_engine(
                url.update_query_dict({"charset": "utf8mb4"}),
                pool_size=pool_size,
                max_overflow=pool_size,
                isolation_level="READ COMMITTED",
                connect_args={
                    "connect_timeout": timeout,
                    "init_command": ", ".join(["SET time_zone = '+00:00'", *self.session]),
                },
            )
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"no driver for MariaDB and MySQL ({error}): pip install 'jobmesh[mysql]'"
            ) from error

        @event.listens_for(engine.sync_engine, "checkout")
        def check(_: Any, record: Any, __: Any) -> None:
            # The driver noticed that the server went: connect anew, rather than fail. It has no
            # public word for a connection that the server ended.
            driver = record.driver_connection
            if not driver.connected or getattr(driver, "_stream_broken", False):
                raise exc.DisconnectionError

        return engine

    def insert(self, table: Table) -> Insert:
        return MySQLInsert(table)

    def version_text(self, version: str) -> str:
        number, _, rest = version.partition("-")
        return f"{'MariaDB' if 'MariaDB' in rest else 'MySQL'} {number}"

    def once(self, query: Query, name: str) -> Query:
        # It takes no LIMIT in what IN compares with, but in a table of its own.
        return select(query.subquery(name))

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.timestampdiff(text("SECOND"), text("'1970-01-01'"), moment)

    def one_of(self, subject: ColumnElement[Any], values: list[Any]) -> ColumnElement[bool]:
        # Nothing is prepared here, and the planner looks each value up.
        return subject.in_(values)

    @asynccontextmanager
    async def alone(self, connection: AsyncConnection, key: int) -> AsyncIterator[None]:
        # One for each server, where others mean one for each database.
        name = func.concat(func.database(), text(f"'.{key:x}'"))
        taken = await connection.execute(select(func.get_lock(name, _PATIENCE)))
        if taken.scalar_one() != 1:
            raise TimeoutError(f"another process holds the lock {key:x}")
        try:
            yield
            await connection.commit()
        finally:
            await connection.execute(select(func.release_lock(name)))


class MariaDB(MySQL):
    drivername = mysql_types.MARIADB
    session = (f"idle_transaction_timeout = {ABANDONED}",)
