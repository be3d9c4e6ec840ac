"""Schedules."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Boolean, Column, Integer

from mesh.sql import Moment, String, Text, partial

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
    # Two NULLs are alike there, and would be two jobs of a slot.
    of_schedule = partial("schedule IS NOT NULL", mssql="schedule IS NOT NULL AND slot IS NOT NULL")
    op.create_index(
        f"{jobs}_slot",
        jobs,
        ["schedule", "slot"],
        unique=True,
        schema=schema,
        **of_schedule,
    )
    is_open = partial("schedule IS NOT NULL AND finished_at IS NULL")
    op.create_index(
        f"{jobs}_schedule_open",
        jobs,
        ["schedule"],
        schema=schema,
        **is_open,
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
