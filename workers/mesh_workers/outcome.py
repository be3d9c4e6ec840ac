"""What becomes of an attempt. Pure: no I/O, no clock, randomness is passed in.

``judge`` makes an outcome of what a handler raised, where it was raised; ``decide`` makes the
record and the next attempt of an outcome.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from random import Random
from types import TracebackType

import msgspec

from mesh import depends, scoped
from mesh.clock import to_datetime
from mesh.job import State
from mesh.outcome import Cancel, Fail, Failure, RetryAfter, Snooze
from mesh.retry import Retry
from mesh.wire import Envelope, ErrorInfo, Finished, Retrying, Started

__all__ = [
    "MISS_LIMIT",
    "Cancelled",
    "Failed",
    "Outcome",
    "Run",
    "Snoozed",
    "Succeeded",
    "TimeLimit",
    "decide",
    "describe",
    "end_unstarted",
    "judge",
    "miss",
    "returned_failure",
    "start",
    "time_limit",
    "too_late",
]

log = logging.getLogger("mesh")

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


class Snoozed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Not now: the job runs again, and the attempt does not count."""

    error: ErrorInfo
    delay: float
    """Seconds."""


Outcome = Succeeded | Failed | Cancelled | Snoozed
"""How an attempt ended."""


def start(run: Run) -> Started:
    """The record that the attempt has begun."""
    return Started(*_fields(run, run.started_at))


def judge(error: BaseException, policy: Retry) -> Failed | Cancelled | Snoozed:
    """The outcome of an attempt whose handler raised ``error``; ``policy`` says whether that is
    worth another. Raises nothing."""
    told = describe(error)
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        # What one task of a TaskGroup raised.
        error = error.exceptions[0]
    match error:
        case Fail():
            return Failed(told, retryable=False)
        case Cancel():
            return Cancelled(told)
        case Snooze():
            return Snoozed(told, error.seconds)
        case RetryAfter():
            return Failed(told, delay=error.seconds)
    try:
        return Failed(told, retryable=policy.is_for(error))
    except BaseException:  # an attempt more does less harm than one too few
        log.exception("Retry(when=...) failed, so it does not count, for %s", told.type)
        return Failed(told)


def returned_failure(value: Failure) -> Failed:
    """The outcome of a handler that returned a ``Failure``."""
    return Failed(ErrorInfo("Failure", _cap(str(value.reason), MAX_MESSAGE)), bool(value.retry))


def decide(
    run: Run, outcome: Outcome, policy: Retry, now: float, random: Random
) -> tuple[Finished | Retrying, Envelope | None]:
    """The record for the ledger, and the envelope of the next attempt if there is one."""
    if isinstance(outcome, Succeeded):
        return _finished(run, now, State.SUCCEEDED, outcome.result, None), None
    if isinstance(outcome, Cancelled):
        return _finished(run, now, State.CANCELLED, None, outcome.error), None
    job, snoozes = run.job, run.job.snoozes
    if isinstance(outcome, Snoozed):
        snoozes += 1
        delay: float | None = outcome.delay
    else:
        delay = policy.next_delay(run.attempt - snoozes, random) if outcome.retryable else None
        if delay is not None and outcome.delay is not None:
            delay = outcome.delay
    if delay is None:
        return _finished(run, now, State.FAILED, None, outcome.error), None
    due_at = now + delay
    if job.deadline and due_at >= job.deadline:
        cause = outcome.error
        why = f"the next attempt would start after it; {cause.type}: {cause.message}"
        error = msgspec.structs.replace(_exceeded(job.deadline, why), traceback=cause.traceback)
        return _finished(run, now, State.FAILED, None, error), None
    record = Retrying(*_fields(run, now), error=outcome.error, due_at=due_at)
    again = msgspec.structs.replace(
        job, attempt=run.attempt + 1, due_at=due_at, misses=0, snoozes=snoozes, lost=0
    )
    return record, again


class TimeLimit(msgspec.Struct, frozen=True, gc=False):
    """How long an attempt may take."""

    seconds: float
    deadline: float = 0.0
    """The job's, if it is what sets the limit."""

    def exceeded(self) -> Failed | TimeoutError:
        """What to say of an attempt that took longer."""
        if self.deadline:
            error = _exceeded(self.deadline, "the attempt was still running")
            return Failed(error, retryable=False)
        return TimeoutError(f"the attempt took longer than {self.seconds:g} s")


def time_limit(job: Envelope, timeout: float | None, now: float) -> TimeLimit | None:
    """The limit of an attempt that begins now: ``timeout`` (seconds), or less if the job's
    deadline comes before."""
    if job.deadline and (timeout is None or job.deadline - now < timeout):
        return TimeLimit(job.deadline - now, job.deadline)
    return None if timeout is None else TimeLimit(timeout)


def too_late(job: Envelope, attempt: int, now: float) -> tuple[State, ErrorInfo] | None:
    """How the job ends if ``attempt`` may not start any more."""
    if job.deadline and now >= job.deadline:
        return State.FAILED, _exceeded(job.deadline, f"attempt {attempt} had not started by then")
    if job.expires_at and attempt == 1 and now >= job.expires_at:
        moment = to_datetime(job.expires_at).isoformat()
        return State.EXPIRED, ErrorInfo("Expired", f"it had not started by {moment}")
    return None


def _exceeded(deadline: float, why: str) -> ErrorInfo:
    moment = to_datetime(deadline).isoformat()
    return ErrorInfo(
        "DeadlineExceeded", _cap(f"the job's deadline is {moment}: {why}", MAX_MESSAGE)
    )


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


_OUR_CODE = (
    os.path.dirname(__file__) + os.sep,
    *(str(module.__file__) for module in (depends, scoped, contextlib)),
)
"""Where the frames are that stand between the worker and a handler."""


def describe(error: BaseException) -> ErrorInfo:
    """An exception for people: its type, message and traceback, each of bounded size.

    The frames at the top that are the worker's own are left out, unless there are no others.
    """
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OUR_CODE):
        trace = trace.tb_next
    trace = trace or error.__traceback__
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
