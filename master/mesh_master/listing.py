"""Which jobs a filter means, as queries that go by indexes.

A page is read in the order of an index, as far as it is long: by id, or by a moment. Where several
states are asked for, each gives its own page, and the page is the best of those. A tag leads: its
rows are in the order of the ids.

Where a handler or a lane is asked for, how many such jobs there are is known (``statistics``), and
so what each way costs. No planner knows that: names, lanes and states go together, and a planner
that takes them for independent may go through a whole history for a page. The ways:

- *apart*: a page of each kind, by name, state and lane, that there is: each in the order of the
  index that begins so, and by id alone;
- *along*: in the order of the page, past the jobs that are others', until it is full;
- *all*: get all that are meant, and sort them.

Along passes ``limit * those of the states / those meant`` jobs, and all gets those meant: the
lesser is never more than some thousands of jobs, for millions in the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    func,
    literal,
    select,
    union_all,
)

from mesh.job import TERMINAL, State
from mesh.ports import JobFilter
from mesh.sql import Database, JobId, Moment
from mesh_master.statistics import whose
from mesh_master.tables import Tables

__all__ = ["Kind", "counts", "kinds", "page"]

_MOST_APART = 12
"""Pages in one query."""
_FEW = 2000
"""Jobs that are looked at one by one, rather than all that have a tag."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Jobs of one state, handler and lane."""

    state: State
    name: str
    lane: str
    jobs: int
    others: int
    """How many jobs there are in the states that are asked for, whoever's."""


@dataclass(frozen=True, slots=True)
class _Meant:
    """Where to look, for what, and by which id and moment to sort."""

    source: FromClause
    conditions: list[ColumnElement[bool]]
    job_id: ColumnElement[str]
    moment: ColumnElement[Any]


def kinds(database: Database, tables: Tables, where: JobFilter) -> Select[Any] | None:
    """The kinds of jobs that a filter means, as rows with the fields of ``Kind``, if that helps:
    what else it says is found by an index of its own."""
    if where.name is None and where.lane is None:
        return None
    if any((where.schedule, where.key, where.workflow, where.parent)):
        return None
    if where.error is not None or where.fingerprint is not None:
        return None
    columns, jobs = tables.totals.c, func.sum(tables.totals.c.jobs)
    states = _states(where)
    of_states = [columns.state.in_(states)] if states else []
    others = select(func.sum(columns.jobs)).where(*of_states).scalar_subquery()
    key = [columns.state, columns.name, columns.lane]
    query: Select[Any] = select(*key).add_columns(jobs.label("jobs"), others.label("others"))
    mine = whose(database, tables.totals.c, where.name, where.lane, where.app)
    return query.where(*of_states, *mine).group_by(*key).having(jobs > 0)


def page(
    database: Database, tables: Tables, where: JobFilter, known: Sequence[Kind] | None = None
) -> Select[Any]:
    """The rows of the jobs of one page; ``known`` are the kinds that there are, of ``kinds``."""
    states = _states(where)
    meant = sum(kind.jobs for kind in known or ())
    if where.meta and meant > _FEW:
        known = None  # a tag leads
    if known is not None:
        others = max((kind.others for kind in known), default=0)
        if where.moment is None and len(known) <= _MOST_APART and not where.meta:
            return _best(
                database, tables, where, [_meant(database, tables, where, [], k) for k in known]
            )
        if where.meta or meant * meant < where.limit * others:
            every = _meant(database, tables, where, states, is_all=True)
            return _all(database, tables, where, every)
    is_along = known is not None
    if len(states) < 2 or where.meta:
        return _page(
            database, tables, where, _meant(database, tables, where, states, is_along=is_along)
        )
    each = [_meant(database, tables, where, [state], is_along=is_along) for state in states]
    return _best(database, tables, where, each)


def counts(database: Database, tables: Tables, where: JobFilter) -> Select[Any]:
    """Each ``state``, and how many ``jobs`` are in it."""
    jobs = tables.jobs
    meant = _meant(database, tables, where, _states(where))
    query: Select[Any] = select(jobs.c.state).add_columns(func.count().label("jobs"))
    return query.select_from(meant.source).where(*meant.conditions).group_by(jobs.c.state)


def _states(where: JobFilter) -> list[State]:
    """The states to look in; none is any."""
    if where.fingerprint is not None and not where.states:
        return [State.FAILED]
    if where.by_end and not where.states:
        return sorted(TERMINAL)
    return sorted(set(where.states))


def _page(
    database: Database, tables: Tables, where: JobFilter, meant: _Meant, *, ids: bool = False
) -> Select[Any]:
    """The rows of a page's jobs, or what puts them in order."""
    jobs = tables.jobs
    query = select(*_place(where, meant)) if ids else select(jobs)
    query = query.select_from(meant.source).where(
        *meant.conditions, *_behind(database, where, jobs, meant.job_id)
    )
    return query.order_by(*_order(where, jobs, meant.job_id)).limit(where.limit)


