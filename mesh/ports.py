"""The two ports: what an agent and a master promise.

An **agent** is a transport that holds jobs in flight. A **master** is the durable history.
Implementations register under the entry points ``mesh.agents`` and ``mesh.masters`` by URL
scheme (see ``mesh.plugins``). The docstrings here are the contract; the suites in
``mesh.testing.conformance`` hold every implementation to it.

Rules for both ports:

- All calls are coroutines of one event loop; an instance belongs to the loop that opened it.
- ``open`` and ``close`` may be called any number of times, in any order.
- Durations are seconds, moments are seconds since the epoch (UTC), sizes are bytes.
- Whatever goes wrong with a server is raised as ``AgentError`` or ``MasterError``, naming the
  URL with its password hidden; drivers' exceptions do not leak.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from mesh.clock import Clock, SystemClock
from mesh.config import AgentConfig
from mesh.definition import Definition
from mesh.errors import AgentError
from mesh.filter import JobFilter as JobFilter
from mesh.held import Held, Stored
from mesh.job import State
from mesh.recurring import Schedules
from mesh.settings import ClusterSettings
from mesh.wire import Envelope, Heartbeat, Record

__all__ = [
    "FAIR_TURN",
    "HELD",
    "Agent",
    "AgentCapabilities",
    "AgentInfo",
    "AgentSettings",
    "AttemptInfo",
    "Backlog",
    "Board",
    "Check",
    "Claimed",
    "Consumer",
    "Delivery",
    "EventInfo",
    "HandlerInfo",
    "JobFilter",
    "JobInfo",
    "Known",
    "LaneDepth",
    "Lease",
    "Ledger",
    "LedgerBatch",
    "Lookup",
    "Master",
    "MasterCapabilities",
    "MasterSettings",
    "Outlived",
    "Settlement",
    "Signals",
    "Unblocked",
]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of ``mesh doctor``."""

    subject: str
    """What was looked at, such as ``agent nats-1: stream``."""
    ok: bool
    detail: str
    """What was found."""
    advice: str = ""
    """What to do; empty when all is well."""


# ---------------------------------------------------------------------------------------- agent


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an agent is told by the application's configuration."""

    cluster: str = "default"
    clock: Clock = field(default_factory=SystemClock)
    push_timeout: float = 5.0
    """Seconds until a push that was not acknowledged counts as outcome unknown."""
    connect_timeout: float = 5.0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of this kind of agent, from the URL's query or the configuration."""


@dataclass(frozen=True, slots=True)
class AgentCapabilities:
    """What an agent can do. Tests skip on these, never on an agent's kind."""

    durable: bool = True
    """What was pushed survives the end of every process."""
    delayed: bool = True
    """Jobs with a ``due_at`` in the future are held by the agent itself."""
    exact_lost_count: bool = True
    """``Delivery.lost`` is known without asking the recorder."""
    reports_lost_leases: bool = True
    """``extend`` names the receipts whose lease was lost."""
    wakes: bool = True
    """A worker hears at once of what another process pushed; else it looks often."""
    several_machines: bool = True
    """Processes on several machines may use it together."""
    why_not: Mapping[str, str] = field(default_factory=dict)
    """The reason for each that is ``False``."""


class Delivery(msgspec.Struct, frozen=True):
    """One job, leased to one consumer."""

    job: Envelope
    receipt: str
    """Names the lease. Plain text: any connection to the same agent may extend it."""
    lost: int = 0
    """Attempts from ``job.attempt`` on that a worker started and never settled, as far as is
    known. The number of the attempt to run now is ``job.attempt + lost``."""
    redelivered: bool = False
    """The job was leased before and that lease ended without settlement."""


class Settlement(msgspec.Struct, frozen=True):
    """What becomes of a delivery.

    ``record`` goes to the ledger, if given. ``again`` goes back to the lane, if given, to be
    delivered at its ``due_at``: a retry, or a job given back unstarted.
    """

    delivery: Delivery
    record: Record | None = None
    again: Envelope | None = None


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """How many of a lane's jobs an agent holds."""

    ready: int = 0
    """May be pulled now. Agents with frames may count what is within a frame as one until it
    is pulled; see ``AgentCapabilities``."""
    leased: int = 0
    delayed: int = 0

    @property
    def total(self) -> int:
        return self.ready + self.leased + self.delayed


