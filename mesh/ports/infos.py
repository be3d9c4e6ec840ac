"""What a master tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mesh.definition import Definition
from mesh.held import Outcome
from mesh.job import State

__all__ = [
    "RUN_TIMES",
    "AgentInfo",
    "AttemptInfo",
    "Backlog",
    "Bucket",
    "EventInfo",
    "FailureGroup",
    "HandlerInfo",
    "JobInfo",
    "Links",
    "LimitInfo",
    "Wait",
]

RUN_TIMES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Seconds: the bounds of ``Bucket.histogram``. What took as long as a bound is above it."""


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
    fingerprint: str | None = None
    """Of a failed job: the same for failures that look alike; see ``mesh.fingerprint``."""
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
    due_at: float | None = None
    """Of one that is to be repeated: when the next may start."""


@dataclass(frozen=True, slots=True)
class EventInfo:
    """Something that happened to a job, or that its handler said."""

    job_id: str
    seq: int
    """See ``mesh.events``."""
    at: float
    kind: str
    """One of ``mesh.events.KINDS``."""
    data: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class Links:
    """Which jobs a job runs after, and which run after it, by their ids."""

    parents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    """The earliest; at most 1000."""


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
class Bucket:
    """What happened in a span of time. Each thing counts in the span in which it happened,
    whenever the master heard of it."""

    at: float
    """Where the span begins."""
    key: str | None
    """The handler's name or the lane that it is of; ``None``: it is of all."""
    enqueued: int = 0
    started: int = 0
    """Attempts that began."""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    expired: int = 0
    retried: int = 0
    """Attempts that failed, with another to come."""
    seconds: float = 0.0
    """The run time of attempts that ended, all together."""
    histogram: tuple[int, ...] = (0,) * (len(RUN_TIMES) + 1)
    """Attempts that ended after they had begun, by their run time: below the first of
    ``RUN_TIMES``, from there to the second, and so on, the last from the last one up."""
    waited: float = 0.0
    """Seconds from when jobs were enqueued, or due if that was later, to their start, all
    together."""
    waits: int = 0
    """How many starts ``waited`` is of: not those whose attempt was retried since."""


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed jobs that look alike."""

    fingerprint: str
    """For ``JobFilter.fingerprint``."""
    name: str
    """The handler."""
    error_type: str | None
    message: str | None
    """That of the newest."""
    count: int
    retried: int
    """How many of them were done again."""
    first_at: float
    """When the first of them, and the last, ended."""
    last_at: float
    job_ids: tuple[str, ...]
    """Some, the newest first."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An agent as registered in the master."""

    name: str
    url: str
    """With the password hidden."""
    seen_at: float
    """When its recorder last wrote to the master."""
    lost: int = 0
    """Jobs that it had lost, and that were dispatched again."""
    lost_at: float | None = None
    """When that was last found."""


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
class LimitInfo:
    """A limit, as it stands."""

    key: str
    """``job`` or ``lane``, its name, ``concurrency`` or ``rate``, and perhaps a value, by ``:``."""
    concurrency: int
    """How many may be under way at once; 0: any number."""
    rate: float
    """How many may begin a second; 0: any number."""
    taken: int
    """Jobs that count against it now: those under way; of a rate, those that have been let go and
    have not begun."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What keeps a job on the master, besides its time."""

    parents: Mapping[str, Outcome] = field(default_factory=dict)
    """The jobs for whose end it waits, and which end."""
    limits: Sequence[LimitInfo] = ()
    """Those that have not let it go yet."""
    agent: str | None = None
    """The one that it must go to, if it must."""
