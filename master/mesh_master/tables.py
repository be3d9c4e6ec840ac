"""The master's tables, for a table prefix and a database schema.

The migrations build the same by hand; a test holds the two together. There are no foreign
keys: records of a job may come before the job's own row, and history is to be partitioned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
)

from mesh.ports import RUN_TIMES
from mesh.sql import JobId, Moment, String, Text, board_table, partial

__all__ = ["COUNTED", "Tables"]

COUNTS = (
    *("enqueued", "started", "succeeded", "failed", "cancelled", "skipped", "expired", "retried"),
    *("waits", *(f"ran_{place}" for place in range(len(RUN_TIMES) + 1))),
)
COUNT = Integer().with_variant(BigInteger, "mssql")
"""What a sum of is no greater than one there may be."""
UNSTARTED = "finished_at IS NULL AND state <> 'running'"
"""Which jobs an index has: to be said like this to find it."""

TIMES = ("ran", "waited")
"""In microseconds, so that sums are exact."""
COUNTED = (*COUNTS, *TIMES)
"""What ``series`` has of a span."""

PREFIX = 200
"""Characters of a text that an index takes, where it does not take it all."""

_HELD = partial("envelope IS NOT NULL AND gate IS NULL", mssql="")
# On SQL Server two NULLs are alike, and would be two jobs of a slot.
_OF_SCHEDULE = partial("schedule IS NOT NULL", mssql="schedule IS NOT NULL AND slot IS NOT NULL")
_OPEN = partial("schedule IS NOT NULL AND finished_at IS NULL")
_EXPIRES = partial(
    "expires_at IS NOT NULL AND envelope IS NOT NULL", mssql="expires_at IS NOT NULL"
)
_GATED = partial("gate IS NOT NULL AND envelope IS NOT NULL", mssql="gate IS NOT NULL")
# As the queries there say it, or it is not used.
_IS_OPEN = partial("is_open", sqlite="is_open = 1", mssql="is_open = 1")
_ENDED = partial("finished_at IS NOT NULL")
_OWN_TTL = partial("result_ttl IS NOT NULL AND finished_at IS NOT NULL")
_UNSTARTED = partial(UNSTARTED)
_SHARDED = partial("shard <> 0")
_UNDER_WAY = partial("workflow IS NOT NULL AND finished_at IS NULL")


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of a master."""

    metadata: MetaData
    jobs: Table
    """One row a job: its latest state, and its latest attempt."""
    attempts: Table
    """The attempts that the job's row does not tell of: those that were retried, those whose
    worker died, and what came too late."""
    events: Table
    tags: Table
    """The meta of jobs that have some, to find them by: in the order of the jobs' ids within a
    tag, so that the newest need no sorting."""
    workers: Table
    handlers: Table
    """What the code of the apps has, as far as a worker ever said."""
    agents: Table
    leases: Table
    schedules: Table
    declarations: Table
    """Which schedules living processes have in their code."""
    keys: Table
    """Which job an idempotency key stands for."""
    dependencies: Table
    """Which jobs wait for which."""
    limits: Table
    slots: Table
    """Which jobs count against which limits now."""
    notices: Table
    """The master's board."""
    cluster: Table
    """What the cluster agreed on, by key."""
    totals: Table
    """How many jobs there are. Kept by the database itself, as ``series`` is; see
    ``mesh_master.statistics``."""
    series: Table
    """What happened, by the minute, and by the hour what was long ago."""
    api_keys: Table
    users: Table
    sessions: Table
    audit: Table

    @classmethod
    @cache
    def build(cls, prefix: str, schema: str | None) -> Tables:
        metadata = MetaData(schema=schema)
        return cls(
            metadata=metadata,
            jobs=_jobs(metadata, prefix),
            attempts=_attempts(metadata, prefix),
            events=_events(metadata, prefix),
            tags=_tags(metadata, prefix),
            workers=_workers(metadata, prefix),
            handlers=_handlers(metadata, prefix),
            agents=_agents(metadata, prefix),
            leases=_leases(metadata, prefix),
            schedules=_schedules(metadata, prefix),
            declarations=_declarations(metadata, prefix),
            keys=_keys(metadata, prefix),
            dependencies=_dependencies(metadata, prefix),
            limits=_limits(metadata, prefix),
            slots=_slots(metadata, prefix),
            notices=board_table(f"{prefix}notices", metadata),
            cluster=_cluster(metadata, prefix),
            totals=_totals(metadata, prefix),
            series=_series(metadata, prefix),
            api_keys=_api_keys(metadata, prefix),
            users=_users(metadata, prefix),
            sessions=_sessions(metadata, prefix),
            audit=_audit(metadata, prefix),
        )


