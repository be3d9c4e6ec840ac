"""How the cluster's lanes and agents stand: what the master and the agents say, put together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mesh.app import Mesh
from mesh.emptying import ending, take_off
from mesh.errors import AgentError, AgentUnavailable
from mesh.job import State
from mesh.ports import Agent, JobFilter, LaneDepth, Master
from mesh.settings import ClusterSettings, LaneState
from mesh.wire import Heartbeat

__all__ = [
    "AgentStanding",
    "LaneStanding",
    "Look",
    "all_agents",
    "depth_of",
    "lag_of",
    "look",
    "look_at_agents",
    "look_at_lanes",
    "purge_lane",
]


@dataclass(frozen=True, slots=True)
class LaneStanding:
    """A lane of the cluster."""

    lane: str
    state: LaneState
    agents: Mapping[str, LaneDepth] = field(default_factory=dict)
    """Those that have jobs of it."""
    held: int = 0
    """Jobs on the master."""
    oldest_at: float | None = None
    """When the oldest job was enqueued that is due and has not begun."""
    workers: int = 0
    running: int = 0
    concurrency: int = 0
    """How many could run at once, over all its workers."""


@dataclass(frozen=True, slots=True)
class AgentStanding:
    """An agent of the cluster."""

    name: str
    url: str
    """With the password hidden."""
    lanes: list[str] | None
    """``None``: all."""
    state: str
    is_added: bool
    """At run time."""
    away: str
    """Why it cannot be asked; empty if it can."""
    jobs: int | None
    lag: int | None
    """Ledger entries that the master does not have yet."""
    seen_at: float
    """When its recorder last wrote to the master."""


async def all_agents(mesh: Mesh, patience: float | None = None) -> dict[str, Agent | AgentError]:
    """The cluster's agents by name, or why they cannot be reached, within ``patience`` seconds."""

    async def reach(name: str) -> Agent | AgentError:
        try:
            async with asyncio.timeout(patience):
                return await mesh.agent(name)
        except AgentError as error:
            return error
        except TimeoutError:
            return AgentUnavailable(f"agent {name} did not answer within {patience:g} s")

    names = list(mesh.config.agents)
    return dict(zip(names, await asyncio.gather(*map(reach, names)), strict=True))


async def depth_of(
    agent: Agent | AgentError, patience: float | None = None
) -> Mapping[str, LaneDepth] | AgentError:
    """What an agent has, by lane, or why that is not known."""
    if isinstance(agent, AgentError):
        return agent
    try:
        async with asyncio.timeout(patience):
            return await agent.depth()
    except AgentError as error:
        return error
    except TimeoutError:
        return AgentUnavailable(f"agent {agent.name} did not answer within {patience:g} s")


async def lag_of(mesh: Mesh, name: str) -> int:
    """How many ledger entries of an agent the master does not have yet. Raises ``AgentError``."""
    ledger = await (await mesh.agent(name)).ledger()
    try:
        return await ledger.lag()
    finally:
        await ledger.close()


@dataclass(frozen=True, slots=True)
class Look:
    """What lanes and agents are both put together from, asked for once."""

    settings: ClusterSettings
    workers: Sequence[Heartbeat]
    """Those that were heard of lately."""
    depths: Mapping[str, Mapping[str, LaneDepth] | AgentError]
    """What each agent of the configuration has, or why that is not known."""


async def look(mesh: Mesh, master: Master, patience: float | None = None) -> Look:
    """Ask the master, and each agent, for up to ``patience`` seconds. Raises ``MasterError``."""
    agents = await all_agents(mesh, patience)
    found = await asyncio.gather(*(depth_of(agent, patience) for agent in agents.values()))
    return Look(
        settings=await master.cluster_settings(),
        workers=await master.workers(seen_after=mesh.now() - mesh.config.silence),
        depths=dict(zip(agents, found, strict=True)),
    )


async def look_at_lanes(
    mesh: Mesh, master: Master, seen: Look | None = None
) -> tuple[list[LaneStanding], dict[str, str]]:
    """The lanes, by name, and the agents that are not counted, with the reason."""
    seen = seen or await look(mesh, master)
    standing, depths = seen.settings, seen.depths
    backlog = await master.backlog()
    reached = {name: d for name, d in depths.items() if not isinstance(d, AgentError)}
    loads = defaultdict(list)
    for worker in seen.workers:
        if worker.state == "running":
            for load in worker.lanes:
                loads[load.lane].append(load)
    on_agents = {lane for depth in reached.values() for lane in depth}
    lanes = [
        LaneStanding(
            lane=name,
            state=standing.lane(name),
            agents={
                agent: depth[name]
                for agent, depth in reached.items()
                if name in depth and depth[name].total
            },
            held=backlog[name].held if name in backlog else 0,
            oldest_at=backlog[name].oldest_at if name in backlog else None,
            workers=len(loads[name]),
            running=sum(load.running for load in loads[name]),
            concurrency=sum(load.concurrency for load in loads[name]),
        )
        for name in sorted({*mesh.lanes, *standing.lanes, *backlog, *loads, *on_agents})
    ]
    return lanes, {name: str(d) for name, d in depths.items() if isinstance(d, AgentError)}


async def look_at_agents(
    mesh: Mesh, master: Master, seen: Look | None = None
) -> list[AgentStanding]:
    """The agents that the master knows, or the configuration, by name."""
    seen = seen or await look(mesh, master)
    standing, depths, added = seen.settings, seen.depths, await master.added_agents()
    registered = {agent.name: agent for agent in await master.agents()}

    async def standing_of(name: str) -> AgentStanding:
        config, depth = mesh.config.agents.get(name), depths.get(name)
        jobs: int | None = None
        lag: int | None = None
        away = "not in this configuration"
        if isinstance(depth, AgentError):
            away = str(depth)
        elif depth is not None:
            jobs, away = sum(d.total for d in depth.values()), ""
            lag = await lag_of(mesh, name)
        known = registered.get(name)
        return AgentStanding(
            name=name,
            url=known.url if known is not None else "",
            lanes=sorted(config.lanes) if config is not None and config.lanes else None,
            state=str(standing.agent(name).state),
            is_added=name in added,
            away=away,
            jobs=jobs,
            lag=lag,
            seen_at=known.seen_at if known is not None else 0.0,
        )

    return list(await asyncio.gather(*map(standing_of, sorted({*registered, *depths}))))


async def purge_lane(mesh: Mesh, master: Master, lane: str, reason: str) -> tuple[int, int]:
    """End a lane's jobs that have not started as cancelled. Returns how many, and how many are
    left, which agents hold until they are due. Raises ``AgentError``: it may be done in part."""
    ended, left = 0, 0
    for state in (State.SCHEDULED, State.WAITING):
        before: str | None = None
        while page := await master.list_jobs(
            JobFilter(states=[state], lane=lane, limit=500, before=before)
        ):
            states = await master.cancel([job.id for job in page], reason)
            ended += sum(state is State.CANCELLED for state in states.values())
            before = page[-1].id
    for agent in (await all_agents(mesh)).values():
        if isinstance(agent, AgentError):
            raise agent
        ended += await take_off(agent, lane, ending("purge of its lane", reason, mesh.now))
        left += (await agent.depth()).get(lane, LaneDepth()).delayed
    return ended, left
