"""Changing rows that are first locked, and learning which those were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Delete, Select, Update, select, tuple_

from mesh.sql.database import Database, Executor

__all__ = ["FEW_KEYS", "Change"]

FEW_KEYS = 200
"""Keys of several columns in one condition: of many more MariaDB's planner makes no ranges, and
compares each with each row of the table."""


class Change:
    """An UPDATE or DELETE of the rows that a query locks. Built once, run often.

    One statement, where those return what they changed. Elsewhere three, or two, in the
    transaction: the query, the change of the rows that it named, and a look at them.
    """

    def __init__(
        self,
        database: Database,
        statement: Update | Delete,
        these: Select[Any],
        *returning: Column[Any],
    ) -> None:
        """``these`` returns keys of the table that tell its rows apart, each under its name: the
        primary key, or what ``statement`` leaves open of it. ``returning`` are columns as they
        are after an UPDATE, or were before a DELETE; without any, for ``count``, the query must
        lock nothing."""
        self._dialect = database.dialect
        self._is_delete = isinstance(statement, Delete)
        self._returning = returning
        self._these = these
        table: Any = statement.table
        self._keys: list[Column[Any]] = [table.c[c.name] for c in these.selected_columns]
        self._change = statement
        self._look = select(*returning)
        if statement.whereclause is not None:
            self._look = self._look.where(statement.whereclause)
        self.statement: Update | Delete | None = None
        """All of it, where it is one."""
        if not database.dialect.returns_changes:
            return
        if not returning:
            self.statement = statement.where(self._among(these))
            return
        query = database.once(these, "these")
        (key, *others) = self._keys
        meant = self._among(query) if others else database.among(key, query)
        self.statement = statement.where(meant).returning(*returning)

    def _among(self, keys: Any) -> ColumnElement[bool]:
        one = self._keys[0] if len(self._keys) == 1 else tuple_(*self._keys)
        return one.in_(keys)

    def _are(self, rows: Sequence[Any]) -> ColumnElement[bool]:
        if len(self._keys) == 1:
            return self._dialect.one_of(self._keys[0], [key for (key,) in rows])
        return self._dialect.rows_in(self._keys, rows)

    async def count(self, connection: Executor) -> int:
        """Change the rows, and return how many there were. Where nothing is to be returned."""
        if self.statement is not None:
            return int((await connection.execute(self.statement)).rowcount)
        changed = 0
        for meant in self._parts((await connection.execute(self._these)).all()):
            changed += int((await connection.execute(self._change.where(meant))).rowcount)
        return changed

    async def run(
        self, connection: Executor, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Any]:
        """Change the rows, and return their columns."""
        given = parameters or {}
        if self.statement is not None:
            done = await connection.execute(self.statement, given)
            rows: Sequence[Any] = done.all()
            return rows
        found: list[Any] = []
        for meant in self._parts((await connection.execute(self._these, given)).all()):
            change, look = self._change.where(meant), self._look.where(meant)
            for statement in (look, change) if self._is_delete else (change, look):
                result = await connection.execute(statement, given)
                found += result.all() if statement is look else ()
        return found

    def _parts(self, keys: Sequence[Any]) -> Iterator[ColumnElement[bool]]:
        """Conditions that mean some of the rows each, and all of them together."""
        size = max(1, len(keys)) if len(self._keys) == 1 else FEW_KEYS
        for start in range(0, len(keys), size):
            yield self._are(keys[start : start + size])
