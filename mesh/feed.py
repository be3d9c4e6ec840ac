"""The feed: all events of a job, or of many, whoever reads them.

What is stored of a job's events and what follows from the job itself (``mesh.events``) is one
sequence. A reader who goes on after the last ``seq`` that it saw sees each event once, in order,
however often it comes and goes:

- the job is read first, then its events, and those are left out that the job as it was read does
  not account for yet: of an attempt that has not started there;
- recorders write what an attempt said before they write that it ended, and nothing after that
  (``mesh.ports.Master.record``), so nothing comes in behind a reader.

Readers are woken by the master where its database can; else they look, less often the longer
nothing comes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from mesh.clock import Clock
from mesh.codecs.base import Codec, is_sealed, unseal
from mesh.events import (
    ENDS,
    SNOOZE,
    Lifecycle,
    LifecycleError,
    Moment,
    attempt_of,
    end_seq,
    result_seq,
    start_seq,
)
from mesh.filter import JobFilter
from mesh.job import TERMINAL, State
from mesh.ports import EVERY_JOB, AttemptInfo, EventInfo, JobInfo, Master, job_topics

__all__ = ["JobEvent", "follow", "page", "unsealed", "watch"]

_PAGE = 1000
_LOOK = 200
"""Jobs of each kind in one look of ``watch``."""
_LATE = 60.0
"""Seconds for which an end may be underway from the worker to the master."""
_REMEMBERED = 10_000
"""Jobs of which ``watch`` knows how far it has told."""
_REST = 0.1
"""Seconds between two looks of ``watch``, at least: each is several queries."""
_ACTIVE = (State.RUNNING, State.RETRYING)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event, and the job as it was when the event was read."""

    job: JobInfo
    event: EventInfo

    @property
    def id(self) -> str:
        """The same whenever, and by whomever, the event is told."""
        return f"{self.job.id}:{self.event.seq}"


def unsealed(codec: Codec | None, event: EventInfo) -> EventInfo:
    """The event with its data decrypted, if it is encrypted. Raises ``CannotDecrypt``."""
    if not is_sealed(event.data):
        return event
    return replace(event, data=unseal(codec, event.data))


async def page(master: Master, job_id: str, after: int = -1, limit: int = 1000) -> list[EventInfo]:
    """Up to ``limit`` events with ``seq > after``, in order; none of a job that is not known.
    A page that is not full is the last for now. Raises ``MasterError``."""
    job = (await master.get_jobs([job_id])).get(job_id)
    return [] if job is None else await _page(master, job, after, limit)


async def follow(
    master: Master, clock: Clock, job_id: str, after: int = -1
) -> AsyncGenerator[EventInfo, None]:
    """All events with ``seq > after``, those to come too, until the job has ended, or is
    forgotten. One that is not known yet is waited for. Raises ``MasterError``; go on after the
    last ``seq``."""
    looks, is_known = 0, False
    changed = asyncio.Event()
    with ExitStack() as waiting:
        for topic in job_topics(job_id):
            waiting.enter_context(master.signals.waiting(topic, changed))
        while True:
            changed.clear()
            job = (await master.get_jobs([job_id])).get(job_id)
            if job is None and is_known:
                return
            events = [] if job is None else await _page(master, job, after, _PAGE)
            for event in events:
                after = event.seq
                yield event
            if len(events) == _PAGE:
                continue
            is_known = job is not None
            if job is not None and job.state in TERMINAL:
                return
            looks = 0 if events else looks + 1
            await clock.wait(changed, master.signals.pause(looks))


async def watch(master: Master, clock: Clock, where: JobFilter) -> AsyncGenerator[JobEvent, None]:
    """What happens from now on to the jobs that ``where`` means, without end: of each job every
    event once, in order.

    For people and boards. It looks at the 200 newest, the 200 latest that run and the 200 that
    ended last; where more than that happens between two looks, some jobs are left out. Raises
    ``MasterError``.
    """
    told = _Told(clock.time())
    since = clock.time()
    jobs = await _look(master, where, since)
    said = await master.last_events([job.id for job in jobs])
    for job in jobs:
        told.skip(job, said.get(job.id, -1))
    changed = asyncio.Event()
    looks = 0
    with master.signals.waiting(EVERY_JOB, changed):
        while True:
            looks += 1
            await clock.wait(changed, master.signals.pause(looks))
            await clock.sleep(_REST)
            changed.clear()
            now = clock.time()
            jobs = await _look(master, where, since)
            since = now
            said = await master.last_events([job.id for job in jobs if job.started_at])
            for job in jobs:
                async for event in told.news(master, job, said.get(job.id, -1)):
                    looks = 0
                    yield JobEvent(job, event)


async def _look(master: Master, where: JobFilter, since: float) -> list[JobInfo]:
    """The jobs to which something may have happened since then, the oldest first."""
    looks = [replace(where, order="enqueued", since=None, limit=_LOOK)]
    active = [state for state in _ACTIVE if not where.states or state in where.states]
    if active:
        looks.append(replace(looks[0], states=tuple(active)))
    if not where.states or TERMINAL.intersection(where.states):
        ended = tuple(TERMINAL.intersection(where.states)) if where.states else ()
        looks.append(
            replace(where, states=ended, order="finished", since=since - _LATE, limit=_LOOK)
        )
    found = {job.id: job for look in looks for job in await master.list_jobs(look)}
    return [found[job_id] for job_id in sorted(found)]