@dataclass(frozen=True, slots=True)
class Known:
    """What the master knows of a job, as an answer to ``Ledger.serve``."""

    attempt: int
    state: State
    agent: str | None = None


FAIR_TURN = 16
"""One of so many pulls of a consumer begins with the lowest priority."""

Lookup = Callable[[Sequence[str]], Awaitable[Mapping[str, Known]]]


class Board(Protocol):
    """A reader of a board: see ``mesh.notices``."""

    async def read(self, wait: float) -> Mapping[str, bytes | None]:
        """What has changed since the read before, by key; ``None`` is what was taken down.

        The first read gives, at once, all that stands. Later ones wait up to ``wait`` seconds
        for a change, and may leave out what was replaced meanwhile; with 0 they give what is
        known of without waiting, which may be a second or two old. A change may be told twice.
        Raises ``AgentError``, a master's ``MasterError``; read again later then, nothing is lost.
        """
        ...

    async def close(self) -> None: ...


class Consumer(Protocol):
    """One worker's access to one lane of an agent."""

    async def pull(self, limit: int) -> list[Delivery]:
        """Lease up to ``limit`` jobs that may start now; wait until there is at least one.

        Eligible is a job of this lane that is due and not leased. A higher priority comes first,
        but for one pull in ``FAIR_TURN``, which begins with the lowest, so that it gets a share
        whatever comes; within a priority roughly the oldest comes first. No two consumers hold
        the same job at the same time. The lease lasts the ``lease`` seconds given to
        ``Agent.consume`` unless ``Agent.extend`` prolongs it; when it expires the job becomes
        eligible again for every consumer, with ``redelivered`` set and ``lost`` counted from what
        is known to have started. A job known to have ended or to have been passed on already is
        not delivered again. Bytes that are no job are set aside (dead-lettered) with a log line
        and the lane goes on; jobs of a newer wire version are left for others.

        Safe to cancel: a job is never lost by it (at worst its lease runs out). Raises
        ``AgentUnavailable`` when the agent cannot be reached and recovers by itself: call it
        again after a pause. Returns ``[]`` only after ``close``, or because of a ``rest``.
        """
        ...

    async def rest(self) -> None:
        """Ask for nothing until the next ``pull``: one that is pending returns ``[]``. Jobs that
        are held stay leased, and may be settled."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Put ``again`` jobs back, write records, then drop the deliveries. Durable on return.

        All in one transaction where the agent has them; else in that order, so that a crash
        in between repeats a job and never loses one (a job that is recorded as ``retrying`` is
        on the agent for certain). Settling twice is harmless. A delivery whose lease was lost
        to another consumer is *stale*: a terminal record is still written (the master ignores
        it if it came too late), but the job of the new holder is not touched and ``again`` is
        not put back.

        Raises ``AgentError`` if that is not certain; the same call may then be repeated.
        """
        ...

    async def close(self) -> None:
        """Stop pulling; a pending ``pull`` returns ``[]``. Jobs that are held stay leased."""
        ...


@dataclass(frozen=True, slots=True)
class LedgerBatch:
    """Records in the order in which the agent stored them."""

    records: Sequence[Record]
    receipt: Any
    """For ``Ledger.ack``; of the agent's own kind."""


class Ledger(Protocol):
    """The reader of an agent's ledger. One at a time, by the recorder's lease."""

    async def read(self, limit: int, wait: float) -> LedgerBatch:
        """The oldest records that were not acknowledged, about ``limit`` of them at most.

        Successive reads of one reader go on behind each other; a new reader starts again at
        the oldest record not acknowledged, so a crash between write and acknowledge replays.
        With nothing there, waits up to ``wait`` seconds and returns an empty batch. Corrupt
        entries are set aside with a log line. Raises ``UnsupportedVersion`` on records of a
        newer version (which stay), ``AgentUnavailable`` when the agent cannot be reached.
        """
        ...

    async def ack(self, batch: LedgerBatch) -> None:
        """Drop the batch's records. They are in the master now. May be repeated."""
        ...

    async def serve(self, lookup: Lookup) -> None:
        """Answer this agent's consumers who ask what became of redelivered jobs.

        ``lookup`` maps job ids to what the master knows. It is called only after every record
        that was in the ledger when the question came has been acknowledged. Agents that know
        by themselves do nothing here.
        """
        ...

    @property
    def awaited(self) -> bool:
        """Whether a consumer waits for an answer, and so for records to be acknowledged."""
        ...

    async def lag(self) -> int:
        """How many ledger entries (batches of records) are not acknowledged."""
        ...

    async def close(self) -> None: ...


