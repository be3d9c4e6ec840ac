"""What dispatches a job again as it was, if its agent loses it, and how much an agent has lost."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column, Integer, LargeBinary

from mesh.sql import Moment

revision = "0011"
down_revision = "0010"
works_with = "0010"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    op.add_column(f"{prefix}jobs", Column("terms", LargeBinary), schema=schema)
    op.add_column(f"{prefix}agents", Column("lost", Integer), schema=schema)
    op.add_column(f"{prefix}agents", Column("lost_at", Moment), schema=schema)
