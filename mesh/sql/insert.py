"""Inserting what is not there yet, and learning what that was; or all of it, or nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

import asyncpg
from sqlalchemy import Table, exc, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.sql.alone import Alone
from mesh.sql.bulk import as_arrays, one_of, unnested
from mesh.sql.change import FEW_KEYS
from mesh.sql.database import PATIENCE, Database, Executor
from mesh.sql.faults import Conflict, is_conflict
from mesh.sql.notice import NO_NOTICE, NOTIFY, Notice
from mesh.sql.repeated import repeated

__all__ = ["InsertAll", "InsertNew"]

_WORTH_COPYING = 200
"""Rows from which COPY is faster, though it takes three statements more."""

Rows = Sequence[tuple[Any, ...]]


class InsertNew:
    """An INSERT of many rows that leaves those that exist alone. Built once, run often.

    Where the database can, many rows go by COPY, which costs it a fraction of an INSERT. COPY
    knows no conflicts, so rows that exist are looked for before; should another transaction
    insert one of the rest meanwhile, the copy is undone and an INSERT does the work. Where an
    INSERT does not tell what it left alone, rows are looked for in the same way, and again if
    another transaction was faster.
    """

    def __init__(
        self, database: Database, table: Table, columns: Collection[str], key: str
    ) -> None:
        """``key`` is the column whose values ``run`` returns: the primary key, or of its columns
        the one that nearly tells rows apart."""
        self._database = database
        self._table = table
        self._columns = tuple(columns)
        self._key = self._columns.index(key)
        self._as_arrays = database.dialect.takes_arrays
        self._tells = database.dialect.returns_changes
        self._plain = table.insert()
        if not self._tells:
            return
        insert = database.insert(table)
        if self._as_arrays:
            insert = insert.from_select(self._columns, select(*unnested(table, self._columns).c))
        self._statement = insert.on_conflict_do_nothing().returning(table.c[key])

    async def run(self, connection: Executor, rows: Rows) -> set[Any]:
        """Insert those of the rows, tuples in the order of the columns, that conflict with none.
        Returns their keys.

        Give the rows in the order of their keys: of two transactions that insert the same keys,
        one then waits for the other; in different orders they deadlock.
        """
        inserted: set[Any] = set()
        if not self._tells:
            return await self._run_untold(connection, rows)
        # A caller's own session has no COPY that we could use.
        if (
            self._as_arrays
            and isinstance(connection, AsyncConnection)
            and len(rows) >= _WORTH_COPYING
        ):
            known = await self._known(connection, [row[self._key] for row in rows])
            new = [row for row in rows if row[self._key] not in known] if known else rows
            if await self._copy(connection, new):
                inserted.update([row[self._key] for row in new])
                rows = [row for row in rows if row[self._key] in known] if known else ()
        if rows:
            parameters: Any = (
                as_arrays(self._columns, rows)
                if self._as_arrays
                else [dict(zip(self._columns, row, strict=True)) for row in rows]
            )
            inserted.update((await connection.execute(self._statement, parameters)).scalars())
        return inserted

    async def _run_untold(self, connection: Executor, rows: Rows) -> set[Any]:
        names = [column.name for column in self._table.primary_key.columns]
        places = [self._columns.index(name) for name in names]
        key = list(self._table.primary_key.columns)
        dialect = self._database.dialect
        left = {tuple(row[place] for place in places): row for row in rows}
        inserted: set[Any] = set()
        size = FEW_KEYS if len(names) > 1 else len(rows)
        while left:
            known: list[tuple[Any, ...]] = []
            for start in range(0, len(left), size):
                some = list(islice(left, start, start + size))
                found = await connection.execute(select(*key).where(dialect.rows_in(key, some)))
                known += [tuple(row) for row in found]
            for one in known:
                left.pop(one, None)
            if left and await self._insert(connection, list(left.values())):
                inserted.update(row[self._key] for row in left.values())
                break
            if not known:
                # It is another key than the primary one that some have in common.
                for row in left.values():
                    if await self._insert(connection, [row]):
                        inserted.add(row[self._key])
                break
        return inserted

    async def _insert(self, connection: Executor, rows: Rows) -> bool:
        """Whether the rows were written; if not, one of them exists and none was."""
        each = [dict(zip(self._columns, row, strict=True)) for row in rows]
        dialect = self._database.dialect
        await connection.execute(text(dialect.savepoint.format(name="mesh_new")))
        try:
            await connection.execute(self._plain, each)
        except exc.IntegrityError as error:
            if not is_conflict(error):
                raise
            await connection.execute(text(dialect.back_to_savepoint.format(name="mesh_new")))
            return False
        return True

    async def _known(self, connection: AsyncConnection, keys: Sequence[Any]) -> set[Any]:
        """Which of the keys are in the table already."""
        key = self._table.c[self._columns[self._key]]
        query = select(key).where(one_of(self._database, key, keys))
        return set((await connection.execute(query)).scalars())

    async def _copy(self, connection: AsyncConnection, rows: Rows) -> bool:
        """Whether the rows were written; if not, one of them exists and none was."""
        if not rows:
            return True
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        columns = [
            self._converted(connection, name, values)
            for name, values in zip(self._columns, zip(*rows, strict=True), strict=True)
        ]
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

    def _converted(
        self, connection: AsyncConnection, name: str, values: tuple[Any, ...]
    ) -> Sequence[Any]:
        """What the driver is to be given for a column's values."""
        kind = self._table.c[name].type
        convert = kind.dialect_impl(connection.dialect).bind_processor(connection.dialect)
        if convert is None or values.count(None) == len(values):
            return values
        return [convert(value) for value in values]


