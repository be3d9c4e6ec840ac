"""Which jobs a filter means, as queries that go by indexes.

A page is read in the order of an index, as far as it is long: by id, or by the end within a
state. Where several states are asked for, each gives its own page, and the page is the best of
those. A tag leads: its rows are in the order of the ids.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, func, literal, select, tuple_, union_all

from mesh.job import TERMINAL, State
from mesh.ports import JobFilter
from mesh.sql import Database, JobId, Moment, begins_with
from mesh_master.tables import Tables

__all__ = ["counts", "page"]


def page(database: Database, tables: Tables, where: JobFilter) -> Select[Any]:
    """The rows of the jobs of one page."""
    states = _states(where)
    if len(states) < 2 or where.meta:
        return _page(database, tables, where, states)
    parts = [
        select(_page(database, tables, where, [state]).subquery(f"of_{state}")) for state in states
    ]
    best = union_all(*parts).subquery("best")
    first = [best.c.finished_at.desc()] if where.by_end else []
    return select(best).order_by(*first, best.c.id.desc()).limit(where.limit)


def counts(database: Database, tables: Tables, where: JobFilter) -> Select[Any]:
    """Each ``state``, and how many ``jobs`` are in it."""
    jobs = tables.jobs
    source, conditions, _ = _meant(database, tables, where, _states(where))
    query: Select[Any] = select(jobs.c.state).add_columns(func.count().label("jobs"))
    return query.select_from(source).where(*conditions).group_by(jobs.c.state)


def _states(where: JobFilter) -> list[State]:
    """The states to look in; none is any."""
    if where.by_end and not where.states:
        return sorted(TERMINAL)
    return sorted(set(where.states))


def _page(database: Database, tables: Tables, where: JobFilter, states: list[State]) -> Select[Any]:
    jobs = tables.jobs
    source, conditions, job_id = _meant(database, tables, where, states)
    query = select(jobs).select_from(source).where(*conditions).limit(where.limit)
    if where.by_end:
        query = query.order_by(jobs.c.finished_at.desc(), job_id.desc())
    else:
        query = query.order_by(job_id.desc())
    if where.before is None:
        return query
    last, at = where.cursor
    if not where.by_end:
        return query.where(job_id < last)
    here = tuple_(jobs.c.finished_at, job_id)
    return query.where(
        # Said again for databases that find no index by a pair.
        jobs.c.finished_at <= at,
        here < tuple_(literal(at, Moment), literal(last, JobId)),
    )


def _meant(
    database: Database, tables: Tables, where: JobFilter, states: list[State]
) -> tuple[FromClause, list[ColumnElement[bool]], ColumnElement[str]]:
    """Where to look, for what, and the column of the ids by which to sort."""
    jobs = tables.jobs.c
    source: FromClause = tables.jobs
    job_id: ColumnElement[str] = jobs.id
    conditions: list[ColumnElement[bool]] = []
    for index, (name, value) in enumerate(sorted(where.meta.items())):
        tag = tables.tags.alias(f"tag_{index}")
        source = tag.join(source, tag.c.job_id == jobs.id)
        conditions += [tag.c.name == name, tag.c.value == value]
        job_id = tag.c.job_id
    if len(states) == 1:
        conditions.append(jobs.state == states[0])
    elif states:
        conditions.append(jobs.state.in_(states))
    if where.name is not None:
        beginning = where.name.removesuffix("*")
        if beginning == where.name:
            conditions.append(jobs.name == where.name)
        else:
            conditions.append(begins_with(database, jobs.name, beginning))
    if where.app and not (where.name or "").startswith(where.app):
        conditions.append(begins_with(database, jobs.name, where.app))
    for column, wanted in (
        (jobs.lane, where.lane),
        (jobs.schedule, where.schedule),
        (jobs.key, where.key),
        (jobs.workflow, where.workflow),
        (jobs.parent, where.parent),
        (jobs.error_type, where.error),
        (jobs.fingerprint, where.fingerprint),
    ):
        if wanted is not None:
            conditions.append(column == wanted)
    if where.retried is not None:
        again = jobs.retried_as
        conditions.append(again.is_not(None) if where.retried else again.is_(None))
    moment = jobs.finished_at if where.by_end else jobs.enqueued_at
    if where.by_end:
        conditions.append(moment.is_not(None))  # so the partial index says it too
    if where.since is not None:
        conditions.append(moment >= where.since)
    if where.until is not None:
        conditions.append(moment < where.until)
    return source, conditions, job_id
