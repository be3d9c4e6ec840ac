"""What a job can be told that holds it on the master: keys, parents, limits."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Boolean, Column, Float, Integer

from mesh.sql import JobId, Moment, String, Text, partial

revision = "0003"
down_revision = "0002"

_EXPIRES = "expires_at IS NOT NULL AND envelope IS NOT NULL"
_GATED = "gate IS NOT NULL AND envelope IS NOT NULL"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    jobs = f"{prefix}jobs"
    for column in (
        Column("key", String),
        Column("workflow", JobId),
        Column("parent", JobId),
        Column("retry_of", JobId),
        Column("retried_as", JobId),
        Column("result_ttl", Float),
        Column("expires_at", Moment),
        Column("firm", Boolean),
        Column("pending", Integer),
        Column("gate", Text(840)),
        Column("limits", Text),
    ):
        op.add_column(jobs, column, schema=schema)
    # Those under limits are not looked at by those who look for the others.
    op.drop_index(f"{jobs}_due", jobs, schema=schema)
    indexes: list[tuple[str, list[str], str, str | None]] = [
        ("due", ["due_at"], "envelope IS NOT NULL AND gate IS NULL", ""),
        ("workflow", ["workflow", "id"], "workflow IS NOT NULL", None),
        ("parent", ["parent", "id"], "parent IS NOT NULL", None),
        ("key", ["key", "id"], "key IS NOT NULL", "[key] IS NOT NULL"),
        ("expires", ["expires_at"], _EXPIRES, "expires_at IS NOT NULL"),
        ("gate", ["gate", "priority", "due_at"], _GATED, "gate IS NOT NULL"),
    ]
    for name, columns, condition, mssql in indexes:
        op.create_index(
            f"{jobs}_{name}",
            jobs,
            columns,
            schema=schema,
            mysql_length={"gate": 200} if name == "gate" else None,
            **partial(condition, mssql=mssql),
        )
    op.create_table(
        f"{prefix}keys",
        Column("key", String, primary_key=True),
        Column("job_id", JobId, nullable=False),
        Column("until", Moment),
        schema=schema,
    )
    dependencies = f"{prefix}dependencies"
    op.create_table(
        dependencies,
        Column("child_id", JobId, primary_key=True),
        Column("parent_id", JobId, primary_key=True),
        Column("position", Integer, nullable=False),
        Column("outcome", String, nullable=False),
        Column("name", String),
        Column("feeds", String),
        Column("is_open", Boolean, nullable=False),
        schema=schema,
    )
    op.create_index(
        f"{dependencies}_open",
        dependencies,
        ["parent_id"],
        schema=schema,
        **partial("is_open", sqlite="is_open = 1", mssql="is_open = 1"),
    )
    op.create_table(
        f"{prefix}limits",
        Column("key", String, primary_key=True),
        Column("concurrency", Integer, nullable=False),
        Column("rate", Float, nullable=False),
        Column("burst", Float, nullable=False),
        Column("tokens", Float, nullable=False),
        Column("counted_at", Moment, nullable=False),
        schema=schema,
    )
    slots = f"{prefix}slots"
    op.create_table(
        slots,
        Column("job_id", JobId, primary_key=True),
        Column("key", String, primary_key=True),
        Column("until_started", Boolean, nullable=False),
        schema=schema,
    )
    op.create_index(f"{slots}_key", slots, ["key"], schema=schema)
