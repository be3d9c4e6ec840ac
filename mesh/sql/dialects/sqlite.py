"""SQLite, by aiosqlite."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, extract, func, literal, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.sql.dialect import Dialect, Insert, Query
from mesh.sql.engines import file_engine

__all__ = ["SQLite"]


class SQLite(Dialect):
    name = "sqlite"
    drivername = "sqlite+aiosqlite"
    is_local = True
    skips_locked = False
    version = "SELECT sqlite_version()"

    def engine(
        self, url: URL, *, durable: bool, pool_size: int, timeout: float, has_pooler: bool
    ) -> AsyncEngine:
        return file_engine(url)

    def insert(self, table: Table) -> Insert:
        return sqlite.insert(table)

    def version_text(self, version: str) -> str:
        return f"SQLite {version}"

    def once(self, query: Query, name: str) -> Query:
        return select(query.cte(name).prefix_with("MATERIALIZED"))

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        return extract("epoch", moment)

    def one_of(self, subject: ColumnElement[Any], values: list[Any]) -> ColumnElement[bool]:
        # One parameter, so that the statement's text is always the same.
        each = func.json_each(literal(json.dumps(values))).table_valued("value")
        return subject.in_(select(each.c.value))

    def begins_with(self, subject: ColumnElement[str], text: str) -> ColumnElement[bool]:
        # Its LIKE knows no case, and so no index.
        return and_(subject >= text, subject < text + "\U0010ffff")
