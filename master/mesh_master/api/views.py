"""What the API shows of jobs, and the filter that says which."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar.params import QueryParameter

from mesh.clock import to_datetime
from mesh.filter import JobFilter
from mesh.history import parse_where
from mesh.job import Priority, State
from mesh.ports import AttemptInfo, EventInfo, JobInfo
from mesh.redact import Redactor
from mesh_master.api.context import Api, GivenApi
from mesh_master.job_options import parse_moment, parse_tag
from mesh_master.redacting import shown_event, shown_job

__all__ = [
    "MOST",
    "Attempt",
    "Event",
    "Job",
    "JobDetail",
    "JobError",
    "Related",
    "Why",
    "attempt",
    "data",
    "detail",
    "event",
    "filter_of",
    "job",
    "moment",
    "parse_filter",
]

MOST = 500
"""Jobs, or events, of a page."""


class Job(msgspec.Struct, kw_only=True):
    """A job, as lists show it."""

    id: str
    name: str
    lane: str
    priority: str
    state: State
    attempt: int
    enqueued_at: datetime
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    agent: str | None = None
    worker: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None
    meta: dict[str, str] = {}
    schedule: str | None = None
    slot: datetime | None = None
    key: str | None = None
    workflow: str | None = None
    parent: str | None = None
    retry_of: str | None = None
    retried_as: str | None = None
    expires_at: datetime | None = None


class JobError(msgspec.Struct, kw_only=True):
    """Why an attempt, or a job, did not succeed."""

    type: str
    message: str
    traceback: str | None = None


class Attempt(msgspec.Struct, kw_only=True):
    """One execution of a job."""

    attempt: int
    outcome: str
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None


class Related(msgspec.Struct, kw_only=True):
    """A job that another waits for, or that waits for it, or that its handler enqueued."""

    id: str
    name: str
    state: State
    relation: str
    """``after``: one runs after the other; ``enqueued``: one's handler enqueued the other."""


class Why(msgspec.Struct, kw_only=True):
    """One thing that a job waits for."""

    text: str
    advice: str = ""
    """The next step."""
    trouble: bool = False
    """It does not go away by itself."""


class JobDetail(Job, kw_only=True):
    """A job, whole."""

    payload: Any = None
    """The arguments by name; hidden where ``redact`` says so."""
    result: Any = None
    error: JobError | None = None
    attempts: list[Attempt] = []
    parents: list[Related] = []
    children: list[Related] = []
    result_ttl: float | None = None
    kind: str = "user"
    why: list[Why] = []
    """Of a job that has not ended: all that keeps it from running, what decides first."""


class Event(msgspec.Struct, kw_only=True):
    """Something that happened to a job, or that its handler said."""

    seq: int
    at: datetime
    kind: str
    data: Any


def moment(at: float | None) -> datetime | None:
    return None if at is None else to_datetime(at)


def data(json: bytes | None) -> Any:
    return None if json is None else msgspec.json.decode(json)


_SAME = (
    *("id", "name", "lane", "state", "attempt", "agent", "worker", "error_type"),
    *(
        "error_message",
        "fingerprint",
        "schedule",
        "key",
        "workflow",
        "parent",
        "retry_of",
        "retried_as",
    ),
)


def job(info: JobInfo, redactor: Redactor) -> Job:
    return Job(**_facts(shown_job(redactor, info)))


def _facts(info: JobInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in _SAME} | {
        "priority": Priority(info.priority).word,
        "enqueued_at": to_datetime(info.enqueued_at),
        "due_at": moment(info.due_at),
        "started_at": moment(info.started_at),
        "finished_at": moment(info.finished_at),
        "slot": moment(info.slot),
        "expires_at": moment(info.expires_at),
        "meta": dict(info.meta or {}),
    }


def detail(info: JobInfo, attempts: Sequence[AttemptInfo], redactor: Redactor) -> JobDetail:
    shown = shown_job(redactor, info)
    return JobDetail(
        **_facts(shown),
        payload=data(shown.payload),
        result=data(shown.result),
        error=_error(info.error_type, info.error_message, info.error_traceback),
        attempts=[attempt(each) for each in attempts],
        result_ttl=info.result_ttl,
    )


def attempt(info: AttemptInfo) -> Attempt:
    return Attempt(
        attempt=info.attempt,
        outcome=str(info.outcome),
        worker=info.worker,
        started_at=moment(info.started_at),
        finished_at=moment(info.finished_at),
        error=_error(info.error_type, info.error_message, info.error_traceback),
    )


def _error(kind: str | None, message: str | None, traceback: str | None) -> JobError | None:
    if kind is None:
        return None
    return JobError(type=kind, message=message or "", traceback=traceback or None)


def event(info: EventInfo, redactor: Redactor) -> Event:
    shown = shown_event(redactor, info)
    return Event(
        seq=info.seq, at=to_datetime(info.at), kind=info.kind, data=msgspec.json.decode(shown.data)
    )


_Text = Annotated[str | None, QueryParameter(max_length=200)]


def filter_of(
    api: GivenApi,
    states: Annotated[
        list[State] | None, QueryParameter(name="state", description="In any of these states.")
    ] = None,
    name: Annotated[
        str | None,
        QueryParameter(max_length=200, description="Of this handler; `reports.*`: of those."),
    ] = None,
    lane: _Text = None,
    schedule: _Text = None,
    tags: Annotated[
        list[str] | None,
        QueryParameter(name="tag", description="With this tag, `NAME=VALUE`; all that are given."),
    ] = None,
    key: Annotated[
        str | None, QueryParameter(max_length=1000, description="The idempotency key.")
    ] = (None),
    workflow: _Text = None,
    parent: Annotated[
        str | None, QueryParameter(max_length=200, description="Enqueued by this job's handler.")
    ] = None,
    error: Annotated[
        str | None, QueryParameter(max_length=200, description="Ended with this type of error.")
    ] = None,
    fingerprint: Annotated[
        str | None, QueryParameter(max_length=100, description="Failed alike; see /failures.")
    ] = None,
    retried: Annotated[
        bool | None, QueryParameter(description="Done again already, or not.")
    ] = None,
    since: Annotated[
        str | None,
        QueryParameter(max_length=100, description="`1h`, or a moment: 2026-01-31T09:00:00Z."),
    ] = None,
    until: Annotated[str | None, QueryParameter(max_length=100)] = None,
    order: Annotated[
        str | None, QueryParameter(max_length=20, description="`enqueued` or `finished`.")
    ] = None,
) -> JobFilter:
    """The jobs that a query means. Raises ``ConfigError``."""
    return parse_filter(
        api,
        {
            "state": states or None,
            "name": name,
            "lane": lane,
            "schedule": schedule,
            "tag": tags or None,
            "key": key,
            "workflow": workflow,
            "parent": parent,
            "error": error,
            "fingerprint": fingerprint,
            "retried": retried,
            "since": since,
            "until": until,
            "order": order,
        },
    )


def parse_filter(api: Api, given: dict[str, Any]) -> JobFilter:
    """The jobs that these words mean; those of an app with a prefix are its own. Raises
    ``ConfigError``."""
    where = {name: value for name, value in given.items() if value is not None}
    if tags := where.pop("tag", None):
        where["meta"] = dict(map(parse_tag, tags))
    for word in ("since", "until"):
        if word in where:
            where[word] = parse_moment(word, where[word])
    return parse_where(where, api.mesh.now(), "the filter", api.mesh.prefix)
