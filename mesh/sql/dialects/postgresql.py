"""PostgreSQL, by asyncpg."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, Table, any_, extract, func, literal, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.sql.dialect import Dialect, Insert, Query
from mesh.sql.engines import HASTY, PLANNING, find_pooler, server_engine

__all__ = ["PostgreSQL"]


class PostgreSQL(Dialect):
    name = "postgresql"
    drivername = "postgresql+asyncpg"
    options = frozenset({"host", "port", "ssl", "sslmode"})
    notifies = True
    has_schemas = True
    takes_arrays = True
    hastes = True
    clock = "SELECT extract(epoch FROM clock_timestamp())"
    version = "SHOW server_version"

    def parse(self, url: URL) -> URL:
        if "sslmode" in url.query:  # the name everyone knows, from libpq
            mode = url.query["sslmode"]
            url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
        return url

    async def find_pooler(self, url: URL, timeout: float) -> bool:
        return await find_pooler(url, timeout)

    def engine(
        self, url: URL, *, durable: bool, pool_size: int, timeout: float, has_pooler: bool
    ) -> AsyncEngine:
        session = PLANNING if durable else HASTY
        return server_engine(
            url, session, pool_size=pool_size, timeout=timeout, has_pooler=has_pooler
        )

    def insert(self, table: Table) -> Insert:
        return postgresql.insert(table)

    def version_text(self, version: str) -> str:
        return f"PostgreSQL {version}"

    def once(self, query: Query, name: str) -> Query:
        # A subselect may run once for each row of the outer statement, and then claim more rows
        # than its LIMIT.
        return select(query.cte(name).prefix_with("MATERIALIZED"))

    def among(self, column: ColumnElement[Any], query: Query) -> ColumnElement[bool]:
        return column == any_(func.array(query.scalar_subquery()))

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        return extract("epoch", moment)

    def one_of(self, subject: ColumnElement[Any], values: list[Any]) -> ColumnElement[bool]:
        # One parameter, so that the statement's text is always the same.
        array = postgresql.ARRAY(subject.type, dimensions=1)
        return subject == func.any(literal(values, array))

    async def wait_briefly(self, connection: AsyncConnection, seconds: float) -> None:
        milliseconds = int(seconds * 1000)
        await connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))

    @asynccontextmanager
    async def alone(self, connection: AsyncConnection, key: int) -> AsyncIterator[None]:
        await connection.execute(select(func.pg_advisory_xact_lock(key)))
        yield  # The lock ends with the transaction.
