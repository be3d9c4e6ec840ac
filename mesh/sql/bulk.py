"""Many rows in few statements, and many keys in one condition.

A database that takes arrays gets one statement with one parameter per column, whatever the
number of rows; so the statement's text never changes and is prepared once. SQLite, which has no
round trips to save, gets the rows one by one through its prepared statement; MariaDB's driver
makes one INSERT of them, and SQL Server's sends one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Table,
    bindparam,
    column,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from mesh.sql.database import Database, Executor

__all__ = [
    "BulkUpdate",
    "BulkUpsert",
    "Excluded",
    "as_arrays",
    "begins_with",
    "one_of",
    "unnested",
]

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
        self._as_arrays = database.dialect.takes_arrays
        insert = database.insert(table)
        if self._as_arrays:
            rows = unnested(table, self._columns)
            insert = insert.from_select(self._columns, select(*rows.c))
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

    async def run(self, connection: Executor, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows, each with every column and no two with the same key.

        Writers that share keys must bring their rows in the same order, so that they wait for
        each other and don't deadlock.
        """
        if not rows:
            return
        if self._as_arrays:
            values = [tuple(row[name] for name in self._columns) for row in rows]
            await connection.execute(self._statement, as_arrays(self._columns, values))
        else:
            await connection.execute(
                self._statement, [{name: row[name] for name in self._columns} for row in rows]
            )


class BulkUpdate:
    """An UPDATE of many rows, each found by its key, with values of its own. Built once, run
    often."""

    def __init__(
        self,
        database: Database,
        table: Table,
        columns: Sequence[str],
        key: str,
        where: Callable[[Excluded], ColumnElement[bool]] | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> None:
        """``columns`` are those of the rows, ``key`` among them. ``where`` gets the new values by
        column and returns the condition under which a row is changed, if
        there is one. ``also`` is set as well,
        to the same in all rows; a ``bindparam`` there is for ``run`` to fill."""
        # Not the columns' own names: those are reserved for the values to set.
        prefix = "new_"
        self._names = [f"{prefix}{name}" for name in columns]
        self._as_arrays = database.dialect.takes_arrays
        self._counts_many = database.dialect.counts_many
        new: dict[str, ColumnElement[Any]]
        if self._as_arrays:
            new = dict(unnested(table, columns, prefix).c)
        else:
            new = {n: bindparam(f"{prefix}{n}", type_=table.c[n].type) for n in columns}
        values = {table.c[name]: value for name, value in new.items() if name != key}
        values |= {table.c[name]: value for name, value in (also or {}).items()}
        conditions = [table.c[key] == new[key], *([] if where is None else [where(new)])]
        self._statement = table.update().where(*conditions).values(values)

    async def run(self, connection: Executor, rows: Sequence[tuple[Any, ...]], **more: Any) -> int:
        """Change the rows, given as tuples in the order of the columns, no two with the same
        key. Returns how many were found and met the condition."""
        if not rows:
            return 0
        if self._as_arrays:
            arrays = as_arrays(self._names, rows)
            return int((await connection.execute(self._statement, arrays | more)).rowcount)
        each = [dict(zip(self._names, row, strict=True)) | more for row in rows]
        if not self._counts_many:
            return sum([(await connection.execute(self._statement, one)).rowcount for one in each])
        return int((await connection.execute(self._statement, each)).rowcount)


def unnested(table: Table, columns: Sequence[str], prefix: str = "") -> FromClause:
    """Rows from arrays, one for each of the table's columns, bound to its name behind the prefix:
    a statement as short for any number of rows."""
    targets = [table.c[name] for name in columns]
    arrays = [bindparam(f"{prefix}{c.name}", type_=ARRAY(c.type, dimensions=1)) for c in targets]
    rows = func.unnest(*arrays).table_valued(*[column(c.name, c.type) for c in targets])
    return rows.render_derived("new")


def as_arrays(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Sequence[Any]]:
    """The rows' columns by name, as arrays for ``unnest``. It pads the shorter ones with NULL
    (PostgreSQL's "Array Functions"), so a column without a value costs nothing."""
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {n: () if values.count(None) == len(values) else values for n, values in columns}


def one_of(
    database: Database, subject: Column[Any], values: Collection[Any]
) -> ColumnElement[bool]:
    """Whether the column is one of ``values``: any number of strings or integers. Where
    statements are prepared they are one parameter, and the text is always the same."""
    return database.dialect.one_of(subject, list(values))


def begins_with(database: Database, subject: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Whether the column begins with ``text``, in a way that an index of it can answer: on
    PostgreSQL one with ``text_pattern_ops``."""
    return database.dialect.begins_with(subject, text)
