"""Indexes of some of a table's rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

__all__ = ["partial"]


def partial(
    condition: str, *, sqlite: str | None = None, mssql: str | None = None
) -> dict[str, Any]:
    """The options of an index that has only the rows that meet the condition, where a database
    knows such (MariaDB and MySQL do not). ``sqlite`` and ``mssql`` say it in the words that these
    need; empty: not there."""
    options = {
        "postgresql_where": condition,
        "sqlite_where": condition if sqlite is None else sqlite,
        "mssql_where": condition if mssql is None else mssql,
    }
    return {option: text(said) for option, said in options.items() if said}
