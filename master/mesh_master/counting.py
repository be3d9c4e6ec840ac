"""Counting what passes through recorders, for metrics: no history is read for it.

Records may come again after a failure, and are counted again then. What ends on the master
without having been on an agent, such as a held job that is cancelled, does not pass here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from mesh.job import State
from mesh.monitor import Tally
from mesh.wire import Accepted, Finished, Record, Retrying, Started

__all__ = ["LedgerTally"]

T = TypeVar("T")

MOST_JOBS = 100_000
"""Of how many jobs at once something is remembered; beyond, the oldest are forgotten, which costs
a measured wait or counts a start twice."""


class LedgerTally(Tally):
    """A coordinator's: of all agents whose recorder it is."""

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, int] = {}
        """The attempt of each job that has started, as far as was told."""
        self._due: dict[str, float] = {}
        """When a job is to run, where that is not when it was enqueued."""

    def count(self, records: Iterable[Record], since: float) -> None:
        """Count records that are in the master now. ``since``: all that the agent has accepted
        since that moment has been counted here."""
        for record in records:
            if isinstance(record, Accepted):
                job = record.job
                if job.attempt == 1:
                    self.enqueue(self.pair(job.name, job.lane))
                if job.due_at > job.enqueued_at:
                    _remember(self._due, job.id, job.due_at)
            elif isinstance(record, Started):
                # A start is told if the attempt takes a while, and may be told again.
                if self._running.get(record.id) != record.attempt:
                    _remember(self._running, record.id, record.attempt)
                    self._count_start(record, since)
            elif isinstance(record, Finished | Retrying):
                self._count_end(record, since)

    def _count_end(self, record: Finished | Retrying, since: float) -> None:
        seconds = None
        attempt = self._running.pop(record.id, None)
        if record.started_at:
            seconds = record.at - record.started_at
            if attempt != record.attempt:
                self._count_start(record, since)
        pair = self.pair(record.name, record.lane)
        if isinstance(record, Retrying):
            _remember(self._due, record.id, record.due_at)
            self.end(pair, State.RETRYING, seconds)
        else:
            self._due.pop(record.id, None)
            self.end(pair, record.state, seconds)

    def _count_start(self, record: Started | Finished | Retrying, since: float) -> None:
        due = self._due.pop(record.id, None)
        if due is None and record.attempt == 1 and record.enqueued_at >= since:
            due = record.enqueued_at
        waited = None if due is None else record.started_at - due
        self.start(self.pair(record.name, record.lane), waited)


def _remember(there: dict[str, T], job_id: str, value: T) -> None:
    there[job_id] = value
    if len(there) > MOST_JOBS:
        del there[next(iter(there))]
