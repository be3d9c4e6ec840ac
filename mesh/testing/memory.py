"""An agent in this process's memory, for tests: nothing survives, everything else is as the
port says.

All agents with the same URL (``memory://NAME``) in a process share one ``_Store``, from any
thread, as connections to one server would.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from mesh.errors import AgentError, AgentUnavailable, CorruptMessage
from mesh.notices import check_notices
from mesh.ports import (
    FAIR_TURN,
    AgentCapabilities,
    AgentSettings,
    Check,
    Delivery,
    LaneDepth,
    LedgerBatch,
    Lookup,
    Settlement,
)
from mesh.wire import (
    Accepted,
    Envelope,
    Record,
    Started,
    decode_jobs,
    decode_records,
    encode_frame,
    encode_records,
)

__all__ = ["MemoryAgent"]

log = logging.getLogger("mesh")

_DEDUPLICATION = 120.0


@dataclass(slots=True)
class _Entry:
    frame: bytes
    """The envelope as it would travel: what is pushed must survive the wire."""
    lane: str
    priority: int
    order: int
    eligible_at: float
    """When it may be leased (again): due, or the end of its lease."""
    attempt: int
    receipt: str = ""
    """The latest lease; empty while never leased since it was put here."""
    started: int = 0
    """The latest attempt that is known to have started."""


class _Store:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: dict[str, _Entry] = {}
        self.pushed: dict[tuple[str, int], float] = {}
        self.ledger: list[tuple[int, bytes]] = []
        self.order = count(1)
        self.waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self.dead_letters: list[bytes] = []
        self.board: dict[str, tuple[int, bytes | None]] = {}
        """When each notice was put up or taken down, in ``order``, and what it says."""
        self.down = False

    def wake(self) -> None:
        for loop, event in list(self.waiters):
            loop.call_soon_threadsafe(event.set)

    def write(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self.ledger.append((next(self.order), encode_records(records)))
        for record in records:
            if isinstance(record, Started) and (entry := self.entries.get(record.id)):
                entry.started = max(entry.started, record.attempt)

    def put(self, job: Envelope, now: float) -> None:
        self.entries[job.id] = _Entry(
            frame=encode_frame([job]),
            lane=job.lane,
            priority=job.priority,
            order=next(self.order),
            eligible_at=max(job.due_at, now),
            attempt=job.attempt,
        )


_stores: dict[str, _Store] = {}


class MemoryAgent:
    """``mesh.ports.Agent`` in memory."""

    capabilities = AgentCapabilities(
        durable=False,
        several_machines=False,
        why_not={
            "durable": "it is the memory of one process, for tests",
            "several_machines": "it is the memory of one process, for tests",
        },
    )

    def __init__(self, name: str, url: str, settings: AgentSettings) -> None:
        self.name = name
        self.url = url
        self._clock = settings.clock
        self._store = _stores.setdefault(url, _Store())

    async def open(self) -> None:
        self._reach()

    async def close(self) -> None:
        pass

    def go_down(self, down: bool = True) -> None:
        """Play an outage: every call raises ``AgentUnavailable`` until ``go_down(False)``."""
        self._store.down = down
        self._store.wake()

    def corrupt(self, lane: str, data: bytes) -> None:
        """Put bytes on a lane as a broken program would."""
        with self._store.lock:
            order = next(self._store.order)
            self._store.entries[f"corrupt-{order}"] = _Entry(
                data, lane, 3, order, self._clock.time(), 1
            )
        self._store.wake()

    def _reach(self) -> _Store:
        if self._store.down:
            raise AgentUnavailable(f"agent {self.name} at {self.url} is down")
        return self._store

    async def push(
        self, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        try:
            store = self._reach()
        except AgentUnavailable as error:
            return [error] * len(jobs)
        now = self._clock.time()
        with store.lock:
            while store.pushed and (first := next(iter(store.pushed.items())))[1] < (
                now - _DEDUPLICATION
            ):
                del store.pushed[first[0]]
            new = [
                job
                for job in {(job.id, job.attempt): job for job in jobs}.values()
                if (job.id, job.attempt) not in store.pushed and job.id not in store.entries
            ]
            for job in new:
                store.pushed[job.id, job.attempt] = now
                store.put(job, now)
            store.write([Accepted(job, now) for job in new])
        store.wake()
        return [None] * len(jobs)

    async def withdraw(self, lane: str, priority: int, job_ids: Sequence[str]) -> set[str]:
        store, now = self._reach(), self._clock.time()
        with store.lock:
            gone = {
                job_id
                for job_id in job_ids
                if (entry := store.entries.get(job_id)) is not None
                and entry.eligible_at > now
                and not entry.receipt
                and not entry.started
            }
            for job_id in gone:
                del store.entries[job_id]
        return gone

    async def missing(self, jobs: Mapping[str, Collection[str]]) -> set[str]:
        store = self._reach()
        with store.lock:
            return {job_id for ids in jobs.values() for job_id in ids} - store.entries.keys()

    def lose(self, *job_ids: str) -> None:
        """Play a server that comes back without some of its jobs; without ids, all of them."""
        with self._store.lock:
            for job_id in job_ids or list(self._store.entries):
                self._store.entries.pop(job_id, None)

    async def consume(self, lane: str, *, lease: float) -> MemoryConsumer:
        self._reach()
        return MemoryConsumer(self, lane, lease)

    async def extend(self, receipts: Sequence[str], lease: float) -> set[str]:
        store = self._reach()
        held: set[str] = set()
        with store.lock:
            for receipt in receipts:
                entry = store.entries.get(receipt.partition("/")[0])
                if entry is not None and entry.receipt == receipt:
                    entry.eligible_at = self._clock.time() + lease
                    held.add(receipt)
        return set(receipts) - held

    async def append(self, records: Sequence[Record]) -> None:
        store = self._reach()
        with store.lock:
            store.write(records)
        store.wake()

    async def ledger(self) -> MemoryLedger:
        self._reach()
        return MemoryLedger(self)

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        store = self._reach()
        check_notices(notices)
        with store.lock:
            store.board |= {key: (next(store.order), value) for key, value in notices.items()}
        store.wake()

    async def board(self) -> MemoryBoard:
        self._reach()
        return MemoryBoard(self)

    async def depth(self) -> Mapping[str, LaneDepth]:
        store = self._reach()
        now = self._clock.time()
        counts: dict[str, list[int]] = {}
        with store.lock:
            for entry in store.entries.values():
                kind = 0 if entry.eligible_at <= now else 1 if entry.receipt else 2
                counts.setdefault(entry.lane, [0, 0, 0])[kind] += 1
        return {lane: LaneDepth(*numbers) for lane, numbers in counts.items()}

    async def check(self) -> list[Check]:
        subject = f"agent {self.name}"
        if self._store.down:
            return [Check(subject, False, f"{self.url} is down", "bring it up")]
        return [Check(subject, True, f"{self.url} in memory")]


class MemoryConsumer:
    """``mesh.ports.Consumer`` in memory."""

    def __init__(self, agent: MemoryAgent, lane: str, lease: float) -> None:
        self._agent = agent
        self._clock = agent._clock
        self._lane = lane
        self._lease = lease
        self._closed = False
        self._rests = 0
        self._pulled = 0
        self._wake = asyncio.Event()
        self._waiter = (asyncio.get_running_loop(), self._wake)

    async def pull(self, limit: int) -> list[Delivery]:
        store = self._agent._store
        rests = self._rests
        store.waiters.add(self._waiter)
        try:
            while not self._closed and self._rests == rests:
                self._wake.clear()
                self._agent._reach()
                with store.lock:
                    deliveries, next_at = self._take(store, limit)
                if deliveries:
                    return deliveries
                await self._clock.wait(
                    self._wake, None if next_at is None else next_at - self._clock.time()
                )
            return []
        finally:
            store.waiters.discard(self._waiter)

    def _take(self, store: _Store, limit: int) -> tuple[list[Delivery], float | None]:
        now = self._clock.time()
        mine = [(key, e) for key, e in store.entries.items() if e.lane == self._lane]
        ready = [(key, e) for key, e in mine if e.eligible_at <= now]
        self._pulled += 1 if ready else 0
        sign = 1 if self._pulled % FAIR_TURN == 0 else -1
        ready.sort(key=lambda item: (sign * item[1].priority, item[1].order))
        deliveries: list[Delivery] = []
        for key, entry in ready[:limit]:
            try:
                (job,) = decode_jobs(entry.frame, self._lane)
            except CorruptMessage as error:
                log.error("agent %s, lane %s: set aside: %s", self._agent.name, self._lane, error)
                store.dead_letters.append(entry.frame)
                del store.entries[key]
                continue
            redelivered = bool(entry.receipt)
            entry.receipt = f"{key}/{next(store.order)}"
            entry.eligible_at = now + self._lease
            lost = max(0, entry.started - entry.attempt + 1) if redelivered else 0
            deliveries.append(Delivery(job, entry.receipt, lost, redelivered))
        return deliveries, min((e.eligible_at for _, e in mine), default=None)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        store = self._agent._reach()
        now = self._clock.time()
        with store.lock:
            store.write([s.record for s in settlements if s.record is not None])
            for settlement in settlements:
                key, receipt = settlement.delivery.job.id, settlement.delivery.receipt
                entry = store.entries.get(key)
                if entry is None or entry.receipt != receipt:
                    continue
                del store.entries[key]
                if settlement.again is not None:
                    store.put(settlement.again, now)
        store.wake()

    async def rest(self) -> None:
        self._rests += 1
        self._wake.set()

    async def close(self) -> None:
        self._closed = True
        self._wake.set()


class MemoryBoard:
    """``mesh.ports.Board`` in memory."""

    def __init__(self, agent: MemoryAgent) -> None:
        self._agent = agent
        self._position: int | None = None
        self._wake = asyncio.Event()

    async def read(self, wait: float) -> dict[str, bytes | None]:
        store, clock = self._agent._reach(), self._agent._clock
        waiter = (asyncio.get_running_loop(), self._wake)
        deadline = clock.monotonic() + wait
        store.waiters.add(waiter)
        try:
            while True:
                self._wake.clear()
                self._agent._reach()
                first, after = self._position is None, self._position or 0
                with store.lock:
                    self._position = max((at for at, _ in store.board.values()), default=0)
                    changes = {k: v for k, (at, v) in store.board.items() if at > after}
                if first:
                    return {key: value for key, value in changes.items() if value is not None}
                left = deadline - clock.monotonic()
                if changes or left <= 0:
                    return changes
                await clock.wait(self._wake, left)
        finally:
            store.waiters.discard(waiter)

    async def close(self) -> None:
        pass


class MemoryLedger:
    """``mesh.ports.Ledger`` in memory."""

    def __init__(self, agent: MemoryAgent) -> None:
        self._agent = agent
        self._position = 0
        self._wake = asyncio.Event()

    async def read(self, limit: int, wait: float) -> LedgerBatch:
        store = self._agent._reach()
        waiter = (asyncio.get_running_loop(), self._wake)
        store.waiters.add(waiter)
        deadline = self._agent._clock.time() + wait
        try:
            while True:
                self._wake.clear()
                self._agent._reach()
                records: list[Record] = []
                with store.lock:
                    for order, data in store.ledger:
                        if order > self._position and len(records) < limit:
                            records += decode_records(data)
                            self._position = order
                if records or self._agent._clock.time() >= deadline:
                    return LedgerBatch(records, self._position)
                await self._agent._clock.wait(self._wake, deadline - self._agent._clock.time())
        finally:
            store.waiters.discard(waiter)

    async def ack(self, batch: LedgerBatch) -> None:
        store = self._agent._reach()
        with store.lock:
            store.ledger = [item for item in store.ledger if item[0] > batch.receipt]

    async def serve(self, lookup: Lookup) -> None:
        pass

    @property
    def awaited(self) -> bool:
        return False

    async def lag(self) -> int:
        return len(self._agent._reach().ledger)

    async def end(self) -> int:
        return max((order for order, _ in self._agent._reach().ledger), default=0)

    async def has_passed(self, place: int) -> bool:
        return all(order > place for order, _ in self._agent._reach().ledger)

    async def close(self) -> None:
        pass
