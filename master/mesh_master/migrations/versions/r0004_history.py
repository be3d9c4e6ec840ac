"""Looking at history by more than a name, and forgetting it in time."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column

from mesh.sql import JobId, String, partial

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    jobs = f"{prefix}jobs"
    op.create_table(
        f"{prefix}tags",
        Column("name", String, primary_key=True),
        Column("value", String, primary_key=True),
        Column("job_id", JobId, primary_key=True),
        schema=schema,
        sqlite_with_rowid=False,
    )
    op.create_index(f"{prefix}tags_job", f"{prefix}tags", ["job_id"], schema=schema)
    op.drop_index(f"{jobs}_name", jobs, schema=schema)
    op.create_index(
        f"{jobs}_name",
        jobs,
        ["name", "id"],
        schema=schema,
        postgresql_ops={"name": "text_pattern_ops"},
    )
    op.create_index(
        f"{jobs}_enqueued", jobs, ["enqueued_at"], schema=schema, postgresql_using="brin"
    )
    for table, name, columns, condition in (
        ("jobs", "error", ["error_type", "id"], "error_type IS NOT NULL"),
        ("jobs", "schedule", ["schedule", "id"], "schedule IS NOT NULL"),
        ("jobs", "finished", ["state", "finished_at"], "finished_at IS NOT NULL"),
        (
            "jobs",
            "ttl",
            ["result_ttl", "finished_at"],
            "result_ttl IS NOT NULL AND finished_at IS NOT NULL",
        ),
        ("jobs", "workflow_open", ["workflow"], "workflow IS NOT NULL AND finished_at IS NULL"),
        ("keys", "until", ["until"], "until IS NOT NULL"),
    ):
        op.create_index(
            f"{prefix}{table}_{name}",
            f"{prefix}{table}",
            columns,
            schema=schema,
            mysql_length={"error_type": 200} if name == "error" else None,
            **partial(condition),
        )
    dependencies = f"{prefix}dependencies"
    op.create_index(f"{dependencies}_parent", dependencies, ["parent_id"], schema=schema)
