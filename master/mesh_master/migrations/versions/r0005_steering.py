"""What the master has to say to the cluster: its board, and agents that are added at run time."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column

from mesh.sql import String, Text, board_columns

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    notices = f"{prefix}notices"
    op.create_table(notices, *board_columns(), schema=schema)
    op.create_index(f"{notices}_version", notices, ["owner", "version"], schema=schema)
    for column in (Column("full_url", String), Column("lanes", Text)):
        op.add_column(f"{prefix}agents", column, schema=schema)
