"""Settling: outcomes go to the ledger in groups, and only then are the deliveries dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from mesh.batcher import Batcher
from mesh.errors import AgentError
from mesh.ports import Consumer, Delivery, Settlement
from mesh.service import Backoff
from mesh.wire import Finished, Retrying
from mesh_workers.tools import Tools

__all__ = ["Settler", "next_attempt"]

log = logging.getLogger("mesh")


def next_attempt(delivery: Delivery) -> int:
    """The number of the attempt that would run now."""
    return delivery.job.attempt + delivery.lost


class Settler:
    """One lane's."""

    def __init__(
        self, lane: str, tools: Tools, giving_up: asyncio.Event, written: Callable[[], None]
    ) -> None:
        """What cannot be written is tried again until ``giving_up`` is set. ``written`` is called
        after each write."""
        self.consumer: Consumer | None = None
        """To be set before anything is posted."""
        self._unsettled: dict[str, Settlement] = {}
        """Posted, and not written: by job."""
        self._renewed: dict[str, Delivery] = {}
        """Under which lease jobs are held now, of those whose first lease ended meanwhile."""
        self._lane = lane
        self._tools = tools
        self._giving_up = giving_up
        self._written = written
        self._batcher = Batcher(self._write, max_items=1024)

    @property
    def unsettled(self) -> int:
        """How many were posted, and are not written."""
        return len(self._unsettled)

    def began(self) -> list[float]:
        """When the attempts began whose outcomes were posted and are not written."""
        records = (settlement.record for settlement in self._unsettled.values())
        ended = (r for r in records if isinstance(r, Finished | Retrying))
        return [r.started_at for r in ended if r.started_at]  # 0: it had not begun

    def post(self, settlement: Settlement) -> None:
        """Settle it soon; other settlements go on meanwhile."""
        job_id = settlement.delivery.job.id
        if self._renewed and (renewed := self._renewed.pop(job_id, None)) is not None:
            settlement = msgspec.structs.replace(settlement, delivery=renewed)
        if self._tools.app.monitor.counts:
            self._tools.tally.settled(settlement)
        self._put(settlement)

    def _put(self, settlement: Settlement) -> None:
        self._unsettled[settlement.delivery.job.id] = settlement
        self._batcher.put(settlement)

    def renew(self, old: Delivery, new: Delivery) -> None:
        """A job that has not ended came once more, as its lease had ended: it is settled under
        the new one."""
        self._tools.keeper.release([old.receipt])
        self._renewed[new.job.id] = new

    def repeat(self, delivery: Delivery) -> bool:
        """Settle a job that came once more as it was settled under a lease that had ended; but
        not if another worker has begun it since. Returns whether it was posted here."""
        settlement = self._unsettled.get(delivery.job.id)
        if settlement is None or next_attempt(delivery) > next_attempt(settlement.delivery) + 1:
            return False
        self._put(msgspec.structs.replace(settlement, delivery=delivery))
        return True

    async def drain(self) -> None:
        """Return when all that was posted has been written, or given up."""
        await self._batcher.drain()

    async def _write(self, settlements: Sequence[Settlement]) -> list[None]:
        receipts = [settlement.delivery.receipt for settlement in settlements]
        self._tools.keeper.settling(receipts)
        try:
            await self._store(settlements)
        finally:
            # Written or not: a lease that is kept any longer is kept for nobody.
            self._tools.keeper.release(receipts)
            for settlement in settlements:
                job_id = settlement.delivery.job.id
                if self._unsettled.get(job_id) is settlement:
                    del self._unsettled[job_id]
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