def _jobs(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}jobs"
    return Table(
        name,
        metadata,
        Column("id", JobId, primary_key=True),
        Column("name", String, nullable=False),
        Column("lane", String, nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("state", String, nullable=False),
        Column("attempt", Integer, nullable=False),
        # mesh.job.state_version: the state moves only to a greater one.
        Column("version", Integer, nullable=False),
        Column("enqueued_at", Moment, nullable=False),
        Column("due_at", Moment),
        Column("started_at", Moment),
        Column("finished_at", Moment),
        Column("agent", String),
        Column("worker", String),
        Column("payload", Text),
        Column("result", Text),
        Column("error_type", Text(PREFIX)),
        Column("error_message", Text),
        Column("error_traceback", Text),
        Column("meta", Text),
        # Of held jobs alone: what is to be pushed, and until when a dispatcher has it in hand.
        Column("envelope", LargeBinary),
        Column("claimed_until", Moment),
        # Of a schedule's jobs alone.
        Column("schedule", String),
        Column("slot", Moment),
        Column("schedule_revision", Integer),
        Column("key", String),
        Column("workflow", JobId),
        # The job whose handler enqueued it.
        Column("parent", JobId),
        # The ended job that it does again, and the one that does it again.
        Column("retry_of", JobId),
        Column("retried_as", JobId),
        # Seconds to keep it after its end.
        Column("result_ttl", Float),
        Column("expires_at", Moment),
        # Of held jobs alone: not to be dispatched ahead of its time.
        Column("firm", Boolean),
        # Of waiting jobs alone: how many of its parents have not ended.
        Column("pending", Integer),
        # Of held jobs alone: a JSON list of the limits that have not let it go yet.
        Column("gate", Text(840)),
        # The same, as long as the job is known: for those who do it again.
        Column("limits", Text),
        # Of failed jobs alone: mesh.fingerprint.
        Column("fingerprint", String),
        # mesh_master.terms; NULL: none was enqueued with the job.
        Column("terms", LargeBinary),
        _where_given(f"{name}_workflow", "workflow", "id"),
        _where_given(f"{name}_parent", "parent", "id"),
        _where_given(f"{name}_key", "key", "id"),
        Index(f"{name}_expires", "expires_at", **_EXPIRES),
        Index(
            f"{name}_gate",
            *("gate", "priority", "due_at"),
            mysql_length={"gate": PREFIX},
            **_GATED,
        ),
        Index(f"{name}_state", "state", "id"),
        # The operators: also for how a name begins, whatever the database's language.
        Index(
            f"{name}_name",
            *("name", "state", "lane", "id"),
            postgresql_ops={"name": "text_pattern_ops"},
        ),
        Index(f"{name}_lane", "lane", "state", "id"),
        # How long has the oldest waited?
        Index(
            f"{name}_unstarted",
            *("lane", "state", "enqueued_at", "due_at"),
            **_UNSTARTED,
        ),
        _where_given(f"{name}_error", "error_type", "id", mysql_length={"error_type": PREFIX}),
        _where_given(f"{name}_fingerprint", "fingerprint", "finished_at", "id", "retried_as"),
        _where_given(f"{name}_schedule", "schedule", "id"),
        Index(f"{name}_enqueued", "enqueued_at"),
        Index(f"{name}_finished", "state", "finished_at", **_ENDED),
        Index(
            f"{name}_ttl",
            "result_ttl",
            "finished_at",
            **_OWN_TTL,
        ),
        Index(
            f"{name}_workflow_open",
            "workflow",
            **_UNDER_WAY,
        ),
        Index(f"{name}_due", "due_at", **_HELD),
        # A slot has one job, whoever makes it.
        Index(
            f"{name}_slot",
            "schedule",
            "slot",
            unique=True,
            **_OF_SCHEDULE,
        ),
        Index(
            f"{name}_schedule_open",
            "schedule",
            **_OPEN,
        ),
    )


def _where_given(name: str, column: str, *others: str, **options: Any) -> Index:
    """An index of the rows that have the column at all."""
    given = partial(f"{column} IS NOT NULL", mssql=f"[{column}] IS NOT NULL")
    return Index(name, column, *others, **given, **options)


def _attempts(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}attempts",
        metadata,
        Column("job_id", JobId, primary_key=True),
        Column("attempt", Integer, primary_key=True, autoincrement=False),
        Column("outcome", String, nullable=False),
        Column("worker", String),
        Column("started_at", Moment),
        Column("finished_at", Moment),
        Column("error_type", Text),
        Column("error_message", Text),
        Column("error_traceback", Text),
        # Of those that are to be repeated: when the next may start.
        Column("due_at", Moment),
    )


