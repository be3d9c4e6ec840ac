"""Column types."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, String, Uuid
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from mesh.clock import to_datetime

__all__ = ["JobId", "Moment"]


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
        return dialect.type_descriptor(String(36))

    def bind_processor(self, dialect: Dialect) -> None:
        """The driver takes the text as it is; SQLAlchemy would make an object of each first."""


def _to_datetime(moment: float | None) -> datetime | None:
    return None if moment is None else to_datetime(moment)


class Moment(TypeDecorator[float]):
    """Seconds since the epoch in Python; the database's own UTC timestamp in the table, so
    that people who read history with SQL see dates."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: float | None, dialect: Dialect) -> datetime | None:
        return _to_datetime(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A shorter way than the inherited one, where the driver takes a ``datetime`` itself."""
        if dialect.name == "sqlite":
            return super().bind_processor(dialect)
        return _to_datetime

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> float | None:
        if value is None:
            return None
        # Only PostgreSQL has time zones: what was stored is UTC.
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
