"""The first schema."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, SmallInteger

from mesh.sql import JobId, Moment, String, Text, partial

revision = "0001"
down_revision = None


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    jobs = f"{prefix}jobs"
    op.create_table(
        jobs,
        Column("id", JobId, primary_key=True),
        Column("name", String, nullable=False),
        Column("lane", String, nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("state", String, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("version", Integer, nullable=False),
        Column("enqueued_at", Moment, nullable=False),
        Column("due_at", Moment),
        Column("started_at", Moment),
        Column("finished_at", Moment),
        Column("agent", String),
        Column("worker", String),
        Column("payload", Text),
        Column("result", Text),
        Column("error_type", Text(200)),
        Column("error_message", Text),
        Column("error_traceback", Text),
        Column("meta", Text),
        Column("envelope", LargeBinary),
        Column("claimed_until", Moment),
        schema=schema,
    )
    for column in ("state", "name", "lane"):
        op.create_index(f"{jobs}_{column}", jobs, [column, "id"], schema=schema)
    held = partial("envelope IS NOT NULL", mssql="")
    op.create_index(f"{jobs}_due", jobs, ["due_at"], schema=schema, **held)
    _create_details(op, prefix, schema)
    _create_registry(op, prefix, schema)


def _create_details(op: Operations, prefix: str, schema: str | None) -> None:
    op.create_table(
        f"{prefix}attempts",
        Column("job_id", JobId, primary_key=True),
        Column("attempt", Integer, primary_key=True, autoincrement=False),
        Column("outcome", String, nullable=False),
        Column("worker", String),
        Column("started_at", Moment),
        Column("finished_at", Moment),
        Column("error_type", Text),
        Column("error_message", Text),
        Column("error_traceback", Text),
        schema=schema,
    )
    op.create_table(
        f"{prefix}events",
        Column("job_id", JobId, primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("at", Moment, nullable=False),
        Column("kind", String, nullable=False),
        Column("data", Text, nullable=False),
        schema=schema,
    )


def _create_registry(op: Operations, prefix: str, schema: str | None) -> None:
    op.create_table(
        f"{prefix}workers",
        Column("worker", String, primary_key=True),
        Column("at", Moment, nullable=False),
        Column("agent", String, nullable=False),
        Column("host", String, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("version", String, nullable=False),
        Column("started_at", Moment, nullable=False),
        Column("state", String, nullable=False),
        Column("lanes", Text, nullable=False),
        Column("finished", Integer, nullable=False),
        schema=schema,
    )
    op.create_table(
        f"{prefix}agents",
        Column("name", String, primary_key=True),
        Column("url", String, nullable=False),
        Column("seen_at", Moment),
        schema=schema,
    )
    op.create_table(
        f"{prefix}leases",
        Column("name", String, primary_key=True),
        Column("holder", String),
        Column("token", Integer, nullable=False),
        Column("expires_at", Moment, nullable=False),
        schema=schema,
    )
    op.create_table(
        f"{prefix}cluster",
        Column("key", String, primary_key=True),
        Column("value", Text, nullable=False),
        schema=schema,
    )
