"""What both ports speak of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mesh.job import State

__all__ = [
    "Board",
    "Check",
    "EVERY_JOB",
    "HELD",
    "Known",
    "Lookup",
    "MANY_JOBS",
    "Signals",
    "changed_topics",
    "job_topics",
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


@dataclass(frozen=True, slots=True)
class Known:
    """What the master knows of a job, as an answer to ``Ledger.serve``."""

    attempt: int
    state: State
    agent: str | None = None


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

EVERY_JOB = "jobs"
"""The topic of those who wait for anything new of any job."""

MANY_JOBS = "jobs.many"
"""Signalled in place of the topics of single jobs, when there are many."""

_FEW = 64


def job_topics(job_id: str) -> tuple[str, str]:
    """The topics of those who wait for something new of one job."""
    return f"jobs.{job_id[-2:]}", MANY_JOBS


def changed_topics(job_ids: Collection[str]) -> set[str]:
    """What to signal when there is something new of these jobs."""
    if len(job_ids) > _FEW:
        return {EVERY_JOB, MANY_JOBS}
    return {EVERY_JOB, *(job_topics(job_id)[0] for job_id in job_ids)}