class Agent(Protocol):
    """A transport with a cluster-wide unique name."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str:
        """Where it is, with the password hidden."""
        ...

    @property
    def capabilities(self) -> AgentCapabilities: ...

    async def open(self) -> None:
        """Connect, and create what the agent needs if it is not there, idempotently.

        Raises ``AgentUnavailable`` if the server cannot be reached within
        ``connect_timeout``, ``AgentError`` if the account may not do what is needed.
        """
        ...

    async def close(self) -> None: ...

    async def push(self, jobs: Sequence[Envelope]) -> list[AgentError | None]:
        """Store jobs, of any lanes and priorities, with an ``Accepted`` record each.

        One outcome per job, in order: ``None``: durably stored, on disk where the agent has
        one; ``AgentUnavailable``: certainly not stored; ``PublishOutcomeUnknown``: sent, and
        not acknowledged within ``push_timeout``. Never partial within one job.

        Idempotent on (id, attempt): the same call repeated, or a single job pushed again,
        stores nothing twice for at least two minutes after the first push.
        """
        ...

    async def withdraw(self, lane: str, priority: int, job_ids: Sequence[str]) -> set[str]:
        """Take back jobs of a schedule at their first attempt, which are not due yet. Returns
        those that were there, are gone, and will never be delivered.

        Raises ``AgentUnavailable`` if that is not known.
        """
        ...

    async def consume(self, lane: str, *, lease: float) -> Consumer:
        """Access to a lane; ``lease`` is the seconds a delivery is held without ``extend``."""
        ...

    async def extend(self, receipts: Sequence[str], lease: float) -> set[str]:
        """Make leases last ``lease`` seconds from now. Returns those known to be lost."""
        ...

    async def append(self, records: Sequence[Record]) -> None:
        """Write records to the ledger, in order. Durable on return; else ``AgentError``."""
        ...

    async def ledger(self) -> Ledger:
        """A new reader of the ledger."""
        ...

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        """Put notices on the agent's board, or with ``None`` take them down. As durable on return
        as jobs are; else ``AgentError``. Raises ``ValueError`` as ``check_notices`` does."""
        ...

    async def board(self) -> Board:
        """A new reader of the board."""
        ...

    async def depth(self) -> Mapping[str, LaneDepth]:
        """Jobs on this agent by lane; lanes with none may be missing."""
        ...

    async def check(self) -> list[Check]:
        """Findings for ``mesh doctor``. Never raises for a server's fault: reports it."""
        ...


# --------------------------------------------------------------------------------------- master


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


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as the master knows it. Moments are seconds since the epoch."""

    id: str
    name: str
    lane: str
    priority: int
    state: State
    attempt: int
    """The latest attempt that is known of; before the first starts, the one to come."""
    enqueued_at: float
    payload: bytes | None
    """JSON; ``None`` as long as the master has heard of the job only from its worker."""
    due_at: float | None = None
    started_at: float | None = None
    """When the latest attempt started."""
    finished_at: float | None = None
    agent: str | None = None
    worker: str | None = None
    result: bytes | None = None
    """JSON."""
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    meta: Mapping[str, str] | None = None
    schedule: str | None = None
    """The schedule that made it, and the slot that it is for."""
    slot: float | None = None
    key: str | None = None
    workflow: str | None = None
    parent: str | None = None
    """The job whose handler enqueued it."""
    retry_of: str | None = None
    """The ended job that it does again."""
    retried_as: str | None = None
    """The job that does it again."""
    result_ttl: float | None = None
    """Seconds for which it is kept after its end; ``None``: as the cluster says."""
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """One execution. ``outcome`` is a state word, or ``lost``: its worker died, or its lease
    ended, before it settled."""

    job_id: str
    attempt: int
    outcome: str
    worker: str | None
    started_at: float | None
    finished_at: float | None
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None


@dataclass(frozen=True, slots=True)
class EventInfo:
    """Something a handler said while it ran."""

    job_id: str
    seq: int
    at: float
    kind: str
    data: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """A lane's jobs that have not begun, or will run again."""

    held: int = 0
    """On the master."""
    sent: int = 0
    """On agents."""
    oldest_at: float | None = None
    """When the oldest of those was enqueued that is due."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An agent as registered in the master."""

    name: str
    url: str
    """With the password hidden."""
    seen_at: float
    """When its recorder last wrote to the master."""


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """A handler as workers told of it. Moments by the workers' clocks."""

    name: str
    app: str
    """The ``prefix`` of the app that has it."""
    definition: Definition
    first_seen: float
    changed_at: float
    """When a worker first said it as it is now."""
    seen_at: float
    """When a worker that has it last started."""


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
    more_at: float | None = None
    """When a rate lets the next one begin, if one waits for that alone."""


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


