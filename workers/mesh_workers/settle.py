"""Settling: outcomes go to the ledger in groups, and only then are the deliveries dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh.batcher import Batcher
from mesh.errors import AgentError
from mesh.ports import Consumer, Settlement
from mesh.service import Backoff
from mesh_workers.tools import Tools

__all__ = ["Settler"]

log = logging.getLogger("mesh")


class Settler:
    """One lane's."""

    def __init__(
        self, lane: str, tools: Tools, giving_up: asyncio.Event, written: Callable[[], None]
    ) -> None:
        """What cannot be written is tried again until ``giving_up`` is set. ``written`` is called
        after each write."""
        self.consumer: Consumer | None = None
        """To be set before anything is posted."""
        self.unsettled = 0
        """Posted, and not written."""
        self._lane = lane
        self._tools = tools
        self._giving_up = giving_up
        self._written = written
        self._batcher = Batcher(self._write, max_items=1024)

    def post(self, settlement: Settlement) -> None:
        """Settle it soon; other settlements go on meanwhile."""
        self.unsettled += 1
        if self._tools.app.monitor.counts:
            self._tools.tally.settled(settlement)
        self._batcher.put(settlement)

    async def drain(self) -> None:
        """Return when all that was posted has been written, or given up."""
        await self._batcher.drain()

    async def _write(self, settlements: Sequence[Settlement]) -> list[None]:
        try:
            await self._store(settlements)
        finally:
            # Written or not: a lease that is kept any longer is kept for nobody.
            self._tools.keeper.release([s.delivery.receipt for s in settlements])
            self.unsettled -= len(settlements)
            self._written()
        return [None] * len(settlements)

    async def _store(self, settlements: Sequence[Settlement]) -> None:
        consumer, reporter = self.consumer, self._tools.reporter
        assert consumer is not None, "nothing is settled that was not pulled"

        async def write() -> bool:
            # What a handler said must be in the ledger before the word that it ended.
            if reporter.has_events:
                await reporter.flush()
            await consumer.settle(settlements)
            return True

        backoff = Backoff(self._giving_up)
        try:
            done = await backoff.retry(f"settling jobs of lane {self._lane}", write, AgentError)
        except Exception:
            if len(settlements) > 1:
                # Nobody else's outcome is lost with one that cannot be written.
                for settlement in settlements:
                    await self._store([settlement])
                return
            job = settlements[0].delivery.job
            log.exception(
                "job %s (%s): its outcome cannot be written; it runs again when its lease ends",
                job.id,
                job.name,
            )
            return
        if not done:
            log.error(
                "lane %s: the outcomes of %d jobs could not be written; they run again when their "
                "leases end",
                self._lane,
                len(settlements),
            )
