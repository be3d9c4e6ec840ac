"""What travels: job envelopes in frames, and ledger records in batches.

A **frame** is msgpack ``[version, [envelope, ...]]``, a ledger entry is msgpack
``[version, [record, ...]]``. Envelopes and records are arrays whose fields stand in the order
given here; a later version may append fields, which older readers skip. Records begin with
their kind; one of a kind that came later (``Defined``) stands in an entry of its own, so that a
reader that does not know it sets aside that and nothing else. Payloads, results and event data
are JSON inside, so that history is readable and another language could join; encrypted ones are
JSON still, ``{"$encrypted": text}``. A reader refuses a version above its own with
``UnsupportedVersion`` and anything that is no message at all with ``CorruptMessage``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from mesh.errors import ConfigError, CorruptMessage, UnsupportedVersion
from mesh.job import State
from mesh.retry import Retry

__all__ = [
    "VERSION",
    "Accepted",
    "Aside",
    "Defined",
    "Envelope",
    "ErrorInfo",
    "Event",
    "Finished",
    "Heartbeat",
    "LaneLoad",
    "Limit",
    "Parent",
    "Record",
    "Retrying",
    "Started",
    "check_version",
    "decode_frame",
    "decode_jobs",
    "decode_records",
    "encode_frame",
    "encode_records",
]

VERSION = 1


class Limit(Struct, frozen=True, array_like=True, gc=False):
    """One limit that a job counts against, with all jobs of the cluster that name the same key."""

    key: str
    concurrency: int = 0
    """How many may be under way at once; 0 is any number."""
    rate: float = 0.0
    """How many may begin a second, on average; 0 is any number."""
    burst: float = 1.0
    """How many may begin at once after a pause."""


class Parent(Struct, frozen=True, array_like=True, gc=False):
    """A job that another was to run after, and how it ended."""

    id: str
    name: str
    """Its name in the workflow, else its handler's."""
    state: State
    result: bytes | None = None
    """JSON."""


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """A job on its way to a worker. Times are seconds since the epoch."""

    id: str
    name: str
    """The handler's name."""
    payload: bytes
    """A JSON object: the arguments by their names."""
    lane: str
    priority: int
    enqueued_at: float
    attempt: int = 1
    """The number of the execution to come, from 1."""
    due_at: float = 0.0
    """Not to start before this moment; 0 is at once."""
    timeout: float | None = None
    """Seconds an attempt may take; ``None`` takes the handler's, then the cluster's."""
    retry: Retry | None = None
    """``None`` takes the handler's policy, then the cluster's."""
    meta: dict[str, str] | None = None
    given_id: bool = False
    """The caller chose the id, or the job was moved, so it may have been stored before."""
    misses: int = 0
    """How many workers gave the job back because they do not know its handler."""
    schedule: str | None = None
    """The schedule that made it."""
    slot: float | None = None
    """The moment of the schedule that it is for; ``None`` for a run out of turn."""
    expires_at: float = 0.0
    """Not to start its first attempt after this moment; 0 is never."""
    deadline: float = 0.0
    """No attempt runs beyond this moment; 0 is never."""
    key: str | None = None
    """The idempotency key."""
    result_ttl: float | None = None
    """Seconds for which the history keeps the job after its end; ``None`` takes the cluster's."""
    workflow: str | None = None
    """The workflow that it is part of."""
    parent: str | None = None
    """The job whose handler enqueued it."""
    parents: list[Parent] | None = None
    """The jobs that it ran after; filled in when the last of them has ended."""
    limits: list[Limit] | None = None
    """What it counts against while it is under way."""
    headers: dict[str, str] | None = None
    """What middleware has to say to middleware: not shown, not searched."""
    snoozes: int = 0
    """How many of the attempts so far were snoozed, and so do not count."""
    agent: str | None = None
    """The agent that the caller chose; ``None``: any that serves the lane."""
    lost: int = 0
    """How many attempts just before this one were lost, of which the ledger does not tell yet; or
    will not, as the agent was lost with it."""


class ErrorInfo(Struct, frozen=True, array_like=True, gc=False):
    """Why an attempt did not succeed."""

    type: str
    message: str
    traceback: str = ""


class _Run(Struct, frozen=True, array_like=True, gc=False):
    """What each record of an execution says. Enough to make a row of history by itself, for
    the case that the job's ``Accepted`` record never came."""

    id: str
    attempt: int
    at: float
    name: str
    lane: str
    priority: int
    enqueued_at: float
    worker: str
    started_at: float
    lost: int
    """How many attempts just before this one ended with no outcome: their worker died."""


class Accepted(Struct, frozen=True, array_like=True, tag="accepted", gc=False):
    """The agent stored the job."""

    job: Envelope
    at: float


