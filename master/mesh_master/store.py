"""``SqlMaster``: the ``Master`` port on a SQL database.

What is written at once by many, and how that stays correct:

- *Jobs*: every upsert carries a version (``mesh.job.state_version``) and moves a row only to a
  greater one, in the statement itself. Reading the heads before (``merge``) decides what else
  to write; recorders of two agents that meet at one job wait for each other at its row.
- *Leases* (``leases``): one conditional upsert, judged by the database's clock. ``record`` locks
  the row of its lease for the length of the transaction, so a newer holder begins after it, or
  it fails.
- *Claims* of held jobs (``claims``): rows locked by another dispatcher are passed over; a claim
  outlives the transaction as ``claimed_until``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import delete, select

from mesh.config import AgentConfig
from mesh.errors import (
    ConfigError,
    MasterError,
    MasterUnavailable,
)
from mesh.held import Held, Stored
from mesh.job import State, is_job_id
from mesh.ports import (
    HELD,
    AgentInfo,
    AttemptInfo,
    Backlog,
    Bucket,
    Check,
    Claimed,
    EventInfo,
    FailureGroup,
    HandlerInfo,
    JobFilter,
    JobInfo,
    Known,
    Lease,
    Links,
    MasterCapabilities,
    MasterSettings,
    Outlived,
    Suspect,
    Suspects,
    Unblocked,
    Wait,
    changed_topics,
)
from mesh.settings import ClusterSettings
from mesh.sql import (
    A_FILE,
    FAULTS,
    NOTIFY,
    ONE_WRITER,
    BulkUpsert,
    Database,
    DatabaseErrors,
    Signals,
    SqlBoard,
    executor_within,
    make_signals,
    on_power_loss,
    repeated,
)
from mesh.wire import Envelope, ErrorInfo, Heartbeat, Record, encode_frame
from mesh_master import listing, merge, queries, schema, statistics, waits
from mesh_master.again import Again
from mesh_master.announcer import Announcer
from mesh_master.claims import Claims
from mesh_master.credentials import SqlCredentials
from mesh_master.forget import Forgetting
from mesh_master.holding import Holding
from mesh_master.leases import Leases
from mesh_master.presence import Presence
from mesh_master.recording import Recording
from mesh_master.rescuing import Rescuing
from mesh_master.schedules import SqlSchedules
from mesh_master.statistics import Statistics
from mesh_master.steering import Steering
from mesh_master.tables import Tables
from mesh_master.unblocking import Unblocking

__all__ = ["SqlMaster"]

_SKEW_LIMIT = 1.0
"""Seconds between two machines' clocks from which ``check`` speaks of it."""

_ERRORS = DatabaseErrors(unavailable=MasterUnavailable, failed=MasterError, in_doubt=MasterError)


