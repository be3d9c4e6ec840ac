"""The recorder: moves one agent's ledger into the master, in bulk.

States: *connecting* (the agent is not there: try again), *waiting* (another recorder has the
lease), *recording*: read → ``master.record`` → acknowledge, one batch after another, and
*stepping down*: the reader is closed, so that the next holder reads from the oldest record
that was not acknowledged.

While much comes in, batches are read at a measured pace, and what was accepted waits for what
becomes of it (``gather``): so most jobs are written once.

A batch is acknowledged only once all of it is in the master, and recording it twice changes
nothing, so a crash at any point loses nothing. When the master is away the batch at hand is
tried again until the lease can no longer be trusted (``leader``), and the ledger waits. When the
agent is away the reader is opened anew. Every write carries the lease: a recorder that was
replaced without noticing is refused with ``LeaseLost``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from mesh.clock import Clock, SystemClock
from mesh.errors import AgentError, LeaseLost, MasterError, WireError
from mesh.ports import Agent, Ledger, LedgerBatch, Master
from mesh.service import Backoff, Problems, Service
from mesh.wire import Record
from mesh_master.gather import Gathering
from mesh_master.leader import Term, lead

__all__ = ["Recorder"]

log = logging.getLogger("mesh")

_BUSY = 1000
"""Records in a batch from which on there is something to gain by waiting for more."""


class Recorder(Service):
    """Records one agent. Any number may run; the lease ``recorder:<agent>`` lets one work."""

    def __init__(
        self,
        master: Master,
        agent: Agent,
        *,
        holder: str,
        clock: Clock | None = None,
        ttl: float = 10.0,
        batch: int = 40_000,
        wait: float = 1.0,
        pace: float = 0.25,
        recorded: Callable[[Sequence[Record], float], None] | None = None,
        tell: Callable[[Sequence[Record], asyncio.Event], Awaitable[bool]] | None = None,
    ) -> None:
        """``holder`` names this process among the coordinators. ``ttl`` is the lease's
        seconds, ``batch`` about how many records to read at a time, ``wait`` the seconds that
        a read of an empty ledger takes, ``pace`` the least seconds between two reads while
        much comes in: the more of a job's records come together, the fewer writes they take.
        ``recorded`` is called with what is in the master now, and since when this recorder has
        told of all; ``tell`` with what is in the master, before it is acknowledged: it returns
        whether it may be, and if not ends soon after the event that it is given is set."""
        super().__init__(f"recorder of {agent.name}")
        self.agent = agent
        self.records = 0
        """Records that are in the master by this recorder."""
        self.batches = 0
        self.lag = 0
        """Ledger entries that were not acknowledged, when last looked: about once a second."""
        self.leading = asyncio.Event()
        """Set while this recorder has the lease and reads."""
        self._master = master
        self._holder = holder
        self._clock = clock or SystemClock()
        self._ttl = ttl
        self._batch = batch
        self._wait = wait
        self._pace = pace
        self._recorded = recorded
        self._tell = tell
        self._looked_at = float("-inf")
        self._since = 0.0

    async def run(self, ready: Callable[[], None]) -> None:
        ready()  # nobody waits for the ledger: it may be hours until there is an agent
        await Backoff(self.stopping, clock=self._clock).retry(
            self.name, self.agent.open, AgentError
        )
        await lead(
            self._master,
            f"recorder:{self.agent.name}",
            self._holder,
            self._lead,
            stopping=self.stopping,
            clock=self._clock,
            ttl=self._ttl,
        )

    async def _lead(self, term: Term) -> None:
        backoff = Backoff(term.over, clock=self._clock)
        problems = Problems(self.name)
        self._since = self._clock.time()
        try:
            while not term.over.is_set():
                try:
                    await self._read_on(term, backoff)
                except (AgentError, WireError) as error:
                    problems.say(error)
                    await backoff.wait()
        finally:
            self.leading.clear()

    async def _read_on(self, term: Term, backoff: Backoff) -> None:
        """Record with one reader until the term is over or the agent fails."""
        ledger = await self.agent.ledger()
        try:
            await ledger.serve(self._master.known)
            self.leading.set()
            gathering = Gathering()
            while True:
                began = self._clock.monotonic()
                wait = self._pace if gathering else self._wait
                batch = await _unless(term.over, ledger.read(self._batch, wait))
                if batch is None:
                    return
                busy = len(batch.records) >= _BUSY
                records, done = gathering.add(
                    batch, self._clock.monotonic(), wait=busy and not ledger.awaited
                )
                if records and not await self._record(records, term):
                    return
                if records and self._recorded is not None:
                    self._recorded(records, self._since)
                if records and self._tell is not None and not await self._tell(records, term.over):
                    return
                self.records += len(records)
                self.batches += bool(records)
                for one in done:
                    await ledger.ack(one)
                backoff.reset()
                await self._look(ledger)
                if busy and len(batch.records) < self._batch:
                    rest = began + self._pace - self._clock.monotonic()
                    await self._clock.wait(term.over, max(0.0, rest))
        finally:
            await ledger.close()

    async def _record(self, records: Sequence[Record], term: Term) -> bool:
        """Whether the records are in the master; not so only if the term ended before."""
        backoff = Backoff(term.over, clock=self._clock)

        async def attempt() -> bool:
            try:
                await self._master.record(self.agent.name, records, term.lease)
            except LeaseLost as error:
                log.warning("%s: %s", self.name, error)
                return False
            return True

        if await backoff.retry(self.name, attempt, MasterError):
            return True
        term.over.set()
        return False

    async def _look(self, ledger: Ledger) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at >= 1.0:
            self._looked_at = now
            self.lag = await ledger.lag()


async def _unless(
    event: asyncio.Event, read: Coroutine[Any, Any, LedgerBatch]
) -> LedgerBatch | None:
    """What was read, or ``None``, with the read cancelled, if the event was set before."""
    reading = asyncio.ensure_future(read)
    ending = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        reading.cancel()
        ending.cancel()
        # A read that fails as it is cancelled fails for nobody.
        await asyncio.gather(reading, ending, return_exceptions=True)