class Signals(Protocol):
    """Hints that something was committed, across processes where the database can. What is lost
    with one is time: whoever waits looks again after ``pause``."""

    def waiting(self, topic: str, event: asyncio.Event) -> AbstractContextManager[None]:
        """Within the block, signals of the topic set ``event``."""
        ...

    def signal(self, topics: Collection[str]) -> None:
        """Something of these topics was committed."""
        ...

    def pause(self, looks: int) -> float:
        """Seconds until a waiter that looked ``looks`` times in vain looks again."""
        ...


HELD = "held"
"""The topic of those who wait for jobs that may be dispatched."""


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
        Those of the lanes that are left out take no place from others.

        A job counts against its limits' concurrency from its claim to its end, and against
        their rates once.
        """
        ...

    async def hold(self, jobs: Sequence[Envelope]) -> None:
        """Store jobs as ``scheduled`` in one transaction. Ids already known are left alone."""
        ...

    async def take_back(self, jobs: Sequence[Envelope]) -> None:
        """Hold jobs that come from an agent, as ``scheduled``, each under an attempt's number
        greater than it had there: so what the agent's ledger still tells of them is the past.
        Repeating it changes nothing."""
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
        ``scheduled`` and is not claimed again for ``claim`` seconds, by when an ``Accepted``
        record has moved it on, unless the claimer died.
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

    async def get_jobs(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        """Those of the ids that the master knows."""
        ...

    async def list_jobs(self, where: JobFilter) -> list[JobInfo]:
        """One page of jobs. ``where.next_page`` of its last one leads to the next: a page that
        is not full is the last."""
        ...

    async def count_jobs(self, where: JobFilter | None = None) -> dict[State, int]:
        """How many jobs there are in each state; states with none are missing. Of ``where`` the
        order counts for what its moments mean, limit and page do not."""
        ...

    async def attempts(self, job_id: str) -> list[AttemptInfo]:
        """All attempts of a job, in order, the latest one included."""
        ...

    async def events(self, job_id: str, after: int = -1, limit: int = 1000) -> list[EventInfo]:
        """Persisted events with ``seq > after``, in order."""
        ...

    async def retry(self, job_ids: Sequence[str], payload: bytes | None = None) -> dict[str, str]:
        """Do ended jobs again: for each a new job, held and due now, of the same name, lane,
        priority, meta and payload (or ``payload``, JSON), with ``retry_of``; the old one's
        ``retried_as`` names it. Returns the new ids by the old ones, in one transaction.

        A job that ran after others does so again: after what they were done again as, in this
        call or before, if they were. A job is done again once at most, however many ask at the
        same time. Left out are jobs that are not known, have not ended, were done again already,
        or whose payload never came and is not given. What was said for the old job alone (its
        timeout and retry policy, its key) is not kept by the history: the handler's and the
        cluster's hold.
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
        """Forget up to ``limit`` workers last heard of before that moment, and idempotency keys
        whose time is over. Returns how many there were: fewer than ``limit``, then that is all."""
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
        another attempt is kept as that attempt. Raises ``LeaseLost`` and writes nothing if
        ``lease`` is no longer the newest of its name.
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

    async def check(self) -> list[Check]:
        """Findings for ``mesh doctor``. Never raises for a server's fault: reports it."""
        ...
