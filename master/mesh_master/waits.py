"""What keeps jobs on the master."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import WireError
from mesh.held import Outcome
from mesh.job import State
from mesh.ports import LimitInfo, Wait
from mesh.sql import Database, one_of
from mesh.wire import decode_frame
from mesh_master.tables import Tables

__all__ = ["find"]

_gate = msgspec.json.Decoder(list[str]).decode


async def find(
    database: Database, tables: Tables, connection: AsyncConnection, job_ids: Sequence[str]
) -> dict[str, Wait]:
    """``Master.waits``."""
    jobs, parents = tables.jobs.c, tables.dependencies.c
    held = select(jobs.id, jobs.gate, jobs.envelope).where(
        one_of(database, jobs.id, job_ids), jobs.state.in_([State.SCHEDULED, State.WAITING])
    )
    rows = (await connection.execute(held)).all()
    open_ones = (
        select(parents.child_id, parents.parent_id, parents.outcome)
        .where(one_of(database, parents.child_id, [row.id for row in rows]), parents.is_open)
        .order_by(parents.position)
    )
    after: dict[str, dict[str, Outcome]] = defaultdict(dict)
    for row in await connection.execute(open_ones):
        after[row.child_id][row.parent_id] = row.outcome
    gates = {row.id: _gate(row.gate) for row in rows if row.gate is not None}
    limits = await _limits(
        database, tables, connection, sorted({k for g in gates.values() for k in g})
    )
    return {
        row.id: Wait(
            after.get(row.id, {}),
            tuple(limits[key] for key in gates.get(row.id, ()) if key in limits),
            _agent(row.envelope),
        )
        for row in rows
    }


async def _limits(
    database: Database, tables: Tables, connection: AsyncConnection, keys: Sequence[str]
) -> dict[str, LimitInfo]:
    limits, slots = tables.limits.c, tables.slots.c
    if not keys:
        return {}
    counts = select(slots.key, func.count()).where(one_of(database, slots.key, keys))
    taken = {row[0]: row[1] for row in await connection.execute(counts.group_by(slots.key))}
    these = select(limits.key, limits.concurrency, limits.rate)
    return {
        row.key: LimitInfo(row.key, row.concurrency, row.rate, taken.get(row.key, 0))
        for row in await connection.execute(these.where(one_of(database, limits.key, keys)))
    }


def _agent(envelope: bytes | None) -> str | None:
    with suppress(WireError):
        return decode_frame(envelope)[0].agent if envelope is not None else None
    return None
