"""Column types."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from sqlalchemy import DateTime, Uuid
from sqlalchemy.dialects import mssql, mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from mesh.clock import to_datetime

__all__ = ["STRING", "JobId", "Moment", "String", "Text"]

STRING = 250
"""Characters of a string that says nothing of its length, where it must have one. Three such and
an id are nearly what an index's key may have: 3072 bytes on MariaDB, at four a character, and 1700
on SQL Server, at two."""


class String(TypeDecorator[str]):
    """A string, of any characters."""

    impl = sqlalchemy.String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "mssql":  # Its VARCHAR takes the characters of a code page.
            return dialect.type_descriptor(mssql.NVARCHAR(self.length or STRING))
        return super().load_dialect_impl(dialect)


class Text(TypeDecorator[str]):
    """A text of any length."""

    impl = sqlalchemy.Text
    cache_ok = True

    def __init__(self, most: int | None = None) -> None:
        """``most`` are the characters that it has, for a database that must know them: of a
        column that an index has."""
        super().__init__()
        self.most = most

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "mssql":
            return dialect.type_descriptor(mssql.NVARCHAR(self.most))
        return super().load_dialect_impl(dialect)


class JobId(TypeDecorator[str]):
    """A UUID: canonical text in Python; the database's own type where it has one, else the same
    text, so that people find an id as they know it."""

    impl = Uuid(as_uuid=False)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Uuid(as_uuid=False))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.CHAR(36, charset="ascii", collation="ascii_bin"))
        if dialect.name == "mssql":  # Its own type sorts them by their last bytes first.
            return dialect.type_descriptor(mssql.NVARCHAR(36))
        return dialect.type_descriptor(sqlalchemy.String(36))

    def bind_processor(self, dialect: Dialect) -> None:
        """The driver takes the text as it is; SQLAlchemy would make an object of each first."""


def _to_datetime(moment: float | None) -> datetime | None:
    return None if moment is None else to_datetime(moment)


def _to_naive(moment: float | None) -> datetime | None:
    return None if moment is None else to_datetime(moment).replace(tzinfo=None)


class Moment(TypeDecorator[float]):
    """Seconds since the epoch in Python; the database's own UTC timestamp in the table, so
    that people who read history with SQL see dates."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        if dialect.name == "mssql":
            return dialect.type_descriptor(mssql.DATETIME2(6))  # type: ignore[no-untyped-call]
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: float | None, dialect: Dialect) -> datetime | None:
        return _to_datetime(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A shorter way than the inherited one, where the driver takes a ``datetime`` itself."""
        if dialect.name == "sqlite":
            return super().bind_processor(dialect)
        return _to_naive if dialect.name == "mssql" else _to_datetime

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> float | None:
        if value is None:
            return None
        # Only PostgreSQL has time zones: what was stored is UTC.
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
