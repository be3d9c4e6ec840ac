"""The rescuer: brings back jobs that the master knows to be on an agent, and the agent has not.

A stream was deleted, a server came back from an older copy of its data, a machine lost power with
writes that were not on the disk yet: what the agent had acknowledged is gone, and nobody will ever
run it. One rescuer works for the cluster, by the lease ``rescuer``. States: *waiting* (another has
the lease), *looking* (page after page of suspects: jobs on an agent that were to begin, or began,
over ``after`` seconds ago), *doubting* (some suspects are missing: wait, and look again),
*resting*.

A job is rescued on evidence alone, all of it:

- its agent says that it does not have it, twice, ``silence`` seconds apart. An agent that cannot be
  asked says nothing; one that the cluster has no more (``mesh agents rm``) has none;
- after that was said, the ledger of each agent that can be asked has been read to its end: so
  whatever became of the job there, or where it was moved to, is in the master;
- the worker that runs it, if one does, has not been heard of for ``silence`` seconds, in which its
  agent could be reached; or it says itself that it is over with all it had begun by then
  (``LaneLoad.since``), and what it told of this one was lost with the agent. One that runs it still
  will tell the outcome, which nobody need find twice;
- and the master still has it as it was seen (``Master.rescue``, in one transaction).

It is then held like any job, under a later attempt's number. A sweep may end at any point, and two
may meet when the lease changes hands: a job that was rescued is not as it was seen. So writes need
not carry the lease. Should the lost attempt's outcome turn up after all, the first one stands.

A job that a dispatcher claimed, and of which no agent has told when the claim is over, is
*doubtful*: the dispatcher died, or an agent has the job and its recorder is behind. Its claim is
given up when no agent that can be asked has it, and all ledgers have been read; pushed again
before, it would run twice. These are looked for in a loop of their own, as they wait to be
dispatched.

Agents may have to read all they have to answer. So after each look there is a rest of
``_REST`` times its length: a lane with a great backlog, all of it suspect, is looked at seldom.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from mesh.clock import Clock, SystemClock
from mesh.errors import AgentError, MasterError
from mesh.job import State
from mesh.ports import Agent, Master, Suspect
from mesh.service import Problems, Service
from mesh_master.leader import Term, lead

__all__ = ["Rescuer"]

log = logging.getLogger("mesh")

_REST = 20
_LOOK_AT_LEDGERS = 0.25
"""Seconds between two looks at whether the ledgers have been read."""
_PATIENCE = 15.0
"""Seconds for them to be read; if that is not enough, the next sweep tries again."""
_AT_ONCE = 500
"""Jobs in one transaction."""
_CLAIMS = 5.0
"""Seconds between two looks at claims."""
_DOUBTFUL = 5000
"""Jobs of one such look."""
_ROUNDED = 0.001
"""Seconds: moments of a master are not as exact as a worker's."""
_AHEAD = 3600.0
"""Seconds before they are due in which jobs are claimed, at most."""


