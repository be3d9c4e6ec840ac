"""Forgetting ended jobs, in steps so small that nobody waits long.

A step is a transaction of at most ``ROOM`` rows. What there is of a job goes first (its events,
attempts, tags), its own row last: a step that is the last for a while, because the process died,
leaves a job that is found again. Rows that others have locked are passed over. A terminal state
is final, so what was chosen in one transaction may be removed in the next.

A job is *needed* while a job that runs after it, or any of its workflow, has not ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Row,
    Select,
    Table,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.job import LEAST_KEPT, TERMINAL, State, is_job_id
from mesh.ports import Outlived
from mesh.sql import Change, Database, JobId, Moment, one_of, repeated
from mesh_master.tables import Tables

__all__ = ["ROOM", "Forgetting", "next_ttl", "oldest"]

ROOM = 1000
"""The most rows that one transaction deletes."""
_LOOKS = 100
"""Queries of one call of ``outlived``."""


class _Page(NamedTuple):
    """Where ``outlived`` goes on: first state by state, then through jobs' own times."""

    state: int = 0
    """The place among the states; behind the last, jobs' own times."""
    ttl: float = -1.0
    after: tuple[float, str] | None = None
    """The end and the id of the last job of the page before."""


def oldest(
    database: Database,
    tables: Tables,
    these: ColumnElement[bool],
    until: float,
    after: tuple[float, str] | None,
    limit: int,
) -> Select[Any]:
    """The ids and ends of those of the jobs that ended by then, the oldest first, behind one of
    that end and id."""
    jobs = tables.jobs.c
    wanted = [jobs.id, jobs.finished_at]
    query = select(*wanted).where(these, jobs.finished_at.is_not(None), jobs.finished_at <= until)
    if after is not None:
        at, job_id = after
        beyond = database.follows(
            [jobs.finished_at, jobs.id], [literal(at, Moment), literal(job_id, JobId)]
        )
        query = query.where(jobs.finished_at >= at, beyond)
    return query.order_by(jobs.finished_at, jobs.id).limit(limit)


def next_ttl(tables: Tables, ttl: float) -> Select[Any]:
    """The next greater one that an ended job has: they are few, and a step in an index."""
    jobs = tables.jobs.c
    ended = jobs.finished_at.is_not(None)
    return select(func.min(jobs.result_ttl)).where(jobs.result_ttl > ttl, ended)


