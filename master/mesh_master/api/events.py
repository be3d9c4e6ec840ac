"""Routes: what happens to jobs, as pages and as streams of server-sent events.

A stream tells what there is after the last event that its reader saw, then what comes, as
``mesh.feed`` does. It is read by nobody but its reader: one that is slow is waited for. While
nothing comes a comment says every ``HEARTBEAT`` seconds that the stream lives, which keeps proxies
from cutting it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from litestar import MediaType, Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from mesh import feed
from mesh.errors import ConfigError, JobNotFound, MeshError
from mesh.feed import JobEvent
from mesh.filter import JobFilter
from mesh.job import State, is_job_id, moment_of
from mesh.ports import EventInfo
from mesh.sign_in import Scope
from mesh_master.api.context import AnyRequest, Api, GivenApi, require
from mesh_master.api.problems import PROBLEMS, problem
from mesh_master.api.views import MOST, Event, event

__all__ = ["HEARTBEAT", "router"]

HEARTBEAT = 15.0
"""Seconds."""

_YOUNG = 60.0
"""Seconds for which a job that was stored on an agent may not be known here."""

_STREAM = "text/event-stream"
_LAST_SEQ = 2**53 - 1
"""The greatest number that a browser holds exactly."""
_UNBUFFERED = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class EventPage(msgspec.Struct, kw_only=True):
    """Events of a job."""

    events: list[Event]
    next: int
    """For ``after``, to go on from here."""


class Whose(msgspec.Struct, kw_only=True):
    id: str
    name: str
    lane: str
    state: State
    attempt: int


class WatchedEvent(Event, kw_only=True):
    job: Whose


@get(
    "/jobs/{job_id:str}/events",
    guards=[require(Scope.READ)],
    responses=PROBLEMS,
    tags=["jobs", "events"],
)
async def job_events(
    api: GivenApi,
    request: AnyRequest,
    job_id: FromPath[str],
    after: Annotated[
        int,
        QueryParameter(
            ge=-1, le=_LAST_SEQ, description="The last `seq` that was seen; -1: from the start."
        ),
    ] = -1,
    limit: Annotated[int, QueryParameter(ge=1, le=MOST)] = 100,
) -> Response[Any]:
    """Events of a job, in order: a page, or with `Accept: text/event-stream` all there are and
    then what comes, until the job has ended. `Last-Event-ID` goes before `after`."""
    master = await api.master()
    if _STREAM in request.headers.get("accept", ""):
        after = _last_event_id(request, after)
        wanted = await _known_or_new(api, job_id)
        told = feed.follow(master, api.mesh.clock, wanted, after)
        return _stream(api, (_told(api, each) async for each in told), ends=True)
    info = await api.job(job_id)
    found = await feed.page(master, info.id, after, limit)
    shown = [event(each, api.mesh.redactor) for each in found]
    page = EventPage(events=shown, next=found[-1].seq if found else after)
    return Response(page, media_type=MediaType.JSON)


@get("/events", guards=[require(Scope.READ)], responses=PROBLEMS, tags=["events"])
async def all_events(api: GivenApi, job_filter: NamedDependency[JobFilter]) -> Response[Any]:
    """What happens from now on to the jobs that are meant: a stream of server-sent events,
    without end."""
    watched = feed.watch(await api.master(), api.mesh.clock, job_filter)
    return _stream(api, (_watched(api, each) async for each in watched), ends=False)


async def _known_or_new(api: Api, job_id: str) -> str:
    """The id of a job that is known, or so young that the master may hear of it yet: who was just
    given it comes here at once. Raises ``JobNotFound``."""
    try:
        return (await api.job(job_id)).id
    except JobNotFound:
        if is_job_id(job_id) and abs(api.mesh.now() - moment_of(job_id)) < _YOUNG:
            return job_id
        raise


def _last_event_id(request: AnyRequest, after: int) -> int:
    given = request.headers.get("last-event-id")
    if not given:
        return after
    try:
        return max(-1, int(given))
    except ValueError:
        raise ConfigError(f"Last-Event-ID: '{given}' is no 'seq' of an event") from None


def _told(api: Api, info: EventInfo) -> bytes:
    shown = event(info, api.mesh.redactor)
    data = msgspec.json.encode({"at": shown.at, "data": shown.data})
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (info.seq, info.kind.encode(), data)


def _watched(api: Api, one: JobEvent) -> bytes:
    shown, job = event(one.event, api.mesh.redactor), one.job
    whose = Whose(id=job.id, name=job.name, lane=job.lane, state=job.state, attempt=job.attempt)
    data = WatchedEvent(seq=shown.seq, at=shown.at, kind=shown.kind, data=shown.data, job=whose)
    return b"data: %s\n\n" % msgspec.json.encode(data)


def _stream(api: Api, messages: AsyncGenerator[bytes, None], *, ends: bool) -> Response[Any]:
    return Stream(_alive(api, messages, ends), media_type=_STREAM, headers=_UNBUFFERED)


async def _alive(
    api: Api, messages: AsyncGenerator[bytes, None], ends: bool
) -> AsyncIterator[bytes]:
    """The messages, and a comment whenever nothing comes for a while; until the server stops."""
    yield b"retry: 1000\n\n"
    async with aclosing(messages):
        coming: asyncio.Task[bytes] | None = None
        stopping = asyncio.ensure_future(api.stopping.wait())
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(anext(messages))
                await asyncio.wait(
                    [coming, stopping],
                    timeout=HEARTBEAT,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stopping.done():
                    return
                if not coming.done():
                    yield b": still here\n\n"
                    continue
                message, coming = coming.result(), None
                yield message
        except StopAsyncIteration:
            if ends:
                yield b"event: end\ndata: {}\n\n"
        except MeshError as error:
            # The headers are out. The reader comes again, with the last id that it saw.
            yield b"event: problem\ndata: %s\n\n" % msgspec.json.encode(problem(error))
        finally:
            stopping.cancel()
            if coming is not None:
                coming.cancel()
                await asyncio.wait([coming])


router = Router("/", route_handlers=[job_events, all_events])
