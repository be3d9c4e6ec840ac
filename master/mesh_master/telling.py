"""Telling the application's sinks what the ledgers say.

A recorder hands over what it has written, before it takes it off the ledger: so each event is
given to each sink at least once, and comes again only if the process dies in between. The end of
a job is told only if it is the one that counts. What no ledger tells, such as the end of a job
that never came to an agent, sinks are not told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from mesh.clock import Clock
from mesh.errors import MasterError, MeshError
from mesh.events import (
    ENDS,
    SNOOZE,
    Lifecycle,
    LifecycleError,
    Moment,
    end_seq,
    result_seq,
    start_seq,
)
from mesh.feed import JobEvent
from mesh.ports import EventInfo, JobInfo, Master
from mesh.service import Backoff, Service
from mesh.sinks import Sink
from mesh.wire import Accepted, ErrorInfo, Event, Finished, Record, Retrying, Started

__all__ = ["Telling", "told_by"]

log = logging.getLogger("mesh")

_REMEMBERED = 10_000
"""Attempts of which the start was told: that of a short one is in no record of its own."""


class Telling(Service):
    """For all recorders of a process. Opens the sinks, and closes them when it stops."""

    def __init__(self, sinks: Sequence[Sink], master: Master, clock: Clock) -> None:
        super().__init__("sinks")
        self._sinks = sinks
        self._master = master
        self._clock = clock
        self._started: OrderedDict[tuple[str, int], None] = OrderedDict()

    async def run(self, ready: Callable[[], None]) -> None:
        opened: list[Sink] = []
        try:
            for sink in self._sinks:
                await sink.open()
                opened.append(sink)
            ready()
            await self.stopping.wait()
        finally:
            await asyncio.gather(*(sink.close() for sink in opened))

    async def tell(self, records: Sequence[Record], over: asyncio.Event) -> bool:
        """Whether all sinks have been given what they want; not so only if ``over`` was set
        before."""
        events = [e for e in told_by(records, self._is_new) if self._is_wanted(e)]
        if not events:
            return True
        backoff = Backoff(over, clock=self._clock)
        ids = list({event.job_id for event in events})
        jobs = await backoff.retry(self.name, lambda: self._master.get_jobs(ids), MasterError)
        if jobs is None:
            return False
        told = [JobEvent(jobs[e.job_id], e) for e in events if _counts(e, jobs)]
        for sink in self._sinks:
            wanted = [one for one in told if sink.wanted(one)]
            if wanted and not await self._give(sink, wanted, backoff):
                return False
        return True

    async def _give(self, sink: Sink, events: Sequence[JobEvent], backoff: Backoff) -> bool:
        async def give() -> bool:
            try:
                await sink.take(events)
            except MeshError:
                raise
            except Exception:
                log.exception("%s: %s failed for %d events", self.name, sink, len(events))
            return True

        what = f"{self.name}: {type(sink).__name__}"
        return await backoff.retry(what, give, MeshError) is not None

    def _is_wanted(self, event: EventInfo) -> bool:
        moment = Lifecycle.decode(event.data).event if event.kind == "lifecycle" else ""
        return any(sink.wanted.of_kind(event.kind, moment) for sink in self._sinks)

    def _is_new(self, job_id: str, attempt: int) -> bool:
        """Whether the start of this attempt was not told yet, as far as is known here."""
        is_new = (job_id, attempt) not in self._started
        self._started[job_id, attempt] = None
        if len(self._started) > _REMEMBERED:
            self._started.popitem(last=False)
        return is_new


def _counts(event: EventInfo, jobs: Mapping[str, JobInfo]) -> bool:
    """Whether what it says of the job's end is what the master has."""
    job = jobs.get(event.job_id)
    if job is None:
        return False
    if event.kind == "result":
        return job.state == "succeeded" and event.seq == result_seq(job.attempt)
    if event.kind == "lifecycle":
        life = Lifecycle.decode(event.data)
        if life.event in ENDS.values():
            mine = (life.event, life.attempt, life.worker)
            return mine == (ENDS.get(job.state), job.attempt, job.worker)
    return True


def told_by(records: Sequence[Record], is_new: Callable[[str, int], bool]) -> Iterator[EventInfo]:
    """The events of the records, as ``mesh.feed`` has them. ``is_new`` is asked of each attempt
    whether its start is."""

    def life(job_id: str, seq: int, at: float, data: Lifecycle) -> EventInfo:
        return EventInfo(job_id, seq, at, "lifecycle", data.encode())

    for record in records:
        if isinstance(record, Accepted):
            job = record.job
            if job.attempt == 1:
                yield life(job.id, 0, job.enqueued_at, Lifecycle("enqueued", 1))
        elif isinstance(record, Event):
            yield EventInfo(record.id, record.seq, record.at, record.kind, record.data)
        elif isinstance(record, Started | Retrying | Finished):
            number, worker = record.attempt, record.worker
            if record.started_at and is_new(record.id, number):
                for lost in range(max(1, number - record.lost), number):
                    data = Lifecycle("lost", lost)
                    yield life(record.id, end_seq(lost), record.started_at, data)
                data = Lifecycle("started", number, worker)
                yield life(record.id, start_seq(number), record.started_at, data)
            if isinstance(record, Retrying):
                event: Moment = "snoozed" if record.error.type == SNOOZE else "retrying"
                data = Lifecycle(event, number, worker, _error(record.error), record.due_at)
                yield life(record.id, end_seq(number), record.at, data)
            elif isinstance(record, Finished):
                if record.state == "succeeded":
                    result = record.result or b"null"
                    seq = result_seq(number)
                    yield EventInfo(record.id, seq, record.at, "result", result)
                data = Lifecycle(ENDS[record.state], number, worker, _error(record.error))
                yield life(record.id, end_seq(number), record.at, data)


def _error(error: ErrorInfo | None) -> LifecycleError | None:
    return None if error is None or not error.type else LifecycleError(error.type, error.message)