def _events(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}events"
    return Table(
        name,
        metadata,
        Column("job_id", JobId, primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("at", Moment, nullable=False),
        Column("kind", String, nullable=False),
        Column("data", Text, nullable=False),
        # Kept until then; NULL: as long as the job.
        Column("until", Moment),
        _where_given(f"{name}_until", "until"),
    )


def _tags(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}tags"
    return Table(
        name,
        metadata,
        Column("name", String, primary_key=True),
        Column("value", String, primary_key=True),
        Column("job_id", JobId, primary_key=True),
        Index(f"{name}_job", "job_id"),
        sqlite_with_rowid=False,
    )


def _workers(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}workers",
        metadata,
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
    )


def _handlers(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}handlers",
        metadata,
        Column("name", String, primary_key=True),
        Column("lane", String, nullable=False),
        Column("app", String, nullable=False),
        # JSON of mesh.definition.Definition.
        Column("definition", Text, nullable=False),
        Column("first_seen", Moment, nullable=False),
        Column("changed_at", Moment, nullable=False),
        Column("seen_at", Moment, nullable=False),
    )


def _agents(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}agents",
        metadata,
        Column("name", String, primary_key=True),
        Column("url", String, nullable=False),
        Column("seen_at", Moment),
        # Of those that were added at run time: the URL with its password, and JSON; NULL is all.
        Column("full_url", String),
        Column("lanes", Text),
        # How many jobs it had and has not any more, and when that was last found.
        Column("lost", Integer),
        Column("lost_at", Moment),
    )


def _leases(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}leases",
        metadata,
        Column("name", String, primary_key=True),
        # NULL once released. The row stays, so that tokens only grow.
        Column("holder", String),
        Column("token", Integer, nullable=False),
        Column("expires_at", Moment, nullable=False),
    )


def _schedules(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}schedules"
    return Table(
        name,
        metadata,
        Column("name", String, primary_key=True),
        # JSON of mesh.recurring.Definition.
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
        Column("zone", String),
        Index(f"{name}_next", "next_slot"),
    )


def _declarations(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}declarations",
        metadata,
        Column("name", String, primary_key=True),
        Column("hash", String, primary_key=True),
        Column("app", String, nullable=False),
        Column("definition", Text),
        Column("existing", String, nullable=False),
        Column("orphaned", String, nullable=False),
        Column("first_seen", Moment, nullable=False),
        Column("declared_at", Moment, nullable=False),
        Column("seen_at", Moment, nullable=False),
    )


def _keys(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}keys"
    return Table(
        name,
        metadata,
        Column("key", String, primary_key=True),
        Column("job_id", JobId, nullable=False),
        # NULL: as long as the job has not ended.
        Column("until", Moment),
        _where_given(f"{name}_until", "until"),
    )


