"""Routes: what happened over time, and failures that look alike."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from litestar import get
from litestar.params import FromQuery, QueryParameter

from mesh.clock import from_datetime, to_datetime
from mesh.errors import ConfigError
from mesh.ports import RUN_TIMES, Bucket, FailureGroup
from mesh.sign_in import Scope
from mesh_master.api.context import Api, GivenApi, require
from mesh_master.api.problems import PROBLEMS
from mesh_master.job_options import parse_moment

__all__ = ["Span", "routes", "spans"]

_READ = [require(Scope.READ)]


class Span(msgspec.Struct, kw_only=True):
    """What happened in a span of time."""

    at: datetime
    key: str | None = None
    """The handler or the lane that it is of."""
    enqueued: int
    started: int
    succeeded: int
    failed: int
    cancelled: int
    skipped: int
    expired: int
    retried: int
    seconds: float
    """The run time of attempts that ended, all together."""
    waited: float
    """Seconds from when jobs were enqueued, or due, to their start, all together."""
    waits: int
    """How many starts that is of."""
    histogram: list[int]
    """Attempts that ended, by their run time; see ``bounds``."""


class Series(msgspec.Struct, kw_only=True):
    step: float
    bounds: list[float]
    """Seconds between the classes of ``histogram``, which has one more at each end."""
    buckets: list[Span]


class Failure(msgspec.Struct, kw_only=True):
    """Failed jobs that look alike."""

    fingerprint: str
    name: str
    error_type: str | None
    message: str | None
    count: int
    retried: int
    first_at: datetime
    last_at: datetime
    job_ids: list[str]


class Failures(msgspec.Struct, kw_only=True):
    failures: list[Failure]


_Since = Annotated[
    str,
    QueryParameter(max_length=100, description="`1h`, or a moment: 2026-01-31T09:00:00Z."),
]


@get("/series", guards=_READ, responses=PROBLEMS, tags=["statistics"])
async def series(
    api: GivenApi,
    since: _Since = "1h",
    until: _Since = "0s",
    step: Annotated[float, QueryParameter(ge=60, le=86_400, description="Seconds.")] = 60.0,
    name: Annotated[str | None, QueryParameter(max_length=200)] = None,
    lane: Annotated[str | None, QueryParameter(max_length=200)] = None,
    by: FromQuery[Literal["name", "lane"] | None] = None,
) -> Series:
    """What happened, in spans of time; of all, of one handler or lane, or by handler or lane."""
    begin, end = _moment(api, "since", since), _moment(api, "until", until)
    full = api.mesh.prefix.of
    found = await spans(api, begin, end, step, name and full(name), lane and full(lane), by)
    return Series(step=step, bounds=list(RUN_TIMES), buckets=found)


@get("/failures", guards=_READ, responses=PROBLEMS, tags=["statistics"])
async def failures(
    api: GivenApi,
    since: _Since = "7d",
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
) -> Failures:
    """Failed jobs in groups of those that look alike, the largest first."""
    begin, app = _moment(api, "since", since), api.mesh.prefix.text
    found = await (await api.master()).failures(begin, limit, app=app)
    return Failures(failures=[_group(group) for group in found])


async def spans(
    api: Api,
    since: float,
    until: float,
    step: float,
    name: str | None = None,
    lane: str | None = None,
    by: Literal["name", "lane"] | None = None,
) -> list[Span]:
    """The whole spans from ``since`` on, and the one that is under way at ``until``."""
    if until <= since:
        raise ConfigError("since must be before until")
    begin, end = since // step * step, (until // step + 1) * step
    found = await (await api.master()).series(begin, end, step, name=name, lane=lane, by=by)
    return [_span(bucket) for bucket in found]


def _span(bucket: Bucket) -> Span:
    return Span(
        at=to_datetime(bucket.at),
        key=bucket.key,
        enqueued=bucket.enqueued,
        started=bucket.started,
        succeeded=bucket.succeeded,
        failed=bucket.failed,
        cancelled=bucket.cancelled,
        skipped=bucket.skipped,
        expired=bucket.expired,
        retried=bucket.retried,
        seconds=bucket.seconds,
        waited=bucket.waited,
        waits=bucket.waits,
        histogram=list(bucket.histogram),
    )


def _group(group: FailureGroup) -> Failure:
    return Failure(
        fingerprint=group.fingerprint,
        name=group.name,
        error_type=group.error_type,
        message=group.message,
        count=group.count,
        retried=group.retried,
        first_at=to_datetime(group.first_at),
        last_at=to_datetime(group.last_at),
        job_ids=list(group.job_ids),
    )


def _moment(api: Api, word: str, text: str) -> float:
    given = parse_moment(word, text)
    if isinstance(given, timedelta):
        return api.mesh.now() - given.total_seconds()
    return from_datetime(given)


routes = [series, failures]
