"""Events that are kept for a time only, and when a failed attempt is repeated."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column

from mesh.sql import Moment, partial

revision = "0008"
down_revision = "0007"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    events = f"{prefix}events"
    op.add_column(f"{prefix}attempts", Column("due_at", Moment), schema=schema)
    op.add_column(events, Column("until", Moment), schema=schema)
    op.create_index(
        f"{events}_until",
        events,
        ["until"],
        schema=schema,
        **partial("until IS NOT NULL"),
    )
