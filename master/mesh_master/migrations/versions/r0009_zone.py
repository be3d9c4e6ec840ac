"""By which zone of the cluster a schedule's next slot was found."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column

from mesh.sql import String

revision = "0009"
down_revision = "0008"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    op.add_column(f"{prefix}schedules", Column("zone", String), schema=schema)
