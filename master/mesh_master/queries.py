"""What is read from the master's tables, and how rows become what the port promises."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Row, Select, func, or_, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.definition import Definition
from mesh.errors import ConfigError
from mesh.job import State
from mesh.ports import (
    AgentInfo,
    AttemptInfo,
    Backlog,
    EventInfo,
    HandlerInfo,
    JobFilter,
    JobInfo,
    Known,
    Links,
)
from mesh.sql import Database, one_of
from mesh.wire import Heartbeat, LaneLoad
from mesh_master import listing
from mesh_master.merge import LOST
from mesh_master.tables import UNSTARTED, Tables

__all__ = [
    "agents",
    "attempts",
    "backlog",
    "due",
    "events",
    "get_jobs",
    "handlers",
    "known",
    "last_events",
    "links",
    "list_jobs",
    "oldest",
    "workers",
]

log = logging.getLogger("mesh")

_LINKS = 1000
"""The most children that are told of a job."""

_LOOKS_AT_ONCE = 24

_lanes = msgspec.json.Decoder(list[LaneLoad])
_meta = msgspec.json.Decoder(dict[str, str])


def due(
    tables: Tables, until: float, now: float, limit: int, leaving_out: Collection[str] = ()
) -> Select[Any]:
    """Held jobs to dispatch that nobody has claimed, the earliest first."""
    jobs = tables.jobs.c
    others = [jobs.lane.not_in(sorted(leaving_out))] if leaving_out else []
    wanted = [jobs.id, jobs.envelope]
    return (
        select(*wanted)
        .where(
            jobs.envelope.is_not(None),  # held, under no limit: so the partial index says it too
            jobs.gate.is_(None),
            jobs.due_at <= until,
            or_(jobs.firm.is_(None), jobs.due_at <= now),
            # Others are with a dispatcher, or in doubt: on an agent, perhaps.
            jobs.claimed_until.is_(None),
            *others,
        )
        .order_by(jobs.due_at)
        .limit(limit)
    )


async def get_jobs(
    database: Database, tables: Tables, connection: AsyncConnection, job_ids: Sequence[str]
) -> dict[str, JobInfo]:
    query = select(tables.jobs).where(one_of(database, tables.jobs.c.id, job_ids))
    return {row.id: _job(row) for row in await connection.execute(query)}


async def known(
    database: Database, tables: Tables, connection: AsyncConnection, job_ids: Sequence[str]
) -> dict[str, Known]:
    jobs = tables.jobs.c
    query = select(jobs.id, jobs.attempt, jobs.state, jobs.agent)
    rows = await connection.execute(query.where(one_of(database, jobs.id, job_ids)))
    return {row.id: Known(row.attempt, State(row.state), row.agent) for row in rows}


async def list_jobs(
    database: Database, tables: Tables, connection: AsyncConnection, where: JobFilter
) -> list[JobInfo]:
    asked, known = listing.kinds(database, tables, where), None
    if asked is not None:
        rows = await connection.execute(asked)
        known = [listing.Kind(State(state), *others) for state, *others in rows]
        if not known:
            return []
    page = await connection.execute(listing.page(database, tables, where, known))
    return [_job(row) for row in page]


async def attempts(tables: Tables, connection: AsyncConnection, job_id: str) -> list[AttemptInfo]:
    """The attempts with rows of their own, and the one that the job's row tells of."""
    details = tables.attempts
    rows = await connection.execute(select(details).where(details.c.job_id == job_id))
    found = [AttemptInfo(**row._mapping) for row in rows]
    job = (await connection.execute(select(tables.jobs).where(tables.jobs.c.id == job_id))).first()
    if job is not None and job.started_at is not None:
        latest = AttemptInfo(
            job_id,
            job.attempt,
            job.state,
            job.worker,
            job.started_at,
            job.finished_at,
            job.error_type,
            job.error_message,
            job.error_traceback,
        )
        # What was thought lost reported after all.
        found = [a for a in found if not (a.outcome == LOST and _is_same_run(a, latest))]
        if not any(_is_same_run(a, latest) for a in found):
            found.append(latest)
    return sorted(found, key=lambda a: (a.attempt, a.started_at or 0.0))


def _is_same_run(one: AttemptInfo, other: AttemptInfo) -> bool:
    return one.attempt == other.attempt and one.worker in (None, other.worker)


async def events(
    tables: Tables, connection: AsyncConnection, job_id: str, after: int, limit: int
) -> list[EventInfo]:
    columns = tables.events.c
    query = (
        select(tables.events)
        .where(columns.job_id == job_id, columns.seq > after)
        .order_by(columns.seq)
        .limit(limit)
    )
    return [
        EventInfo(row.job_id, row.seq, row.at, row.kind, row.data.encode())
        for row in await connection.execute(query)
    ]


