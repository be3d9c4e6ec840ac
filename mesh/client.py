"""Handing jobs over, and asking what became of them.

A ``Client`` belongs to one event loop. It opens agents and the master when it first needs
them. One ``Batcher`` per lane turns concurrent ``enqueue`` calls into few writes; one poller
answers all who wait for results.

Where a new job goes: due within the transient threshold → an agent that serves its lane, the
next one if that is unavailable, the master if none is; due later → the master.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from mesh import feed
from mesh.away import Away
from mesh.batcher import Batcher
from mesh.clock import Clock
from mesh.cluster import Cluster
from mesh.codecs.base import Codec
from mesh.config import AgentConfig, Config
from mesh.ends import Ends
from mesh.errors import (
    AgentError,
    AgentUnavailable,
    ClusterArchived,
    ConfigError,
    JobNotFound,
    KeyExists,
    MasterError,
    MasterUnavailable,
    MeshError,
    PublishOutcomeUnknown,
)
from mesh.held import Held, Stored
from mesh.job import State
from mesh.plugins import connect_agent, connect_master, hide_password
from mesh.ports import (
    Agent,
    AgentSettings,
    Board,
    EventInfo,
    JobInfo,
    Master,
    MasterSettings,
)
from mesh.wire import Envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.sql.outbox import Outbox

__all__ = ["BULK", "Client", "agent_settings", "master_settings"]

log = logging.getLogger("mesh")

Outcome = State | MeshError
"""What became of a job that was handed over: the state it is in, or why it is not stored."""

BULK = 4096
"""The most jobs in one write."""

_MASTER = ""
"""No agent's name."""

_FOLLOW = 1.5
"""Seconds between two looks at the cluster's settings."""


def agent_settings(config: Config, clock: Clock) -> AgentSettings:
    return AgentSettings(
        cluster=config.cluster,
        clock=clock,
        push_timeout=config.push_timeout,
        connect_timeout=config.connect_timeout,
    )


def master_settings(config: Config, clock: Clock) -> MasterSettings:
    return MasterSettings(
        cluster=config.cluster,
        clock=clock,
        auto_migrate=config.auto_migrate,
        schema=config.schema,
        table_prefix=config.table_prefix,
        connect_timeout=config.connect_timeout,
        persist_events=config.persist_events,
        event_ttl=config.event_ttl,
    )


