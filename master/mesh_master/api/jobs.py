"""Routes: jobs."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from mesh import history
from mesh.codec import encode_json
from mesh.errors import ConfigError, InvalidArguments
from mesh.filter import JobFilter
from mesh.job import TERMINAL, State
from mesh.ports import JobInfo
from mesh.sign_in import Scope
from mesh_master.access.door import JobAction
from mesh_master.api.context import Api, GivenApi, SignedIn, mounted_at, require
from mesh_master.api.enqueue import enqueue_by_name
from mesh_master.api.problems import PROBLEMS, BodyOptional
from mesh_master.api.views import MOST, Job, JobDetail, Related, Why, detail, job, parse_filter
from mesh_master.circumstances import find_standing
from mesh_master.why import why

__all__ = ["router"]

_DEPTH = 50
"""Jobs of each kind of relation that are shown with a job."""
_READ, _OPERATE = [require(Scope.READ)], [require(Scope.OPERATE)]


class JobPage(msgspec.Struct, kw_only=True):
    """Jobs, and where the next page begins."""

    jobs: list[Job]
    next: str | None = None


class NewJob(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A job to be enqueued."""

    name: str
    """The handler's."""
    payload: dict[str, Any] = {}
    """Its arguments by name."""
    options: JobOptions | None = None


class JobOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a job can be told; see `docs/jobs.md`. Times in seconds."""

    id: str | None = None
    delay: Annotated[float, msgspec.Meta(ge=0)] | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    priority: Literal["lowest", "low", "normal", "high", "highest"] | None = None
    lane: str | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    expires: Annotated[float, msgspec.Meta(gt=0)] | None = None
    deadline: Annotated[float, msgspec.Meta(gt=0)] | None = None
    meta: dict[str, str] | None = None
    result_ttl: float | None = None
    agent: str | None = None
    durability: Literal["agent", "master"] | None = None
    key: str | None = None
    key_scope: Literal["unfinished", "forever"] | float | None = None
    on_conflict: Literal["keep", "replace", "debounce", "raise"] | None = None
    max_wait: float | None = None
    after: list[str] | None = None
    on: Literal["success", "failure", "finished"] | None = None


class Enqueued(msgspec.Struct, kw_only=True):
    """The job that was made, or that there was already."""

    id: str
    existing: bool = False


class Reason(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Standing(msgspec.Struct, kw_only=True):
    """The state that a job is in now; one that is to be cancelled may take a moment."""

    id: str
    state: State


class Again(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    payload: dict[str, Any] | None = None
    """Other arguments, by name. What is hidden in them stays as it was."""


class Where(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which jobs; the words are those of GET /jobs."""

    state: list[State] | None = None
    name: str | None = None
    lane: str | None = None
    schedule: str | None = None
    tag: list[str] | None = None
    key: str | None = None
    workflow: str | None = None
    parent: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    retried: bool | None = None
    since: str | None = None
    until: str | None = None