class InsertAll:
    """An INSERT of rows of several tables, all or none: for rows of which hardly ever one is
    there already. Built once, run often.

    Where the database takes arrays it is one statement, and so one answer to wait for.
    """

    def __init__(self, database: Database, parts: Sequence[tuple[Table, Sequence[str]]]) -> None:
        """``parts`` are the tables and their columns that the rows have."""
        self._database = database
        self._parts = parts
        if not database.dialect.takes_arrays:
            return
        inserts = [
            table.insert()
            .from_select(columns, select(*unnested(table, columns, f"{table.name}_").c))
            .cte(f"new_{table.name}")
            for table, columns in parts
        ]
        self._statement = Alone(database, NOTIFY.add_cte(*inserts))

    async def run(
        self, rows: Sequence[Rows], *, timeout: float = PATIENCE, notice: Notice | None = None
    ) -> bool:
        """Insert each part's rows, tuples in the order of its columns, durably, in a transaction
        of its own, and send the notice with it. ``False``: a row exists, and nothing was done.

        Raises as ``Database.write`` does. Of transactions that bring the same keys, each must
        bring them in the same order, or they deadlock.
        """
        try:
            if not self._database.dialect.takes_arrays:
                await self._in_turn(rows, timeout)
            else:
                parameters = (notice or NO_NOTICE).parameters
                for (table, columns), part in zip(self._parts, rows, strict=True):
                    names = [f"{table.name}_{name}" for name in columns]
                    parameters |= as_arrays(names, part)
                await self._statement.run(parameters, timeout=timeout)
        except Conflict:
            return False
        return True

    @repeated
    async def _in_turn(self, rows: Sequence[Rows], timeout: float) -> None:
        async with self._database.write(timeout=timeout) as connection:
            await self._one_by_one(connection, rows)

    async def _one_by_one(self, connection: AsyncConnection, rows: Sequence[Rows]) -> None:
        try:
            for (table, columns), part in zip(self._parts, rows, strict=True):
                each = [dict(zip(columns, row, strict=True)) for row in part]
                await connection.execute(table.insert(), each)
        except exc.IntegrityError as error:
            if not is_conflict(error):
                raise
            raise Conflict from error
