"""Finding what ``mesh_master.why`` needs to know of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mesh.app import Mesh
from mesh.errors import AgentError
from mesh.job import TERMINAL
from mesh.ports import JobInfo
from mesh_master.standing import all_agents
from mesh_master.why import Standing

__all__ = ["find_standing"]


async def find_standing(mesh: Mesh, jobs: Sequence[JobInfo], *, thorough: bool) -> Standing:
    """For these jobs. ``thorough`` also tries the cluster's agents, which takes some seconds
    where one is away, and counts what waits. Raises ``MasterError``."""
    master = await mesh.master()
    await mesh.meet_agents()
    agents: dict[str, Collection[str] | None] = {
        # One that is not in our configuration is known by name alone.
        **dict.fromkeys(agent.name for agent in await master.agents()),
        **{name: agent.lanes for name, agent in mesh.config.agents.items()},
    }
    waits = await master.waits([job.id for job in jobs if job.state not in TERMINAL])
    parents = sorted({parent for wait in waits.values() for parent in wait.parents})
    return Standing(
        now=mesh.now(),
        settings=await master.cluster_settings(),
        agents=agents,
        unreachable=await _unreachable(mesh) if thorough else {},
        workers=await master.workers(seen_after=mesh.now() - mesh.config.silence),
        leases=await master.leases(),
        handlers={handler.name for handler in await master.handlers()},
        backlog=await master.backlog() if thorough else {},
        waits=waits,
        parents=await master.get_jobs(parents),
    )


async def _unreachable(mesh: Mesh) -> dict[str, str]:
    agents = await all_agents(mesh)
    return {name: str(agent) for name, agent in agents.items() if isinstance(agent, AgentError)}
