"""Doing ended jobs again.

A terminal state is final, so what is done again is a new job, which the master holds until the
dispatcher takes it. That a job is done again once at most hangs on ``retried_as``, set under a
lock of the old job's row in the transaction that makes the new one.

A job that ran after others runs after them again: after what has become of them, if they were
done again too, in the same call or before. So a workflow that broke is mended by doing again what
failed in it and what was cancelled for that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, select

from mesh.codecs.base import is_sealed
from mesh.errors import InvalidArguments
from mesh.held import After, Held
from mesh.job import TERMINAL, is_job_id, new_job_id
from mesh.sql import BulkUpdate, Database, Executor, one_of
from mesh.wire import Envelope, Limit
from mesh_master.holding import Holding
from mesh_master.tables import Tables

__all__ = ["Again"]

_meta = msgspec.json.Decoder(dict[str, str])
_names = msgspec.json.Decoder(list[str])


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
        if payload is not None:
            _refuse_plain(old, payload)
        made = {row.id: new_job_id() for row in old}
        limits = await self._limits(run, {key for row in old for key in _keys(row)})
        after = await self._after(run, made)
        now = self._database.now()
        new = [
            Held(
                _again(
                    row,
                    made[row.id],
                    payload or _unfed(row.payload.encode(), after.get(row.id, ())),
                    [limits[key] for key in _keys(row) if key in limits],
                    now,
                ),
                after=after.get(row.id, ()),
                retry_of=row.id,
            )
            for row in old
        ]
        await self._holding.store(run, new)
        await self._old.run(run, list(made.items()))
        return made

    async def _after(self, run: Executor, made: Mapping[str, str]) -> dict[str, list[After]]:
        """What the new jobs run after, by the ids of the old ones. Parents that the history has
        forgotten are left out: nobody would ever tell their end."""
        table = self._tables.dependencies
        query = select(table).where(one_of(self._database, table.c.child_id, list(made)))
        ordered = query.order_by(table.c.child_id, table.c.position)
        rows: Sequence[Row[Any]] = (await run.execute(ordered)).all()
        latest = await self._latest(run, {row.parent_id for row in rows}, made)
        after: dict[str, list[After]] = {}
        for row in rows:
            if row.parent_id in latest:
                one = After(latest[row.parent_id], row.outcome, row.name, row.feeds)
                after.setdefault(row.child_id, []).append(one)
        return after

    async def _latest(
        self, run: Executor, job_ids: Collection[str], made: Mapping[str, str]
    ) -> dict[str, str]:
        """What has become of jobs that the history has, by the ids that they had first."""
        jobs = self._tables.jobs.c
        found: dict[str, str] = {}
        asked, new = {job_id: job_id for job_id in job_ids}, set(made.values())
        while asked:
            query = select(jobs.id, jobs.retried_as).where(
                one_of(self._database, jobs.id, sorted(set(asked.values())))
            )
            rows: Sequence[Row[Any]] = (await run.execute(query)).all()
            became = {row.id: made.get(row.id) or row.retried_as for row in rows}
            found |= {first: became[i] or i for first, i in asked.items() if i in became}
            asked = {
                first: following
                for first, i in asked.items()
                if (following := became.get(i)) is not None and following not in new
            }
        return found

    async def _limits(self, run: Executor, keys: Collection[str]) -> dict[str, Limit]:
        if not keys:
            return {}
        table = self._tables.limits
        rows = await run.execute(select(table).where(one_of(self._database, table.c.key, keys)))
        return {r.key: Limit(r.key, r.concurrency, r.rate, r.burst) for r in rows}


def _refuse_plain(old: Sequence[Row[Any]], payload: bytes) -> None:
    """Raise ``InvalidArguments`` if the payload would show what the old jobs' payloads hid."""
    if is_sealed(payload):
        return
    for row in old:
        if row.payload is not None and is_sealed(row.payload.encode()):
            raise InvalidArguments(
                f"job {row.id} ({row.name}) had encrypted arguments, and the other ones given are "
                "not encrypted: retry with the app that has the codec (--app MODULE:APP, or "
                "Mesh(..., codec=...))"
            )


def _keys(row: Row[Any]) -> list[str]:
    """The limits that the job was under."""
    return [] if row.limits is None else _names.decode(row.limits)


def _unfed(payload: bytes, after: Sequence[After]) -> bytes:
    """The arguments without those that parents feed, which are to be fed anew."""
    fed = {one.feeds.removesuffix("[]") for one in after if one.feeds is not None}
    if not fed:
        return payload
    arguments = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: v for name, v in arguments.items() if name not in fed})


def _again(old: Row[Any], new_id: str, payload: bytes, limits: list[Limit], now: float) -> Envelope:
    return Envelope(
        id=new_id,
        name=old.name,
        payload=payload,
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
        limits=limits or None,
    )
