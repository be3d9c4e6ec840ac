"""The control duty: copies the master's board to every agent's, and takes cancels down.

One coordinator has it, by the lease ``control``. For each agent there is a *copy*, in one of the
states *away* (the agent cannot be reached: try again), *comparing* (its board is read whole, and
what differs from the master's is posted) and *following* (what changes on the master's board is
posted). It compares again after every failure and now and then, so whatever went amiss is put
right: a coordinator that lost its lease without noticing, a stream that somebody deleted.

Every coordinator follows the master's board, for the settings (``Follower``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import msgspec

from mesh.clock import Clock
from mesh.errors import AgentError, MasterError
from mesh.job import TERMINAL, State
from mesh.notices import Cancel, cancel_key, cancelled_job
from mesh.ports import Agent, Master
from mesh.service import Backoff, Service
from mesh_master.leader import Term, lead

__all__ = ["Control", "Follower"]

log = logging.getLogger("mesh")

_READ = 30.0
"""Seconds that a read of the master's board waits."""
_COMPARE = 60.0
"""Seconds between two comparisons of an agent's board with the master's."""
_POST = 500
"""Notices in one post."""
_FIRST_LOOK, _LONGEST_LOOK = 0.5, 8.0
"""Seconds between two looks for jobs that have ended, while cancels stand."""
_FORGOTTEN = 24 * 3600.0
"""Seconds after which the cancel of a job that the master has never heard of is taken down."""

Told = Callable[[Mapping[str, bytes | None]], None]


