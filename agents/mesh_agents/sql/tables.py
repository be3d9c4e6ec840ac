"""The agent's tables. Several agents may share a database, and a set of tables."""

from __future__ import annotations

import re

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
)

from mesh.errors import ConfigError
from mesh.sql import JobId, Moment, String, Text, board_table

__all__ = ["DEFAULT_PREFIX", "Tables"]

DEFAULT_PREFIX = "mesh_agent_"

_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,29}\Z")
_SERIAL = BigInteger().with_variant(Integer, "sqlite")


class Tables:
    """Jobs in flight, the keys of recent pushes, the ledger, and what could not be read."""

    def __init__(self, prefix: str = DEFAULT_PREFIX, schema: str | None = None) -> None:
        if not _PREFIX.match(prefix):
            raise ConfigError(
                f"table_prefix '{prefix}' must be 1 to 30 lower-case letters, digits and '_', "
                "beginning with a letter or '_'"
            )
        self.metadata = MetaData(schema=schema)
        self.jobs = self._jobs(prefix)
        self.pushed = self._pushed(prefix)
        self.ledger = Table(
            f"{prefix}ledger",
            self.metadata,
            # Never used twice: a reader remembers ids, and may acknowledge them twice.
            Column("id", _SERIAL, primary_key=True, autoincrement=True),
            Column("agent", String(64), nullable=False),
            Column("count", Integer, nullable=False),
            Column("entry", LargeBinary, nullable=False),
            Index(f"{prefix}ledger_agent", "agent", "id"),
            sqlite_autoincrement=True,
        )
        self.board = board_table(f"{prefix}board", self.metadata)
        self.dead_letters = Table(
            f"{prefix}dead_letters",
            self.metadata,
            Column("id", _SERIAL, primary_key=True, autoincrement=True),
            Column("agent", String(64), nullable=False),
            Column("lane", String(64)),  # NULL: from the ledger
            Column("at", Moment, nullable=False),
            Column("error", Text, nullable=False),
            Column("data", LargeBinary, nullable=False),
        )

    def _jobs(self, prefix: str) -> Table:
        return Table(
            f"{prefix}jobs",
            self.metadata,
            Column("id", JobId, primary_key=True),
            Column("agent", String(64), primary_key=True),
            Column("lane", String(64), nullable=False),
            Column("priority", SmallInteger, nullable=False),
            # When it may be leased (again): due, or the end of its lease.
            Column("eligible_at", Moment, nullable=False),
            # Orders jobs that became eligible at the same moment.
            Column("seq", BigInteger, nullable=False),
            # The latest lease; NULL while never leased since it was put here.
            Column("receipt", String(80)),
            Column("leases", Integer, nullable=False),
            # The latest attempt that is known to have started.
            Column("started", Integer, nullable=False),
            Column("frame", LargeBinary, nullable=False),
            # A claim reads one short range of this index for each priority. No index begins
            # with the agent: before the first ANALYZE a planner takes that for selective.
            Index(f"{prefix}jobs_claim", "lane", "agent", "priority", "eligible_at", "seq"),
            # Rows live briefly and change twice: leave room beside them, clean up early.
            postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.02},
        )

    def _pushed(self, prefix: str) -> Table:
        return Table(
            f"{prefix}pushed",
            self.metadata,
            Column("id", JobId, primary_key=True),
            Column("agent", String(64), primary_key=True),
            Column("attempt", Integer, primary_key=True, autoincrement=False),
            Column("at", Moment, nullable=False),
            Index(f"{prefix}pushed_at", "agent", "at"),
        )