async def links(tables: Tables, connection: AsyncConnection, job_id: str) -> Links:
    columns = tables.dependencies.c
    parents = select(columns.parent_id).where(columns.child_id == job_id).order_by(columns.position)
    children = (
        select(columns.child_id)
        .where(columns.parent_id == job_id)
        .order_by(columns.child_id)
        .limit(_LINKS)
    )
    return Links(
        tuple((await connection.execute(parents)).scalars()),
        tuple((await connection.execute(children)).scalars()),
    )


async def last_events(
    database: Database, tables: Tables, connection: AsyncConnection, job_ids: Sequence[str]
) -> dict[str, int]:
    jobs, columns = tables.jobs.c, tables.events.c
    # One step in the index for each job, however many events it has; for a max() MariaDB would
    # read them all.
    last = select(columns.seq).where(columns.job_id == jobs.id).order_by(columns.seq.desc())
    query = select(jobs.id, last.limit(1).scalar_subquery()).where(
        one_of(database, jobs.id, job_ids)
    )
    rows = await connection.execute(query)
    return {job_id: seq for job_id, seq in rows if seq is not None}


async def workers(
    tables: Tables, connection: AsyncConnection, seen_after: float
) -> list[Heartbeat]:
    at = tables.workers.c["at"]
    query = select(tables.workers).where(at >= seen_after).order_by(at.desc())
    return [
        Heartbeat(**{**row._mapping, "lanes": _lanes.decode(row.lanes)})
        for row in await connection.execute(query)
    ]


async def handlers(tables: Tables, connection: AsyncConnection) -> list[HandlerInfo]:
    found = []
    for row in await connection.execute(select(tables.handlers).order_by(tables.handlers.c.name)):
        try:
            definition = Definition.decode(row.definition)
        except (msgspec.MsgspecError, ConfigError) as error:
            # Of a later version, perhaps: that it is there is worth knowing.
            log.warning("the definition of handler %s cannot be read: %s", row.name, error)
            definition = Definition(lane=row.lane)
        found.append(
            HandlerInfo(row.name, row.app, definition, row.first_seen, row.changed_at, row.seen_at)
        )
    return found


async def agents(tables: Tables, connection: AsyncConnection) -> list[AgentInfo]:
    query = select(tables.agents).order_by(tables.agents.c.name)
    return [
        AgentInfo(row.name, row.url, row.seen_at or 0.0, row.lost or 0, row.lost_at)
        for row in await connection.execute(query)
    ]


async def backlog(tables: Tables, connection: AsyncConnection, now: float) -> dict[str, Backlog]:
    totals = tables.totals.c
    held = (State.SCHEDULED, State.WAITING)
    count = func.sum(totals.jobs)
    query: Select[Any] = select(totals.lane, totals.state).add_columns(count.label("jobs"))
    query = query.where(totals.state.in_([*held, State.QUEUED, State.RETRYING]))
    query = query.group_by(totals.lane, totals.state).having(count > 0)
    rows = (await connection.execute(query)).all()
    since: dict[str, float] = {}
    for begin in range(0, len(rows), _LOOKS_AT_ONCE):
        parts = [
            select(oldest(tables, row.lane, row.state, now).subquery(f"of_{number}"))
            for number, row in enumerate(rows[begin : begin + _LOOKS_AT_ONCE])
        ]
        for lane, at in await connection.execute(union_all(*parts)):
            since[lane] = min(at, since.get(lane, at))
    found: dict[str, Backlog] = {}
    for row in rows:
        lane, jobs = row.lane, int(row.jobs)
        known = found.get(lane, Backlog(oldest_at=since.get(lane)))
        if row.state in held:
            found[lane] = replace(known, held=known.held + jobs)
        else:
            found[lane] = replace(known, sent=known.sent + jobs)
    return found


def oldest(tables: Tables, lane: str, state: str, now: float) -> Select[Any]:
    """When the oldest job that is due was enqueued: a look at the beginning of an index."""
    jobs = tables.jobs.c
    wanted = [jobs.lane, jobs.enqueued_at]
    query = select(*wanted).where(
        text(UNSTARTED),
        jobs.lane == lane,
        jobs.state == state,
        or_(jobs.due_at.is_(None), jobs.due_at <= now),
    )
    return query.order_by(jobs.enqueued_at).limit(1)


def _job(row: Row[Any]) -> JobInfo:
    return JobInfo(
        id=row.id,
        name=row.name,
        lane=row.lane,
        priority=row.priority,
        state=State(row.state),
        attempt=row.attempt,
        enqueued_at=row.enqueued_at,
        payload=None if row.payload is None else row.payload.encode(),
        due_at=row.due_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        agent=row.agent,
        worker=row.worker,
        result=None if row.result is None else row.result.encode(),
        error_type=row.error_type,
        error_message=row.error_message,
        error_traceback=row.error_traceback,
        fingerprint=row.fingerprint,
        meta=None if row.meta is None else _meta.decode(row.meta),
        schedule=row.schedule,
        slot=row.slot,
        key=row.key,
        workflow=row.workflow,
        parent=row.parent,
        retry_of=row.retry_of,
        retried_as=row.retried_as,
        result_ttl=row.result_ttl,
        expires_at=row.expires_at,
    )
