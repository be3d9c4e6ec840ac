"""Telling the application's sinks what the ledgers say.

A recorder hands over what it has written, before it takes it off the ledger: so each event is
given to each sink at least once, and comes again only if the process dies in between. The end of
a job is told only if it is the one that counts.

No ledger tells of jobs that end on the master: those that were cancelled, expired or skipped
while it held them. ``HeldEnds`` looks for them: one process does, by the lease ``sinks``, at what
ended within the last minute. So they are told again when the lease changes hands, and not told
if for longer than that there is nobody to look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from mesh import feed
from mesh.clock import Clock
from mesh.errors import AgentError, MasterError, MeshError
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
from mesh.filter import JobFilter
from mesh.job import TERMINAL, State
from mesh.ports import EVERY_JOB, EventInfo, JobInfo, Master
from mesh.service import Backoff, Problems, Service, pass_on
from mesh.sinks import Sink
from mesh.wire import Accepted, ErrorInfo, Event, Finished, Record, Retrying, Started
from mesh_master.leader import Term, lead

__all__ = ["HeldEnds", "Telling", "told_by"]

log = logging.getLogger("mesh")

_HELD = tuple(sorted(TERMINAL - {State.SUCCEEDED}))
_LATE = 60.0
"""Seconds within which an end is looked for: clocks differ, and leases change hands."""
_REST = 0.5
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
        return await self.give(
            [JobEvent(jobs[e.job_id], e) for e in events if _counts(e, jobs)], over
        )

    async def give(self, told: Sequence[JobEvent], over: asyncio.Event) -> bool:
        """The same, of events that are at hand."""
        backoff = Backoff(over, clock=self._clock)
        for sink in self._sinks:
            wanted = [one for one in told if sink.wanted(one)]
            if wanted and not await self._give(sink, wanted, backoff):
                return False
        return True

    async def _give(self, sink: Sink, events: Sequence[JobEvent], backoff: Backoff) -> bool:
        async def give() -> bool:
            try:
                await sink.take(events)
            except (AgentError, MasterError):
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


class HeldEnds(Service):
    """Finds the ends of jobs that were on no agent."""

    def __init__(self, telling: Telling, master: Master, *, holder: str, clock: Clock) -> None:
        super().__init__("ends of held jobs")
        self._telling = telling
        self._master = master
        self._holder = holder
        self._clock = clock
        self._told: OrderedDict[str, None] = OrderedDict()

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await lead(
            self._master,
            "sinks",
            self._holder,
            self._duty,
            stopping=self.stopping,
            clock=self._clock,
        )

    async def _duty(self, term: Term) -> None:
        problems = Problems(self.name)
        changed, looks = asyncio.Event(), 0
        watching = asyncio.create_task(pass_on(term.over, changed))
        try:
            with self._master.signals.waiting(EVERY_JOB, changed):
                while not term.over.is_set():
                    changed.clear()
                    try:
                        looks = 0 if await self._look(term.over) else looks + 1
                    except MasterError as error:
                        problems.say(error)
                    else:
                        problems.over()
                    await self._clock.wait(term.over, _REST)
                    if not term.over.is_set():
                        await self._clock.wait(changed, self._master.signals.pause(looks))
        finally:
            watching.cancel()

    async def _look(self, over: asyncio.Event) -> bool:
        """Tell what is new; whether there was any."""
        since = self._clock.time() - _LATE
        where: JobFilter | None = JobFilter(states=_HELD, order="finished", since=since, limit=500)
        found: list[JobInfo] = []
        while where is not None:
            jobs = await self._master.list_jobs(where)
            new = [job for job in jobs if job.agent is None and job.id not in self._told]
            found += new
            # The newest come first: behind a page of nothing new there is nothing new.
            where = where.next_page(jobs[-1]) if new and len(jobs) == where.limit else None
        for job in reversed(found):
            events = await feed.page(self._master, job.id)
            if not await self._telling.give([JobEvent(job, event) for event in events], over):
                return True
            self._told[job.id] = None
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        return bool(found)


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
