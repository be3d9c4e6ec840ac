"""Writing an agent's ledger records: plain stories on trust, the others after a look.

A large batch goes in parts, each a transaction of its own, all of a job's records in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, case, func, literal, null, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.job import State
from mesh.ports import Lease
from mesh.sql import BulkUpdate, BulkUpsert, Database, InsertNew, one_of, repeated
from mesh.sql.bulk import Excluded
from mesh.wire import Record
from mesh_master import merge
from mesh_master.leases import Leases
from mesh_master.plain import MOVE_COLUMNS, NEW_COLUMNS, Plain, sort_out
from mesh_master.tables import Tables
from mesh_master.tags import Tags

__all__ = ["Recording"]

_PART, _MOST_PARTS = 8_000, 4
"""Records in a transaction of its own, and how many such run at once."""

_STATES = {state.value: state for state in State}


class Recording:
    """The bulk statements, built once, and the order in which they run."""

    def __init__(
        self,
        database: Database,
        tables: Tables,
        leases: Leases,
        persist_events: Collection[str],
        event_ttl: float,
    ) -> None:
        self._database = database
        self._persist = frozenset(persist_events)
        self._event_ttl = event_ttl
        self._tables = tables
        self._leases = leases
        jobs, attempts = tables.jobs.c, tables.attempts.c

        def move(new: Excluded) -> dict[str, Any]:
            wins = new["version"] > jobs.version
            moved: dict[str, Any] = {
                name: case((wins, new[name]), else_=jobs[name]) for name in merge.STATE_COLUMNS
            }
            return moved | {
                "due_at": case(
                    (wins, func.coalesce(new["due_at"], jobs.due_at)), else_=jobs.due_at
                ),
                "claimed_until": case((wins, null()), else_=jobs.claimed_until),
                **{
                    name: func.coalesce(jobs[name], new[name]) for name in merge.DESCRIPTION_COLUMNS
                },
            }

        self.jobs = BulkUpsert(database, tables.jobs, merge.JOB_COLUMNS, ["id"], move)
        self.new = InsertNew(database, tables.jobs, NEW_COLUMNS, "id")
        self.moves = BulkUpdate(
            database,
            tables.jobs,
            MOVE_COLUMNS,
            "id",
            # Nobody else has touched it: nothing but its state is to be written.
            lambda new: and_(
                jobs.version < new["version"],
                or_(
                    jobs.worker.is_(None),
                    and_(jobs.worker == new["worker"], jobs.attempt == 1),
                ),
            ),
            {
                "attempt": literal(1),
                "agent": bindparam("of_agent"),
                "envelope": null(),
                "claimed_until": null(),
            },
        )
        self.tags = Tags(database, tables)

        outcome = [column.name for column in tables.attempts.c if not column.primary_key]
        self.attempts = BulkUpsert(
            database,
            tables.attempts,
            [column.name for column in tables.attempts.c],
            ["job_id", "attempt"],
            lambda new: {name: new[name] for name in outcome},
            lambda new: and_(attempts.outcome == merge.LOST, new["outcome"] != merge.LOST),
        )
        self.events = BulkUpsert(
            database, tables.events, [c.name for c in tables.events.c], ["job_id", "seq"]
        )
        beat = [column.name for column in tables.workers.c if not column.primary_key]
        self.workers = BulkUpsert(
            database,
            tables.workers,
            [column.name for column in tables.workers.c],
            ["worker"],
            lambda new: {name: new[name] for name in beat},
            lambda new: new["at"] > tables.workers.c["at"],
        )
        handlers = tables.handlers.c

        self.handlers = BulkUpsert(
            database,
            tables.handlers,
            [column.name for column in handlers],
            ["name"],
            lambda new: {
                **{name: new[name] for name in ("lane", "app", "definition", "seen_at")},
                "changed_at": case(
                    (new["definition"] != handlers.definition, new["changed_at"]),
                    else_=handlers.changed_at,
                ),
            },
            lambda new: new["seen_at"] > handlers.seen_at,
        )
        self.seen = BulkUpsert(
            database,
            tables.agents,
            ["name", "url", "seen_at"],
            ["name"],
            lambda new: {"seen_at": new["seen_at"]},
        )

    async def record(self, agent: str, records: Sequence[Record], lease: Lease) -> None:
        parts = [records]
        if len(records) >= _PART / 4 and not self._database.is_local:
            # One is prepared here while the server writes others.
            count = min(max(2, len(records) // _PART), _MOST_PARTS)
            parts = merge.parts(records, count)
        outcomes = await asyncio.gather(
            # One of them alone touches the agent's row, or they would wait for each other.
            *(self._record(agent, part, lease, part is parts[0]) for part in parts),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    @repeated
    async def _record(
        self, agent: str, records: Sequence[Record], lease: Lease, note_seen: bool
    ) -> None:
        async with self._database.write() as connection:
            await self._leases.check(connection, lease)
            # From here to the first statement nothing waits: the server has work early.
            plain = sort_out(agent, records)
            odd = plain.odd | await self._write_plain(connection, agent, plain)
            if plain.tagged:
                await self.tags.write(connection, plain.tagged)
            if odd or plain.others:
                rest = merge.of_jobs(records, odd, self._stores)
                trusted = (plain.new.keys() | plain.moved.keys()) - odd if plain.events else ()
                await self._write_odd(connection, agent, rest, trusted)
            if note_seen:
                seen = {"name": agent, "url": "", "seen_at": self._database.now()}
                await self.seen.run(connection, [seen])

    async def _write_plain(self, connection: AsyncConnection, agent: str, plain: Plain) -> set[str]:
        """Write what can be written on trust. Returns the jobs for which that failed, in part
        or at all; what was written of them does no harm."""
        failed: set[str] = set()
        stored = await self.new.run(connection, list(plain.new.values()))
        if len(stored) < len(plain.new):
            failed |= plain.new.keys() - stored
        moved = list(plain.moved.values())
        if await self.moves.run(connection, moved, of_agent=agent) < len(moved):
            failed |= plain.moved.keys()
        return failed

    async def _write_odd(
        self,
        connection: AsyncConnection,
        agent: str,
        records: Sequence[Record],
        trusted: Container[str],
    ) -> None:
        """Write what must be decided by what there is. Of the jobs that are ``trusted`` all
        has been written but their events."""
        heads = await self._heads(connection, merge.ids(records, trusted))
        plan = merge.plan(agent, records, heads, self._until)
        await self.jobs.run(connection, plan.jobs)
        await self.attempts.run(connection, plan.attempts)
        await self.events.run(connection, plan.events)
        await self.workers.run(connection, plan.workers)
        await self.handlers.run(connection, plan.handlers)

    def _stores(self, kind: str) -> bool:
        """Whether events of this kind are stored at all."""
        return self._event_ttl > 0 or kind in self._persist

    def _until(self, kind: str) -> float | None:
        return None if kind in self._persist else self._database.now() + self._event_ttl

    async def _heads(
        self, connection: AsyncConnection, job_ids: Sequence[str]
    ) -> dict[str, merge.Head]:
        if not job_ids:
            return {}
        jobs = self._tables.jobs.c
        heads = select(
            jobs.id,
            jobs.state,
            jobs.attempt,
            jobs.version,
            jobs.worker,
            jobs.started_at,
            case((jobs.payload.is_not(None), 1), else_=0).label("described"),
        )
        heads = heads.where(one_of(self._database, jobs.id, job_ids))
        # Not locked: the upsert's own comparison of versions decides who wins a job. Should two
        # recorders see the same job at the same moment (it went from one agent to another), all
        # that can go amiss is which of its attempts gets a row of its own.
        rows = await connection.execute(heads)
        return {
            row.id: merge.Head(
                _STATES[row.state],
                row.attempt,
                row.version,
                row.worker,
                row.started_at,
                bool(row.described),
            )
            for row in rows
        }
