"""INSERT … ON DUPLICATE KEY UPDATE, in the words of ON CONFLICT."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from sqlalchemy import BindParameter, Column, ColumnElement, func, literal_column
from sqlalchemy.dialects import mysql
from sqlalchemy.sql import coercions, roles, visitors

__all__ = ["MySQLInsert"]

_MEETS = "@mesh_meets"


class MySQLInsert(mysql.Insert):
    """Conflicts of any key are settled, whatever ``index_elements`` says."""

    inherit_cache = True

    @property
    def excluded(self) -> Any:
        return self.inserted

    def on_conflict_do_nothing(self, **_: Any) -> Any:
        # IGNORE would pass over other errors too: it cuts text that is too long.
        key = next(iter(self.table.primary_key))
        return self.on_duplicate_key_update([(key.name, self.table.c[key.name])])

    def on_conflict_do_update(
        self, *, set_: Mapping[str, Any], where: ColumnElement[bool] | None = None, **_: Any
    ) -> Any:
        values: dict[str, ColumnElement[Any]] = {
            name: coercions.expect(
                roles.ExpressionElementRole, value, type_=self.table.c[name].type
            )
            for name, value in set_.items()
        }
        meets: dict[str, ColumnElement[Any] | None] = {}
        order = self._in_order(values, where)
        if order is None:
            # Whether the condition is met is found before the first column changes.
            order = self._in_order(values, None)
            if order is None:
                raise NotImplementedError("columns that are set from each other")
            first, *others = order
            met: ColumnElement[Any] = literal_column(_MEETS)
            meets |= {first: met.op(":=")(_grouped(where)), **dict.fromkeys(others, met)}
        else:
            meets |= dict.fromkeys(order, where)
        pairs = []
        for name in order:
            value, condition = values[name], meets[name]
            if condition is not None:
                value = func.if_(condition, value, self.table.c[name])
            pairs.append((name, _with_literals(value)))
        return self.on_duplicate_key_update(pairs)

    def _in_order(
        self, values: Mapping[str, ColumnElement[Any]], where: ColumnElement[bool] | None
    ) -> list[str] | None:
        """The columns, each behind those whose new values are made of its old one; ``None``:
        there is no such order."""
        before: dict[str, set[str]] = {name: set() for name in values}
        met = set() if where is None else self._read_by(where)
        for name, value in values.items():
            for read in self._read_by(value) | met:
                if read in before and read != name:
                    before[read].add(name)
        try:
            return list(TopologicalSorter(before).static_order())
        except CycleError:
            return None

    def _read_by(self, expression: ColumnElement[Any]) -> set[str]:
        """The columns of the row that is there."""
        each = visitors.iterate(expression)
        return {e.name for e in each if isinstance(e, Column) and e.table is self.table}


def _grouped(condition: ColumnElement[bool] | None) -> ColumnElement[Any]:
    assert condition is not None
    return condition.self_group()


def _with_literals(expression: ColumnElement[Any]) -> ColumnElement[Any]:
    """With short values in its text: the driver sends many rows in one statement, and fills in
    parameters in front of ON DUPLICATE KEY alone."""

    def replace(element: Any, **_: Any) -> Any:
        if not isinstance(element, BindParameter):
            return None
        value = element.value
        if isinstance(value, str):
            text = value.replace("\\", r"\\").replace("'", "''")
            return literal_column(f"'{text}'", element.type)
        if isinstance(value, int):
            return literal_column(str(int(value)), element.type)
        return None

    replaced: ColumnElement[Any] = visitors.replacement_traverse(expression, {}, replace)
    return replaced
