"""An agent whose jobs are rows of a SQL database."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from sqlalchemy import and_, case, func, select

from mesh.errors import (
    AgentError,
    AgentUnavailable,
    ConfigError,
    PublishOutcomeUnknown,
    did_you_mean,
)
from mesh.job import check_name
from mesh.ports import AgentCapabilities, AgentSettings, Check, LaneDepth
from mesh.sql import (
    A_FILE,
    Database,
    DatabaseErrors,
    Notices,
    SqlBoard,
    make_signals,
    on_power_loss,
    repeated,
    split_options,
)
from mesh.wire import Envelope, Record
from mesh_agents.sql.consumer import SqlConsumer
from mesh_agents.sql.ledger import SqlLedger
from mesh_agents.sql.store import LEDGER, Store
from mesh_agents.sql.tables import DEFAULT_PREFIX, Tables

__all__ = ["SqlAgent"]

_OPTIONS = frozenset({"schema", "table_prefix"})

_ERRORS = DatabaseErrors(
    unavailable=AgentUnavailable, failed=AgentError, in_doubt=PublishOutcomeUnknown
)

# What one transaction of a push may hold: more would keep others waiting.
_PUSH_JOBS = 1000
_PUSH_BYTES = 4 * 1024 * 1024

# Ids in one question.
_ASKED_AT_ONCE = 5000

# Seconds between two looks at the board where nothing wakes its reader.
_LOOK = 0.5

# Seconds of difference between the clocks that are worth a word.
_SKEW = 1.0


class SqlAgent:
    """``mesh.ports.Agent`` in a SQL database.

    Options, in the URL's query or the configuration: ``table_prefix`` (default
    ``mesh_agent_``) and, where the database has such, ``schema``.
    """

    def __init__(self, name: str, url: str, settings: AgentSettings) -> None:
        self.name = check_name("agent", name)
        what = f"agent {name}"
        url, given = split_options(what, url, _OPTIONS)
        for key in settings.options:
            if key not in _OPTIONS:
                raise ConfigError(f"{what}: unknown option '{key}'{did_you_mean(key, _OPTIONS)}")
        options: dict[str, str] = {**settings.options, **given}
        self.database = Database(
            url, _ERRORS, what=what, clock=settings.clock, connect_timeout=settings.connect_timeout
        )
        self.url = self.database.url
        prefix, schema = options.get("table_prefix", DEFAULT_PREFIX), options.get("schema")
        if schema is not None and not self.database.has_schemas:
            raise ConfigError(f"{what}: this database has no schemas; use table_prefix")
        self.tables = Tables(prefix, schema)
        self._signals = make_signals(self.database, f"{self.tables.jobs.fullname} {name}")
        self._store = Store(self.name, self.database, self.tables, self._signals)
        self._notices = Notices(self.database, self.tables.board, name, self._signals)
        self._clock = settings.clock
        self._push_timeout = settings.push_timeout

    @property
    def capabilities(self) -> AgentCapabilities:
        return AgentCapabilities(
            wakes=self.database.listens,
            several_machines=not self.database.is_local,
            why_not={"wakes": self.database.why_deaf, "several_machines": A_FILE},
        )

    async def open(self) -> None:
        await self.database.open()
        try:
            await self.database.create_missing(self.tables.metadata)
        except AgentUnavailable:
            raise
        except AgentError as error:
            raise AgentError(
                f"{error}; the account must be allowed to create the agent's tables, or find "
                "them there"
            ) from error
        await self._signals.open()

    async def close(self) -> None:
        await self._signals.close()
        await self.database.close()

    async def push(
        self, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        outcomes: list[AgentError | None] = []
        away: AgentUnavailable | None = None
        for part in _parts(jobs):
            outcome = away or await self._push_part(part)
            if isinstance(outcome, AgentUnavailable):
                away = outcome  # The rest would only wait for the same.
            outcomes += [_of_one(outcome, job) for job in part]
        return outcomes

    async def _push_part(self, jobs: Sequence[Envelope]) -> AgentError | None:
        by_id = {job.id: job for job in reversed(jobs)}  # of the same id the first
        topics = {job.lane for job in jobs} | {LEDGER}
        notice = self._signals.notice(topics)
        try:
            is_sent = await self._store.push(
                dict(reversed(by_id.items())), self._push_timeout, notice
            )
        except (PublishOutcomeUnknown, AgentUnavailable) as error:
            return error
        except AgentError as error:
            return AgentUnavailable(str(error))  # Refused and rolled back: not stored.
        if not is_sent:
            self._signals.signal(topics)
        return None

    @repeated
    async def withdraw(self, lane: str, priority: int, job_ids: Sequence[str]) -> set[str]:
        if not job_ids:
            return set()
        async with self.database.write() as connection:
            return await self._store.withdraw(connection, job_ids)

    async def missing(self, jobs: Mapping[str, Collection[str]]) -> set[str]:
        wanted = sorted({job_id for ids in jobs.values() for job_id in ids})
        here: set[str] = set()
        async with self.database.read() as connection:
            for start in range(0, len(wanted), _ASKED_AT_ONCE):
                part = wanted[start : start + _ASKED_AT_ONCE]
                here |= await self._store.present(connection, part)
        return set(wanted) - here

    async def consume(self, lane: str, *, lease: float) -> SqlConsumer:
        return SqlConsumer(self._store, self._clock, check_name("lane", lane), lease)

    @repeated
    async def extend(self, receipts: Sequence[str], lease: float) -> set[str]:
        if not receipts:
            return set()
        async with self.database.write(durable=False) as connection:
            until = self.database.now() + lease
            return set(receipts) - await self._store.extend(connection, receipts, until)

    @repeated
    async def append(self, records: Sequence[Record]) -> None:
        if not records:
            return
        async with self.database.write() as connection:
            await self._store.write_records(connection, records)
        self._signals.signal({LEDGER})

    async def ledger(self) -> SqlLedger:
        return SqlLedger(self._store, self._clock)

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        await self._notices.post(notices)

    async def board(self) -> SqlBoard:
        return SqlBoard(self._notices, self._clock, _LOOK)

    async def depth(self) -> Mapping[str, LaneDepth]:
        jobs = self.tables.jobs
        is_ready = jobs.c.eligible_at <= self.database.now()
        is_leased = and_(~is_ready, jobs.c.receipt.is_not(None))
        counts = (
            select(
                jobs.c.lane,
                func.count(),
                func.sum(case((is_ready, 1), else_=0)),
                func.sum(case((is_leased, 1), else_=0)),
            )
            .where(jobs.c.agent == self.name)
            .group_by(jobs.c.lane)
        )
        async with self.database.read() as connection:
            return {
                # MariaDB's sums are decimals.
                lane: LaneDepth(int(ready), int(leased), total - int(ready) - int(leased))
                for lane, total, ready, leased in await connection.execute(counts)
            }

    async def check(self) -> list[Check]:
        subject = f"agent {self.name}"
        try:
            await self.database.open()
            version = await self.database.server_version()
            missing = await self.database.missing(self.tables.metadata)
            power = await on_power_loss(self.database)
        except AgentError as error:
            return [
                Check(f"{subject}: connection", False, str(error), "start it, or correct its URL")
            ]
        checks = [Check(f"{subject}: connection", True, f"{version} at {self.url}")]
        checks.append(
            Check(
                f"{subject}: tables",
                False,
                f"missing: {', '.join(missing)}",
                "start a worker or a coordinator with an account that may create tables",
            )
            if missing
            else Check(f"{subject}: tables", True, f"all {len(self.tables.metadata.tables)} there")
        )
        skew = self.database.clock_skew
        checks.append(
            Check(
                f"{subject}: clock",
                abs(skew) <= _SKEW,
                f"the server's clock is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}",
                "" if abs(skew) <= _SKEW else "synchronize both machines' clocks (NTP)",
            )
        )
        checks.append(Check(f"{subject}: loss of power", *power))
        return checks


def _of_one(outcome: AgentError | None, job: Envelope) -> AgentError | None:
    """The outcome of a part, as one job's own."""
    if isinstance(outcome, PublishOutcomeUnknown):
        return PublishOutcomeUnknown(f"job {job.id}: {outcome}", [job.id])
    return outcome


def _parts(jobs: Sequence[Envelope]) -> Iterator[list[Envelope]]:
    """The jobs, in parts for one transaction each. Jobs of the same id share a part, unless
    it is full."""
    part: list[Envelope] = []
    size = 0
    for job in jobs:
        if part and (len(part) >= _PUSH_JOBS or size + len(job.payload) > _PUSH_BYTES):
            yield part
            part, size = [], 0
        part.append(job)
        size += len(job.payload)
    if part:
        yield part