def _best(
    database: Database, tables: Tables, where: JobFilter, each: Sequence[_Meant]
) -> Select[Any]:
    """The page from those of each."""
    if len(each) == 1:
        return _page(database, tables, where, each[0])
    parts = [
        select(_page(database, tables, where, one, ids=True).subquery(f"page_{number}"))
        for number, one in enumerate(each)
    ]
    return _first(database, tables, where, union_all(*parts).subquery("pages"))


def _all(database: Database, tables: Tables, where: JobFilter, meant: _Meant) -> Select[Any]:
    """The page from all jobs that are meant, whatever the order in which they are found."""
    some: Select[Any] = select(*_place(where, meant)).select_from(meant.source)
    rows = database.once(some.where(*meant.conditions), "meant").subquery("each")
    return _first(database, tables, where, rows)


def _first(database: Database, tables: Tables, where: JobFilter, rows: FromClause) -> Select[Any]:
    jobs = tables.jobs
    ids = select(rows.c.id).where(*_behind(database, where, rows, rows.c.id))
    ids = ids.order_by(*_order(where, rows, rows.c.id)).limit(where.limit)
    best = ids.subquery("best")
    query = select(jobs).join_from(best, jobs, jobs.c.id == best.c.id)
    return query.order_by(*_order(where, jobs, jobs.c.id))


def _place(where: JobFilter, meant: _Meant) -> list[ColumnElement[Any]]:
    """What a page is ordered by."""
    moment = [] if where.moment is None else [meant.moment.label(where.moment)]
    return [meant.job_id.label("id"), *moment]


def _order(
    where: JobFilter, rows: FromClause, job_id: ColumnElement[str]
) -> list[ColumnElement[Any]]:
    return [*([] if where.moment is None else [rows.c[where.moment].desc()]), job_id.desc()]


def _behind(
    database: Database, where: JobFilter, rows: FromClause, job_id: ColumnElement[str]
) -> list[ColumnElement[bool]]:
    """What is behind the page before."""
    if where.before is None:
        return []
    last, at = where.cursor
    if where.moment is None:
        return [job_id < last]
    moment = rows.c[where.moment]
    here = database.precedes([moment, job_id], [literal(at, Moment), literal(last, JobId)])
    # Said again for databases that find no index by a pair.
    return [moment <= at, here]


def _meant(
    database: Database,
    tables: Tables,
    where: JobFilter,
    states: list[State],
    kind: Kind | None = None,
    *,
    is_along: bool = False,
    is_all: bool = False,
) -> _Meant:
    """What the filter means; of one kind if given; ``is_along``: such that no index of names or
    lanes is gone by; ``is_all``: such that one of those is, none of moments or tags."""
    jobs = tables.jobs.c
    source: FromClause = tables.jobs
    job_id: ColumnElement[str] = jobs.id
    conditions: list[ColumnElement[bool]] = []
    for index, (name, value) in enumerate(sorted(where.meta.items())):
        tag = tables.tags.alias(f"tag_{index}")
        source = tag.join(source, tag.c.job_id == jobs.id)
        if is_all:
            conditions += [tag.c.name.concat("") == name, tag.c.value.concat("") == value]
        else:
            conditions += [tag.c.name == name, tag.c.value == value]
            if where.moment is None:  # else both are to be columns of the index that orders them
                job_id = tag.c.job_id
    if len(states) == 1:
        conditions.append(jobs.state == states[0])
    elif states:
        conditions.append(jobs.state.in_(states))
    if kind is not None:
        conditions += [jobs.name == kind.name, jobs.lane == kind.lane, jobs.state == kind.state]
    else:
        conditions += _whose(database, tables, where, is_along=is_along)
    for column, wanted in (
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
    moment: ColumnElement[Any] = jobs.finished_at if where.by_end else jobs.enqueued_at
    if is_all:
        # So that nothing that is said of it, outside either, leads to its index.
        moment = func.coalesce(moment, moment)
    if where.by_end:
        conditions.append(moment.is_not(None))  # so the partial index says it too
    if where.since is not None:
        conditions.append(moment >= where.since)
    if where.until is not None:
        conditions.append(moment < where.until)
    return _Meant(source, conditions, job_id, moment)


def _whose(
    database: Database, tables: Tables, where: JobFilter, *, is_along: bool
) -> list[ColumnElement[bool]]:
    """Of which handler, lane and app."""
    if not is_along:
        return whose(database, tables.jobs.c, where.name, where.lane, where.app)
    columns = {"name": tables.jobs.c.name.concat(""), "lane": tables.jobs.c.lane.concat("")}
    return whose(database, columns, where.name, where.lane, where.app)