class Started(_Run, frozen=True, array_like=True, tag="started", gc=False):
    """A worker began an attempt."""


class Retrying(_Run, frozen=True, array_like=True, tag="retrying", gc=False):
    """An attempt failed and another will come."""

    error: ErrorInfo
    due_at: float


class Finished(_Run, frozen=True, array_like=True, tag="finished", gc=False):
    """The job reached a terminal state."""

    state: State
    result: bytes | None = None
    """JSON."""
    error: ErrorInfo | None = None


class Event(Struct, frozen=True, array_like=True, tag="event", gc=False):
    """Something a running handler said. ``seq`` grows within a job, over its attempts too: of
    attempt *n* it is above *n* times 2**32 (``mesh.events``)."""

    id: str
    seq: int
    at: float
    kind: str
    """``progress``, ``log``, ``chunk`` or ``metric``."""
    data: bytes
    """JSON."""


class LaneLoad(Struct, frozen=True, array_like=True, gc=False):
    """How busy a worker is in one lane."""

    lane: str
    concurrency: int
    running: int
    held: int
    """Pulled, not started."""
    since: float = 0.0
    """Attempts that the worker began before this moment, by its clock, are over as far as it is
    concerned, and what they came to is in the ledger before this; 0 is not known."""


class Heartbeat(Struct, frozen=True, array_like=True, tag="heartbeat", gc=False):
    """A worker is alive. The last one before it ends says ``stopped``."""

    worker: str
    at: float
    agent: str
    host: str
    pid: int
    version: str
    started_at: float
    state: str
    """``running``, ``draining`` or ``stopped``."""
    lanes: list[LaneLoad]
    finished: int = 0
    """Attempts ended since the worker started."""
    stragglers: int = 0
    """Threads of handlers that go on although their attempts are over."""


class Defined(Struct, frozen=True, array_like=True, tag="defined", gc=False):
    """What a handler is, said by a worker that has its code, when it starts."""

    name: str
    lane: str
    at: float
    app: str
    """The app's ``prefix``."""
    definition: bytes
    """JSON of ``mesh.definition.Definition``."""


Record = Accepted | Started | Retrying | Finished | Event | Heartbeat | Defined

Aside = Event | Heartbeat | Defined
"""Records that tell nothing of a job's state."""


T = TypeVar("T")


class _Batch(Struct, Generic[T], frozen=True, array_like=True):
    version: int
    items: list[T]


class _Version(Struct, frozen=True, array_like=True):
    version: int


_encode = msgspec.msgpack.Encoder().encode
_frame_decoder = msgspec.msgpack.Decoder(_Batch[Envelope])
_records_decoder = msgspec.msgpack.Decoder(_Batch[Record])
_version_decoder = msgspec.msgpack.Decoder(_Version)

# ConfigError: the values of a Retry are checked when it is made.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError)


def encode_frame(jobs: Sequence[Envelope]) -> bytes:
    return _encode((VERSION, jobs))


def decode_frame(data: bytes) -> list[Envelope]:
    """Raises ``UnsupportedVersion`` or ``CorruptMessage``."""
    return _decode(_frame_decoder, data)


def decode_jobs(data: bytes, lane: str) -> list[Envelope]:
    """The jobs of a frame that was on ``lane``. Raises as ``decode_frame`` does; of a job that
    cannot be put back there, as it says that it is of another or due at no moment, too."""
    jobs = decode_frame(data)
    for job in jobs:
        if job.lane != lane or not isfinite(job.due_at):
            raise CorruptMessage(
                f"on lane {lane} was job {job.id}, of lane '{job.lane}', due at {job.due_at}"
            )
    return jobs


def encode_records(records: Sequence[Record]) -> bytes:
    return _encode((VERSION, records))


def decode_records(data: bytes) -> list[Record]:
    """Raises ``UnsupportedVersion`` or ``CorruptMessage``."""
    return _decode(_records_decoder, data)


def _decode(decoder: msgspec.msgpack.Decoder[_Batch[T]], data: bytes) -> list[T]:
    try:
        batch = decoder.decode(data)
    except _UNREADABLE as error:
        check_version(data)
        raise CorruptMessage(f"{len(data)} bytes are not a jobmesh message: {error}") from error
    if batch.version > VERSION:
        check_version(data)
    return batch.items


def check_version(data: bytes) -> None:
    """Raises ``UnsupportedVersion`` if the message is of a newer version."""
    try:
        version = _version_decoder.decode(data).version
    except _UNREADABLE:
        return
    if version > VERSION:
        raise UnsupportedVersion(
            f"the message has wire version {version}, this jobmesh reads up to {VERSION}; "
            "it is kept: upgrade this process"
        )
