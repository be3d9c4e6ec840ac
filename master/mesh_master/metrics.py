"""The master's metrics: how the cluster stands now, and what this process's recorders counted.

Gauges are read when somebody asks: a handful of queries that read no ended jobs, and each agent's
depth. Every master process tells them alike; counters and the lag of a recorder are told by the
process that does that work. At most ``MOST_LANES`` lanes are told of, the fullest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.app import Mesh
from mesh.errors import AgentError, MasterError, MeshError
from mesh.monitor import Families, exposition
from mesh.ports import Agent, AgentInfo, Backlog, LaneDepth, Master
from mesh.wire import Heartbeat
from mesh_master.standing import all_agents, depth_of

__all__ = ["DUTIES", "NOT_IN_ARCHIVE", "TEXTS", "cluster_metrics", "render"]

MOST_LANES = 200

_PATIENCE = 3.0
"""Seconds for an agent, and for the master, to answer."""

DUTIES = ("control", "janitor", "rescuer", "scheduler")
"""The duties of which one coordinator has the lease. Recorders have one for each agent."""
NOT_IN_ARCHIVE = ("rescuer", "scheduler")
"""Those that rest in the mode ``archive``."""

TEXTS: Mapping[str, str] = {
    "jobs_enqueued": "Jobs that agents accepted.",
    "attempts_started": "Attempts that workers began.",
    "attempts_ended": "Attempts that ended, and jobs that ended unstarted, by the state that the "
    "job is in then.",
    "attempt_duration_seconds": "How long attempts took.",
    "attempt_wait_seconds": "How long attempts waited from when they might have begun.",
}

_Depth = Mapping[str, LaneDepth]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the master said."""

    now: float
    backlog: Mapping[str, Backlog]
    workers: list[Heartbeat]
    agents: list[AgentInfo]
    leases: Mapping[str, str]
    handled: set[str]
    """Lanes that some handler names."""


async def cluster_metrics(
    families: Families,
    master: Master,
    agents: Mapping[str, Agent | AgentError],
    *,
    silence: float,
    now: float,
    holder: str = "",
) -> None:
    """Add how the cluster stands. ``agents`` by name, opened; ``silence`` is
    ``Config``'s; ``holder``: the name of this process among the coordinators. Raises nothing."""
    seen, depths = await asyncio.gather(
        _ask_master(master, now - silence, now),
        asyncio.gather(*(depth_of(agent, _PATIENCE) for agent in agents.values())),
    )
    by_agent = dict(zip(agents, depths, strict=True))
    text = "Whether the master's database answers."
    families.gauge("jobmesh_master_up", text, int(seen is not None))
    text = "Whether the agent answers."
    reached = {n: depth for n, depth in by_agent.items() if not isinstance(depth, AgentError)}
    for name in by_agent:
        families.gauge("jobmesh_agent_up", text, int(name in reached), agent=name)
    lanes = _lanes(reached, seen)
    _add_depths(families, reached, lanes)
    if seen is not None:
        _add_lanes(families, seen, lanes)
        _add_cluster(families, seen, holder)


def _lanes(reached: Mapping[str, _Depth], seen: _Seen | None) -> set[str]:
    """Those that are told of."""
    sizes: dict[str, int] = {}
    for depth in reached.values():
        for lane, jobs in depth.items():
            sizes[lane] = sizes.get(lane, 0) + jobs.total
    if seen is not None:
        for lane, backlog in seen.backlog.items():
            sizes[lane] = sizes.get(lane, 0) + backlog.held
        for lane in (*seen.handled, *(load.lane for w in seen.workers for load in w.lanes)):
            sizes.setdefault(lane, 0)
    return set(sorted(sizes, key=lambda lane: (-sizes[lane], lane))[:MOST_LANES])


def _add_depths(families: Families, reached: Mapping[str, _Depth], lanes: set[str]) -> None:
    text = "Jobs of a lane on an agent: ready to start, leased to workers, not due yet."
    for agent, depth in reached.items():
        # Told with 0 too: what is not told cannot be compared.
        for lane in lanes:
            jobs = depth.get(lane, LaneDepth())
            for state in ("ready", "leased", "delayed"):
                value = getattr(jobs, state)
                families.gauge(
                    "jobmesh_lane_depth", text, value, lane=lane, agent=agent, state=state
                )


def _add_lanes(families: Families, seen: _Seen, lanes: set[str]) -> None:
    running = [w for w in seen.workers if w.state == "running"]
    for lane in lanes:
        backlog = seen.backlog.get(lane, Backlog())
        loads = [load for w in running for load in w.lanes if load.lane == lane]
        oldest = 0.0 if backlog.oldest_at is None else max(0.0, seen.now - backlog.oldest_at)
        for name, text, value in (
            ("held", "Jobs of a lane that the master holds.", backlog.held),
            ("oldest_age_seconds", "Age of the oldest job that is due and waits.", oldest),
            ("workers", "Workers that serve a lane.", len(loads)),
            ("slots", "Jobs of a lane that may run at once.", sum(x.concurrency for x in loads)),
            ("running", "Jobs of a lane that run.", sum(x.running for x in loads)),
        ):
            families.gauge(f"jobmesh_lane_{name}", text, value, lane=lane)


def _add_cluster(families: Families, seen: _Seen, holder: str) -> None:
    text = "Workers by what they last said of themselves, as long as they are heard of."
    for state in ("running", "draining", "stopped"):
        count = sum(worker.state == state for worker in seen.workers)
        families.gauge("jobmesh_workers", text, count, state=state)
    text = "Seconds since a recorder last wrote an agent's ledger to the master."
    for agent in seen.agents:
        if agent.seen_at:
            age = max(0.0, seen.now - agent.seen_at)
            families.gauge("jobmesh_agent_recorded_age_seconds", text, age, agent=agent.name)
    duties = (*DUTIES, *(f"recorder:{agent.name}" for agent in seen.agents))
    for duty in duties:
        led = seen.leases.get(duty)
        text = "Whether some coordinator has the duty."
        families.gauge("jobmesh_duty_led", text, int(led is not None), duty=duty)
        text = "Whether this process has the duty."
        families.gauge("jobmesh_leader", text, int(led == holder), duty=duty)


async def _ask_master(master: Master, alive: float, now: float) -> _Seen | None:
    try:
        async with asyncio.timeout(_PATIENCE):
            return _Seen(
                now=now,
                backlog=await master.backlog(),
                workers=await master.workers(seen_after=alive),
                agents=await master.agents(),
                leases=await master.leases(),
                handled={info.definition.lane for info in await master.handlers()},
            )
    except (MasterError, TimeoutError):
        return None


async def render(app: Mesh) -> tuple[bytes, str]:
    """All metrics of the process and of the app's cluster in Prometheus' text format, and its
    content type. Where no coordinator runs in this process, the cluster is asked by the app's own
    connections. Raises ``ConfigError`` if ``prometheus_client`` is not there."""
    if any(part.name == "coordinator" for part in app.monitor.parts):
        return await app.monitor.metrics()
    families = Families()
    for part in app.monitor.parts:
        await part.metrics(families)
    await _ask_by_app(families, app)
    return exposition(families)


async def _ask_by_app(families: Families, app: Mesh) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            master = await app.master()
            await app.meet_agents()
    except (MeshError, TimeoutError):
        families.gauge("jobmesh_master_up", "Whether the master's database answers.", 0)
        return
    agents, silence = await all_agents(app), app.config.silence
    await cluster_metrics(families, master, agents, silence=silence, now=app.now())
