"""The port of masters, and what goes over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mesh.clock import Clock, SystemClock
from mesh.config import AgentConfig
from mesh.filter import JobFilter
from mesh.held import Held, Stored
from mesh.job import State
from mesh.ports.common import Board, Check, Known, Signals
from mesh.ports.credentials import Credentials
from mesh.ports.infos import (
    AgentInfo,
    AttemptInfo,
    Backlog,
    Bucket,
    EventInfo,
    FailureGroup,
    HandlerInfo,
    JobInfo,
    Links,
    Wait,
)
from mesh.recurring import Schedules
from mesh.settings import ClusterSettings
from mesh.wire import Envelope, ErrorInfo, Heartbeat, Record

__all__ = [
    "Claimed",
    "Lease",
    "Master",
    "MasterCapabilities",
    "MasterSettings",
    "Outlived",
    "Suspect",
    "Suspects",
    "Unblocked",
]


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """What a master is told by the application's configuration."""

    cluster: str = "default"
    clock: Clock = field(default_factory=SystemClock)
    auto_migrate: bool | None = None
    """Bring the schema up to date on ``open``. ``None``: where the database is a local file."""
    schema: str | None = None
    """The database schema (namespace) of the tables, where the database has such."""
    table_prefix: str = "mesh_"
    connect_timeout: float = 5.0
    persist_events: Collection[str] = ("lifecycle", "progress", "result")
    """The kinds of events that are kept as long as their jobs."""
    event_ttl: float = 900.0
    """Seconds for which others are kept; 0: not at all."""


@dataclass(frozen=True, slots=True)
class MasterCapabilities:
    """What a master can do."""

    wakes: bool = True
    """A coordinator hears at once of what another process stored; else it looks often."""
    parallel_writes: bool = True
    """Several processes write at the same time."""
    several_machines: bool = True
    """Processes on several machines may use it together."""
    why_not: Mapping[str, str] = field(default_factory=dict)
    """The reason for each that is ``False``."""


@dataclass(frozen=True, slots=True)
class Outlived:
    """Jobs that the history need not keep."""

    job_ids: Sequence[str]
    page: Any
    """For the next call; ``None``: there are no more now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A right held by one process at a time. ``token`` grows with each new holder, and writes
    that carry an old token are refused."""

    name: str
    holder: str
    token: int
    ttl: float
    """Seconds from the last ``acquire`` or ``renew``."""


@dataclass(frozen=True, slots=True)
class Unblocked:
    """What ``Master.unblock`` did, and whether there is more to come."""

    jobs: int = 0
    """Jobs that were waiting and are so no longer."""
    waits: bool = False
    """Some job waits for another's end: to run after it, or to have its place under a limit."""
    gated: bool = False
    """Some job is held under a limit."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Jobs that a dispatcher has in hand."""

    jobs: Sequence[Envelope]
    more_in: float | None = None
    """Seconds until a rate lets the next one begin, if one waits for that alone."""
    is_part: bool = False
    """There are limits that were not looked at: the next call goes on with those."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A job that is on an agent as far as the master knows, or may be, as it was when it was
    looked at."""

    id: str
    lane: str
    agent: str | None
    """``None``: it was about to be brought to one."""
    state: State
    """``queued``, ``running`` or ``retrying``; ``scheduled`` if it was about to be."""
    attempt: int
    worker: str | None = None
    started_at: float | None = None
    """When that worker began it, by its clock; masters may keep no more than microseconds."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Jobs of which nothing was heard for a while."""

    jobs: Sequence[Suspect]
    page: Any
    """For the next call; ``None``: there are no more now."""


