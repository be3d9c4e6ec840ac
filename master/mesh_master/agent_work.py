"""Adding, draining and removing agents while the cluster runs: what the commands and the HTTP API
do. All raise ``ConfigError`` for what cannot be done, ``AgentError``, ``MasterError``."""

from __future__ import annotations

from mesh.app import Mesh
from mesh.config import AgentConfig
from mesh.errors import AgentError, ConfigError, did_you_mean
from mesh.ports import Master
from mesh.settings import AgentState, AgentStatus, ClusterSettings
from mesh_master.standing import all_agents, depth_of, lag_of

__all__ = ["add_agent", "drain_agent", "remove_agent", "undrain_agent"]


async def add_agent(mesh: Mesh, master: Master, config: AgentConfig, check: bool = True) -> None:
    """Add an agent, or bring back one that was drained; ``check``: connect to it first."""
    name = config.name
    # Not mesh.agents: those that were added are not in the process's own configuration.
    if name in mesh.cluster.own_agents and mesh.config.agents[name] != config:
        raise ConfigError(
            f"agent '{name}' is in this process's configuration with another URL or other "
            "lanes: choose another name, or change it there"
        )
    if check:
        agent = mesh.connect_agent_of(config)
        try:
            await agent.open()
        finally:
            await agent.close()
    await master.add_agent(config)

    def join(settings: ClusterSettings) -> ClusterSettings:
        return settings.with_agent(name, AgentStatus(AgentState.ACTIVE, settings.revision + 1))

    await master.change_settings(join)


async def drain_agent(mesh: Mesh, master: Master, name: str) -> None:
    """Give an agent no more jobs; a coordinator moves what it has to others."""
    mesh.config.agent(name)
    await master.change_settings(lambda s: s.with_agent_state(name, AgentState.DRAINING))


async def undrain_agent(mesh: Mesh, master: Master, name: str) -> None:
    """Use an agent again."""
    mesh.config.agent(name)
    await master.change_settings(lambda s: s.with_agent_state(name, AgentState.ACTIVE))


async def remove_agent(mesh: Mesh, master: Master, name: str, force: bool = False) -> bool:
    """Remove an agent that has been drained; ``force``: even if it has jobs, or is gone. Others
    then do those that the master knows (see the rescuer). Whether processes have it in their
    configuration, and so know it still."""
    known = {agent.name for agent in await master.agents()} | mesh.config.agents.keys()
    if name not in known:
        raise ConfigError(f"no agent is named '{name}'{did_you_mean(name, known)}")
    if not force:
        await _check_empty(mesh, master, name)
    is_configured = name in mesh.cluster.own_agents
    # Where it is in the configuration only its being drained keeps jobs off it.
    keep = AgentStatus(AgentState.DRAINING) if is_configured else AgentStatus()
    await master.change_settings(lambda s: s.with_agent(name, keep))
    await master.remove_agent(name)
    return is_configured


async def _check_empty(mesh: Mesh, master: Master, name: str) -> None:
    standing = await master.cluster_settings()
    advice = f"mesh agents drain {name} first, or --force if it is lost for good"
    if standing.agent(name).state is not AgentState.DRAINING:
        raise ConfigError(f"agent '{name}' is not drained: {advice}")
    mesh.config.agent(name)
    depth = await depth_of((await all_agents(mesh))[name])
    if isinstance(depth, AgentError):
        raise ConfigError(f"agent '{name}' cannot be asked whether it is empty: {depth}; {advice}")
    jobs, lag = sum(d.total for d in depth.values()), await lag_of(mesh, name)
    if jobs or lag:
        raise ConfigError(
            f"agent '{name}' has {jobs} jobs, and {lag} ledger entries to be recorded: {advice}"
        )
