"""MERGE, in the words of ON CONFLICT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    Executable,
    Table,
    and_,
    bindparam,
    cast,
    collate,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import coercions, roles

from mesh.sql.dialects.mssql_types import COLLATION

__all__ = ["Merge"]


class Merge(Executable, ClauseElement):
    """The row is the source, and called ``excluded``. Two that bring the same key wait for each
    other: HOLDLOCK also locks the place of a row that is not there."""

    inherit_cache = False

    def __init__(self, table: Table) -> None:
        self.table = table
        self.excluded = table.alias("excluded").c
        self._row: dict[str, Any] = {}
        self._key: Sequence[str] = [column.name for column in table.primary_key]
        self._set: Mapping[str, Any] = {}
        self._where: ColumnElement[bool] | None = None

    def values(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        self._row = {**(values or {}), **more}
        return self

    def on_conflict_do_nothing(self, *, index_elements: Sequence[str] | None = None) -> Self:
        self._key = index_elements or self._key
        return self

    def on_conflict_do_update(
        self,
        *,
        index_elements: Sequence[str],
        set_: Mapping[str, Any],
        where: ColumnElement[bool] | None = None,
    ) -> Self:
        self._key, self._set, self._where = index_elements, set_, where
        return self

    def from_select(self, *_: Any) -> Self:
        raise NotImplementedError("of a database that takes arrays alone")

    def _typed(self, name: str, value: Any) -> ColumnElement[Any]:
        kind = self.table.c[name].type
        if isinstance(value, BindParameter) and value.type._isnull:
            return bindparam(value.key, type_=kind)
        found: ColumnElement[Any] = coercions.expect(roles.ExpressionElementRole, value, type_=kind)
        return found

    def text(self, compiler: Any, **kw: Any) -> str:
        def say(element: ClauseElement) -> str:
            said: str = compiler.process(element, **kw)
            return said

        def source(name: str, value: Any) -> ColumnElement[Any]:
            # The driver says nothing of the type of a NULL here.
            kind = self.table.c[name].type
            given = cast(self._typed(name, value), kind)
            return collate(given, COLLATION) if kind.python_type is str else given

        quote = compiler.preparer.quote
        columns = ", ".join(quote(name) for name in self._row)
        row = ", ".join(say(source(name, value)) for name, value in self._row.items())
        same = and_(*(self.table.c[name] == self.excluded[name] for name in self._key))
        parts = [
            f"MERGE INTO {compiler.preparer.format_table(self.table)} WITH (HOLDLOCK)",
            f"USING (VALUES ({row})) AS excluded ({columns}) ON {say(same)}",
        ]
        if self._set:
            met = "" if self._where is None else f" AND {say(self._where.self_group())}"
            changes = ", ".join(
                f"{quote(name)} = {say(self._typed(name, value))}"
                for name, value in self._set.items()
            )
            parts.append(f"WHEN MATCHED{met} THEN UPDATE SET {changes}")
        new = ", ".join(f"excluded.{quote(name)}" for name in self._row)
        parts.append(f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({new});")
        return " ".join(parts)


@compiles(Merge)
def _compile(merge: Merge, compiler: Any, **kw: Any) -> str:
    return merge.text(compiler, **kw)
