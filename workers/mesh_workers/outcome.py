"""What becomes of an attempt. Pure: no I/O, no clock, randomness is passed in."""

from __future__ import annotations

import traceback
from random import Random
from types import TracebackType

import msgspec

from mesh.job import State
from mesh.retry import Retry
from mesh.wire import Envelope, ErrorInfo, Finished, Retrying, Started

__all__ = [
    "MISS_LIMIT",
    "Cancelled",
    "Failed",
    "Outcome",
    "Run",
    "Succeeded",
    "decide",
    "describe",
    "end_unstarted",
    "miss",
    "start",
]

MAX_TRACEBACK = 16 * 1024
MAX_MESSAGE = 2 * 1024
MAX_TYPE = 256

MISS_LIMIT = 10
"""After so many workers that do not know a job's handler, the job fails."""

_FIRST_MISS_DELAY, _LONGEST_MISS_DELAY = 1.0, 30.0


class Run(msgspec.Struct, frozen=True, gc=False):
    """One attempt at a job, by one worker."""

    job: Envelope
    attempt: int
    lost: int
    """Attempts just before this one whose worker died."""
    worker: str
    started_at: float


class Succeeded(msgspec.Struct, frozen=True, gc=False, tag=True):
    result: bytes
    """JSON."""


class Failed(msgspec.Struct, frozen=True, gc=False, tag=True):
    error: ErrorInfo
    retryable: bool = True
    delay: float | None = None
    """Seconds until the next attempt, if there is one; ``None`` takes the policy's."""


class Cancelled(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The job was called off: from outside, or by its handler."""

    error: ErrorInfo


Outcome = Succeeded | Failed | Cancelled
"""How an attempt ended."""


def start(run: Run) -> Started:
    """The record that the attempt has begun."""
    return Started(*_fields(run, run.started_at))


def decide(
    run: Run, outcome: Outcome, policy: Retry, now: float, random: Random
) -> tuple[Finished | Retrying, Envelope | None]:
    """The record for the ledger, and the envelope of the next attempt if there is one."""
    if isinstance(outcome, Succeeded):
        return _finished(run, now, State.SUCCEEDED, outcome.result, None), None
    if isinstance(outcome, Cancelled):
        return _finished(run, now, State.CANCELLED, None, outcome.error), None
    delay = policy.next_delay(run.attempt, random) if outcome.retryable else None
    if delay is None:
        return _finished(run, now, State.FAILED, None, outcome.error), None
    due_at = now + (delay if outcome.delay is None else outcome.delay)
    record = Retrying(*_fields(run, now), error=outcome.error, due_at=due_at)
    again = msgspec.structs.replace(run.job, attempt=run.attempt + 1, due_at=due_at, misses=0)
    return record, again


def end_unstarted(run: Run, state: State, error: ErrorInfo, now: float) -> Finished:
    """The record of a job that ends without an attempt of its own, such as one that was
    cancelled while it waited for its turn."""
    return _finished(run, now, state, None, error)


def miss(run: Run, now: float) -> tuple[Finished | None, Envelope | None]:
    """What becomes of a job whose handler this worker does not know: others get it, later and
    later, until it has been missed ``MISS_LIMIT`` times."""
    misses = run.job.misses + 1
    if misses >= MISS_LIMIT:
        error = ErrorInfo(
            "UnknownHandler",
            f"{misses} times a worker of lane '{run.job.lane}' did not know the handler "
            f"'{run.job.name}'; deploy a worker that has it, then enqueue the job again",
        )
        return _finished(run, now, State.FAILED, None, error), None
    delay = min(_FIRST_MISS_DELAY * 2 ** (misses - 1), _LONGEST_MISS_DELAY)
    return None, msgspec.structs.replace(run.job, misses=misses, due_at=now + delay)


_Fields = tuple[str, int, float, str, str, int, float, str, float, int]


def _fields(run: Run, now: float) -> _Fields:
    """What all records of an execution begin with, in the order of their fields."""
    job = run.job
    return (
        job.id,
        run.attempt,
        now,
        job.name,
        job.lane,
        job.priority,
        job.enqueued_at,
        run.worker,
        run.started_at,
        run.lost,
    )


def _finished(
    run: Run, now: float, state: State, result: bytes | None, error: ErrorInfo | None
) -> Finished:
    return Finished(*_fields(run, now), state=state, result=result, error=error)


def describe(error: BaseException, *, skip: int = 0) -> ErrorInfo:
    """An exception for people: its type, message and traceback, each of bounded size.

    ``skip`` leaves out that many frames at the top, which are the worker's own.
    """
    trace: TracebackType | None = error.__traceback__
    for _ in range(skip):
        trace = trace.tb_next if trace is not None else None
    try:
        message = str(error)
    except BaseException as broken:  # a handler's exception may do anything
        message = f"<its message cannot be shown: {type(broken).__name__}>"
    try:
        lines = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as broken:
        lines = f"<its traceback cannot be shown: {type(broken).__name__}>"
    return ErrorInfo(
        _cap(type(error).__qualname__, MAX_TYPE),
        _cap(message, MAX_MESSAGE),
        _cap(lines, MAX_TRACEBACK),
    )


def _cap(text: str, limit: int) -> str:
    """At most ``limit`` characters, the middle left out: the end of a traceback says most."""
    # Lone surrogates cannot be stored as UTF-8, and PostgreSQL's text takes no NUL.
    text = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head
    return f"{text[:head]}\n… {len(text) - limit} characters left out …\n{text[-tail:]}"