class Master(Protocol):
    """The durable history and configuration of a cluster."""

    @property
    def capabilities(self) -> MasterCapabilities: ...

    @property
    def url(self) -> str:
        """Where it is, with the password hidden."""
        ...

    async def open(self) -> None:
        """Connect; migrate if the settings say so; check schema and cluster.

        Raises ``MasterUnavailable`` if it cannot be reached, ``SchemaMismatch`` if its schema
        is not this code's, ``ConfigError`` if it belongs to another cluster.
        """
        ...

    async def close(self) -> None: ...

    @property
    def schedules(self) -> Schedules: ...

    @property
    def credentials(self) -> Credentials: ...

    @property
    def signals(self) -> Signals:
        """For those who wait for what others write. Of an opened master."""
        ...

    # jobs ------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[Held], within: Any = None) -> list[Stored]:
        """Store jobs with their conditions, in one transaction, and say what became of each.

        *Keys*: a job whose key stands for another is not stored, and that one is returned as
        existing. A key stands for a job as its rule said when it was stored; the newcomer's rule
        says what happens on a conflict. Of any number who come at once, one is stored.
        *Parents*: the job is ``waiting`` until all it waits for have ended as asked, or one has
        ended otherwise, which cancels it. *Limits*: it is held until its limits let it go, those
        of higher priority first, then the earliest due.

        ``within`` is the caller's own transaction, of ``mesh.sql.Within``'s kinds, on the
        master's database: jobs are there when that commits, and not otherwise. Raises
        ``ConfigError`` if it cannot be that.
        """
        ...

    async def find_key(self, key: str) -> str | None:
        """The job for which a key stands now."""
        ...

    async def unblock(self, ended: Collection[str] | None = None) -> Unblocked:
        """Let go what waited for the jobs ``ended``, or, without it, for any that have ended;
        end held jobs that have expired. May be called by many at once, with ids that have not
        ended or that nobody waits for.

        A job whose parents have ended as asked is ``scheduled``, with their results in its
        envelope, and in its arguments where they feed them.
        """
        ...

    async def claim_gated(
        self, until: float, limit: int, claim: float, leaving_out: Collection[str] = ()
    ) -> Claimed:
        """Like ``claim_due``, for jobs under limits: as many of each as the limits allow now.
        Limits that others have in hand, such as another dispatcher, are left to them, and jobs of
        the lanes that are left out take no place from others.

        A job counts against its limits' concurrency from its claim to its end, and against
        their rates once.
        """
        ...

    async def waits(self, job_ids: Sequence[str]) -> dict[str, Wait]:
        """What keeps those of the jobs that are ``scheduled`` or ``waiting``; others are
        missing."""
        ...

    async def hold(self, jobs: Sequence[Envelope]) -> None:
        """Store jobs as ``scheduled`` in one transaction. Ids already known are left alone."""
        ...

    async def take_back(self, jobs: Sequence[Envelope]) -> None:
        """Hold jobs that come from an agent, as ``scheduled``, each under an attempt's number
        greater than it had there: so what the agent's ledger still tells of them is the past.
        Repeating it changes nothing."""
        ...

    async def suspects(self, before: float, limit: int, page: Any = None) -> Suspects:
        """Up to ``limit`` jobs that are on an agent as far as is known here, and were to begin, or
        began, before that moment. ``page`` is that of the answer before."""
        ...

    async def doubtful(self, until: float, limit: int) -> list[Suspect]:
        """Up to ``limit`` held jobs, due by ``until``, whose claim has come to its end."""
        ...

    async def rescue(self, lost: Sequence[Suspect]) -> list[str]:
        """Hold jobs again that their agents have lost, due at once; only those that are still as
        they were seen. Returns the ids of those.

        Each gets an attempt's number greater than any that it had there, so that whatever is
        still told of those is the past, and the last of them is noted as ``lost``. It counts
        against the job's policy if it had begun. A job whose arguments never came here cannot be
        held: it ends ``failed``.

        Of a doubtful job the claim is given up, if it has not been claimed anew.
        """
        ...

    async def backlog(self) -> dict[str, Backlog]:
        """By lane, the jobs that have not ended and do not run, as far as the master knows."""
        ...

    async def claim_due(
        self, until: float, limit: int, claim: float, leaving_out: Collection[str] = ()
    ) -> list[Envelope]:
        """Take up to ``limit`` held jobs that are due by ``until``, the earliest first; not those
        under limits, nor before they are due those that are ``firm``, nor those of the lanes
        that are left out.

        Several dispatchers may claim at once; none gets another's. A claimed job stays
        ``scheduled`` until an ``Accepted`` record has moved it on, and is not claimed again unless
        the claim is given up. If ``claim`` seconds have gone and neither has happened it is
        ``doubtful``: its dispatcher died, or an agent has it and the recorder is behind.
        """
        ...

    async def cancel(self, job_ids: Sequence[str], reason: str) -> dict[str, State]:
        """Ask for jobs to be cancelled. Returns the states of those that the master knows.

        A job that is held here and in no dispatcher's hands is ``cancelled`` at once. For any
        other that has not ended, one the master has not heard of included, a notice is put on
        the board, which stands until the job has ended: workers that have the job, or get it,
        call it off. Asking again changes nothing, not the reason either.
        """
        ...

    async def unclaim(self, job_ids: Sequence[str]) -> None:
        """Give up claims, so that the jobs can be claimed at once."""
        ...

    async def give_up(self, job_ids: Sequence[str], error: ErrorInfo) -> list[str]:
        """End held jobs as ``failed``. Returns the ids of those that were held."""
        ...

    async def get_jobs(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        """Those of the ids that the master knows."""
        ...

    async def list_jobs(self, where: JobFilter) -> list[JobInfo]:
        """One page of jobs. ``where.next_page`` of its last one leads to the next: a page that
        is not full is the last."""
        ...

    async def count_jobs(self, where: JobFilter | None = None) -> dict[State, int]:
        """How many jobs there are in each state; states with none are missing. Of ``where`` the
        order counts for what its moments mean, limit and page do not.

        Exact. Where nothing but states, name, lane and app is said, it does not go through the
        history: it takes as long for any number of jobs.
        """
        ...

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
        """What happened from ``since`` until before ``until``, in spans of ``step`` seconds that
        begin at multiples of it; of one handler, or of those whose names begin as in
        ``reports.*``, of one lane; of all together, or ``by`` handler or lane.

        All spans are there, by key and then by time, also those in which nothing happened;
        ``by`` something, for each key of which something happened. Counted as it happens, so
        that it takes as long for any number of jobs, and kept longer than the jobs are. Two days
        ago and before, it is known by the hour: shorter spans then have all at the full hour.
        Raises ``ConfigError`` if the step is not of whole minutes, or gives over 5000 spans.
        """
        ...

    async def failures(
        self, since: float = 0.0, limit: int = 50, *, app: str = ""
    ) -> list[FailureGroup]:
        """Failed jobs in the history that ended from ``since`` on, in groups of those that look
        alike: up to ``limit`` of them, the largest first. ``app`` is as in ``JobFilter``."""
        ...

    async def attempts(self, job_id: str) -> list[AttemptInfo]:
        """All attempts of a job, in order, the latest one included."""
        ...

    async def links(self, job_id: str) -> Links:
        """What a job runs after, and what after it, as far as the history still has it."""
        ...

    async def events(self, job_id: str, after: int = -1, limit: int = 1000) -> list[EventInfo]:
        """What is stored of a job's events with ``seq > after``, in order; ``mesh.feed`` makes the
        whole of it. There may be one of kind ``lifecycle`` among them: a mark that the job ended
        there, with an attempt before."""
        ...

    async def last_events(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The ``seq`` of the last that is stored, of those of the jobs that have any."""
        ...

    async def retry(self, job_ids: Sequence[str], payload: bytes | None = None) -> dict[str, str]:
        """Do ended jobs again: for each a new job, held and due now, of the same name, lane,
        priority, meta and payload (or ``payload``, JSON), with ``retry_of``; the old one's
        ``retried_as`` names it. Returns the new ids by the old ones, in one transaction.

        A job that ran after others does so again: after what they were done again as, in this
        call or before, if they were. A job is done again once at most, however many ask at the
        same time. Left out are jobs that are not known, have not ended, were done again already,
        or whose payload never came and is not given. Raises ``InvalidArguments``, with nothing
        done, if an old payload was encrypted and the one given is not. What was said for the
        old job alone (its timeout and retry policy, its key) is not kept by the history: the
        handler's and the cluster's hold.
        """
        ...

    async def remove(self, job_ids: Sequence[str]) -> set[str]:
        """Forget ended jobs, with all that there is of them. Returns those that are gone.

        In transactions of up to 1000 rows, so that nobody waits long. Left out are jobs that
        are not known, have not ended, are being written to, or that an unfinished job or
        workflow still needs.
        """
        ...

    async def outlived(
        self, retention: Mapping[State, float], limit: int, page: Any = None
    ) -> Outlived:
        """Up to ``limit`` ended jobs whose time in the history is over, the oldest of a state
        first: their own ``result_ttl`` if they have one, else the ``retention`` (seconds) of
        their state; a state that is missing is kept for ever. None is younger than a minute,
        so that who waits for a result can read it. ``page`` is that of the answer before."""
        ...

    async def sweep(self, workers_before: float, limit: int) -> int:
        """Forget up to ``limit`` workers last heard of before that moment, idempotency keys and
        events whose time is over; cancel jobs that wait for one that the master has not heard of
        a day after its id was made. Returns how many there were: fewer than ``limit``, then that
        is all."""
        ...

    async def roll_up(self, kept: float, limit: int) -> int:
        """Bring together up to about ``limit`` rows of what ``series`` and ``count_jobs`` read,
        which does not change what they tell but as ``series`` says, and forget what happened over
        ``kept`` seconds ago, two days at least. Returns how many rows that took away: fewer than
        ``limit``, then that is all for now. Any number may do so at once."""
        ...

    # steering --------------------------------------------------------------------------------

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        """Put notices on the master's board, or with ``None`` take them down. Raises
        ``ValueError`` as ``check_notices`` does."""
        ...

    async def board(self) -> Board:
        """A new reader of the master's board, which the control duty copies to all agents."""
        ...

    async def cluster_settings(self) -> ClusterSettings:
        """The cluster's settings; they are the board's notice ``cluster`` too."""
        ...

    async def change_settings(
        self, change: Callable[[ClusterSettings], ClusterSettings]
    ) -> ClusterSettings:
        """Put what ``change`` makes of the settings in their place, with the next revision.
        Concurrent changes follow each other. ``change`` is called within a transaction: it must
        be quick, and what it raises is raised, with nothing changed."""
        ...

    async def add_agent(self, agent: AgentConfig) -> None:
        """Add an agent to the cluster, for all processes that do not have one of that name in
        their configuration; again: with another URL or other lanes. Its URL is kept as it is,
        password and all."""
        ...

    async def remove_agent(self, name: str) -> bool:
        """Forget an agent, as far as the master knows it. Whether it was known."""
        ...

    async def added_agents(self) -> dict[str, AgentConfig]:
        """The agents that were added, by name, with their whole URLs."""
        ...

    # recording -------------------------------------------------------------------------------

    async def record(self, agent: str, records: Sequence[Record], lease: Lease) -> None:
        """Apply an agent's ledger records, all of a job's in one transaction.

        If it raises, some jobs' records may have been applied: record the same again. Records
        may come again and in any order between jobs: a job only moves forward by
        ``mesh.job.state_version``, and the first terminal outcome stands. A later outcome of
        another attempt is kept as that attempt. An event that comes after the end of its attempt,
        or of its job, is left out, as is one of an attempt older than the job's. Raises
        ``LeaseLost`` and writes nothing if ``lease`` is no longer the newest of its name.
        """
        ...

    async def known(self, job_ids: Sequence[str]) -> dict[str, Known]:
        """State and attempt of those of the ids that are known."""
        ...

    # cluster ---------------------------------------------------------------------------------

    async def workers(self, seen_after: float = 0.0) -> list[Heartbeat]:
        """The last heartbeat of each worker since that moment, the newest first."""
        ...

    async def handlers(self) -> list[HandlerInfo]:
        """All handlers that a worker ever told of, by name, as the worker said that started
        last. One that no code has any more stays until it is removed."""
        ...

    async def remove_handler(self, name: str) -> bool:
        """Forget a handler; a worker that starts with it brings it back. Whether it was known."""
        ...

    async def register_agents(self, agents: Mapping[str, str]) -> None:
        """Note the cluster's agents: name → URL with its password hidden."""
        ...

    async def agents(self) -> list[AgentInfo]: ...

    async def acquire(self, name: str, holder: str, ttl: float) -> Lease | None:
        """Take the lease if it is free, expired, or the holder's own; else ``None``.

        Expiry is judged by the master's clock. A new holder gets a greater token; a holder
        who takes its own unexpired lease again keeps its token.
        """
        ...

    async def renew(self, lease: Lease) -> bool:
        """Extend by ``lease.ttl`` from now. ``False``: it went to another holder."""
        ...

    async def release(self, lease: Lease) -> None:
        """Free the lease, if it is still held."""
        ...

    async def leases(self) -> dict[str, str]:
        """Who holds which lease now: name → holder."""
        ...

    async def check(self) -> list[Check]:
        """Findings for ``mesh doctor``. Never raises for a server's fault: reports it."""
        ...
