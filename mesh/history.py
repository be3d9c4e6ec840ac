"""Looking at jobs in bulk, doing them again, and forgetting them: what ``app.jobs``,
``app.retry`` and ``app.remove`` do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypedDict

from mesh.clock import from_datetime
from mesh.errors import (
    ClusterArchived,
    ConfigError,
    InvalidArguments,
    JobNotEnded,
    JobNotFound,
    JobRetried,
    did_you_mean,
)
from mesh.filter import JobFilter, Order
from mesh.job import TERMINAL, State, check_job_id
from mesh.ports import JobInfo, Master
from mesh.prefix import Prefix
from mesh.settings import Mode

__all__ = [
    "RETRIED_STATES",
    "Where",
    "parse_where",
    "removable",
    "remove",
    "remove_one",
    "retry",
    "retry_one",
    "retryable",
    "search",
]

RETRIED_STATES = (State.FAILED, State.EXPIRED)
"""Those whose jobs are done again unless states are named: what went well stays so, and so does
what somebody called off."""

UNFINISHED = tuple(state for state in State if state not in TERMINAL)

NO_PREFIX = Prefix()

_PAGE = 500
_WORKFLOW = 20_000
"""The most jobs of one workflow that are done again in one transaction."""


class Where(TypedDict, total=False):
    """Which jobs. All that is given must be met."""

    state: str | State | Collection[str | State]
    """In this state, or any of these."""
    name: str
    """Of this handler, or of those whose name begins so: ``reports.*``."""
    lane: str
    schedule: str
    meta: Mapping[str, str]
    """With all of these tags."""
    key: str
    workflow: str
    parent: str
    """The id of the job whose handler enqueued them."""
    error: str
    """Whose latest attempt ended with an error of this type, such as ``ValueError``."""
    fingerprint: str
    """Failed jobs that look alike, as ``mesh jobs failures`` shows them."""
    retried: bool
    """Done again already, or not."""
    since: datetime | timedelta
    """Enqueued from then on, or so long ago at most; where only terminal states are asked for,
    or ``order`` is ``finished``, their end counts."""
    until: datetime | timedelta
    """Before then, or longer ago."""
    order: Order
    """``enqueued``: the newest first; ``finished``: what ended last first. Default: ``finished``
    where only terminal states are asked for."""


def parse_where(
    given: Mapping[str, Any], now: float, where: str = "app.jobs()", prefix: Prefix = NO_PREFIX
) -> JobFilter:
    """Of an app with a ``prefix``: its own jobs. Raises ``ConfigError``, naming the option."""
    known = Where.__annotations__
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown option '{key}'{did_you_mean(key, known)}")
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    states = values.pop("state", ())
    if isinstance(states, str):
        states = (states,)
    for key in ("since", "until"):
        if key in values:
            values[key] = _moment(where, key, values[key], now)
    for key in ("workflow", "parent"):
        if key in values:
            values[key] = check_job_id(values[key])
    order = values.get("order")
    if order not in (None, "enqueued", "finished"):
        hint = did_you_mean(str(order), ("enqueued", "finished"))
        raise ConfigError(f"{where}: order={order!r}{hint}")
    for key in ("name", "lane", "schedule"):
        if key in values:
            values[key] = prefix.of(values[key])
    if "key" in values:
        values["key"] = prefix.of_key(values["key"])
    found = tuple(_state(state) for state in states)
    return JobFilter(states=found, app=prefix.text, **values)


def _state(word: str) -> State:
    try:
        return State(word.lower())
    except ValueError:
        raise ConfigError(f"unknown state '{word}'{did_you_mean(word.lower(), State)}") from None


def _moment(where: str, key: str, value: Any, now: float) -> float:
    if isinstance(value, timedelta):
        return now - value.total_seconds()
    if not isinstance(value, datetime):
        raise ConfigError(
            f"{where}: {key}={value!r}: must be a datetime with a time zone, or a timedelta"
        )
    try:
        return from_datetime(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {key}=...: {error}") from None


async def search(
    master: Master, where: JobFilter, limit: int | None = None
) -> AsyncIterator[JobInfo]:
    """The jobs, page by page, as they are when their page is read."""
    left = limit
    while left is None or left > 0:
        where = replace(where, limit=_PAGE if left is None else min(left, _PAGE))
        jobs = await master.list_jobs(where)
        for job in jobs:
            yield job
        if len(jobs) < where.limit:
            return
        left = None if left is None else left - len(jobs)
        where = where.next_page(jobs[-1])


def _ended(where: JobFilter, states: Collection[State], what: str) -> JobFilter:
    """The filter, of states in which jobs end: by default ``states``. Raises ``ConfigError``."""
    if where.is_any:
        raise ConfigError(f"{what} needs to know which jobs: give a state, a name, a time …")
    for state in where.states:
        if state not in TERMINAL:
            raise ConfigError(
                f"{what}: a job that is {state} has not ended; cancel it first, or name other "
                f"states ({', '.join(sorted(TERMINAL))})"
            )
    return where if where.states else replace(where, states=tuple(states))


async def retry(
    master: Master,
    where: JobFilter,
    payload: bytes | None = None,
    check: Callable[[str], None] = lambda name: None,
) -> AsyncIterator[tuple[str, str, str]]:
    """Do jobs again; of each its id, the new one's, and its handler's name.

    In transactions of up to 500 jobs, those of one workflow in one, so that each runs after what
    its parents become; each is done again once, whoever else asks at the same time. ``check`` is
    called with the handlers' names before anything is done for their jobs.
    """
    await _refuse_archive(master)
    wanted, page = retryable(where), _PAGE if where.workflow is None else _WORKFLOW
    while True:
        jobs = await master.list_jobs(replace(wanted, limit=page))
        for name in {job.name for job in jobs}:
            check(name)
        names = {job.id: job.name for job in jobs}
        for old, new in (await master.retry(list(names), payload)).items():
            yield old, new, names[old]
        if len(jobs) < page:
            return
        # Going back in time: what is made meanwhile, and fails anew, is not met.
        wanted = wanted.next_page(jobs[-1])


def retryable(where: JobFilter) -> JobFilter:
    """The filter, of what can be done again. Raises ``ConfigError``."""
    if where.retried:
        raise ConfigError(
            "retried=True: those jobs were done again already; retry what they became"
        )
    return replace(_ended(where, RETRIED_STATES, "retry"), retried=False)


async def retry_one(master: Master, job_id: str, payload: bytes | None) -> str:
    """The id of the job that does it again. Raises as ``JobHandle.retry`` does."""
    await _refuse_archive(master)
    if new_id := (await master.retry([job_id], payload)).get(job_id):
        return new_id
    job = await _get(master, job_id)
    if job.retried_as is not None:
        raise JobRetried(job_id, job.retried_as)
    if job.state in TERMINAL:
        raise InvalidArguments(
            f"job {job_id} ({job.name}) cannot be done again as it was: its payload has not "
            "reached the master; give another one, retry(payload={...})"
        )
    raise JobNotEnded(
        f"job {job_id} ({job.name}) is {job.state}: only an ended job can be done again", job_id
    )


async def remove_one(master: Master, job_id: str) -> None:
    """Raises as ``JobHandle.remove`` does."""
    if not await master.remove([job_id]):
        job = await _get(master, job_id)
        why = "something unfinished needs it" if job.state in TERMINAL else "it has not ended"
        raise JobNotEnded(f"job {job_id} ({job.name}) is {job.state}, and stays: {why}", job_id)


async def _refuse_archive(master: Master) -> None:
    """An archive takes no new jobs."""
    if (await master.cluster_settings()).mode is Mode.ARCHIVE:
        raise ClusterArchived


async def _get(master: Master, job_id: str) -> JobInfo:
    found = (await master.get_jobs([job_id])).get(job_id)
    if found is None:
        raise JobNotFound(job_id, f" at {master.url}")
    return found


async def remove(master: Master, where: JobFilter) -> int:
    """Forget ended jobs. Returns how many."""
    wanted, count = removable(where), 0
    while True:
        jobs = await master.list_jobs(replace(wanted, limit=_PAGE))
        count += len(await master.remove([job.id for job in jobs]))
        if len(jobs) < _PAGE:
            return count
        wanted = wanted.next_page(jobs[-1])


def removable(where: JobFilter) -> JobFilter:
    """The filter, of what can be removed. Raises ``ConfigError``."""
    return _ended(where, sorted(TERMINAL), "remove")


async def cancel(master: Master, where: JobFilter, reason: str) -> int:
    """Ask for jobs that have not ended to be cancelled. Returns how many."""
    wanted, count = cancellable(where), 0
    while True:
        jobs = await master.list_jobs(replace(wanted, limit=_PAGE))
        # Those that wait first: what they wait for might end, and let them go.
        each = sorted(jobs, key=lambda job: job.state is not State.WAITING)
        count += len(await master.cancel([job.id for job in each], reason))
        if len(jobs) < _PAGE:
            return count
        wanted = wanted.next_page(jobs[-1])


def cancellable(where: JobFilter) -> JobFilter:
    """The filter, of what can be cancelled. Raises ``ConfigError``."""
    if where.is_any:
        raise ConfigError("cancel needs to know which jobs: give a state, a name, a lane …")
    if ended := TERMINAL & set(where.states):
        raise ConfigError(f"cancel: a job that is {min(ended)} has ended already")
    return where if where.states else replace(where, states=UNFINISHED)
