"""Statements that are each a transaction of their own, for what somebody waits for.

``Database.write`` takes an answer of the server to begin, one for each statement and one to
commit, and SQLAlchemy's way to the driver costs about as much as the server. So such a statement
is written with SQLAlchemy, compiled once, and then given to the driver itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Delete, Insert, Select, Update
from sqlalchemy.engine import Dialect

from mesh.sql.change import Change
from mesh.sql.database import PATIENCE, Database
from mesh.sql.repeated import repeated

__all__ = ["Alone", "Compiled", "Statement"]

Statement = Select[Any] | Insert | Update | Delete
_Convert = Callable[[Any], Any]


class Alone:
    """A statement, and the way to run it by itself. Built once, run often."""

    def __init__(
        self, database: Database, statement: Statement | Change, *, durable: bool = True
    ) -> None:
        """``durable`` is that of ``Database.write``."""
        self._database = database
        self._statement = statement
        self._durable = durable
        self._compiled: Compiled | None = None

    async def run(
        self, parameters: Mapping[str, Any], *, timeout: float = PATIENCE
    ) -> Sequence[Sequence[Any]]:
        """Run it, and return its rows.

        Raises as ``Database.write`` does, but knows less often that nothing was written: once
        the statement is sent, ``errors.in_doubt`` unless the server answered. Raises
        ``Conflict`` if the statement would insert a key that exists.
        """
        statement = self._statement
        if not self._database.dialect.takes_arrays:  # So the driver's is another one.
            return await self._run(parameters, timeout)
        if self._compiled is None:
            whole = statement.statement if isinstance(statement, Change) else statement
            assert whole is not None
            self._compiled = Compiled(whole, self._database.engine.dialect)
        arguments = self._compiled.arguments(parameters)
        async with self._database.driver(timeout=timeout, durable=self._durable) as driver:
            return self._compiled.rows(await driver.fetch(self._compiled.text, *arguments))

    @repeated
    async def _run(self, parameters: Mapping[str, Any], timeout: float) -> Sequence[Sequence[Any]]:
        async with self._database.write(timeout=timeout, durable=self._durable) as connection:
            if isinstance(self._statement, Change):
                return await self._statement.run(connection, parameters)
            result = await connection.execute(self._statement, parameters)
            return result.all() if result.returns_rows else []


class Compiled:
    """A statement as the driver takes it, and how values go in and come out."""

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self._fixed = dict(compiled.construct_params(_check=False))
        self._into: list[tuple[str, _Convert | None]] = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup or ()
        ]
        self.names = [column.name for column in statement.exported_columns]
        """Of the columns of its rows."""
        self._out: list[tuple[int, _Convert]] = [
            (place, convert)
            for place, column in enumerate(statement.exported_columns)
            if (convert := column.type.dialect_impl(dialect).result_processor(dialect, None))
        ]

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        values = {**self._fixed, **parameters}
        return [
            values[name] if convert is None else convert(values[name])
            for name, convert in self._into
        ]

    def rows(self, found: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        if not self._out:
            return found
        rows = [list(row) for row in found]
        for row in rows:
            for place, convert in self._out:
                row[place] = convert(row[place])
        return rows
