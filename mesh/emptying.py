"""Taking jobs off an agent, other than by running them: to other agents, to the master, or away.

Whoever does this is one more consumer of the lane, and competes with workers as they do with each
other. A **move** stores the job elsewhere first and drops it here then, so a crash in between
leaves it in both places, never in none. To tell the two apart the job elsewhere has the next
attempt's number (a move does not count against the policy's attempts, as a snooze does not): what
is delivered here again, and is known to the master under a greater number, has been moved and is
dropped. And a push is idempotent on (id, attempt).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from mesh.errors import AgentError, PublishOutcomeUnknown
from mesh.job import TERMINAL, State
from mesh.ports import Agent, Delivery, Known, Master, Settlement
from mesh.wire import Envelope, ErrorInfo, Finished

__all__ = ["Mover", "ending", "take_off"]

log = logging.getLogger("mesh")

LEASE = 30.0
BATCH = 256
PATIENCE = 1.0
"""Seconds without a job after which there is none that may be pulled now."""

Dispose = Callable[[Sequence[Delivery]], Awaitable[Sequence[Settlement]]]


async def take_off(agent: Agent, lane: str, dispose: Dispose) -> int:
    """Give ``dispose`` what may be pulled of a lane, batch after batch, and settle what it
    returns; end when nothing comes any more. Returns how many were settled. Raises
    ``AgentError``."""
    count = 0
    consumer = await agent.consume(lane, lease=LEASE)
    try:
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    deliveries = await consumer.pull(BATCH)
            except TimeoutError:
                return count
            settlements = await dispose(deliveries)
            if settlements:
                await consumer.settle(settlements)
                count += len(settlements)
    finally:
        await consumer.close()


def ending(by: str, reason: str, now: Callable[[], float]) -> Dispose:
    """Ends jobs as ``cancelled``, in the name of ``by``, unstarted."""

    async def dispose(deliveries: Sequence[Delivery]) -> Sequence[Settlement]:
        return [
            Settlement(delivery, _cancelled(delivery, by, reason, now())) for delivery in deliveries
        ]

    return dispose


def _cancelled(delivery: Delivery, by: str, reason: str, now: float) -> Finished:
    job = delivery.job
    return Finished(
        id=job.id,
        attempt=job.attempt + delivery.lost,
        at=now,
        name=job.name,
        lane=job.lane,
        priority=job.priority,
        enqueued_at=job.enqueued_at,
        worker=by,
        started_at=0.0,
        lost=delivery.lost,
        state=State.CANCELLED,
        error=ErrorInfo("Cancelled", reason),
    )


class Mover:
    """Moves jobs to one of the agents that serve their lane, or to the master if none takes
    them."""

    def __init__(self, master: Master, targets: Callable[[str], Sequence[Agent]]) -> None:
        """``targets`` gives the agents that may take a lane's jobs."""
        self.moved = 0
        """Jobs that have been moved."""
        self._master = master
        self._targets = targets

    async def empty(self, agent: Agent) -> int:
        """Move all that may be pulled now. Returns how many were moved, or found to have been.
        Raises ``AgentError``, ``MasterError``."""
        depth = await agent.depth()
        lanes = sorted(lane for lane, jobs in depth.items() if jobs.ready)
        return sum([await take_off(agent, lane, self.move) for lane in lanes])

    async def move(self, deliveries: Sequence[Delivery]) -> Sequence[Settlement]:
        """Move leased jobs of one lane. Returns what is to be settled: those that are elsewhere
        for certain."""
        again = [delivery.job.id for delivery in deliveries if delivery.redelivered]
        known = await self._master.known(again) if again else {}
        settled = [Settlement(d) for d in deliveries if _is_elsewhere(d, known)]
        left = {d.job.id: d for d in deliveries if not _is_elsewhere(d, known)}
        jobs = {job_id: _next(delivery) for job_id, delivery in left.items()}
        for agent in self._targets(deliveries[0].job.lane) if jobs else ():
            for job_id, outcome in zip(
                list(jobs), await _push(agent, list(jobs.values())), strict=True
            ):
                if isinstance(outcome, PublishOutcomeUnknown):
                    # Neither here nor there for certain: its lease ends, and it is pushed again.
                    del jobs[job_id], left[job_id]
                elif outcome is None:
                    del jobs[job_id]
            if not jobs:
                break
        if jobs:
            await self._master.take_back(list(jobs.values()))
        self.moved += len(left)
        return [*settled, *(Settlement(delivery) for delivery in left.values())]


async def _push(agent: Agent, jobs: Sequence[Envelope]) -> Sequence[AgentError | None]:
    try:
        return await agent.push(jobs, held=True)
    except AgentError as error:
        log.info("agent %s takes no moved jobs: %s", agent.name, error)
        return [error] * len(jobs)


def _is_elsewhere(delivery: Delivery, known: Mapping[str, Known]) -> bool:
    it = known.get(delivery.job.id)
    if it is None:
        return False
    return it.state in TERMINAL or it.attempt > delivery.job.attempt + delivery.lost


def _next(delivery: Delivery) -> Envelope:
    job = delivery.job
    attempt = job.attempt + delivery.lost + 1
    # Whoever moved it before may have died since: it is to be known again in other company too.
    return msgspec.structs.replace(job, attempt=attempt, snoozes=job.snoozes + 1, given_id=True)
