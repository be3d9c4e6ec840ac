"""The dispatcher: moves held jobs from the master to agents when they are due.

Any number may run: ``claim_due`` gives a job to one of them, for ``claim`` seconds. What becomes
of a claimed job:

- *stored* on an agent: the agent's ``Accepted`` record ends its being held; until then the
  claim keeps others off.
- *certainly not stored*: the next agent of the lane is tried; after the last, the claim is
  given up at the end of the round, and the job is claimed anew after a pause.
- *outcome unknown*, or *the dispatcher died*: when the claim ends without an ``Accepted`` record
  the ``rescuer`` finds out whether an agent has the job, and gives the claim up if none has.

A **round** claims batch after batch until a batch is not full. Jobs that no agent took stay
claimed to the end of the round: otherwise the due jobs of one lane, whose agent is down, would
be claimed again and again before those of the other lanes. Such a lane is not tried again in
the same round. A round ends when half of the claim's time has gone, so that its first claims
still hold.

Jobs that wait for others to end, to run after them or to have their place under a limit, are let
go at the beginning of a round: the recorders of this process say which jobs have ended
(``ended``), and every few seconds those are looked for whose end nobody said, such as when a
coordinator died. While nothing waits, neither costs anything.

The next round begins after a pause, or when somebody says that there is something to do: the
master's signal that jobs were stored, a recorder, the moment when a rate lets the next job go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import inf

from mesh.clock import Clock, SystemClock
from mesh.errors import AgentError, MasterError, PublishOutcomeUnknown
from mesh.ports import HELD, Agent, Master
from mesh.service import Backoff, Problems, Service, pass_on
from mesh.wire import Envelope, ErrorInfo, Finished, Record, Started

__all__ = ["Dispatcher"]

_SWEEP = 2.0
"""Seconds between two looks for ends that nobody said."""
_COMING = 600.0
"""Seconds in which an agent that a job must go to may join the cluster."""


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
        self.threshold = threshold
        """May be set while it runs."""
        self.leaving_out: frozenset[str] = frozenset()
        """Lanes whose jobs stay on the master; may be set while it runs."""
        self._clock = clock or SystemClock()
        self._interval = interval
        self._batch = batch
        self._claim = claim
        self._turn = count()
        self._problems = Problems(self.name)
        self._wake = asyncio.Event()
        self._untold: set[str] = set()
        self._waits = self._gated = True
        """Whether some job waits for another, or is held under a limit, as far as is known."""
        self._swept_at = -inf
        self._more_at = inf
        """On the monotonic clock."""

    def ended(self, records: Iterable[Record]) -> None:
        """The master has these records now: jobs may have waited for what they tell."""
        if not self._waits:
            return
        self._untold.update(r.id for r in records if isinstance(r, Finished | Started))
        if self._untold:
            self._wake.set()

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(self.stopping, first=self._interval, clock=self._clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pass_on(self.stopping, self._wake))
            with self._master.signals.waiting(HELD, self._wake):
                looks = 0
                while not self.stopping.is_set():
                    if self._wake.is_set():
                        self._wake.clear()
                        self._waits = self._gated = True  # it may be new
                    before = self.dispatched
                    all_stored = await backoff.retry(self.name, self._round, MasterError)
                    looks = looks + 1 if self.dispatched == before else 0
                    if all_stored:
                        await self._clock.wait(self._wake, self._pause(looks))
                    elif all_stored is not None:
                        # An agent that is down is not asked more often, whatever comes.
                        await self._clock.wait(self.stopping, self._interval)
                        await self._clock.wait(self._wake, 3 * self._interval)

    def _pause(self, looks: int) -> float:
        pause = min(self._interval, self._master.signals.pause(looks))
        return max(0.0, min(pause, self._more_at - self._clock.monotonic()))

    async def _round(self) -> bool:
        """Dispatch what is due. Whether agents took all of it."""
        await self._unblock()
        refused: list[str] = []
        lanes_down: set[_Way] = set()
        ends_at = self._clock.monotonic() + self._claim / 2
        self._more_at = inf
        left = [self._claim_due, self._claim_gated]
        try:
            while left and self._clock.monotonic() < ends_at and not self.stopping.is_set():
                for claim in list(left):
                    # What was claimed is pushed before more is: that may fail.
                    jobs, is_all = await claim()
                    for way, these in _by_way(jobs).items():
                        if way not in lanes_down:
                            these = await self._push(way, these)
                        if these:
                            lanes_down.add(way)
                            refused += [job.id for job in these]
                    if is_all:
                        left.remove(claim)
        finally:
            if refused:
                await self._master.unclaim(refused)
        return not refused

    async def _unblock(self) -> None:
        """Let go what waited for jobs that have ended."""
        sweeps = self._clock.monotonic() - self._swept_at >= _SWEEP
        ended, self._untold = self._untold, set()
        if not sweeps and not ended:
            return
        try:
            done = await self._master.unblock(None if sweeps else ended)
        except BaseException:
            self._untold |= ended
            raise
        self._waits, self._gated = done.waits, done.gated
        if sweeps:
            self._swept_at = self._clock.monotonic()

    async def _claim_due(self) -> tuple[Sequence[Envelope], bool]:
        """Jobs in hand, and whether there are no more."""
        until = self._clock.time() + self.threshold
        jobs = await self._master.claim_due(until, self._batch, self._claim, self.leaving_out)
        return jobs, len(jobs) < self._batch

    async def _claim_gated(self) -> tuple[Sequence[Envelope], bool]:
        if not self._gated:
            return [], True
        until = self._clock.time() + self.threshold
        found = await self._master.claim_gated(until, self._batch, self._claim, self.leaving_out)
        self._waits |= bool(found.jobs)
        if found.more_in is not None:
            self._more_at = min(self._more_at, self._clock.monotonic() + found.more_in)
        # With many limits it goes on as long as that brings something.
        is_part = len(found.jobs) >= self._batch or (found.is_part and bool(found.jobs))
        return found.jobs, not is_part

    async def _push(self, way: _Way, jobs: list[Envelope]) -> list[Envelope]:
        """Those of the jobs that no agent took."""
        lane, pinned = way
        agents = [a for a in self._agents(lane) if pinned is None or a.name == pinned]
        if pinned is not None and not agents:
            jobs = await self._give_up(pinned, jobs)
        if not agents and jobs:
            which = f"agent '{pinned}'" if pinned else "agent"
            self._problems.say(
                f"no {which} serves the lane '{lane}', for which jobs are due", f"{lane} {pinned}"
            )
        if not agents:
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
            if problem is None:
                self._problems.over(agent.name)
            else:
                self._problems.say(problem, agent.name)
            jobs = refused
            if not jobs:
                break
        return jobs

    async def _give_up(self, agent: str, jobs: list[Envelope]) -> list[Envelope]:
        """End those of the jobs that must go to an agent that the cluster has no more. Returns the
        others: it may be about to come, with a newer configuration."""
        if agent in {known.name for known in await self._master.agents()}:
            return jobs
        before = self._clock.time() - _COMING
        late = [job.id for job in jobs if max(job.due_at, job.enqueued_at) < before]
        error = ErrorInfo(
            "AgentRemoved",
            f"it was to go to the agent '{agent}', which the cluster does not have; "
            "mesh jobs retry sends it to any other",
        )
        ended = set(await self._master.give_up(late, error)) if late else set()
        return [job for job in jobs if job.id not in ended]


async def _outcomes(agent: Agent, jobs: Sequence[Envelope]) -> Sequence[AgentError | None]:
    try:
        return await agent.push(jobs, held=True)
    except AgentError as error:
        return [error] * len(jobs)


_Way = tuple[str, str | None]
"""A lane, and the agent that its jobs must go to, if they must."""


def _by_way(jobs: Sequence[Envelope]) -> dict[_Way, list[Envelope]]:
    ways: dict[_Way, list[Envelope]] = {}
    for job in jobs:
        ways.setdefault((job.lane, job.agent), []).append(job)
    return ways
