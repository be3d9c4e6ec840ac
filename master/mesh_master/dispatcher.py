"""The dispatcher: moves held jobs from the master to agents when they are due.

Any number may run: ``claim_due`` gives a job to one of them, for ``claim`` seconds. What becomes
of a claimed job:

- *stored* on an agent: the agent's ``Accepted`` record ends its being held; until then the
  claim keeps others off.
- *certainly not stored*: the next agent of the lane is tried; after the last, the claim is
  given up at the end of the round, and the job is claimed anew after a pause.
- *outcome unknown*: the claim is kept. When it ends without an ``Accepted`` record the job is
  pushed again; a push is idempotent on the agent that has it.
- *the dispatcher died*: the claim ends by itself.

A **round** claims batch after batch until a batch is not full. Jobs that no agent took stay
claimed to the end of the round: otherwise the due jobs of one lane, whose agent is down, would
be claimed again and again before those of the other lanes. Such a lane is not tried again in
the same round. A round ends when half of the claim's time has gone, so that its first claims
still hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count

from mesh.clock import Clock, SystemClock
from mesh.errors import AgentError, MasterError, PublishOutcomeUnknown
from mesh.ports import Agent, Master
from mesh.service import Backoff, Service
from mesh.wire import Envelope

__all__ = ["Dispatcher"]

log = logging.getLogger("mesh")


class Dispatcher(Service):
    """Dispatches for the whole cluster, next to any number of others."""

    def __init__(
        self,
        master: Master,
        agents: Callable[[str], Sequence[Agent]],
        *,
        threshold: float,
        clock: Clock | None = None,
        interval: float = 0.5,
        batch: int = 1000,
        claim: float = 60.0,
    ) -> None:
        """``agents`` gives the agents that serve a lane, ``threshold`` is how many seconds
        before it is due a job goes to its agent. The master is looked at every ``interval``
        seconds."""
        super().__init__("dispatcher")
        self.dispatched = 0
        """Jobs that agents stored."""
        self._master = master
        self._agents = agents
        self._threshold = threshold
        self._clock = clock or SystemClock()
        self._interval = interval
        self._batch = batch
        self._claim = claim
        self._turn = count()
        self._said: dict[str, str] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(self.stopping, first=self._interval, clock=self._clock)
        while not self.stopping.is_set():
            all_stored = await backoff.retry(self.name, self._round, MasterError)
            if all_stored:
                await self._clock.wait(self.stopping, self._interval)
            elif all_stored is not None:
                await self._clock.wait(self.stopping, 4 * self._interval)

    async def _round(self) -> bool:
        """Dispatch what is due. Whether agents took all of it."""
        refused: list[str] = []
        lanes_down: set[str] = set()
        ends_at = self._clock.monotonic() + self._claim / 2
        try:
            while self._clock.monotonic() < ends_at and not self.stopping.is_set():
                jobs = await self._master.claim_due(
                    self._clock.time() + self._threshold, self._batch, self._claim
                )
                for lane, of_lane in _by_lane(jobs).items():
                    if lane not in lanes_down:
                        of_lane = await self._push(lane, of_lane)
                    if of_lane:
                        lanes_down.add(lane)
                        refused += [job.id for job in of_lane]
                if len(jobs) < self._batch:
                    break
        finally:
            if refused:
                await self._master.unclaim(refused)
        return not refused

    async def _push(self, lane: str, jobs: list[Envelope]) -> list[Envelope]:
        """Those of the jobs that no agent took."""
        agents = list(self._agents(lane))
        if not agents:
            self._say(lane, f"no agent serves the lane '{lane}', for which jobs are due")
            return jobs
        first = next(self._turn) % len(agents)
        for agent in agents[first:] + agents[:first]:
            refused: list[Envelope] = []
            problem: AgentError | None = None
            for job, outcome in zip(jobs, await _outcomes(agent, jobs), strict=True):
                if outcome is None:
                    self.dispatched += 1
                    continue
                problem = outcome
                if not isinstance(outcome, PublishOutcomeUnknown):
                    refused.append(job)
            self._say(agent.name, str(problem) if problem else "")
            jobs = refused
            if not jobs:
                break
        return jobs

    def _say(self, about: str, problem: str) -> None:
        """Log a problem once, until it changes or is over."""
        if problem and self._said.get(about) != problem:
            log.warning("%s: %s; trying again", self.name, problem)
        self._said[about] = problem


async def _outcomes(agent: Agent, jobs: Sequence[Envelope]) -> Sequence[AgentError | None]:
    try:
        return await agent.push(jobs)
    except AgentError as error:
        return [error] * len(jobs)


def _by_lane(jobs: Sequence[Envelope]) -> dict[str, list[Envelope]]:
    lanes: dict[str, list[Envelope]] = {}
    for job in jobs:
        lanes.setdefault(job.lane, []).append(job)
    return lanes
