"""Gathering a job's records before they are written.

Most jobs end soon after they were accepted, and one row with all of a job costs half of writing
it twice. So while much comes in, the acceptance of a job of which nothing more is said yet waits
for what is: ``PATIENCE`` seconds at most, and within bounds. It waits in memory only, so the
batch that it came in is not acknowledged before. Pure: no I/O, time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from mesh.ports import LedgerBatch
from mesh.wire import Accepted, Aside, Record

__all__ = ["PATIENCE", "Gathering"]

PATIENCE = 2.0
MOST_JOBS = 50_000
MOST_BYTES = 32 * 1024 * 1024
"""Of payloads."""


class _Batch(NamedTuple):
    number: int
    came_at: float
    batch: LedgerBatch


class Gathering:
    """What one reader of a ledger has read and not yet written or acknowledged."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._waiting: dict[str, tuple[int, Accepted]] = {}
        """By job id, in the order of the ledger, with the number of the batch."""
        self._bytes = 0
        self._count = 0

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def add(
        self, batch: LedgerBatch, now: float, *, wait: bool
    ) -> tuple[list[Record], list[LedgerBatch]]:
        """The records to write now, and the batches to acknowledge once they are written, oldest
        first. Without ``wait`` that is everything. ``now`` is of a monotonic clock."""
        self._count += 1
        self._batches.append(_Batch(self._count, now, batch))
        records: list[Record] = []
        if wait:
            for record in batch.records:
                self._sort(record, records)
            records += self._expired(now - PATIENCE)
        else:
            records += self._all()
            records += batch.records
        oldest = next(iter(self._waiting.values()))[0] if self._waiting else self._count + 1
        done: list[LedgerBatch] = []
        while self._batches and self._batches[0].number < oldest:
            done.append(self._batches.popleft().batch)
        return records, done

    def _sort(self, record: Record, records: list[Record]) -> None:
        if isinstance(record, Accepted):
            job = record.job
            if job.due_at or job.id in self._waiting:
                records.append(record)
            else:
                self._waiting[job.id] = self._count, record
                self._bytes += len(job.payload)
            return
        if not isinstance(record, Aside) and record.id in self._waiting:
            records.append(self._take(record.id))
        records.append(record)

    def _take(self, job_id: str) -> Accepted:
        _, record = self._waiting.pop(job_id)
        self._bytes -= len(record.job.payload)
        return record

    def _all(self) -> Iterator[Record]:
        for job_id in list(self._waiting):
            yield self._take(job_id)

    def _expired(self, before: float) -> Iterator[Record]:
        """The oldest of what waits: what came before that moment, and what there is no room for."""
        first = self._batches[0].number
        for job_id, (number, _) in list(self._waiting.items()):
            came_at = self._batches[number - first].came_at
            full = len(self._waiting) > MOST_JOBS or self._bytes > MOST_BYTES
            if not full and came_at >= before:
                return
            yield self._take(job_id)
