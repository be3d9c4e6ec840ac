"""SQLAlchemy's dialect for SQL Server, with tables and limits as ours need them.

Statements in a transaction of the user's run on the user's own engine: they have no limits.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, PrimaryKeyConstraint, Table, Unicode
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mssql.aioodbc import MSDialectAsync_aioodbc
from sqlalchemy.dialects.mssql.base import MSDDLCompiler, MSSQLCompiler, MSTypeCompiler

__all__ = ["COLLATION", "DRIVERNAME", "MeshMSSQL"]

DRIVERNAME = "mssql+jobmesh"

COLLATION = "Latin1_General_100_BIN2"
"""By the characters' numbers: ids, names and keys differ if they differ anywhere."""

_MOST_CLUSTERED = 900
"""Bytes of a key by which a table is ordered; other indexes take 1700."""


class _Types(MSTypeCompiler):
    def visit_NVARCHAR(self, type_: Any, **kw: Any) -> Any:  # noqa: N802
        said: str = super().visit_NVARCHAR(type_, **kw)  # type: ignore[no-untyped-call]
        of_column = isinstance(kw.get("type_expression"), Column)  # A CAST takes no collation.
        return f"{said} COLLATE {COLLATION}" if of_column else said


class _Tables(MSDDLCompiler):
    def visit_primary_key_constraint(self, constraint: PrimaryKeyConstraint, **kw: Any) -> str:
        kinds = [column.type.dialect_impl(self.dialect) for column in constraint.columns]
        size = sum(_bytes(kind) for kind in kinds)
        constraint.dialect_options["mssql"]["clustered"] = size <= _MOST_CLUSTERED
        said: str = super().visit_primary_key_constraint(constraint, **kw)  # type: ignore[no-untyped-call]
        return said

    def post_create_table(self, table: Table) -> str:
        # Locks of 5000 rows would become one of the table, for which all others wait.
        name = self.preparer.format_table(table)
        said = super().post_create_table(table)
        return f"{said}; ALTER TABLE {name} SET (LOCK_ESCALATION = DISABLE)"


def _bytes(kind: Any) -> int:
    inner = getattr(kind, "impl_instance", kind)
    return 2 * (inner.length or 0) if isinstance(inner, Unicode) else 8


class _Statements(MSSQLCompiler):
    def _use_top(self, select: Any) -> bool:
        # A limit that is a parameter is filled in when the statement runs. SQLAlchemy says FETCH
        # for it, which needs an order.
        return select._limit_clause is not None


class MeshMSSQL(MSDialectAsync_aioodbc):
    supports_statement_cache = True
    type_compiler_cls = _Types
    ddl_compiler = _Tables
    statement_compiler = _Statements

    def __init__(self, **options: Any) -> None:
        # What it finds out of a server that it is connected to; a script is made without one.
        super().__init__(**{"deprecate_large_types": True, **options})  # type: ignore[no-untyped-call]


registry.register(DRIVERNAME.replace("+", "."), __name__, MeshMSSQL.__name__)
