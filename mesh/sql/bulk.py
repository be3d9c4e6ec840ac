"""Many rows in few statements, and many keys in one condition.

A database that takes arrays gets one statement with one parameter per column, whatever the
number of rows; so the statement's text never changes and is prepared once. SQLite, which has no
round trips to save, gets the rows one by one through its prepared statement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import Column, ColumnElement, Table, bindparam, column, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.sql.database import Database

__all__ = ["BulkInsert", "BulkUpsert", "Excluded", "one_of"]

# What the row would have been, by column name: ``excluded`` in ON CONFLICT DO UPDATE.
Excluded = Mapping[str, ColumnElement[Any]]


class BulkUpsert:
    """An INSERT of many rows that settles conflicts on ``key``.

    ``update`` gets ``excluded`` and returns the columns to set on a row that exists, ``where``
    the condition under which that happens. Without ``update`` rows that exist stay as they
    are. Built once, run often.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        columns: Sequence[str],
        key: Sequence[str],
        update: Callable[[Excluded], Mapping[str, ColumnElement[Any]]] | None = None,
        where: Callable[[Excluded], ColumnElement[bool]] | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._as_arrays = not database.is_local
        insert = database.insert(table)
        targets = [table.c[name] for name in self._columns]
        if self._as_arrays:
            arrays = [bindparam(c.name, type_=ARRAY(c.type, dimensions=1)) for c in targets]
            rows = (
                func.unnest(*arrays)
                .table_valued(*[column(c.name, c.type) for c in targets])
                .render_derived()
            )
            insert = insert.from_select(
                list(self._columns), select(*[rows.c[name] for name in self._columns])
            )
        else:
            insert = insert.values({name: bindparam(name) for name in self._columns})
        if update is None:
            self._statement = insert.on_conflict_do_nothing(index_elements=list(key))
        else:
            excluded = {name: insert.excluded[name] for name in self._columns}
            self._statement = insert.on_conflict_do_update(
                index_elements=list(key),
                set_=dict(update(excluded)),
                where=None if where is None else where(excluded),
            )

    async def run(self, connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows, each with every column and no two with the same key.

        Writers that share keys must bring their rows in the same order, so that they wait for
        each other and don't deadlock.
        """
        if not rows:
            return
        if self._as_arrays:
            arrays = {name: [row[name] for row in rows] for name in self._columns}
            await connection.execute(self._statement, arrays)
        else:
            await connection.execute(
                self._statement, [{name: row[name] for name in self._columns} for row in rows]
            )


class BulkInsert:
    """An INSERT of many rows that are new, almost certainly: by COPY where there is such."""

    def __init__(self, database: Database, table: Table, columns: Sequence[str]) -> None:
        self._table = table
        self._columns = tuple(columns)
        self.is_fast = not database.is_local
        """Whether ``run`` does better here than an upsert."""

    async def run(self, connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the rows were written; if not, some exist and none was."""
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        columns = [self._column(connection, name, rows) for name in self._columns]
        try:
            async with connection.begin_nested():
                await raw.copy_records_to_table(
                    self._table.name,
                    records=zip(*columns, strict=True),
                    columns=self._columns,
                    schema_name=self._table.schema,
                )
        except asyncpg.UniqueViolationError:
            return False
        return True

    def _column(
        self, connection: AsyncConnection, name: str, rows: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        kind = self._table.c[name].type
        convert = kind.dialect_impl(connection.dialect).bind_processor(connection.dialect)
        values = [row[name] for row in rows]
        return values if convert is None else [convert(value) for value in values]


def one_of(
    database: Database, subject: Column[Any], values: Collection[Any]
) -> ColumnElement[bool]:
    """Whether the column is one of ``values``: any number of strings or integers, in one
    parameter, so that the statement's text is always the same."""
    if database.is_local:
        each = func.json_each(literal(json.dumps(list(values)))).table_valued("value")
        return subject.in_(select(each.c.value))
    return subject == func.any(literal(list(values), ARRAY(subject.type, dimensions=1)))
