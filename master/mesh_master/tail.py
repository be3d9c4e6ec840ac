"""Following jobs: what becomes of them, and what they say, as the master hears it.

The master is asked again and again: for the newest jobs, for those that run, and for those that
ended lately. What is the same as last time is no news. A job that came and went between two looks
is told by its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, replace
from typing import Any

from mesh.clock import Clock
from mesh.filter import JobFilter
from mesh.job import TERMINAL, State
from mesh.ports import EventInfo, JobInfo, Master

__all__ = ["News", "follow", "follow_one"]

_PAUSE = 0.5
_PAGE = 200
"""Jobs of each kind in one look."""
_LATE = 60.0
"""Seconds for which an end may be underway from the worker to the master."""
_ACTIVE = (State.RUNNING, State.RETRYING)


@dataclass(frozen=True, slots=True)
class News:
    """That a job is in a state now, or that its handler said something."""

    at: float
    job_id: str
    name: str
    """The handler's."""
    kind: str
    """A state, or an event's kind."""
    attempt: int | None = None
    """Of a state."""
    data: Any = None
    """An event's data, as JSON; of a state the error's text."""


async def follow_one(master: Master, job: JobInfo, clock: Clock) -> AsyncIterator[News]:
    """All of one job's events so far, and then what comes, until it has ended."""
    known = _Known()
    yield known.note(job)
    while True:
        for event in await known.unheard(master, job):
            yield event
        if job.state in TERMINAL:
            return
        await clock.sleep(_PAUSE)
        # The state first: what was said before the end is recorded with it or before.
        found = (await master.get_jobs([job.id])).get(job.id)
        if found is None:
            return
        job = found
        if known.is_news(job):
            yield known.note(job)


async def follow(master: Master, where: JobFilter, clock: Clock) -> AsyncIterator[News]:
    """What becomes of the jobs that ``where`` means from now on, without end."""
    known, since = _Known(), clock.time()
    for job in await _look(master, where, since):
        known.note(job)
        await known.unheard(master, job)
    while True:
        await clock.sleep(_PAUSE)
        now = clock.time()
        jobs = await _look(master, where, since)
        since = now
        for job in jobs:
            is_news = known.is_news(job)
            if is_news or job.state in _ACTIVE:
                for event in await known.unheard(master, job):
                    yield event
            if is_news:
                yield known.note(job)
        known.forget_all_but({job.id for job in jobs})


async def _look(master: Master, where: JobFilter, since: float) -> list[JobInfo]:
    """The jobs to which something may have happened since then, the oldest first."""
    looks = [replace(where, order="enqueued", since=None, limit=_PAGE)]
    active = [state for state in _ACTIVE if not where.states or state in where.states]
    if active:
        looks.append(replace(looks[0], states=tuple(active)))
    if not where.states or TERMINAL.intersection(where.states):
        ended = tuple(TERMINAL.intersection(where.states)) if where.states else ()
        looks.append(
            replace(where, states=ended, order="finished", since=since - _LATE, limit=_PAGE)
        )
    found = {job.id: job for look in looks for job in await master.list_jobs(look)}
    return [found[job_id] for job_id in sorted(found)]


class _Known:
    """What has been told already."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[State, int]] = {}
        self._heard: dict[str, int] = {}

    def is_news(self, job: JobInfo) -> bool:
        return self._states.get(job.id) != (job.state, job.attempt)

    def note(self, job: JobInfo) -> News:
        self._states[job.id] = (job.state, job.attempt)
        at = job.finished_at or (job.started_at if job.state in _ACTIVE else None)
        error = f"{job.error_type}: {job.error_message}" if job.error_type else None
        return News(at or job.enqueued_at, job.id, job.name, job.state, job.attempt, error)

    async def unheard(self, master: Master, job: JobInfo) -> list[News]:
        events: list[EventInfo] = []
        while more := await master.events(job.id, self._heard.get(job.id, -1)):
            events += more
            self._heard[job.id] = more[-1].seq
        return [News(e.at, job.id, job.name, e.kind, data=e.data) for e in events]

    def forget_all_but(self, job_ids: Collection[str]) -> None:
        for job_id in self._states.keys() - job_ids:
            del self._states[job_id]
            self._heard.pop(job_id, None)
