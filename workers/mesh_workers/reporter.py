"""What a worker tells the master between settlements: starts, events, heartbeats, and at first
what handlers it has.

Records gather for ``_GATHER`` seconds and leave in one ledger write. A start whose job ends
before that write is left out: its outcome says all that it would. While the agent is away
records wait here; beyond ``_MOST_EVENTS`` further events of handlers are dropped and counted
(never starts or outcomes).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from mesh.errors import AgentError
from mesh.ports import Agent
from mesh.service import Backoff
from mesh.wire import Defined, Event, Heartbeat, Record
from mesh_workers.outcome import Run, start

__all__ = ["Reporter"]

log = logging.getLogger("mesh")

_GATHER = 0.01
_MOST_EVENTS = 10_000


class Reporter:
    """Belongs to the worker's event loop; ``run`` is its only task."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._starts: dict[tuple[str, int], Run] = {}
        self._events: list[Event] = []
        self._heartbeat: Heartbeat | None = None
        self._defined: Sequence[Defined] = ()
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()
        self.dropped = 0
        self._beaten_at: float | None = None

    def started(self, run: Run) -> None:
        self._starts[run.job.id, run.attempt] = run
        self._some.set()

    def ended(self, job_id: str, attempt: int) -> None:
        """The outcome will be written: the start need not be, if it was not yet."""
        self._starts.pop((job_id, attempt), None)

    def event(self, record: Event) -> None:
        if len(self._events) >= _MOST_EVENTS:
            if self.dropped == 0:
                log.warning(
                    "more than %d events wait for the agent: further ones are dropped", _MOST_EVENTS
                )
            self.dropped += 1
            return
        self._events.append(record)
        self._some.set()

    def heartbeat(self, record: Heartbeat) -> None:
        self._heartbeat = record
        self._some.set()

    @property
    def silence(self) -> float | None:
        """Seconds since a heartbeat was written; ``None``: none was."""
        return None if self._beaten_at is None else time.monotonic() - self._beaten_at

    def defined(self, records: Sequence[Defined]) -> None:
        """Say once what handlers there are."""
        self._defined = records
        self._some.set()

    @property
    def has_events(self) -> bool:
        """Whether some wait, or are on their way: then ``flush`` returns after they are written."""
        return bool(self._events) or self._writing.locked()

    async def flush(self) -> None:
        """Write all that is here now. Raises ``AgentError``; then it is here still."""
        async with self._writing:
            if self._defined:
                # An entry of their own: see mesh.wire.
                await self._agent.append(self._defined)
                self._defined = ()
            starts, self._starts = self._starts, {}
            events, self._events = self._events, []
            heartbeat, self._heartbeat = self._heartbeat, None
            records: list[Record] = [
                *(start(run) for run in starts.values()),
                *events,
                *([heartbeat] if heartbeat else []),
            ]
            if not records:
                return
            try:
                await self._agent.append(records)
            except BaseException:
                self._starts = starts | self._starts
                self._events = events + self._events
                self._heartbeat = self._heartbeat or heartbeat
                raise
            if heartbeat is not None:
                self._beaten_at = time.monotonic()

    async def run(self) -> None:
        """Write what comes, until cancelled. What is left then needs a ``flush``."""
        backoff = Backoff(asyncio.Event())
        while True:
            await self._some.wait()
            self._some.clear()
            await asyncio.sleep(_GATHER)
            await backoff.retry("reporting to the master", self.flush, AgentError)