class Forgetting:
    """What ``Master.outlived``, ``remove`` and ``sweep`` do."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._details: list[tuple[Table, Column[str]]] = [
            (tables.events, tables.events.c.job_id),
            (tables.attempts, tables.attempts.c.job_id),
            (tables.tags, tables.tags.c.job_id),
            (tables.slots, tables.slots.c.job_id),
            (tables.dependencies, tables.dependencies.c.child_id),
        ]

    # which -----------------------------------------------------------------------------------

    async def outlived(
        self, connection: AsyncConnection, retention: Mapping[State, float], limit: int, page: Any
    ) -> Outlived:
        jobs, now = self._tables.jobs.c, self._database.now()
        states = sorted(retention)
        found: list[str] = []
        here = page or _Page()
        for _ in range(_LOOKS):
            if here.state < len(states):
                state = states[here.state]
                kept, these = retention[state], and_(jobs.state == state, jobs.result_ttl.is_(None))
                following = _Page(here.state + 1)
            else:
                ttl: float | None = here.ttl
                if here.after is None:
                    ttl = (await connection.execute(next_ttl(self._tables, here.ttl))).scalar_one()
                if ttl is None:
                    return Outlived(found, None)
                kept, these = ttl, jobs.result_ttl == ttl
                following = _Page(here.state, ttl)
            until, room = now - max(kept, LEAST_KEPT), limit - len(found)
            query = oldest(self._database, self._tables, these, until, here.after, room)
            rows = (await connection.execute(query)).all()
            found += [row.id for row in rows]
            if len(rows) == room:
                last = (rows[-1].finished_at, rows[-1].id)
                return Outlived(found, _Page(here.state, following.ttl, last))
            here = following
        return Outlived(found, here)

    # removing --------------------------------------------------------------------------------

    async def remove(self, job_ids: Sequence[str]) -> set[str]:
        gone: set[str] = set()
        wanted = sorted({job_id for job_id in job_ids if is_job_id(job_id)})
        for start in range(0, len(wanted), ROOM):
            left: Sequence[str] = wanted[start : start + ROOM]
            while left:
                removed, left = await self._remove(left)
                gone |= removed
        return gone

    @repeated
    async def _remove(self, job_ids: Sequence[str]) -> tuple[set[str], Sequence[str]]:
        async with self._database.write() as connection:
            return await self._step(connection, job_ids)

    async def _step(
        self, connection: AsyncConnection, job_ids: Sequence[str]
    ) -> tuple[set[str], Sequence[str]]:
        """The jobs that are gone, and those for which there was no room."""
        jobs = self._tables.jobs
        ended = select(jobs.c.id, jobs.c.workflow, jobs.c.key).where(
            one_of(self._database, jobs.c.id, job_ids),
            jobs.c.state.in_(sorted(TERMINAL)),
            jobs.c.finished_at.is_not(None),
        )
        rows = (await connection.execute(self._database.claiming(ended.order_by(jobs.c.id)))).all()
        needed = await self._needed(connection, rows)
        rows = [row for row in rows if row.id not in needed and row.workflow not in needed]
        doomed = [row.id for row in rows]
        if not doomed:
            return set(), ()
        room = ROOM
        for table, job_id in self._details:
            room -= await self._delete_some(connection, table, job_id, doomed, room)
            if room <= 0:
                return set(), doomed
        now_, later = doomed[:room], doomed[room:]
        await self._delete_keys(connection, [row for row in rows[:room] if row.key is not None])
        await connection.execute(delete(jobs).where(one_of(self._database, jobs.c.id, now_)))
        return set(now_), later

    async def _needed(self, connection: AsyncConnection, rows: Sequence[Row[Any]]) -> set[str]:
        """The jobs, and the workflows, that something unfinished needs."""
        jobs, waits = self._tables.jobs.c, self._tables.dependencies.c
        parents = select(waits.parent_id).join(self._tables.jobs, jobs.id == waits.child_id)
        parents = parents.where(
            one_of(self._database, waits.parent_id, [row.id for row in rows]),
            jobs.finished_at.is_(None),
        )
        needed = set((await connection.execute(parents)).scalars())
        workflows = {row.workflow for row in rows if row.workflow is not None}
        if workflows:
            under_way = select(jobs.workflow).where(
                one_of(self._database, jobs.workflow, workflows), jobs.finished_at.is_(None)
            )
            needed |= set((await connection.execute(under_way.distinct())).scalars())
        return needed

    async def _delete_some(
        self,
        connection: AsyncConnection,
        table: Table,
        job_id: Column[str],
        job_ids: Sequence[str],
        limit: int,
    ) -> int:
        keys = list(table.primary_key.columns)
        some = select(*keys).where(one_of(self._database, job_id, job_ids)).limit(limit)
        return await Change(self._database, delete(table), some).count(connection)

    async def _delete_keys(self, connection: AsyncConnection, rows: Sequence[Row[Any]]) -> None:
        """Those that stood for these jobs alone; one that holds for longer does so."""
        if rows:
            keys = self._tables.keys
            over = or_(keys.c.until.is_(None), keys.c.until <= self._database.now())
            await connection.execute(
                delete(keys).where(
                    one_of(self._database, keys.c.key, [row.key for row in rows]),
                    one_of(self._database, keys.c.job_id, [row.id for row in rows]),
                    over,
                )
            )

    # what is no job's ------------------------------------------------------------------------

    async def sweep(self, connection: AsyncConnection, workers_before: float, limit: int) -> int:
        workers, keys, events = self._tables.workers, self._tables.keys, self._tables.events
        count, now = 0, self._database.now()
        for table, is_old in (
            (workers, workers.c["at"] < workers_before),
            (keys, keys.c.until <= now),
            (events, events.c.until <= now),
        ):
            key = tuple(table.primary_key.columns)
            some = select(*key).where(is_old).limit(limit - count)
            # Said again for those that somebody changes meanwhile: of them the first is the past.
            gone = delete(table).where(is_old)
            count += await Change(self._database, gone, some).count(connection)
        return count
