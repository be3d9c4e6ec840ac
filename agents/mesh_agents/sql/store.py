"""What the agent, its consumers and its ledger readers do alike, within a transaction.

Transactions that take several rows take them in the order of their ids, so that none waits for
another in a circle; a claim skips what others hold and never waits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Delete,
    Select,
    Update,
    and_,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.job import Priority
from mesh.sql import Change, Database, InsertAll, InsertNew, Notice, Signals, one_of, repeated
from mesh.wire import Accepted, Envelope, Record, Started, encode_frame, encode_records
from mesh_agents.sql.tables import Tables

__all__ = ["LEDGER", "Store", "receipt_id"]

LEDGER = "/ledger"
"""The topic of those who wait for the ledger: not the name of any lane, for lanes are topics."""

_DEDUPLICATION = 120.0
_SWEEP_EVERY = 1.0
_SWEEP_ROWS = 50_000

_LEDGER_COLUMNS = ("agent", "count", "entry")
_PUSHED_COLUMNS = ("id", "agent", "attempt", "at")
_JOB_COLUMNS = (
    *("id", "agent", "lane", "priority", "eligible_at", "seq"),
    *("receipt", "leases", "started", "frame"),
)

# Records in one ledger row: with results of the greatest size it is still a few megabytes.
_ENTRY_RECORDS = 100

# Grows within this process; other processes' jobs of the same microsecond come in any order.
_sequence = count(time.time_ns())


def receipt_id(receipt: str) -> str:
    """The id of the job that a receipt is for."""
    return receipt.partition("/")[0]


class Store:
    """The rows of one agent."""

    def __init__(self, name: str, database: Database, tables: Tables, signals: Signals) -> None:
        self.name = name
        self.database = database
        self.tables = tables
        self.signals = signals
        self._new_keys = InsertNew(database, tables.pushed, _PUSHED_COLUMNS, "id")
        self._new_jobs = InsertNew(database, tables.jobs, _JOB_COLUMNS, "id")
        self._push = InsertAll(
            database,
            [
                (tables.pushed, _PUSHED_COLUMNS),
                (tables.jobs, _JOB_COLUMNS),
                (tables.ledger, _LEDGER_COLUMNS),
            ],
        )
        self._swept_at = float("-inf")

    # jobs ------------------------------------------------------------------------------------

    async def push(
        self, jobs: Mapping[str, Envelope], timeout: float, notice: Notice | None
    ) -> bool:
        """Store those of the jobs, by id, that were not pushed lately and are not here, and say
        so in the ledger. Returns whether the notice, if one is given, was sent with them."""
        now = self.database.now()
        keys = self._key_rows(jobs.values(), now)
        accepted = [Accepted(job, now) for job in jobs.values()]
        rows = [keys, self._job_rows(jobs.values(), now), self._entry_rows(accepted)]
        if await self._push.run(rows, timeout=timeout, notice=notice):
            return notice is not None
        await self._push_new(jobs, timeout)
        return False

    @repeated
    async def _push_new(self, jobs: Mapping[str, Envelope], timeout: float) -> None:
        async with self.database.write(timeout=timeout) as connection:
            await self._push_within(connection, jobs)

    async def _push_within(self, connection: AsyncConnection, jobs: Mapping[str, Envelope]) -> None:
        pushed, now = self.tables.pushed, self.database.now()
        mine = pushed.c.agent == self.name
        is_one = one_of(self.database, pushed.c.id, sorted(jobs))
        await connection.execute(
            delete(pushed).where(mine, is_one, pushed.c.at < now - _DEDUPLICATION)
        )
        fresh = await self._new_keys.run(connection, self._key_rows(jobs.values(), now))
        stored = await self.put(connection, {i: j for i, j in jobs.items() if i in fresh}, now)
        # Here already, with another attempt: it was not stored, so it may be pushed again later.
        for job_id in fresh - stored:
            await connection.execute(
                delete(pushed).where(
                    mine, pushed.c.id == job_id, pushed.c.attempt == jobs[job_id].attempt
                )
            )
        accepted = [Accepted(job, now) for job in jobs.values() if job.id in stored]
        await self.write_records(connection, accepted)

    async def put(
        self, connection: AsyncConnection, jobs: Mapping[str, Envelope], now: float
    ) -> set[str]:
        """Make rows of those jobs, by id, that have none. Returns the ids of those."""
        return await self._new_jobs.run(connection, self._job_rows(jobs.values(), now))

    def _key_rows(self, jobs: Iterable[Envelope], now: float) -> list[tuple[Any, ...]]:
        return sorted((job.id, self.name, job.attempt, now) for job in jobs)

    def _job_rows(self, jobs: Iterable[Envelope], now: float) -> list[tuple[Any, ...]]:
        rows = [
            (
                job.id,
                self.name,
                job.lane,
                min(max(job.priority, Priority.LOWEST), Priority.HIGHEST),
                max(job.due_at, now),
                next(_sequence),
                None,
                0,
                0,
                encode_frame([job]),
            )
            for job in jobs
        ]
        rows.sort()
        return rows

    async def take_out(self, connection: AsyncConnection, receipts: Collection[str]) -> set[str]:
        """Delete the jobs that these receipts still hold. Returns those receipts."""
        jobs = self.tables.jobs
        rows = self._locked([receipt_id(r) for r in receipts], self._held(receipts))
        gone = delete(jobs).where(jobs.c.agent == self.name)
        return await self._change(connection, gone, rows, jobs.c.receipt)

    async def withdraw(self, connection: AsyncConnection, job_ids: Collection[str]) -> set[str]:
        """Delete those of the jobs that are not due and were never leased. Returns their ids."""
        jobs, now = self.tables.jobs, self.database.now()
        untouched = and_(jobs.c.eligible_at > now, jobs.c.receipt.is_(None), jobs.c.started == 0)
        rows = self._locked(list(job_ids), untouched)
        gone = delete(jobs).where(jobs.c.agent == self.name)
        return await self._change(connection, gone, rows, jobs.c.id)

    async def extend(
        self, connection: AsyncConnection, receipts: Collection[str], until: float
    ) -> set[str]:
        """Make these receipts hold their jobs until that moment. Returns those that still do."""
        jobs = self.tables.jobs
        rows = self._locked([receipt_id(r) for r in receipts], self._held(receipts))
        held = update(jobs).where(jobs.c.agent == self.name).values(eligible_at=until)
        return await self._change(connection, held, rows, jobs.c.receipt)

    async def present(self, connection: AsyncConnection, job_ids: Collection[str]) -> set[str]:
        """The ids of those of the jobs that have a row."""
        jobs = self.tables.jobs
        found = select(jobs.c.id).where(
            jobs.c.agent == self.name, one_of(self.database, jobs.c.id, list(job_ids))
        )
        return set((await connection.execute(found)).scalars())

    def _held(self, receipts: Collection[str]) -> ColumnElement[bool]:
        return one_of(self.database, self.tables.jobs.c.receipt, list(receipts))

    async def _change(
        self,
        connection: AsyncConnection,
        statement: Update | Delete,
        rows: Select[Any],
        column: Column[Any],
    ) -> set[Any]:
        """Change those rows. Returns the values that the column has in them."""
        change = Change(self.database, statement, rows, column)
        return {value for (value,) in await change.run(connection)}

    def _locked(self, ids: Sequence[str], condition: ColumnElement[bool]) -> Select[Any]:
        """The ids of those rows of the ids that meet the condition; they are locked."""
        jobs = self.tables.jobs
        rows = select(jobs.c.id).where(
            jobs.c.agent == self.name, one_of(self.database, jobs.c.id, ids), condition
        )
        return self.database.locking(rows.order_by(jobs.c.id))

    async def sweep(self, connection: AsyncConnection) -> None:
        """Forget the keys of old pushes, now and then: in a transaction that nobody waits for."""
        now = self.database.now()
        if now - self._swept_at < _SWEEP_EVERY:
            return
        self._swept_at = now
        pushed = self.tables.pushed
        old = (
            select(pushed.c.id, pushed.c.attempt)
            .where(pushed.c.agent == self.name, pushed.c.at < now - _DEDUPLICATION)
            .limit(_SWEEP_ROWS)
        )
        gone = delete(pushed).where(pushed.c.agent == self.name)
        keys = self.database.claiming(old)
        await Change(self.database, gone, keys, pushed.c.attempt).run(connection)

    # ledger ----------------------------------------------------------------------------------

    async def write_records(self, connection: AsyncConnection, records: Sequence[Record]) -> None:
        """Append to the ledger, and note on the jobs which attempts have started."""
        if not records:
            return
        rows: list[dict[str, Any]] = [
            dict(zip(_LEDGER_COLUMNS, row, strict=True)) for row in self._entry_rows(records)
        ]
        await connection.execute(insert(self.tables.ledger), rows)
        started: defaultdict[int, set[str]] = defaultdict(set)
        for record in records:
            if isinstance(record, Started):
                started[record.attempt].add(record.id)
        jobs = self.tables.jobs
        for attempt, ids in sorted(started.items()):
            begun = self._locked(list(ids), jobs.c.started < attempt)
            noted = update(jobs).where(jobs.c.agent == self.name).values(started=attempt)
            await self._change(connection, noted, begun, jobs.c.id)

    def _entry_rows(self, records: Sequence[Record]) -> list[tuple[Any, ...]]:
        parts = (records[i : i + _ENTRY_RECORDS] for i in range(0, len(records), _ENTRY_RECORDS))
        return [(self.name, len(part), encode_records(part)) for part in parts]

    async def bury(
        self, connection: AsyncConnection, dead: Sequence[tuple[str | None, bytes, str]]
    ) -> None:
        """Keep bytes that nobody can read, as (lane or ``None`` for the ledger, data, error)."""
        now = self.database.now()
        rows: list[dict[str, Any]] = [
            {"agent": self.name, "lane": lane, "at": now, "error": error, "data": data}
            for lane, data, error in dead
        ]
        await connection.execute(insert(self.tables.dead_letters), rows)