class Bulk(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to be done to many jobs."""

    where: Where
    dry_run: bool = False
    """Only count them."""
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Of cancelling."""


class Done(msgspec.Struct, kw_only=True):
    """How many jobs were meant, and to how many it was done."""

    matched: int
    done: int


@get("/", guards=_READ, responses=PROBLEMS)
async def list_jobs(
    api: GivenApi,
    job_filter: NamedDependency[JobFilter],
    limit: Annotated[int, QueryParameter(ge=1, le=MOST)] = 50,
    cursor: Annotated[str | None, QueryParameter(max_length=200)] = None,
) -> JobPage:
    """A page of jobs, the newest first (ended ones: what ended last)."""
    where = replace(job_filter, limit=limit, before=None if cursor is None else _opened(cursor))
    found = await (await api.master()).list_jobs(where)
    following = None
    if len(found) == limit:
        following = _closed(where.next_page(found[-1]).before or "")
    redactor = api.mesh.redactor
    return JobPage(jobs=[job(info, redactor) for info in found], next=following)


def _closed(before: str) -> str:
    return base64.urlsafe_b64encode(before.encode()).decode().rstrip("=")


def _opened(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        raise ConfigError(f"cursor='{cursor}' is not one that a page said as 'next'") from None


@get("/count", guards=_READ, responses=PROBLEMS)
async def count_jobs(api: GivenApi, job_filter: NamedDependency[JobFilter]) -> dict[str, int]:
    """How many jobs there are in each state; those with none are missing."""
    counts = await (await api.master()).count_jobs(None if job_filter.is_any else job_filter)
    return {str(state): count for state, count in counts.items()}


@post("/", guards=_OPERATE, status_code=202, responses=PROBLEMS)
async def enqueue(api: GivenApi, request: SignedIn, data: JSONBody[NewJob]) -> Response[Enqueued]:
    """Enqueue a job by its handler's name. Its arguments are checked against the handler's types.

    The answer comes when the job is stored durably; `Location` is where to follow it."""
    name = api.mesh.prefix.of(data.name)
    api.door.check_job(request.user, "enqueue", await api.door.kind(name))
    options = {} if data.options is None else msgspec.structs.asdict(data.options)
    given = {key: value for key, value in options.items() if value is not None}
    handle = await enqueue_by_name(api, name, data.payload, given)
    return Response(
        Enqueued(id=handle.id, existing=handle.existing),
        status_code=202,
        headers={"Location": f"{mounted_at(request)}/api/v1/jobs/{handle.id}"},
    )


@get("/{job_id:str}", guards=_READ, responses=PROBLEMS)
async def show(api: GivenApi, job_id: FromPath[str]) -> JobDetail:
    """A job with its attempts, its arguments and what became of it."""
    info = await api.job(job_id)
    master = await api.master()
    shown = detail(info, await master.attempts(info.id), api.mesh.redactor)
    links = await master.links(info.id)
    children = links.children[:_DEPTH]
    wanted = {*links.parents, *children, *((info.parent,) if info.parent else ())}
    known = await master.get_jobs(sorted(wanted))
    enqueued = await master.list_jobs(JobFilter(parent=info.id, limit=_DEPTH))
    shown.parents = [_related(known[i], "after") for i in links.parents if i in known]
    if info.parent in known:
        shown.parents.append(_related(known[info.parent], "enqueued"))
    shown.children = [_related(known[i], "after") for i in children if i in known]
    shown.children += [_related(each, "enqueued") for each in enqueued]
    shown.kind = await api.door.kind(info.name)
    if info.state not in TERMINAL:
        standing = await find_standing(api.mesh, [info], thorough=True)
        shown.why = [
            Why(text=reason.text, advice=reason.advice, trouble=reason.trouble)
            for reason in why(info, standing)
        ]
    return shown


def _related(info: JobInfo, relation: str) -> Related:
    return Related(id=info.id, name=info.name, state=info.state, relation=relation)


@post(
    "/{job_id:str}/cancel",
    guards=_OPERATE,
    status_code=202,
    responses=PROBLEMS,
    operation_class=BodyOptional,
)
async def cancel(
    api: GivenApi, request: SignedIn, job_id: FromPath[str], data: JSONBody[Reason | None] = None
) -> Standing:
    """Ask for a job to be cancelled. One that has not started never does."""
    info = await api.job(job_id)
    await api.check_job(request.user, "cancel", info)
    reason = _reason(request, "" if data is None else data.reason)
    states = await (await api.master()).cancel([info.id], reason)
    return Standing(id=info.id, state=states.get(info.id, info.state))


def _reason(request: SignedIn, given: str) -> str:
    return given or f"cancelled by {request.user.user}"


@post(
    "/{job_id:str}/retry",
    guards=_OPERATE,
    status_code=202,
    responses=PROBLEMS,
    operation_class=BodyOptional,
)
async def retry(
    api: GivenApi, request: SignedIn, job_id: FromPath[str], data: JSONBody[Again | None] = None
) -> Enqueued:
    """Do an ended job again, as a new job, perhaps with other arguments."""
    info = await api.job(job_id)
    await api.check_job(request.user, "retry", info)
    handle = await api.mesh.get_job(info.id)
    payload = None if data is None else data.payload
    if payload is not None:
        # Other arguments are another job of the application's.
        await api.check_job(request.user, "enqueue", info)
        payload = _unhidden(api, info, payload)
    return Enqueued(id=(await handle.retry(payload)).id)


def _unhidden(api: Api, info: JobInfo, payload: dict[str, Any]) -> dict[str, Any]:
    try:
        edited = api.mesh.redactor.restore(encode_json(payload), info.payload or b"{}")
    except ValueError as error:
        raise InvalidArguments(f"job {info.id} ({info.name}): {error}") from None
    return msgspec.json.decode(edited, type=dict[str, Any])


@delete("/{job_id:str}", guards=_OPERATE, responses=PROBLEMS)
async def remove(api: GivenApi, request: SignedIn, job_id: FromPath[str]) -> None:
    """Forget an ended job, with all that there is of it."""
    info = await api.job(job_id)
    await api.check_job(request.user, "remove", info)
    await history.remove_one(await api.master(), info.id)


# many ----------------------------------------------------------------------------------------


@post("/cancel", guards=_OPERATE, status_code=200, responses=PROBLEMS)
async def cancel_many(api: GivenApi, request: SignedIn, data: JSONBody[Bulk]) -> Done:
    """Cancel all jobs that have not ended and are meant."""
    where = history.cancellable(_where(api, request, data, "cancel"))
    matched = await _count(api, where)
    if data.dry_run:
        return Done(matched=matched, done=0)
    reason = _reason(request, data.reason)
    return Done(matched=matched, done=await history.cancel(await api.master(), where, reason))


@post("/retry", guards=_OPERATE, status_code=200, responses=PROBLEMS)
async def retry_many(api: GivenApi, request: SignedIn, data: JSONBody[Bulk]) -> Done:
    """Do all jobs again that failed or expired and are meant."""
    where = history.retryable(_where(api, request, data, "retry"))
    matched = await _count(api, where)
    done = 0
    if not data.dry_run:
        async for _ in api.mesh.retry_each(where):
            done += 1
    return Done(matched=matched, done=done)


@post("/remove", guards=_OPERATE, status_code=200, responses=PROBLEMS)
async def remove_many(api: GivenApi, request: SignedIn, data: JSONBody[Bulk]) -> Done:
    """Forget all ended jobs that are meant."""
    where = history.removable(_where(api, request, data, "remove"))
    matched = await _count(api, where)
    if data.dry_run:
        return Done(matched=matched, done=0)
    return Done(matched=matched, done=await history.remove(await api.master(), where))


def _where(api: Api, request: SignedIn, data: Bulk, action: JobAction) -> JobFilter:
    # Of whatever kind they are: so for the more restricted one.
    api.door.check_job(request.user, action, "user")
    return parse_filter(api, msgspec.structs.asdict(data.where))


async def _count(api: Api, where: JobFilter) -> int:
    return sum((await (await api.master()).count_jobs(where)).values())


router = Router(
    "/jobs",
    tags=["jobs"],
    route_handlers=[
        *(list_jobs, count_jobs, enqueue, show, cancel, retry, remove),
        *(cancel_many, retry_many, remove_many),
    ],
)
