"""Schedules."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Boolean, Column, Integer, String, Text, text

from mesh.sql import Moment

revision = "0002"
down_revision = "0001"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    jobs = f"{prefix}jobs"
    for column in (
        Column("schedule", String),
        Column("slot", Moment),
        Column("schedule_revision", Integer),
    ):
        op.add_column(jobs, column, schema=schema)
    of_schedule = text("schedule IS NOT NULL")
    op.create_index(
        f"{jobs}_slot",
        jobs,
        ["schedule", "slot"],
        unique=True,
        schema=schema,
        postgresql_where=of_schedule,
        sqlite_where=of_schedule,
    )
    is_open = text("schedule IS NOT NULL AND finished_at IS NULL")
    op.create_index(
        f"{jobs}_schedule_open",
        jobs,
        ["schedule"],
        schema=schema,
        postgresql_where=is_open,
        sqlite_where=is_open,
    )
    schedules = f"{prefix}schedules"
    op.create_table(
        schedules,
        Column("name", String, primary_key=True),
        Column("definition", Text, nullable=False),
        Column("app", String, nullable=False),
        Column("source", String, nullable=False),
        Column("state", String, nullable=False),
        Column("reason", Text),
        Column("revision", Integer, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("updated_at", Moment, nullable=False),
        Column("next_slot", Moment),
        Column("last_slot", Moment),
        Column("code_hash", String),
        Column("synced_at", Moment),
        Column("failures_after", Moment, nullable=False),
        Column("pending", Boolean, nullable=False),
        schema=schema,
    )
    op.create_index(f"{schedules}_next", schedules, ["next_slot"], schema=schema)
    op.create_table(
        f"{prefix}declarations",
        Column("name", String, primary_key=True),
        Column("hash", String, primary_key=True),
        Column("app", String, nullable=False),
        Column("definition", Text),
        Column("existing", String, nullable=False),
        Column("orphaned", String, nullable=False),
        Column("first_seen", Moment, nullable=False),
        Column("declared_at", Moment, nullable=False),
        Column("seen_at", Moment, nullable=False),
        schema=schema,
    )
