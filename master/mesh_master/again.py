"""Doing ended jobs again.

A terminal state is final, so what is done again is a new job, which the master holds until the
dispatcher takes it. That a job is done again once at most hangs on ``retried_as``, set under a
lock of the old job's row in the transaction that makes the new one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, select

from mesh.held import Held
from mesh.job import TERMINAL, is_job_id, new_job_id
from mesh.sql import BulkUpdate, Database, Executor, one_of
from mesh.wire import Envelope, Limit
from mesh_master.holding import Holding
from mesh_master.tables import Tables

__all__ = ["Again"]

_meta = msgspec.json.Decoder(dict[str, str])
_gate = msgspec.json.Decoder(list[str])


class Again:
    """Makes new jobs of ended ones. Built once."""

    def __init__(self, database: Database, tables: Tables, holding: Holding) -> None:
        self._database = database
        self._tables = tables
        self._holding = holding
        self._old = BulkUpdate(
            database,
            tables.jobs,
            ("id", "retried_as"),
            "id",
            lambda new: tables.jobs.c.retried_as.is_(None),
        )

    async def run(
        self, run: Executor, job_ids: Sequence[str], payload: bytes | None
    ) -> dict[str, str]:
        """As ``Master.retry`` says, within a transaction that writes."""
        jobs = self._tables.jobs.c
        wanted = [job_id for job_id in job_ids if is_job_id(job_id)]
        can = select(self._tables.jobs).where(
            one_of(self._database, jobs.id, wanted),
            jobs.state.in_(sorted(TERMINAL)),
            jobs.retried_as.is_(None),
        )
        if payload is None:
            can = can.where(jobs.payload.is_not(None))
        # Whoever comes second waits here, and then finds them taken.
        locked = self._database.locking(can.order_by(jobs.id))
        old: Sequence[Row[Any]] = (await run.execute(locked)).all()
        limits = await self._limits(run, {key for row in old for key in _keys(row)})
        now = self._database.now()
        new = [Held(_again(row, payload, limits, now), retry_of=row.id) for row in old]
        await self._holding.store(run, new)
        made = {str(held.retry_of): held.job.id for held in new}
        await self._old.run(run, list(made.items()))
        return made

    async def _limits(self, run: Executor, keys: Collection[str]) -> dict[str, Limit]:
        if not keys:
            return {}
        table = self._tables.limits
        rows = await run.execute(select(table).where(one_of(self._database, table.c.key, keys)))
        return {r.key: Limit(r.key, r.concurrency, r.rate, r.burst) for r in rows}


def _keys(row: Row[Any]) -> list[str]:
    """The limits that the job was under."""
    return [] if row.gate is None else _gate.decode(row.gate)


def _again(
    old: Row[Any], payload: bytes | None, limits: Mapping[str, Limit], now: float
) -> Envelope:
    return Envelope(
        id=new_job_id(),
        name=old.name,
        payload=old.payload.encode() if payload is None else payload,
        lane=old.lane,
        priority=old.priority,
        enqueued_at=now,
        meta=None if old.meta is None else _meta.decode(old.meta),
        # For the handler; the slot's own job is the old one.
        schedule=old.schedule,
        slot=old.slot,
        parent=old.parent,
        workflow=old.workflow,
        result_ttl=old.result_ttl,
        limits=[limits[key] for key in _keys(old) if key in limits] or None,
    )
