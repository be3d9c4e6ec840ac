"""Who may use the HTTP API, and what they did."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column, Integer, SmallInteger

from mesh.sql import Moment, String, Text

revision = "0007"
down_revision = "0006"


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    op.create_table(
        f"{prefix}api_keys",
        Column("id", String, primary_key=True),
        Column("name", String, nullable=False),
        Column("scope", String, nullable=False),
        Column("digest", String, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("created_by", String, nullable=False),
        Column("expires_at", Moment),
        Column("used_at", Moment),
        Column("revoked_at", Moment),
        schema=schema,
    )
    op.create_table(
        f"{prefix}users",
        Column("name", String, primary_key=True),
        Column("scope", String, nullable=False),
        Column("password_hash", String, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("changed_at", Moment, nullable=False),
        schema=schema,
    )
    sessions, audit = f"{prefix}sessions", f"{prefix}audit"
    op.create_table(
        sessions,
        Column("digest", String, primary_key=True),
        Column("user_name", String, nullable=False),
        Column("expires_at", Moment, nullable=False),
        schema=schema,
    )
    op.create_index(f"{sessions}_user", sessions, ["user_name"], schema=schema)
    op.create_index(f"{sessions}_expires", sessions, ["expires_at"], schema=schema)
    op.create_table(
        audit,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("at", Moment, nullable=False),
        Column("who", String, nullable=False),
        Column("action", String, nullable=False),
        Column("target", String, nullable=False),
        Column("status", SmallInteger, nullable=False),
        Column("client", String, nullable=False),
        Column("detail", Text, nullable=False),
        schema=schema,
    )
    op.create_index(f"{audit}_at", audit, ["at"], schema=schema)
    op.create_index(f"{audit}_who", audit, ["who", "id"], schema=schema)