def _dependencies(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}dependencies"
    return Table(
        name,
        metadata,
        Column("child_id", JobId, primary_key=True),
        Column("parent_id", JobId, primary_key=True),
        Column("position", Integer, nullable=False),
        # The outcome of the parent that the child asks for: success, failure or finished.
        Column("outcome", String, nullable=False),
        # What the child calls the parent, and which of its arguments the result becomes.
        Column("name", String),
        Column("feeds", String),
        Column("is_open", Boolean, nullable=False),
        Index(
            f"{name}_open",
            "parent_id",
            **_IS_OPEN,
        ),
        # Is a job that ended still needed?
        Index(f"{name}_parent", "parent_id"),
    )


def _limits(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}limits",
        metadata,
        Column("key", String, primary_key=True),
        Column("concurrency", Integer, nullable=False),
        Column("rate", Float, nullable=False),
        Column("burst", Float, nullable=False),
        # How many could begin at the moment when they were counted.
        Column("tokens", Float, nullable=False),
        Column("counted_at", Moment, nullable=False),
    )


def _slots(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}slots"
    return Table(
        name,
        metadata,
        Column("job_id", JobId, primary_key=True),
        Column("key", String, primary_key=True),
        # Held until the job has begun; else until it has ended.
        Column("until_started", Boolean, nullable=False),
        Index(f"{name}_key", "key"),
    )


def _cluster(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}cluster",
        metadata,
        Column("key", String, primary_key=True),
        Column("value", Text, nullable=False),
    )


def _totals(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}totals",
        metadata,
        Column("state", String, primary_key=True),
        Column("name", String, primary_key=True),
        Column("lane", String, primary_key=True),
        # Who counted: rows of one are written by one connection alone.
        Column("shard", Integer, primary_key=True, autoincrement=False),
        Column("jobs", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _series(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}series"
    return Table(
        name,
        metadata,
        # Seconds, a minute or an hour; below 0: of a whole lane, with no name.
        Column("span", Integer, primary_key=True, autoincrement=False),
        Column("at", Moment, primary_key=True),
        Column("name", String, primary_key=True),
        Column("lane", String, primary_key=True),
        Column("shard", Integer, primary_key=True, autoincrement=False),
        *(
            Column(column, kind, nullable=False, server_default="0")
            for kind, columns in ((COUNT, COUNTS), (BigInteger, TIMES))
            for column in columns
        ),
        # Those that are to be brought together.
        Index(f"{name}_shard", "at", **_SHARDED),
        sqlite_with_rowid=False,
    )


def _api_keys(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}api_keys",
        metadata,
        Column("id", String, primary_key=True),
        Column("name", String, nullable=False),
        Column("scope", String, nullable=False),
        Column("digest", String, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("created_by", String, nullable=False),
        Column("expires_at", Moment),
        Column("used_at", Moment),
        Column("revoked_at", Moment),
    )


def _users(metadata: MetaData, prefix: str) -> Table:
    return Table(
        f"{prefix}users",
        metadata,
        Column("name", String, primary_key=True),
        Column("scope", String, nullable=False),
        # Of argon2, with its parameters and salt.
        Column("password_hash", String, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("changed_at", Moment, nullable=False),
    )


def _sessions(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}sessions"
    return Table(
        name,
        metadata,
        # Of the token in the browser's cookie.
        Column("digest", String, primary_key=True),
        Column("user_name", String, nullable=False),
        Column("expires_at", Moment, nullable=False),
        Index(f"{name}_user", "user_name"),
        Index(f"{name}_expires", "expires_at"),
    )


def _audit(metadata: MetaData, prefix: str) -> Table:
    name = f"{prefix}audit"
    return Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("at", Moment, nullable=False),
        Column("who", String, nullable=False),
        Column("action", String, nullable=False),
        Column("target", String, nullable=False),
        Column("status", SmallInteger, nullable=False),
        Column("client", String, nullable=False),
        Column("detail", Text, nullable=False),
        Index(f"{name}_at", "at"),
        Index(f"{name}_who", "who", "id"),
    )
