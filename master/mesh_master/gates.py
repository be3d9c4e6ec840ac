"""Claiming jobs under limits: as many as their limits let go.

A job's **gate** names all of its limits; jobs with the same gate are let go in turn. Who claims
locks the limits' rows first, so that what it counts stays true until it commits. Nobody waits for
such a lock, or for a job's: gates whose limits others have in hand are left to them, for that may
be a transaction of the application's, which lasts as long as it likes.

A job that was let go counts by rows of its own, its **slots**: against a concurrency until it has
ended, against a rate until it has begun, so that no more of them than a few seconds' worth wait on
agents while no worker is there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, and_, func, insert, null, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.job import Priority
from mesh.sql import BulkUpdate, Change, Database, one_of
from mesh_master.tables import Tables

__all__ = ["Gates"]

_GATES_AT_ONCE = 200
_UNSTARTED = 2.0
"""Seconds of a rate's jobs that may be on agents and not have begun."""


@dataclass(slots=True)
class _Limit:
    """A limit, and what it has left at the moment: of a concurrency, or else of a rate."""

    concurrency: int
    rate: float
    burst: float
    tokens: float
    slots: int

    @property
    def room(self) -> int:
        if self.concurrency:
            return max(0, self.concurrency - self.slots)
        ahead = self.burst + self.rate * _UNSTARTED - self.slots
        return max(0, int(min(self.tokens + 1e-9, ahead)))

    @property
    def next_in(self) -> float:
        """Seconds until the rate lets one more go; 0 if that is not what it waits for."""
        return 0.0 if self.concurrency or self.tokens >= 1 else (1 - self.tokens) / self.rate

    def take(self, count: int) -> None:
        self.slots += count
        self.tokens -= count


class Gates:
    """The statements that claim under limits. Built once, run often."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._counted = BulkUpdate(database, tables.limits, ("key", "tokens", "counted_at"), "key")
        self._last = ""
        """The gate that the last claim looked at: the next goes on behind it."""

    async def claim(
        self,
        run: AsyncConnection,
        until: float,
        limit: int,
        claim: float,
        leaving_out: Collection[str] = (),
    ) -> tuple[list[Row[Any]], float | None, bool]:
        """The rows (id, envelope) of jobs that were let go, the seconds until a rate lets the
        next one go, and whether there are gates that were not looked at."""
        now = self._database.now()
        gates = await self._gates(run)
        if not gates:
            return [], None, False
        keys = {gate: msgspec.json.decode(gate, type=list[str]) for gate in gates}
        limits = await self._limits(run, sorted({k for each in keys.values() for k in each}), now)
        claimed: list[Row[Any]] = []
        slots: list[dict[str, Any]] = []
        more_in: float | None = None
        for gate, names in keys.items():
            if not limits.keys() >= set(names):
                continue  # others have them in hand
            mine = [limits[name] for name in names]
            room = min([limit - len(claimed), *(one.room for one in mine)])
            if room > 0:
                held = self._held(gate, until, now, leaving_out)
                rows = await self._let_go(run, held, room, now + claim)
                for one in mine:
                    one.take(len(rows))
                slots += [_slot(row.id, name, limits[name]) for row in rows for name in names]
                claimed += rows
                if len(rows) < room:
                    continue
            if waits := max(one.next_in for one in mine):
                more_in = min(more_in or inf, waits)
        if slots:
            await run.execute(insert(self._tables.slots), slots)
            rates = sorted(item for item in limits.items() if not item[1].concurrency)
            await self._counted.run(run, [(key, one.tokens, now) for key, one in rates])
        return claimed, more_in, bool(self._last)

    async def _gates(self, run: AsyncConnection) -> list[str]:
        """Some gates at which jobs are held, each once; others the next time."""
        jobs = self._tables.jobs.c
        held = (jobs.gate.is_not(None), jobs.envelope.is_not(None), jobs.gate > self._last)
        query = self._database.each_once(jobs.gate, held, _GATES_AT_ONCE)
        found = list((await run.execute(query)).scalars())
        if not found and self._last:
            self._last = ""
            return await self._gates(run)
        self._last = found[-1] if len(found) == _GATES_AT_ONCE else ""
        return found

    async def _limits(
        self, run: AsyncConnection, keys: Sequence[str], now: float
    ) -> dict[str, _Limit]:
        table, slots = self._tables.limits, self._tables.slots.c
        these = select(table).where(one_of(self._database, table.c.key, keys))
        rows = (await run.execute(self._database.claiming(these))).all()
        counts = select(slots.key, func.count()).where(one_of(self._database, slots.key, keys))
        taken = {row[0]: row[1] for row in await run.execute(counts.group_by(slots.key))}
        return {
            row.key: _Limit(
                row.concurrency,
                row.rate,
                row.burst,
                min(row.burst, row.tokens + max(0.0, now - row.counted_at) * row.rate),
                taken.get(row.key, 0),
            )
            for row in rows
        }

    def _held(
        self, gate: str, until: float, now: float, leaving_out: Collection[str]
    ) -> ColumnElement[bool]:
        """Whether a job is held at the gate and due."""
        jobs = self._tables.jobs.c
        held = and_(jobs.gate == gate, jobs.envelope.is_not(None), jobs.due_at <= until)
        held = and_(held, or_(jobs.firm.is_(None), jobs.due_at <= now))
        return and_(held, jobs.lane.not_in(sorted(leaving_out))) if leaving_out else held

    async def _let_go(
        self, run: AsyncConnection, held: ColumnElement[bool], room: int, claimed_until: float
    ) -> list[Any]:
        jobs = self._tables.jobs
        columns = jobs.c
        wanted = [columns.id, columns.priority, columns.due_at]
        # Each is read in the order of the index; together they would be sorted.
        of_each = [
            select(
                select(*wanted)
                .where(held, columns.priority == each)
                .order_by(columns.due_at)
                .limit(room)
                .subquery()
            )
            for each in sorted(Priority, reverse=True)
        ]
        first = union_all(*of_each).subquery()
        ids = select(first.c.id).order_by(first.c.priority.desc(), first.c.due_at).limit(room)
        chosen = list((await run.execute(ids)).scalars())
        if not chosen:
            return []
        # Meanwhile one may have been cancelled, or be about to be.
        still = select(columns.id).where(one_of(self._database, columns.id, chosen), held)
        # Let go once, a job needs no leave again, though its dispatcher dies.
        take = Change(
            self._database,
            update(jobs).values(claimed_until=claimed_until, gate=null()),
            self._database.claiming(still),
            *(columns.id, columns.envelope),
        )
        taken = {row.id: row for row in await take.run(run)}
        return [taken[job_id] for job_id in chosen if job_id in taken]


def _slot(job_id: str, key: str, limit: _Limit) -> dict[str, Any]:
    return {"job_id": job_id, "key": key, "until_started": not limit.concurrency}
