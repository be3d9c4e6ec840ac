"""The protocol of middleware: what users write to do something around every job.

Hooks that surround something are generators that yield once, ``async`` or not, as dependencies
are: what stands before the ``yield`` runs before, the rest after, and what went wrong inside is
raised at the ``yield``. So one plain hook serves ``async`` and ``def`` handlers alike, in the
place where they run; a chain of ``call_next`` could do that only for one kind. A hook can refuse
(by raising) and add to what it surrounds; it cannot make a success of a failure, nor run the
handler twice: that is the retry policy's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.context import Context
from mesh.job import State
from mesh.wire import Envelope, ErrorInfo

__all__ = ["AttemptEnded", "Middleware", "NewJob"]


class NewJob:
    """A job that is about to be stored. ``headers`` and ``meta`` may be changed."""

    __slots__ = ("_job", "headers", "meta")

    def __init__(self, job: Envelope) -> None:
        self._job = job
        self.headers: dict[str, str] = dict(job.headers or {})
        """For middleware alone: they travel with the job, to all its attempts."""
        self.meta: dict[str, str] = dict(job.meta or {})
        """Tags, for people: they are shown and searched."""

    @property
    def id(self) -> str:
        return self._job.id

    @property
    def name(self) -> str:
        """The handler's name."""
        return self._job.name

    @property
    def lane(self) -> str:
        return self._job.lane

    @property
    def key(self) -> str | None:
        return self._job.key

    @property
    def parent(self) -> str | None:
        """The id of the job whose handler enqueues it."""
        return self._job.parent

    @property
    def payload(self) -> bytes:
        """The arguments by their names, as JSON; not encrypted."""
        return self._job.payload

    def envelope(self) -> Envelope:
        """The job with what was changed."""
        headers, meta = self.headers or None, self.meta or None
        if headers == self._job.headers and meta == self._job.meta:
            return self._job
        return msgspec.structs.replace(self._job, headers=headers, meta=meta)


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """What became of an attempt."""

    job_id: str
    name: str
    """The handler's name."""
    lane: str
    attempt: int
    max_attempts: int
    state: State
    """The job's: ``succeeded``, ``failed``, ``cancelled``, or ``retrying`` if it runs again."""
    seconds: float
    """How long the attempt took."""
    error: ErrorInfo | None
    """Why it did not succeed."""
    exception: BaseException | None
    """The same as it was raised; ``None`` if it was not raised in this process: a handler with
    ``process=True``, a time-out, the end of the worker."""
    meta: Mapping[str, str]
    headers: Mapping[str, str]
    waited: float = 0.0
    """Seconds from when the attempt might have begun, enqueued and due, to when it did."""


class Middleware:
    """Override what you need; a hook that is not overridden costs nothing.

    Of several, the first given surrounds the others.
    """

    def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None] | AsyncIterator[None]:
        """Around the storing of the jobs of one call, on the caller's event loop: one job of
        ``enqueue``, a batch of up to some thousands of ``enqueue_many``, all of a workflow. What
        it raises before its ``yield`` goes to the caller, and nothing is stored.

        Jobs of schedules are made by coordinators, and do not pass here.
        """
        raise NotImplementedError

    def execute(self, ctx: Context[Any]) -> Iterator[None] | AsyncIterator[None]:
        """Around each attempt, dependencies included, in time-outs included. Runs where the
        handler runs: in its thread or process if that is a ``def`` or has ``process=True``; but
        an ``async`` hook around a handler in a thread runs on the event loop, outside of all
        plain ones. What it raises is as if the handler had raised it."""
        raise NotImplementedError

    def ended(self, attempt: AttemptEnded) -> Awaitable[None] | None:
        """Every attempt of every worker process ends here, whatever ended it: also those that
        were killed or ran out of time. A function, ``async`` or not, on the event loop, after
        the outcome is on its way; what it raises is logged."""
        raise NotImplementedError