class _Told:
    """How far ``watch`` has told of each job."""

    def __init__(self, since: float) -> None:
        self._since = since - _LATE
        self._seqs: OrderedDict[str, int] = OrderedDict()

    def skip(self, job: JobInfo, said: int) -> None:
        """Tell nothing of what there is by now; ``said`` is the last ``seq`` that is stored."""
        self._note(job.id, max(_latest(job), said))

    async def news(self, master: Master, job: JobInfo, said: int) -> AsyncIterator[EventInfo]:
        """What is new of the job."""
        known = self._seqs.get(job.id)
        after = -1 if known is None else known
        while max(said, _latest(job)) > after:
            events = await _page(master, job, after, _PAGE)
            for event in events:
                after = event.seq
                self._note(job.id, after)
                # One that came within the filter only now has a past that nobody asked for.
                if known is not None or event.at >= self._since:
                    yield event
            if len(events) < _PAGE:
                break

    def _note(self, job_id: str, seq: int) -> None:
        self._seqs[job_id] = seq
        self._seqs.move_to_end(job_id)
        if len(self._seqs) > _REMEMBERED:
            self._seqs.popitem(last=False)


async def _page(master: Master, job: JobInfo, after: int, limit: int) -> list[EventInfo]:
    """``page``, of a job that was read before."""
    stored = await master.events(job.id, after, limit)
    final = job.attempt
    if job.state in TERMINAL:
        # The first end may be that of an attempt before the latest. Then the recorder has put
        # a mark among the events: where this one ends.
        final = max([final, *(attempt_of(event.seq) for event in stored)])
    else:
        # The job as it was read may know nothing of these yet.
        last = job.attempt if job.started_at is not None else job.attempt - 1
        stored = [event for event in stored if attempt_of(event.seq) <= last]
    stored = [event for event in stored if event.kind != "lifecycle"]
    is_told_by_job = final == 1 and job.state is not State.RETRYING and job.started_at is not None
    attempts = () if is_told_by_job else await master.attempts(job.id)
    derived = [event for event in _derived(job, attempts, final) if event.seq > after]
    return sorted([*stored, *derived], key=lambda event: event.seq)[:limit]


def _derived(job: JobInfo, attempts: Sequence[AttemptInfo], final: int) -> Iterable[EventInfo]:
    """What follows from the job and its attempts. ``final`` is the attempt with which the job
    ended, or the latest."""
    found: dict[int, EventInfo] = {}

    def add(seq: int, at: float, data: Lifecycle) -> None:
        found.setdefault(seq, EventInfo(job.id, seq, at, "lifecycle", data.encode()))

    add(0, job.enqueued_at, Lifecycle("enqueued", 1))
    # How an attempt ended that the job itself tells of, is told below.
    over = job.attempt if job.state is State.RETRYING else final - 1
    for info in attempts:
        number, worker = info.attempt, info.worker
        if number <= final and info.started_at is not None:
            add(start_seq(number), info.started_at, Lifecycle("started", number, worker))
        if number <= over:
            add(end_seq(number), _ended_at(info, attempts) or job.enqueued_at, _ended(info))
    if job.started_at is not None:
        started = Lifecycle("started", job.attempt, job.worker)
        add(start_seq(job.attempt), job.started_at, started)
    if job.state in TERMINAL:
        at = job.finished_at or job.enqueued_at
        error = _error(job.error_type, job.error_message)
        add(end_seq(final), at, Lifecycle(ENDS[job.state], job.attempt, job.worker, error))
        if job.state is State.SUCCEEDED:
            seq = result_seq(final)
            found[seq] = EventInfo(job.id, seq, at, "result", job.result or b"null")
    return found.values()


def _ended(info: AttemptInfo) -> Lifecycle:
    """How an attempt ended that was not the job's end. What such a one reported after all, when
    the job had gone on without it, makes no difference."""
    if info.outcome != State.RETRYING:
        return Lifecycle("lost", info.attempt, info.worker)
    event: Moment = "snoozed" if info.error_type == SNOOZE else "retrying"
    error = _error(info.error_type, info.error_message)
    return Lifecycle(event, info.attempt, info.worker, error, info.due_at)


def _ended_at(info: AttemptInfo, attempts: Sequence[AttemptInfo]) -> float | None:
    if info.outcome == State.RETRYING:
        return info.finished_at
    # It was noticed when the next one began.
    later = [a.started_at for a in attempts if a.attempt > info.attempt and a.started_at]
    return min(later, default=info.started_at)


def _error(kind: str | None, message: str | None) -> LifecycleError | None:
    return None if kind is None else LifecycleError(kind, message or "")


def _latest(job: JobInfo) -> int:
    """The ``seq`` of the last event that follows from the job alone."""
    if job.state in TERMINAL or job.state is State.RETRYING:
        return end_seq(job.attempt)
    return 0 if job.started_at is None else start_seq(job.attempt)
