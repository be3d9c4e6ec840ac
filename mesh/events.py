"""Events: what is told of a job, in the order of ``seq``.

A ``seq`` is an ``int`` below 2**53. It grows within a job, over its attempts too, and does not
depend on who reads or when:

- 0: the job was enqueued;
- ``n * PER_ATTEMPT``: attempt *n* started;
- from there on: what its handler said;
- the last but one of attempt *n*: the result, if the job succeeded;
- the last of attempt *n*: how it ended.

Of these the handler's own are stored. The others, ``lifecycle`` and ``result``, follow from the
job and its attempts (``mesh.feed``), so they cost nothing, are kept as long as the job, and are
the same whenever they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mesh.job import State

__all__ = [
    "ENDS",
    "SNOOZE",
    "KINDS",
    "PER_ATTEMPT",
    "Kind",
    "Lifecycle",
    "LifecycleError",
    "Moment",
    "attempt_of",
    "end_seq",
    "result_seq",
    "start_seq",
]

Kind = Literal["lifecycle", "progress", "log", "chunk", "metric", "result"]

KINDS: tuple[Kind, ...] = ("lifecycle", "progress", "log", "chunk", "metric", "result")

PER_ATTEMPT = 2**32
"""How many events an attempt may have."""


def start_seq(attempt: int) -> int:
    return attempt * PER_ATTEMPT


def result_seq(attempt: int) -> int:
    return (attempt + 1) * PER_ATTEMPT - 2


def end_seq(attempt: int) -> int:
    return (attempt + 1) * PER_ATTEMPT - 1


def attempt_of(seq: int) -> int:
    """The attempt that an event belongs to; 0 is before the first."""
    return seq // PER_ATTEMPT


SNOOZE = "Snooze"
"""The type of the error that an attempt ends with that was snoozed."""

Moment = Literal[
    "enqueued",
    "started",
    "retrying",
    "lost",
    "snoozed",
    "succeeded",
    "failed",
    "cancelled",
    "skipped",
    "expired",
]


ENDS: Mapping[State, Moment] = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.SKIPPED: "skipped",
    State.EXPIRED: "expired",
}


class LifecycleError(msgspec.Struct, frozen=True):
    """Why an attempt did not succeed."""

    type: str
    message: str


class Lifecycle(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of a ``lifecycle`` event."""

    event: Moment
    """``lost``: the attempt's worker died, or its lease ended, before it said how it ended."""
    attempt: int
    worker: str | None = None
    error: LifecycleError | None = None
    due_at: float | None = None
    """Of ``retrying`` and ``snoozed``: when the next attempt may start."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Lifecycle:
        """Raises ``msgspec.MsgspecError``."""
        return _decode(data)


_decode = msgspec.json.Decoder(Lifecycle).decode
