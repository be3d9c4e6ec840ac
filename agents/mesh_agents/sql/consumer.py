"""Leasing a lane's jobs.

A pull is *claiming* or *waiting*. A claim that finds nothing asks when the lane's next job
becomes eligible (due, or its lease ends), and waits for that moment, for a signal, or until it
is time to look again, whichever is first. A lease may be trusted until its end by the
database's clock; it is judged there, in the claim and wherever a receipt is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.errors import CorruptMessage, UnsupportedVersion
from mesh.job import Priority
from mesh.ports import FAIR_TURN, Delivery, Settlement
from mesh.sql import Alone, Change, Moment, String, one_of, repeated
from mesh.wire import decode_jobs
from mesh_agents.sql.store import LEDGER, Store

__all__ = ["SqlConsumer"]

log = logging.getLogger("mesh")

# Seconds until a job of a newer wire version is offered again.
_NOT_FOR_US = 30.0

# Seconds to wait when there are eligible jobs and others are just taking them.
_CONTENDED = 0.01


class _Claimed(NamedTuple):
    """What a claim returns of a row."""

    id: str
    priority: int
    seq: int
    receipt: str
    leases: int
    started: int
    frame: bytes

    def order(self) -> tuple[int, int]:
        return -self.priority, self.seq


class _Found:
    """What claimed rows hold: deliveries, and by job id the bytes and errors of the rest."""

    def __init__(self, rows: Sequence[_Claimed], lane: str) -> None:
        self.deliveries: list[Delivery] = []
        self.corrupt: dict[str, tuple[bytes, str]] = {}
        self.newer: dict[str, tuple[bytes, str]] = {}
        for row in rows:
            try:
                (job,) = decode_jobs(row.frame, lane)
            except UnsupportedVersion as error:
                self.newer[row.id] = row.frame, str(error)
            except (CorruptMessage, ValueError) as error:
                self.corrupt[row.id] = row.frame, str(error)
            else:
                lost = max(0, row.started - job.attempt + 1)
                self.deliveries.append(Delivery(job, row.receipt, lost, row.leases > 1))

    def log(self, where: str) -> None:
        for job_id, (_, error) in self.corrupt.items():
            log.error("%s: job %s is set aside: %s", where, job_id, error)
        for job_id, (_, error) in self.newer.items():
            log.error("%s: job %s is left for others: %s", where, job_id, error)


class SqlConsumer:
    """``mesh.ports.Consumer`` on rows."""

    def __init__(self, store: Store, clock: Clock, lane: str, lease: float) -> None:
        self._store = store
        self._database = store.database
        self._clock = clock
        self._lane = lane
        self._lease = lease
        self._is_closed = False
        self._rests = 0
        self._pulls: set[asyncio.Event] = set()
        self._pulled = 0
        self._claim = self._build_claim(highest_first=True)
        self._fair_claim = self._build_claim(highest_first=False)
        self._next = self._build_next()

    def _of_priority(self, priority: Priority) -> Select[Any, Any]:
        """Rows of the lane with this priority, the first to be eligible first."""
        jobs = self._store.tables.jobs
        return (
            select(jobs.c.id, jobs.c.eligible_at)
            .where(
                jobs.c.agent == self._store.name,
                jobs.c.lane == self._lane,
                jobs.c.priority == int(priority),
            )
            .order_by(jobs.c.eligible_at, jobs.c.seq)
        )

    def _build_claim(self, *, highest_first: bool) -> Alone:
        # A range of the index for each priority, one after the other, read only as far as the
        # limit asks. One range for all would walk over whatever is leased or delayed in it.
        jobs = self._store.tables.jobs
        now, limit = bindparam("now", type_=Moment), bindparam("count", type_=Integer)
        ranges = [
            select(
                self._database.claiming(
                    self._of_priority(priority).where(jobs.c.eligible_at <= now).limit(limit)
                ).subquery(f"p{priority:d}")
            )
            for priority in sorted(Priority, reverse=highest_first)
        ]
        ranked = union_all(*ranges).subquery("ranked")
        ready = select(ranked.c.id).limit(limit)
        receipt = cast(jobs.c.id, String) + literal("/") + bindparam("lease_id", type_=String)
        claim = (
            update(jobs)
            .where(jobs.c.agent == self._store.name)
            .values(
                eligible_at=bindparam("until", type_=Moment),
                receipt=receipt,
                leases=jobs.c.leases + 1,
            )
        )
        columns = [jobs.c[name] for name in _Claimed._fields]
        # Undone by a crash of the server, a claim is as a lease that ended.
        return Alone(self._database, Change(self._database, claim, ready, *columns), durable=False)

    def _build_next(self) -> Select[Any]:
        firsts = [
            select(self._of_priority(priority).limit(1).subquery(f"p{priority:d}"))
            for priority in Priority
        ]
        return select(func.min(union_all(*firsts).subquery("firsts").c.eligible_at, type_=Moment))

    async def pull(self, limit: int) -> list[Delivery]:
        signals, wake = self._store.signals, asyncio.Event()
        rests = self._rests
        self._pulls.add(wake)
        try:
            with signals.waiting(self._lane, wake):
                looks, is_ready = 0, True
                while not self._is_closed and self._rests == rests:
                    wake.clear()
                    claimed = is_ready
                    if is_ready and (deliveries := await self._take(limit)):
                        return deliveries
                    next_at = await self._next_eligible()
                    until_next = float("inf")
                    if next_at is not None:
                        until_next = next_at - self._database.now()
                        if until_next <= 0 and not claimed:
                            is_ready = True
                            continue
                    pause = min(signals.pause(looks), max(until_next, _CONTENDED))
                    looks += 1
                    woken = await self._clock.wait(wake, pause)
                    is_ready = woken or pause >= until_next
            return []
        finally:
            self._pulls.discard(wake)

    async def _next_eligible(self) -> float | None:
        async with self._database.read() as connection:
            moment: float | None = (await connection.execute(self._next)).scalar()
            return moment

    async def _take(self, limit: int) -> list[Delivery]:
        self._pulled += 1
        claim = self._fair_claim if self._pulled % FAIR_TURN == 0 else self._claim
        while True:
            now = self._database.now()
            parameters = {
                "now": now,
                "count": limit,
                "until": now + self._lease,
                "lease_id": uuid4().hex,
            }
            claimed = await claim.run(parameters)
            rows = sorted((_Claimed(*row) for row in claimed), key=_Claimed.order)
            found = _Found(rows, self._lane)
            if found.corrupt or found.newer:
                await self._part_with(found, now)
            found.log(f"agent {self._store.name}, lane {self._lane}")
            deliveries = found.deliveries
            if deliveries and self._database.now() - now > self._lease / 2:
                # The connection hung, or this process was stopped.
                deliveries = await self._still_held(deliveries)
            if deliveries or not rows:
                return deliveries

    @repeated
    async def _still_held(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that nobody else has got meanwhile, under a lease of full length."""
        receipts = [delivery.receipt for delivery in deliveries]
        async with self._database.write(durable=False) as connection:
            until = self._database.now() + self._lease
            held = await self._store.extend(connection, receipts, until)
        return [delivery for delivery in deliveries if delivery.receipt in held]

    @repeated
    async def _part_with(self, found: _Found, now: float) -> None:
        """Set corrupt rows aside; let others try those of a newer version."""
        async with self._database.write() as connection:
            await self._part(connection, found, now)

    async def _part(self, connection: AsyncConnection, found: _Found, now: float) -> None:
        jobs = self._store.tables.jobs

        def are(rows: dict[str, tuple[bytes, str]]) -> ColumnElement[bool]:
            return and_(
                jobs.c.agent == self._store.name, one_of(self._database, jobs.c.id, list(rows))
            )

        if found.corrupt:
            dead = [(self._lane, data, error) for data, error in found.corrupt.values()]
            await self._store.bury(connection, dead)
            await connection.execute(delete(jobs).where(are(found.corrupt)))
        if found.newer:
            await connection.execute(
                update(jobs)
                .where(are(found.newer))
                .values(eligible_at=now + _NOT_FOR_US, leases=jobs.c.leases - 1)
            )

    @repeated
    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if not settlements:
            return
        records = [s.record for s in settlements if s.record is not None]
        again = {s.delivery.receipt: s.again for s in settlements}
        async with self._database.write() as connection:
            await self._store.write_records(connection, records)
            settled = await self._store.take_out(connection, again)
            back = {job.id: job for r, job in again.items() if r in settled and job is not None}
            await self._store.put(connection, back, self._database.now())
        lanes = {job.lane for job in back.values()}
        self._store.signals.signal(lanes | {LEDGER} if records else lanes)

    async def rest(self) -> None:
        self._rests += 1
        for wake in self._pulls:
            wake.set()

    async def close(self) -> None:
        self._is_closed = True
        for wake in self._pulls:
            wake.set()
