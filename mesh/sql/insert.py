"""Inserting what is not there yet, and learning what that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.sql.database import Database

__all__ = ["InsertNew"]


class InsertNew:
    """An INSERT of many rows that leaves those that exist alone. Built once, run often."""

    def __init__(self, database: Database, table: Table, columns: Sequence[str], key: str) -> None:
        """``key`` is the column whose values ``run`` returns."""
        self._columns = tuple(columns)
        self._as_arrays = not database.is_local
        insert = database.insert(table)
        if self._as_arrays:
            # An array for each column: one short statement for any number of rows.
            arrays = [bindparam(n, type_=ARRAY(table.c[n].type)) for n in self._columns]
            rows = func.unnest(*arrays).table_valued(*[column(n) for n in self._columns])
            insert = insert.from_select(self._columns, select(*rows.render_derived("new").c))
        self._statement = insert.on_conflict_do_nothing().returning(table.c[key])

    async def run(self, connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> set[Any]:
        """Insert those of the rows that conflict with none. Returns their keys.

        Give the rows in the order of their keys: of two transactions that insert the same keys,
        one then waits for the other; in different orders they deadlock.
        """
        if not rows:
            return set()
        parameters: Any = (
            {name: [row[name] for row in rows] for name in self._columns}
            if self._as_arrays
            else [{name: row[name] for name in self._columns} for row in rows]
        )
        return set((await connection.execute(self._statement, parameters)).scalars())