class Follower(Service):
    """Knows what stands on the master's board, and tells when it changes."""

    def __init__(self, master: Master, clock: Clock) -> None:
        super().__init__("board")
        self.standing: dict[str, bytes] = {}
        self.known = asyncio.Event()
        """Set once the board has been read."""
        self.listeners: list[Told] = []
        """Called with what has changed, after ``standing`` has."""
        self._master = master
        self._clock = clock

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(self.stopping, clock=self._clock)
        name = "the master's board"
        if (board := await backoff.retry(name, self._master.board, MasterError)) is None:
            return
        reading: asyncio.Task[Mapping[str, bytes | None] | None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while not self.stopping.is_set():
                reading = tasks.create_task(
                    backoff.retry(name, partial(board.read, _READ), MasterError)
                )
                stop = tasks.create_task(self.stopping.wait())
                await asyncio.wait([reading, stop], return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
                if not reading.done():
                    reading.cancel()
                elif changes := reading.result():
                    self._take(changes)
                self.known.set()
        await board.close()

    def _take(self, changes: Mapping[str, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.standing.pop(key, None)
            else:
                self.standing[key] = value
        for listener in self.listeners:
            listener(changes)


class _Copy:
    """What is to be posted on one agent's board."""

    def __init__(self) -> None:
        self.changes: dict[str, bytes | None] = {}
        self.wake = asyncio.Event()

    def add(self, changes: Mapping[str, bytes | None]) -> None:
        self.changes |= changes
        self.wake.set()

    def take(self) -> dict[str, bytes | None]:
        self.wake.clear()
        changes, self.changes = self.changes, {}
        return changes


class Control(Service):
    """Copies to the ``agents``, by name; they may come and go: say ``look_again`` then."""

    def __init__(
        self,
        master: Master,
        agents: Mapping[str, Agent],
        follower: Follower,
        *,
        holder: str,
        clock: Clock,
        ttl: float = 10.0,
    ) -> None:
        super().__init__("control")
        self._master = master
        self._agents = agents
        self._follower = follower
        self._holder = holder
        self._clock = clock
        self._ttl = ttl
        self._copies: dict[str, tuple[Agent, _Copy, asyncio.Task[None]]] = {}
        self._agents_changed = asyncio.Event()
        self._cancelling = asyncio.Event()
        follower.listeners.append(self._told)

    def look_again(self) -> None:
        """The agents are others now."""
        self._agents_changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await lead(
            self._master,
            "control",
            self._holder,
            self._lead,
            stopping=self.stopping,
            clock=self._clock,
            ttl=self._ttl,
        )

    def _told(self, changes: Mapping[str, bytes | None]) -> None:
        for _, copy, _ in self._copies.values():
            copy.add(changes)
        if any(cancelled_job(key) for key in changes):
            self._cancelling.set()

    async def _lead(self, term: Term) -> None:
        async with asyncio.TaskGroup() as tasks:
            duty = tasks.create_task(self._control(term))
            await term.over.wait()
            duty.cancel()

    async def _control(self, term: Term) -> None:
        await self._follower.known.wait()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take_down(term))
                while True:
                    self._agents_changed.clear()
                    self._meet_agents(tasks, term)
                    await self._agents_changed.wait()
        finally:
            self._copies.clear()

    def _meet_agents(self, tasks: asyncio.TaskGroup, term: Term) -> None:
        for name, (agent, _, task) in list(self._copies.items()):
            if self._agents.get(name) is not agent:
                task.cancel()
                del self._copies[name]
        for name, agent in self._agents.items():
            if name not in self._copies:
                copy = _Copy()
                task = tasks.create_task(self._keep(agent, copy, term), name=f"board-{name}")
                self._copies[name] = agent, copy, task

    # copying ---------------------------------------------------------------------------------

    async def _keep(self, agent: Agent, copy: _Copy, term: Term) -> None:
        backoff = Backoff(term.over, clock=self._clock)

        async def compare() -> bool:
            await agent.open()
            board = await agent.board()
            try:
                there = await board.read(0.0)
            finally:
                await board.close()
            copy.take()  # it is in what stands
            await _post(agent, _differences(self._follower.standing, there))
            return True

        async def follow() -> bool:
            while not term.over.is_set():
                changes = copy.take()
                await _post(agent, changes)
                if not changes and not await self._clock.wait(copy.wake, _COMPARE):
                    break
            return True

        what = f"the board of agent {agent.name}"
        while not term.over.is_set():
            await backoff.retry(what, compare, AgentError)
            try:
                await follow()
            except AgentError as error:
                log.info("%s: %s", what, error)

    # cancels ---------------------------------------------------------------------------------

    async def _take_down(self, term: Term) -> None:
        backoff = Backoff(term.over, clock=self._clock)
        pause = _FIRST_LOOK
        while not term.over.is_set():
            self._cancelling.clear()
            cancels = {
                job_id: notice
                for key, notice in self._follower.standing.items()
                if (job_id := cancelled_job(key)) is not None
            }
            moved = False
            for part in _parts(list(cancels)):
                look = partial(self._look, {job_id: cancels[job_id] for job_id in part})
                moved |= bool(await backoff.retry("looking after cancels", look, MasterError))
            pause = _FIRST_LOOK if moved else min(pause * 2, _LONGEST_LOOK)
            if await self._clock.wait(self._cancelling, pause if cancels else None):
                pause = _FIRST_LOOK

    async def _look(self, notices: Mapping[str, bytes]) -> bool:
        """Take down the cancels of jobs that have ended; end those that came back to the master.
        Whether there were any."""
        known = await self._master.known(list(notices))
        over: list[str] = []
        back: dict[str, list[str]] = {}
        for job_id, data in notices.items():
            try:
                cancel = Cancel.decode(data)
            except msgspec.MsgspecError as error:
                log.error("the cancel of job %s cannot be read: %s", job_id, error)
                over.append(job_id)
                continue
            job = known.get(job_id)
            if job is None:
                if cancel.at < self._clock.time() - _FORGOTTEN:
                    over.append(job_id)
            elif job.state in TERMINAL:
                over.append(job_id)
            elif job.state in (State.SCHEDULED, State.WAITING):
                back.setdefault(cancel.reason, []).append(job_id)
        for reason, job_ids in back.items():
            states = await self._master.cancel(job_ids, reason)
            over += [job_id for job_id in job_ids if states.get(job_id) in TERMINAL]
        if over:
            await self._master.post(dict.fromkeys(map(cancel_key, over)))
        return bool(over)


def _differences(
    wanted: Mapping[str, bytes], there: Mapping[str, bytes | None]
) -> dict[str, bytes | None]:
    """What to post, so that what is wanted is there and nothing else."""
    gone = dict.fromkeys(there.keys() - wanted.keys())
    return gone | {key: value for key, value in wanted.items() if there.get(key) != value}


async def _post(agent: Agent, notices: Mapping[str, bytes | None]) -> None:
    for keys in _parts(list(notices)):
        await agent.post({key: notices[key] for key in keys})


def _parts(keys: Sequence[str]) -> Iterator[list[str]]:
    left = iter(keys)
    while part := list(islice(left, _POST)):
        yield part
