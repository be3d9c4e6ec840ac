"""Column types."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import DateTime, String, Uuid
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from mesh.clock import to_datetime

__all__ = ["JobId", "Moment"]

JobId = Uuid(as_uuid=False).with_variant(String(36), "sqlite")
"""A UUID: canonical text in Python; the database's own type where it has one, else the same
text, so that people find an id as they know it."""


class Moment(TypeDecorator[float]):
    """Seconds since the epoch in Python; the database's own UTC timestamp in the table, so
    that people who read history with SQL see dates."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> datetime | None:
        return None if value is None else to_datetime(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> float | None:
        if value is None:
            return None
        # SQLite has no time zones: what was stored is UTC.
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
