"""What handlers there are."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column

from mesh.sql import Moment, String, Text

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    op.create_table(
        f"{prefix}handlers",
        Column("name", String, primary_key=True),
        Column("lane", String, nullable=False),
        Column("app", String, nullable=False),
        Column("definition", Text, nullable=False),
        Column("first_seen", Moment, nullable=False),
        Column("changed_at", Moment, nullable=False),
        Column("seen_at", Moment, nullable=False),
        schema=schema,
    )