class SqlMaster:
    """``mesh.ports.Master`` on PostgreSQL or SQLite."""

    def __init__(self, url: str, settings: MasterSettings) -> None:
        self.settings = settings
        self.database = Database(
            url,
            _ERRORS,
            what="master",
            clock=settings.clock,
            connect_timeout=settings.connect_timeout,
        )
        self.tables = Tables.build(
            settings.table_prefix, settings.schema if self.database.has_schemas else None
        )
        self._leases = Leases(self.database, self.tables)
        self.recording = Recording(
            self.database, self.tables, self._leases, settings.persist_events, settings.event_ttl
        )
        self._held = BulkUpsert(self.database, self.tables.jobs, merge.JOB_COLUMNS, ["id"])
        self._agents = BulkUpsert(
            self.database,
            self.tables.agents,
            ["name", "url", "seen_at"],
            ["name"],
            lambda new: {"url": new["url"]},
        )
        self._schedules = SqlSchedules(self.database, self.tables)
        self._credentials = SqlCredentials(self.database, self.tables)
        self._holding = Holding(self.database, self.tables)
        self._again = Again(self.database, self.tables, self._holding)
        self._rescuing = Rescuing(self.database, self.tables, self.recording)
        self._forgetting = Forgetting(self.database, self.tables)
        self._statistics = Statistics(self.database, self.tables)
        self._unblocking = Unblocking(self.database, self.tables)
        self._claims = Claims(self.database, self.tables)
        self._signals = make_signals(self.database, self.tables.jobs.fullname)
        self._announcer = Announcer(self._signals)
        self._steering = Steering(self.database, self.tables, self._signals, settings.clock)
        self.presence = Presence(
            self.database,
            self.tables,
            lambda: schema.migrations(self.database, settings).head,
        )
        self._is_open = False

    @property
    def url(self) -> str:
        return self.database.url

    @property
    def schedules(self) -> SqlSchedules:
        return self._schedules

    @property
    def credentials(self) -> SqlCredentials:
        return self._credentials

    async def open(self) -> None:
        try:
            await self.database.open()
            await schema.ensure(self.database, self.tables, self.settings)
            await self._join_cluster()
            await self._signals.open()
            await self.presence.start()
        except BaseException:
            # Who could not open it will not close it.
            if not self._is_open:
                await self.database.close()
            raise
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        await self.presence.stop()
        self._announcer.close()
        await self._signals.close()
        await self.database.close()

    @repeated
    async def _join_cluster(self) -> None:
        table = self.tables.cluster
        stored = select(table.c.value).where(table.c.key == "cluster")
        async with self.database.read() as connection:
            cluster = (await connection.execute(stored)).scalar_one_or_none()
        if cluster is None:
            insert = self.database.insert(table).values(key="cluster", value=self.settings.cluster)
            async with self.database.write() as connection:
                await connection.execute(insert.on_conflict_do_nothing())
                cluster = (await connection.execute(stored)).scalar_one()
        if cluster != self.settings.cluster:
            raise ConfigError(
                f"master at {self.url} belongs to the cluster '{cluster}', and this process to "
                f"'{self.settings.cluster}': correct the cluster or the master's URL, or give "
                "each cluster its own table_prefix"
            )

    @property
    def capabilities(self) -> MasterCapabilities:
        return MasterCapabilities(
            wakes=self.database.listens,
            parallel_writes=self.database.skips_locked,
            several_machines=not self.database.is_local,
            why_not={
                "wakes": self.database.why_deaf,
                "parallel_writes": ONE_WRITER,
                "several_machines": A_FILE,
            },
        )

    @property
    def signals(self) -> Signals:
        return self._signals

    # jobs ------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[Held], within: Any = None) -> list[Stored]:
        if within is not None:
            return await self._submit_within(within, jobs)
        stored = await self._submit_alone(jobs)
        self._signals.signal({HELD, *changed_topics([held.job.id for held in jobs])})
        return stored

    @repeated
    async def _submit_alone(self, jobs: Sequence[Held]) -> list[Stored]:
        async with self.database.write() as connection:
            return await self._holding.store(connection, jobs)

    async def _submit_within(self, within: Any, jobs: Sequence[Held]) -> list[Stored]:
        run = executor_within(within, self.database)
        try:
            stored = await self._holding.store(run, jobs)
            notice = self._signals.certain_notice({HELD})
            if notice is not None:
                await run.execute(NOTIFY, notice.parameters)
        except FAULTS as error:
            raise MasterError(
                f"{self.database.refused(error)}; nothing was stored: is options(session=...) a "
                "session on the master's database, with its schema up to date?"
            ) from error
        return stored

    async def find_key(self, key: str) -> str | None:
        async with self.database.read() as connection:
            return await self._holding.find_key(connection, key)

    async def unblock(self, ended: Collection[str] | None = None) -> Unblocked:
        return await self._unblocking.run(ended)

    async def claim_gated(
        self, until: float, limit: int, claim: float, leaving_out: Collection[str] = ()
    ) -> Claimed:
        return await self._claims.gated(until, limit, claim, leaving_out)

    async def waits(self, job_ids: Sequence[str]) -> dict[str, Wait]:
        known = [job_id for job_id in job_ids if is_job_id(job_id)]
        async with self.database.read() as connection:
            return await waits.find(self.database, self.tables, connection, known)

    @repeated
    async def hold(self, jobs: Sequence[Envelope]) -> None:
        rows = {job.id: merge.held_row(job, encode_frame([job])) for job in jobs}
        async with self.database.write() as connection:
            await self._held.run(connection, [rows[key] for key in sorted(rows)])
            await self.recording.tags.write(connection, jobs)
        self._signals.signal({HELD, *changed_topics(rows)})

    async def claim_due(
        self, until: float, limit: int, claim: float, leaving_out: Collection[str] = ()
    ) -> list[Envelope]:
        return await self._claims.due(until, limit, claim, leaving_out)

    async def cancel(self, job_ids: Sequence[str], reason: str) -> dict[str, State]:
        states = await self._steering.cancel(job_ids, reason)
        self._signals.signal(changed_topics(states))
        return states

    @repeated
    async def take_back(self, jobs: Sequence[Envelope]) -> None:
        rows = {job.id: merge.held_row(job, encode_frame([job])) for job in jobs}
        async with self.database.write() as connection:
            await self.recording.jobs.run(connection, [rows[key] for key in sorted(rows)])
        self._signals.signal({HELD})

    async def suspects(self, before: float, limit: int, page: Any = None) -> Suspects:
        async with self.database.read() as connection:
            return await self._rescuing.suspects(connection, before, limit, page)

    async def doubtful(self, until: float, limit: int) -> list[Suspect]:
        async with self.database.read() as connection:
            return await self._rescuing.doubtful(connection, until, limit)

    @repeated
    async def rescue(self, lost: Sequence[Suspect]) -> list[str]:
        async with self.database.write() as connection:
            rescued = await self._rescuing.rescue(connection, lost)
        if rescued:
            self._signals.signal({HELD, *changed_topics(rescued)})
        return rescued

    async def backlog(self) -> dict[str, Backlog]:
        async with self.database.read() as connection:
            return await queries.backlog(self.tables, connection, self.database.now())

    async def unclaim(self, job_ids: Sequence[str]) -> None:
        await self._claims.give_back(job_ids)

    @repeated
    async def give_up(self, job_ids: Sequence[str], error: ErrorInfo) -> list[str]:
        known = [job_id for job_id in job_ids if is_job_id(job_id)]
        async with self.database.write() as connection:
            ended = await self._rescuing.give_up(connection, known, error)
        if ended:
            self._signals.signal(changed_topics(ended))
        return ended

    async def get_jobs(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        known = [job_id for job_id in job_ids if is_job_id(job_id)]
        async with self.database.read() as connection:
            return await queries.get_jobs(self.database, self.tables, connection, known)

    async def list_jobs(self, where: JobFilter) -> list[JobInfo]:
        async with self.database.read() as connection:
            return await queries.list_jobs(self.database, self.tables, connection, where)

    async def count_jobs(self, where: JobFilter | None = None) -> dict[State, int]:
        where = where or JobFilter()
        query = statistics.totals(self.database, self.tables, where)
        if query is None:
            query = listing.counts(self.database, self.tables, where)
        async with self.database.read() as connection:
            return {State(row.state): row.jobs for row in await connection.execute(query)}

    async def series(
        self,
        since: float,
        until: float,
        step: float,
        *,
        name: str | None = None,
        lane: str | None = None,
        by: Literal["name", "lane"] | None = None,
    ) -> list[Bucket]:
        async with self.database.read() as connection:
            return await self._statistics.series(
                connection, since, until, step, name=name, lane=lane, by=by
            )

    async def failures(
        self, since: float = 0.0, limit: int = 50, *, app: str = ""
    ) -> list[FailureGroup]:
        async with self.database.read() as connection:
            return await self._statistics.failures(connection, since, limit, app)

    async def attempts(self, job_id: str) -> list[AttemptInfo]:
        if not is_job_id(job_id):
            return []
        async with self.database.read() as connection:
            return await queries.attempts(self.tables, connection, job_id)

    async def links(self, job_id: str) -> Links:
        if not is_job_id(job_id):
            return Links()
        async with self.database.read() as connection:
            return await queries.links(self.tables, connection, job_id)

    async def events(self, job_id: str, after: int = -1, limit: int = 1000) -> list[EventInfo]:
        if not is_job_id(job_id):
            return []
        async with self.database.read() as connection:
            return await queries.events(self.tables, connection, job_id, after, limit)

    async def last_events(self, job_ids: Sequence[str]) -> dict[str, int]:
        known = [job_id for job_id in job_ids if is_job_id(job_id)]
        if not known:
            return {}
        async with self.database.read() as connection:
            return await queries.last_events(self.database, self.tables, connection, known)

    @repeated
    async def retry(self, job_ids: Sequence[str], payload: bytes | None = None) -> dict[str, str]:
        async with self.database.write() as connection:
            made = await self._again.run(connection, job_ids, payload)
        if made:
            self._signals.signal({HELD, *changed_topics(made.values())})
        return made

    async def remove(self, job_ids: Sequence[str]) -> set[str]:
        return await self._forgetting.remove(job_ids)

    async def outlived(
        self, retention: Mapping[State, float], limit: int, page: Any = None
    ) -> Outlived:
        async with self.database.read() as connection:
            return await self._forgetting.outlived(connection, retention, limit, page)

    @repeated
    async def sweep(self, workers_before: float, limit: int) -> int:
        async with self.database.write() as connection:
            gone = await self._forgetting.sweep(connection, workers_before, limit)
            gone += await self._credentials.sweep(connection, limit)
        async with self.database.write() as connection:
            orphans = await self._unblocking.give_up(connection, limit)
        if orphans:
            self._signals.signal({HELD})
        return gone + len(orphans)

    @repeated
    async def roll_up(self, kept: float, limit: int) -> int:
        async with self.database.write() as connection:
            return await self._statistics.roll_up(connection, kept, limit)

    # steering --------------------------------------------------------------------------------

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        await self._steering.post(notices)

    async def board(self) -> SqlBoard:
        return self._steering.board()

    async def cluster_settings(self) -> ClusterSettings:
        return await self._steering.settings()

    async def change_settings(
        self, change: Callable[[ClusterSettings], ClusterSettings]
    ) -> ClusterSettings:
        return await self._steering.change_settings(change)

    async def add_agent(self, agent: AgentConfig) -> None:
        await self._steering.add_agent(agent)

    async def remove_agent(self, name: str) -> bool:
        return await self._steering.remove_agent(name)

    async def added_agents(self) -> dict[str, AgentConfig]:
        return await self._steering.added_agents()

    # recording -------------------------------------------------------------------------------

    async def record(self, agent: str, records: Sequence[Record], lease: Lease) -> None:
        await self.recording.record(agent, records, lease)
        self._announcer.announce(merge.changed(records))

    async def known(self, job_ids: Sequence[str]) -> dict[str, Known]:
        wanted = [job_id for job_id in job_ids if is_job_id(job_id)]
        async with self.database.read() as connection:
            return await queries.known(self.database, self.tables, connection, wanted)

    # cluster ---------------------------------------------------------------------------------

    async def workers(self, seen_after: float = 0.0) -> list[Heartbeat]:
        async with self.database.read() as connection:
            return await queries.workers(self.tables, connection, seen_after)

    async def handlers(self) -> list[HandlerInfo]:
        async with self.database.read() as connection:
            return await queries.handlers(self.tables, connection)

    @repeated
    async def remove_handler(self, name: str) -> bool:
        handlers = self.tables.handlers
        async with self.database.write() as connection:
            gone = await connection.execute(delete(handlers).where(handlers.c.name == name))
        return gone.rowcount == 1

    @repeated
    async def register_agents(self, agents: Mapping[str, str]) -> None:
        rows = [{"name": name, "url": url, "seen_at": None} for name, url in agents.items()]
        async with self.database.write() as connection:
            await self._agents.run(connection, sorted(rows, key=lambda r: str(r["name"])))

    async def agents(self) -> list[AgentInfo]:
        async with self.database.read() as connection:
            return await queries.agents(self.tables, connection)

    async def acquire(self, name: str, holder: str, ttl: float) -> Lease | None:
        return await self._leases.acquire(name, holder, ttl)

    async def renew(self, lease: Lease) -> bool:
        return await self._leases.renew(lease)

    async def release(self, lease: Lease) -> None:
        await self._leases.release(lease)

    async def leases(self) -> dict[str, str]:
        return await self._leases.held()

    async def check(self) -> list[Check]:
        subject = "master"
        try:
            await self.database.open()
            version = await self.database.server_version()
            checks = [Check(subject, True, f"{self.url}, {version}")]
            await schema.ensure(self.database, self.tables, self.settings)
            await self._join_cluster()
            migrations = schema.migrations(self.database, self.settings)
            revision = await migrations.current()
            power = await on_power_loss(self.database)
        except (MasterError, ConfigError) as error:
            return [Check(subject, False, str(error), "see the message")]
        newer = "" if revision == migrations.head else ", newer than this code, which works with it"
        checks.append(Check(f"{subject}: schema", True, f"revision {revision}{newer}"))
        skew = self.database.clock_skew
        checks.append(
            Check(
                f"{subject}: clock",
                abs(skew) < _SKEW_LIMIT,
                f"{skew:+.3f} s from this machine's",
                "" if abs(skew) < _SKEW_LIMIT else "synchronise the clocks (NTP)",
            )
        )
        checks.append(Check(f"{subject}: loss of power", *power))
        return checks