class Client:
    """Connections to a cluster's agents and master, for one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        check_payload: Callable[[str, bytes], None] = lambda name, payload: None,
        codec: Codec | None = None,
    ) -> None:
        """``check_payload`` raises ``InvalidArguments`` if the handler of that name is known and
        cannot take the payload; ``codec`` is the app's."""
        self._cluster = cluster
        self._clock = clock
        self.check_payload = check_payload
        self.codec = codec
        self._opening = defaultdict[str, asyncio.Lock](asyncio.Lock)
        """By agent, and of the master: whoever waits for one that hangs holds up no other."""
        self._agents: dict[str, Agent] = {}
        self._batchers: dict[tuple[str, str | None], Batcher[Envelope, Outcome]] = {}
        self._held: Batcher[Held, Stored | MeshError] = Batcher(self._submit, max_items=BULK)
        self._away = Away(clock, min(self.config.push_timeout, self.config.connect_timeout) / 2)
        self._turn = count()
        self._master: Master | None = None
        self._closing = asyncio.Event()
        self._ends = Ends(self._ask, clock, self._closing)
        self._held_for = ""
        self._outbox: Outbox | None = None
        """Never opened: it writes through the callers' sessions."""
        self._boards: list[Board] = []
        """Of the agents and the master that are open."""
        self._retired: list[Agent] = []
        """Agents that the cluster no longer has. Something may be on its way to them still."""
        self._follower: asyncio.Task[None] | None = None

    @property
    def config(self) -> Config:
        return self._cluster.config

    async def close(self) -> None:
        """Finish what is being written, then disconnect. Who waits for a result, is told."""
        for batcher in self._batchers.values():
            await batcher.drain()
        await self._held.drain()
        self._closing.set()
        await self._ends.close(_closed())
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        for lock in list(self._opening.values()):
            async with lock:
                pass  # No other opens from now on.
        for board in self._boards:
            await board.close()
        self._boards.clear()
        agents = [*self._agents.values(), *self._retired]
        await asyncio.gather(*(agent.close() for agent in agents))
        self._agents.clear()
        if self._master is not None:
            await self._master.close()
            self._master = None

    # connections -----------------------------------------------------------------------------

    async def master(self) -> Master:
        """The master, opened. Raises ``ConfigError`` if there is none, ``MasterError``."""
        if self.config.master is None:
            raise ConfigError(
                "this process has no master configured (master=... or MESH_MASTER): "
                "it can enqueue, but not ask for states and results"
            )
        if self._master is None:
            async with self._opening[_MASTER]:
                if self._master is None:
                    master = connect_master(
                        self.config.master, master_settings(self.config, self._clock)
                    )
                    await self._open(master)
                    await self._follow(master)
                    self._master = master
        return self._master

    async def agent(self, name: str) -> Agent:
        """An agent, opened. Raises ``ConfigError`` if there is none, ``AgentError``."""
        config = self.config.agent(name)
        if name not in self._agents:
            async with self._opening[name]:
                if name not in self._agents:
                    agent = connect_agent(
                        name, config.url, agent_settings(self.config, self._clock)
                    )
                    await self._open(agent)
                    await self._follow(agent)
                    self._agents[name] = agent
        return self._agents[name]

    async def _open(self, connection: Agent | Master) -> None:
        """Open it, or leave nothing behind."""
        if self._closing.is_set():
            raise _closed()
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise

    # following the cluster's settings --------------------------------------------------------

    async def _follow(self, connection: Agent | Master) -> None:
        """Learn what its board says, now and from now on: before the first job goes there."""
        board = await connection.board()
        self._boards.append(board)
        await self._hear(board)
        if self._follower is None:
            self._follower = asyncio.create_task(self._listen(), name="mesh-settings")

    async def _hear(self, board: Board) -> None:
        try:
            self._cluster.hear(await board.read(0.0))
        except MeshError as error:
            log.debug("the cluster's settings stay as they are known: %s", error)

    async def _listen(self) -> None:
        while not await self._clock.wait(self._closing, _FOLLOW):
            for board in list(self._boards):
                await self._hear(board)
            if self._cluster.is_missing_agents and self.config.master is not None:
                try:
                    await self.meet_agents()
                except MeshError as error:
                    log.debug("agents that were added are not known yet: %s", error)

    async def meet_agents(self) -> None:
        """Learn from the master which agents were added at run time, and where they are. Raises
        ``MasterError``."""
        self._cluster.set_added(await (await self.master()).added_agents())
        self._retire()

    def _retire(self) -> None:
        """Let go of agents that are no longer there, or elsewhere."""
        agents = self.config.agents
        for name, agent in list(self._agents.items()):
            if name not in agents or hide_password(agents[name].url) != agent.url:
                self._retired.append(self._agents.pop(name))

    # enqueuing -------------------------------------------------------------------------------

    def post(self, job: Envelope) -> asyncio.Future[Outcome]:
        """Store one job durably. The future's result says what became of it."""
        key = (job.lane, job.agent)
        batcher = self._batchers.get(key)
        if batcher is None:
            batcher = Batcher(partial(self._place, *key), max_items=BULK, max_in_flight=2)
            self._batchers[key] = batcher
        return batcher.post(job)

    async def submit_many(self, jobs: Sequence[Envelope]) -> list[Outcome]:
        """Store many jobs of one lane and one choice of agent; what became of each, in order."""
        outcomes: list[Outcome] = []
        for start in range(0, len(jobs), BULK):
            outcomes += await self._place(jobs[0].lane, jobs[0].agent, jobs[start : start + BULK])
        return outcomes

    async def submit_held(
        self, jobs: Sequence[Held], session: Any = None, *, together: bool = False
    ) -> list[Stored | MeshError]:
        """Store jobs with conditions; what became of each, in order. In one transaction if they
        must be ``together``; in the caller's, if there is one."""
        for pinned in {held.job.agent for held in jobs if held.job.agent is not None}:
            self.config.agent(pinned)  # which raises, if there is none
        if session is not None and self.config.outbox is not None:
            return [*await self._put_out(jobs, session)]
        if session is not None:
            master = await self.master()
            if self._cluster.is_archive:
                return [ClusterArchived() for _ in jobs]
            stored = await master.submit(jobs, session)
            return [_refused(held, one) for held, one in zip(jobs, stored, strict=True)]
        if together:
            return list(await self._submit(jobs))
        return list(await asyncio.gather(*(self._held.post(held) for held in jobs)))

    async def _put_out(self, jobs: Sequence[Held], session: Any) -> list[Stored]:
        """Store jobs in the outbox of the application's database. Who has their keys is found
        out later."""
        from mesh.sql.outbox import Outbox  # SQLAlchemy: not for those who need it not

        for held in jobs:
            if held.rule is not None and held.rule.on_conflict == "raise":
                raise ConfigError(
                    f"options(key='{held.job.key}', on_conflict='raise', session=...): keys are "
                    "looked at when the job has left the outbox; use 'keep'"
                )
        if self._outbox is None:
            assert self.config.outbox is not None
            self._outbox = Outbox(self.config.outbox, self._clock, self.config.connect_timeout)
        await self._outbox.put(jobs, session)
        return [Stored(held.job.id, held.job.name, State.SCHEDULED) for held in jobs]

    async def _submit(self, jobs: Sequence[Held]) -> Sequence[Stored | MeshError]:
        try:
            master = await self._holder()
            if self._cluster.is_archive:
                return [ClusterArchived()] * len(jobs)
            stored = await master.submit(jobs)
        except MasterError as error:
            failed = _not_held([held.job for held in jobs], "conditions are the master's", error)
            return [failed[held.job.id] for held in jobs]
        return [_refused(held, one) for held, one in zip(jobs, stored, strict=True)]

    async def _place(
        self, lane: str, pinned: str | None, jobs: Sequence[Envelope]
    ) -> list[Outcome]:
        """Store jobs of one lane where they belong; one outcome each, in order."""
        if self._cluster.is_archive:
            return [ClusterArchived()] * len(jobs)
        outcomes: dict[str, Outcome] = {}
        left = list(jobs)
        if self.config.master is not None:
            horizon = self._clock.time() + self.config.transient_threshold
            later = [job for job in left if job.due_at > horizon]
            if later:
                outcomes |= await self._keep(later, None)
                left = [job for job in left if job.due_at <= horizon]
        refused: AgentUnavailable | None = None
        for config in self._candidates(lane, pinned):
            if not left:
                break
            offered = await self._offer(config, left)
            if len(left) == len(jobs) and not any(offered):
                self._say_held("")
                return [State.QUEUED] * len(jobs)
            still: list[Envelope] = []
            for job, outcome in zip(left, offered, strict=True):
                if isinstance(outcome, AgentUnavailable):
                    refused = outcome
                    still.append(job)
                else:
                    outcomes[job.id] = State.QUEUED if outcome is None else outcome
            left = still
        if left:
            outcomes |= await self._keep(left, refused)
        else:
            self._say_held("")
        return [outcomes[job.id] for job in jobs]

    def _candidates(self, lane: str, pinned: str | None) -> list[AgentConfig]:
        """Agents to try, in order: taking turns, those that just failed last."""
        if pinned is not None:
            return [self.config.agent(pinned)]
        agents = self._cluster.agents_for(lane)
        if len(agents) < 2:
            return agents
        start = next(self._turn) % len(agents)
        turns = agents[start:] + agents[:start]
        return sorted(turns, key=lambda agent: self._away.is_last(agent.name))

    async def _offer(
        self, config: AgentConfig, jobs: Sequence[Envelope]
    ) -> Sequence[MeshError | None]:
        outcomes: Sequence[MeshError | None]
        if (refusal := self._away.ask(config.name)) is not None:
            return [refusal] * len(jobs)
        began = self._clock.monotonic()
        try:
            agent = await self.agent(config.name)
            # Known only now, if it is the first that was opened.
            if self._cluster.is_archive:
                return [ClusterArchived()] * len(jobs)
            if not self._cluster.takes(lane := jobs[0].lane, config.name):
                raise AgentUnavailable(self._cluster.refusal(lane, config.name))
            outcomes = await agent.push(jobs)
        except AgentError as error:
            # It could not be opened: nothing was sent.
            refusal = error if isinstance(error, AgentUnavailable) else AgentUnavailable(str(error))
            outcomes = [refusal] * len(jobs)
        if any(isinstance(outcome, AgentError) for outcome in outcomes):
            self._away.failed(config.name, self._clock.monotonic() - began)
        else:
            self._away.answered(config.name)
        return outcomes

    async def _keep(
        self, jobs: Sequence[Envelope], refused: AgentUnavailable | None
    ) -> dict[str, Outcome]:
        """Hold jobs on the master: they are due later, or no agent took them."""
        if refused is not None:
            why = str(refused)
        elif self._cluster.agents_for(jobs[0].lane):
            why = f"due in more than {self.config.transient_threshold:g} s, so the master's to hold"
        else:
            why = self._cluster.refusal(jobs[0].lane)
        try:
            master = await self._holder()
            if self._cluster.is_archive:
                return {job.id: ClusterArchived() for job in jobs}
            await master.hold(jobs)
        except MasterError as error:
            return {**_not_held(jobs, why, error)}
        if refused is not None:
            self._say_held(str(refused))
        return {job.id: State.SCHEDULED for job in jobs}

    async def _holder(self) -> Master:
        """The master, for storing jobs. Raises ``MasterUnavailable`` if it cannot be."""
        if self.config.master is None:
            raise MasterUnavailable("there is no master configured to hold it")
        try:
            return await self.master()
        except MasterError as error:
            raise MasterUnavailable(str(error)) from error  # nothing was sent

    def _say_held(self, why: str) -> None:
        """Log once when jobs begin to be held for want of an agent, and once when that ends."""
        if why and not self._held_for:
            log.warning("jobs are held on the master: %s", why)
        elif self._held_for and not why:
            log.warning("agents take jobs again")
        self._held_for = why

    # asking ----------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobInfo:
        """Raises ``JobNotFound``."""
        found = await (await self.master()).get_jobs([job_id])
        if job_id not in found:
            raise JobNotFound(job_id, " (yet: jobs appear there once their ledger is recorded)")
        return found[job_id]

    async def wait(self, job_id: str, timeout: float | None) -> JobInfo:
        """The job, once it is in a terminal state. Raises ``ResultTimeout``."""
        await self.master()
        if self._closing.is_set():
            raise _closed()
        return await self._ends.wait(job_id, timeout)

    async def _ask(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        return await (await self.master()).get_jobs(job_ids)

    async def events(self, job_id: str, after: int) -> AsyncIterator[EventInfo]:
        """See ``mesh.feed.follow``."""
        async for event in feed.follow(await self.master(), self._clock, job_id, after):
            yield event


def _closed() -> MeshError:
    return MeshError("the app was closed meanwhile")


def _not_held(jobs: Sequence[Envelope], why: str, error: MasterError) -> dict[str, MeshError]:
    """What became of jobs that the master did not confirm."""
    if isinstance(error, MasterUnavailable):
        unavailable = AgentUnavailable(f"not stored: {why}; {error}")
        return {job.id: unavailable for job in jobs}
    return {
        job.id: PublishOutcomeUnknown(f"job {job.id}: {why}; {error}", [job.id]) for job in jobs
    }


def _refused(held: Held, stored: Stored) -> Stored | MeshError:
    if not stored.refused:
        return stored
    key = held.job.key or ""
    of = f"job {stored.job_id} of '{stored.name}', which is {stored.state}"
    if stored.name != held.job.name:
        advice = f"all handlers share keys: give yours a prefix, such as '{held.job.name}:{key}'"
    else:
        advice = "on_conflict='keep' would return that job"
    return KeyExists(f"the key '{key}' stands for {of}; {advice}", key, stored.job_id)
