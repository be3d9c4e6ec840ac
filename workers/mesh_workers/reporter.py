"""What a worker tells the master between settlements: starts, events, heartbeats, and at first
what handlers it has.

Records gather for ``_GATHER`` seconds and leave in one ledger write. A start whose job ends
before that write, having said nothing, is left out: its outcome says all that it would. While the
agent is away records wait here, events of handlers in their ``outlets``, which say what becomes
of too many.

What was numbered once is written with that number, however often it takes: the agent may have
stored it although it did not say so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import AgentError
from mesh.ports import Agent
from mesh.service import Backoff
from mesh.wire import Defined, Event, Heartbeat, Record
from mesh_workers.outcome import Run, start
from mesh_workers.outlets import Outlets

__all__ = ["Away", "Reporter"]

log = logging.getLogger("mesh")

_GATHER = 0.01
_AT_ONCE = 2_000
"""Events in one write."""


@dataclass(frozen=True, slots=True)
class Away:
    """The agent takes nothing."""

    since: float
    why: str


class Reporter:
    """Belongs to the worker's event loop; ``run`` is its only task."""

    def __init__(self, agent: Agent, outlets: Outlets) -> None:
        self.outlets = outlets
        outlets.some = self._wake
        self.away: Away | None = None
        """As the last write found it."""
        self._agent = agent
        self._starts: dict[tuple[str, int], Run] = {}
        self._events: list[Event] = []
        """Numbered, and perhaps stored."""
        self._heartbeat: Heartbeat | None = None
        self._defined: Sequence[Defined] = ()
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._said_dropped = 0
        self._beaten_at: float | None = None

    def _wake(self) -> None:
        self._some.set()

    def started(self, run: Run) -> None:
        self._starts[run.job.id, run.attempt] = run
        self._some.set()

    def ended(self, job_id: str, attempt: int) -> None:
        """The outcome of an attempt that said nothing will be written: its start need not be, if
        it was not yet. (What one said has its place behind its start.)"""
        self._starts.pop((job_id, attempt), None)

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
        return bool(self.outlets or self._events) or self._writing.locked()

    async def flush(self) -> None:
        """Write all that is here now. Raises ``AgentError``; then it is here still."""
        async with self._writing:
            try:
                if self._defined:
                    # An entry of their own: see mesh.wire.
                    await self._agent.append(self._defined)
                    self._defined = ()
                await self._write()
            except BaseException as error:
                if isinstance(error, AgentError):
                    since = time.time() if self.away is None else self.away.since
                    self.away = Away(since, str(error))
                self.outlets.agent_is_away = True
                self.outlets.wake()
                raise
            self.away, self.outlets.agent_is_away = None, False

    async def _write(self) -> None:
        starts, self._starts = self._starts, {}
        heartbeat, self._heartbeat = self._heartbeat, None
        records: list[Record] = [start(run) for run in starts.values()]
        if heartbeat:
            records.append(heartbeat)
        was_left = bool(self._events)
        try:
            if not was_left:
                self._events = self.outlets.take()
            while records or self._events:
                some = self._events[:_AT_ONCE]
                await self._agent.append([*records, *some])
                if heartbeat is not None:
                    self._beaten_at = time.monotonic()
                records, starts, heartbeat = [], {}, None
                self._events = self._events[len(some) :]
                if was_left and not self._events:
                    was_left, self._events = False, self.outlets.take()
        except BaseException:
            self._starts = starts | self._starts
            self._heartbeat = self._heartbeat or heartbeat
            raise
        self._say_dropped()

    def _say_dropped(self) -> None:
        dropped = self.outlets.dropped
        if dropped >= 2 * self._said_dropped + 1:
            log.warning("%d events of handlers were dropped so far: the agent was away", dropped)
            self._said_dropped = dropped

    async def run(self) -> None:
        """Write what comes, until cancelled. What is left then needs a ``flush``."""
        backoff = Backoff(asyncio.Event())
        while True:
            await self._some.wait()
            self._some.clear()
            await asyncio.sleep(_GATHER)
            await backoff.retry(f"writing to agent {self._agent.name}", self.flush, AgentError)
