"""Finding what ``mesh_master.why`` needs to know of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mesh.app import Mesh
from mesh.errors import AgentError
from mesh.job import TERMINAL
from mesh.ports import JobInfo
from mesh_master.standing import all_agents
from mesh_master.why import Facts

__all__ = ["find_facts"]


async def find_facts(mesh: Mesh, jobs: Sequence[JobInfo], *, thorough: bool) -> Facts:
    """Those about these jobs. ``thorough`` also tries the cluster's agents, which takes some
    seconds where one is away, and counts what waits. Raises ``MasterError``."""
    master = await mesh.master()
    await mesh.meet_agents()
    agents: dict[str, Collection[str] | None] = {
        # One that is not in our configuration is known by name alone.
        **dict.fromkeys(agent.name for agent in await master.agents()),
        **{name: agent.lanes for name, agent in mesh.config.agents.items()},
    }
    waits = await master.waits([job.id for job in jobs if job.state not in TERMINAL])
    parents = sorted({parent for wait in waits.values() for parent in wait.parents})
    reached = await all_agents(mesh) if thorough else {}
    return Facts(
        now=mesh.now(),
        settings=await master.cluster_settings(),
        agents=agents,
        unreachable={n: str(a) for n, a in reached.items() if isinstance(a, AgentError)},
        workers=await master.workers(seen_after=mesh.now() - 3 * mesh.config.heartbeat),
        leases=await master.leases(),
        handlers={handler.name for handler in await master.handlers()},
        backlog=await master.backlog() if thorough else {},
        waits=waits,
        parents=await master.get_jobs(parents),
    )
