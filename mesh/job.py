"""The job: its id, its states and how it may move between them.

``TRANSITIONS`` is the only place that knows which moves are allowed. The diagram in
``docs/architecture.md``, the property tests and the master's upserts all come from it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Literal
from uuid import UUID

from mesh.errors import ConfigError, did_you_mean

__all__ = [
    "INITIAL",
    "LEAST_KEPT",
    "TERMINAL",
    "TERMINAL_VERSION",
    "TRANSITIONS",
    "Priority",
    "PriorityName",
    "State",
    "check_job_id",
    "check_name",
    "is_job_id",
    "made_job_id",
    "moment_of",
    "new_job_id",
    "state_version",
]


class State(StrEnum):
    """Where a job is in its life."""

    SCHEDULED = "scheduled"
    """Held on the master until due."""
    WAITING = "waiting"
    """Held on the master for a parent job."""
    QUEUED = "queued"
    """On an agent, not started."""
    RUNNING = "running"
    RETRYING = "retrying"
    """Failed, will run again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Attempts exhausted, or not retryable."""
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """An overlapping run was not allowed."""
    EXPIRED = "expired"
    """Its deadline passed before it started."""


INITIAL: frozenset[State] = frozenset({State.SCHEDULED, State.WAITING, State.QUEUED, State.SKIPPED})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    # scheduled → failed: it must go to an agent that the cluster has no more.
    State.SCHEDULED: frozenset(
        {State.QUEUED, State.FAILED, State.CANCELLED, State.EXPIRED, State.SKIPPED}
    ),
    State.WAITING: frozenset({State.SCHEDULED, State.QUEUED, State.CANCELLED, State.EXPIRED}),
    # queued → failed: no worker of the lane knows the handler.
    # … → scheduled: its agent lost it, or is drained; it is dispatched as a later attempt.
    State.QUEUED: frozenset(
        {State.SCHEDULED, State.RUNNING, State.FAILED, State.CANCELLED, State.EXPIRED}
    ),
    # running → running: the worker died or lost its lease; the next attempt runs.
    State.RUNNING: frozenset(
        {
            State.SCHEDULED,
            State.RUNNING,
            State.RETRYING,
            State.SUCCEEDED,
            State.FAILED,
            State.CANCELLED,
        }
    ),
    State.RETRYING: frozenset(
        {State.SCHEDULED, State.RUNNING, State.FAILED, State.CANCELLED, State.EXPIRED}
    ),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.SKIPPED: frozenset(),
    State.EXPIRED: frozenset(),
}

TERMINAL: frozenset[State] = frozenset(s for s, after in TRANSITIONS.items() if not after)

_ORDER = [State.WAITING, State.SCHEDULED, State.QUEUED, State.RUNNING, State.RETRYING]
"""Within an attempt."""

TERMINAL_VERSION = 2**31 - 1

LEAST_KEPT = 60.0
"""Seconds for which the history keeps every job after its end: who waits for a result must have
time to read it."""


def state_version(state: State, attempt: int) -> int:
    """A number that only grows as a job moves on, so that upserts commute.

    A write wins if its version is greater than the stored one. All terminal states share the
    greatest version: the first terminal outcome wins, and a later one changes nothing.
    """
    if state in TERMINAL:
        return TERMINAL_VERSION
    return attempt * len(_ORDER) + _ORDER.index(state)


class Priority(IntEnum):
    """Order within a lane; the greatest first."""

    LOWEST = 1
    LOW = 2
    NORMAL = 3
    HIGH = 4
    HIGHEST = 5

    @classmethod
    def parse(cls, value: str | int | Priority) -> Priority:
        """A priority from its name. Raises ``ConfigError``, naming the closest."""
        if isinstance(value, str):
            try:
                return cls[value.upper()]
            except KeyError:
                known = [p.name.lower() for p in cls]
                raise ConfigError(
                    f"unknown priority '{value}'{did_you_mean(value.lower(), known)}"
                ) from None
        try:
            return cls(value)
        except ValueError:
            raise ConfigError(f"priority {value!r} is not between 1 and 5") from None

    @property
    def word(self) -> str:
        """The name as users write it, such as ``normal``."""
        return self.name.lower()


PriorityName = Literal["lowest", "low", "normal", "high", "highest"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def check_name(kind: str, value: str) -> str:
    """Return ``value`` if it can name a lane, an agent or a cluster; else raise ``ConfigError``.

    The characters are those that NATS allows in one subject token and stream name.
    """
    if not isinstance(value, str) or not _NAME.match(value):
        raise ConfigError(
            f"{kind} '{value}' is not a valid name: use 1 to 64 of the letters a-z, A-Z, "
            "digits, '-' and '_'"
        )
    return value


def check_job_id(value: str | UUID) -> str:
    """Return a job id in its canonical form; raise ``ConfigError`` if it is not a UUID."""
    text = str(value).lower()
    if not is_job_id(text):
        raise ConfigError(f"job id '{value}' is not a UUID, such as {new_job_id()}")
    return text


def is_job_id(text: str) -> bool:
    """Whether it is a job id in its canonical form."""
    return _JOB_ID.match(text) is not None


def new_job_id() -> str:
    """A new UUIDv7 (RFC 9562): ordered by time, so that indexes grow at one end."""
    moment = f"{time.time_ns() // 1_000_000:012x}"
    try:
        tail = _random_tails.pop()
    except IndexError:
        _random_tails.extend(_new_tails(_TAILS - 1))
        (tail,) = _new_tails(1)
    return f"{moment[:8]}-{moment[8:]}{tail}"


def moment_of(job_id: str) -> float:
    """When an id of ours was made, in seconds since the epoch (RFC 9562, UUIDv7); of a UUID of
    another kind, any moment."""
    return int(job_id[:8] + job_id[9:13], 16) / 1000


def made_job_id(moment: float, digits: str) -> str:
    """The UUIDv7 of that moment whose other bits are the first 20 hexadecimal digits given: the
    same whoever makes it."""
    head = f"{int(moment * 1000):012x}"
    (tail,) = _tails(digits[:20])
    return f"{head[:8]}-{head[8:]}{tail}"


def _new_tails(count: int) -> list[str]:
    """What follows the moment in an id: version, variant, and 74 bits from the system's source
    of randomness."""
    return _tails(os.urandom(10 * count).hex())


def _tails(digits: str) -> list[str]:
    """One for each 20 of the hexadecimal digits."""
    parts = [digits[at : at + 20] for at in range(0, len(digits), 20)]
    return [
        f"-7{part[:3]}-{'89ab'[int(part[3], 16) & 3]}{part[4:7]}-{part[7:19]}" for part in parts
    ]


_TAILS = 256
# Asking the system once for many ids costs a third of asking for each.
_random_tails: list[str] = []
if hasattr(os, "register_at_fork"):
    # Two processes must not draw from the same store.
    os.register_at_fork(after_in_child=_random_tails.clear)
