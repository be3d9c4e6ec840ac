"""The port of agents, and what goes over it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from mesh.clock import Clock, SystemClock
from mesh.errors import AgentError
from mesh.ports.common import Board, Check, Lookup
from mesh.wire import Envelope, Record

__all__ = [
    "Agent",
    "AgentCapabilities",
    "AgentSettings",
    "Consumer",
    "Delivery",
    "FAIR_TURN",
    "LaneDepth",
    "Ledger",
    "LedgerBatch",
    "Settlement",
]


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


FAIR_TURN = 16
"""One of so many pulls of a consumer begins with the lowest priority."""


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

    async def end(self) -> int:
        """The place of the newest entry: all that was stored before the call is there or before
        it. For ``has_passed``, of any reader."""
        ...

    async def has_passed(self, place: int) -> bool:
        """Whether all entries up to that place have been acknowledged, by whichever reader: what
        they tell is in the master. Or they are lost, with the ledger."""
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

    async def push(
        self, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        """Store jobs, of any lanes and priorities, with an ``Accepted`` record each.

        ``held``: they are stored elsewhere too, which forgets them when it hears that they are
        accepted: a record of a job that is not stored would lose it. Without, one whose outcome
        is unknown may be in the ledger alone.

        One outcome per job, in order: ``None``: durably stored, on disk where the agent has
        one; ``AgentUnavailable``: certainly not stored; ``PublishOutcomeUnknown``: sent, and
        not acknowledged within ``push_timeout``; its ``job_ids`` are the job's own id alone.
        Never partial within one job.

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

    async def missing(self, jobs: Mapping[str, Collection[str]]) -> set[str]:
        """Those of the jobs, given as ids by lane, that are not here: not ready, not leased, not
        delayed.

        Evidence, for those who would run a job again: one that is here from the beginning of
        the call to its end is never named, however often it is leased, given back or put back
        meanwhile. Of one that is not here any more because it was settled, the ledger has the
        record by the time it is named. It may read all that is here of these lanes, and take
        as long. Raises ``AgentUnavailable`` if it is not known of all of them.
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