class Rescuer(Service):
    """Rescues for the whole cluster, whenever it leads."""

    def __init__(
        self,
        master: Master,
        agents: Mapping[str, Agent],
        *,
        after: float,
        silence: float,
        holder: str,
        clock: Clock | None = None,
        interval: float | None = None,
        batch: int = 50_000,
        ttl: float = 10.0,
    ) -> None:
        """``agents`` are those of this process, opened by others, and may change while it runs;
        ``after`` and ``silence`` are ``Config``'s; ``interval`` is the seconds between two
        sweeps, by default half of ``after``; ``batch`` is how many suspects are looked at
        together."""
        super().__init__("rescuer")
        self.rescued: Counter[str] = Counter()
        """Jobs that were held again, by the agent that lost them."""
        self.sweeps = 0
        """Sweeps that came to their end."""
        self._master = master
        self._agents = agents
        self._after = after
        self._silence = silence
        self._holder = holder
        self._clock = clock or SystemClock()
        self._interval = after / 2 if interval is None else interval
        self._batch = batch
        self._ttl = ttl
        self._problems = Problems(self.name)

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await lead(
            self._master,
            "rescuer",
            self._holder,
            self._duty,
            stopping=self.stopping,
            clock=self._clock,
            ttl=self._ttl,
        )

    async def _duty(self, term: Term) -> None:
        """Until the term is over: then it ends at once, wherever it is."""
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(
                    self._go_on(term.over, look, interval), name=f"mesh-rescuer-{what}"
                )
                for what, look, interval in (
                    ("sweep", self._sweep, self._interval),
                    ("claims", self._look_at_claims, _CLAIMS),
                )
            ]
            await term.over.wait()
            for loop in loops:
                loop.cancel()

    async def _go_on(
        self,
        over: asyncio.Event,
        look: Callable[[asyncio.Event], Awaitable[float]],
        interval: float,
    ) -> None:
        while not over.is_set():
            pause, what = interval, look.__name__
            try:
                pause = max(interval, await look(over))
            except MasterError as error:
                self._problems.say(error, what)
            else:
                self._problems.over(what)
            await self._clock.wait(over, pause)

    async def _sweep(self, over: asyncio.Event) -> float:
        """Look at all suspects. Returns the least seconds to rest."""
        page: Any = None
        while not over.is_set():
            began = self._clock.monotonic()
            found = await self._master.suspects(self._clock.time() - self._after, self._batch, page)
            lost = await self._look(found.jobs)
            took = self._clock.monotonic() - began
            if lost:
                await self._clock.wait(over, self._silence)
                await self._rescue(await self._look(lost))
            elif found.jobs:
                await self._clock.wait(over, _REST * took)
            page = found.page
            if page is None:
                self.sweeps += 1
                break
        return 0.0

    async def _look_at_claims(self, over: asyncio.Event) -> float:
        """Give up the claims of doubtful jobs that no agent has. Returns the least seconds to
        rest."""
        began = self._clock.monotonic()
        doubtful = await self._master.doubtful(self._clock.time() + _AHEAD, _DOUBTFUL)
        for agent in list(self._agents.values()):
            if not doubtful:
                break
            gone = await self._missing(agent, doubtful)
            if gone is not None:
                doubtful = [suspect for suspect in doubtful if suspect.id in gone]
        took = self._clock.monotonic() - began
        if doubtful and False not in (await self._read_ledgers()).values():
            await self._master.rescue(doubtful)
        return _REST * took

    # evidence --------------------------------------------------------------------------------

    async def _look(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """Those of the suspects that seem to be lost."""
        if not suspects:
            return []
        living = await self._living()
        by_agent: defaultdict[str, list[Suspect]] = defaultdict(list)
        for suspect in suspects:
            if suspect.agent is not None and not _is_under_way(suspect, living):
                by_agent[suspect.agent].append(suspect)
        known = {agent.name for agent in await self._master.agents()} | self._agents.keys()
        lost: dict[str, list[Suspect]] = {}
        for name, mine in by_agent.items():
            if name not in known:
                lost[name] = mine
            elif name in self._agents:
                gone = await self._missing(self._agents[name], mine) or ()
                lost[name] = [suspect for suspect in mine if suspect.id in gone]
        return await self._untold({name: mine for name, mine in lost.items() if mine})

    async def _living(self) -> dict[str, dict[str, float]]:
        """By worker and lane, since when it may be running something."""
        heard = await self._master.workers(seen_after=self._clock.time() - self._silence)
        return {
            worker.worker: {load.lane: load.since for load in worker.lanes}
            for worker in heard
            if worker.state != "stopped"
        }

    async def _missing(self, agent: Agent, suspects: Iterable[Suspect]) -> Collection[str] | None:
        """Which of the jobs the agent does not have; ``None``: it cannot be asked."""
        by_lane: defaultdict[str, list[str]] = defaultdict(list)
        for suspect in suspects:
            by_lane[suspect.lane].append(suspect.id)
        try:
            await agent.open()  # also makes again what it needs, such as a stream
            gone = await agent.missing(by_lane)
        except AgentError as error:
            self._problems.say(error, agent.name)
            return None
        self._problems.over(agent.name)
        return gone

    async def _untold(self, lost: Mapping[str, Sequence[Suspect]]) -> list[Suspect]:
        """Those of the jobs, by agent, of which no ledger may still tell: all, or those of the
        agents whose own ledger has been read, or none."""
        if not lost:
            return []
        read = await self._read_ledgers()
        if False in read.values():
            return []
        return [s for name, mine in lost.items() if read.get(name, True) for s in mine]

    async def _read_ledgers(self) -> dict[str, bool | None]:
        """By agent, what ``_is_read`` says."""
        agents = dict(self._agents)
        outcomes = await asyncio.gather(*(self._is_read(agent) for agent in agents.values()))
        read = dict(zip(agents, outcomes, strict=True))
        behind = sorted(name for name, is_read in read.items() if is_read is False)
        if behind:
            self._problems.say(
                f"jobs seem to be lost, and the ledgers of {', '.join(behind)}, which may tell of "
                "them, are not recorded to their end",
                "ledgers",
            )
        else:
            self._problems.over("ledgers")
        return read

    async def _is_read(self, agent: Agent) -> bool | None:
        """Whether all that the agent has told by now is in the master, soon; ``None``: it cannot
        be asked."""
        deadline = self._clock.monotonic() + _PATIENCE
        try:
            ledger = await agent.ledger()
            try:
                place = await ledger.end()
                while not await ledger.has_passed(place):
                    if self._clock.monotonic() >= deadline:
                        return False
                    await self._clock.sleep(_LOOK_AT_LEDGERS)
                return True
            finally:
                await ledger.close()
        except AgentError:
            return None

    # rescue ----------------------------------------------------------------------------------

    async def _rescue(self, lost: Sequence[Suspect]) -> None:
        agents = {suspect.id: suspect.agent or "" for suspect in lost}
        done: Counter[str] = Counter()
        for start in range(0, len(lost), _AT_ONCE):
            held = await self._master.rescue(lost[start : start + _AT_ONCE])
            done.update(agents[job_id] for job_id in held)
        self.rescued += done
        for name, count in done.items():
            log.warning("agent %s has lost %d jobs: they are dispatched again", name, count)


def _is_under_way(suspect: Suspect, living: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a living worker runs it, as far as is known."""
    loads = living.get(suspect.worker or "")
    if suspect.state is not State.RUNNING or loads is None:
        return False
    since = loads.get(suspect.lane, 0.0)
    return suspect.started_at is None or suspect.started_at > since - _ROUNDED
