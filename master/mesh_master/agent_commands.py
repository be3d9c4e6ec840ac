"""The command ``mesh agents``: agents that come and go while the cluster runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mesh.app import Mesh
from mesh.config import AgentConfig, convert
from mesh.console import (
    AppOption,
    JsonOption,
    MasterOption,
    find_app,
    moment,
    print_json,
    print_table,
    table,
)
from mesh.errors import AgentError, ConfigError, did_you_mean
from mesh.ports import Master
from mesh.settings import AgentState, AgentStatus
from mesh_master.cluster_commands import until_empty, with_master
from mesh_master.standing import all_agents, depth_of, lag_of, look_at_agents

__all__ = ["agents"]

agents = typer.Typer(
    help="Look at agents, add, drain and remove them while the cluster runs.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


@agents.command("ls")
def list_agents(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List the agents that the master knows, and what they have."""
    found = with_master(find_app(app, master), look_at_agents)
    if as_json:
        print_json(found)
        return
    rows = table("agent", "url", "lanes", "state", "added", "jobs", "ledger", "recorded")
    for agent in found:
        rows.add_row(
            agent.name,
            agent.url,
            ", ".join(agent.lanes) if agent.lanes else "all",
            agent.state,
            "at run time" if agent.is_added else "configured",
            agent.away or str(agent.jobs),
            "" if agent.lag is None else str(agent.lag),
            moment(agent.seen_at or None),
        )
    print_table(rows)


@agents.command()
def add(
    name: NameArgument,
    url: Annotated[str, typer.Argument(help="Such as nats://host:4222.")],
    app: AppOption = None,
    master: MasterOption = None,
    lanes: Annotated[
        str | None, typer.Option(help="The lanes it serves: mail,reports. Default: all.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Connect to it first.")] = True,
) -> None:
    """Add an agent to the running cluster: producers and coordinators use it within seconds, and
    workers that are started for it. Also brings back one that was drained."""
    given: dict[str, Any] = {"url": url}
    if lanes is not None:
        given["lanes"] = [lane.strip() for lane in lanes.split(",")]
    config: AgentConfig = convert("mesh agents add", "agents", {name: given})[name]
    mesh = find_app(app, master)

    async def work(mesh: Mesh, master: Master) -> None:
        # Not mesh.agents: those that were added are not in the process's own configuration.
        if name in mesh.cluster.own_agents and mesh.config.agents[name] != config:
            raise ConfigError(
                f"agent '{name}' is in this process's configuration with another URL or other "
                "lanes: choose another name, or change it there"
            )
        if check:
            await _try(mesh, config)
        await master.add_agent(config)

        def join(s: Any) -> Any:
            return s.with_agent(name, AgentStatus(AgentState.ACTIVE, s.revision + 1))

        await master.change_settings(join)

    with_master(mesh, work)
    typer.echo(f"agent {name} is added; a worker for it: mesh worker APP --agent {name}")


async def _try(mesh: Mesh, config: AgentConfig) -> None:
    agent = mesh.connect_agent_of(config)
    try:
        await agent.open()
    finally:
        await agent.close()


@agents.command()
def drain(
    name: NameArgument,
    app: AppOption = None,
    master: MasterOption = None,
    wait: Annotated[bool, typer.Option(help="Return when it is empty.")] = True,
) -> None:
    """Give an agent no more jobs, and move what it has to others, or to the master, until it is
    empty and its ledger is recorded. Needs a running coordinator. Then it can be removed."""

    async def work(mesh: Mesh, master: Master) -> None:
        _check_known(mesh, name)

        await master.change_settings(lambda s: s.with_agent_state(name, AgentState.DRAINING))
        if wait:
            await _until_drained(mesh, name)

    with_master(find_app(app, master), work)
    typer.echo(
        f"agent {name} is empty: mesh agents rm {name}"
        if wait
        else f"agent {name} is draining: mesh agents ls"
    )


async def _until_drained(mesh: Mesh, name: str) -> None:
    said = -1
    while True:
        await until_empty(mesh, lambda _: True, f"agent {name}", (name,))
        lag = await lag_of(mesh, name)
        if not lag:
            return
        if lag != said:
            said = lag
            typer.echo(f"agent {name}: {lag} ledger entries to be recorded")
        await mesh.clock.sleep(0.2)


@agents.command("rm")
def remove(
    name: NameArgument,
    app: AppOption = None,
    master: MasterOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if it has jobs, or is gone: they are lost."),
    ] = False,
) -> None:
    """Remove an agent that has been drained."""

    async def work(mesh: Mesh, master: Master) -> None:
        known = {agent.name for agent in await master.agents()} | mesh.config.agents.keys()
        if name not in known:
            raise ConfigError(f"no agent is named '{name}'{did_you_mean(name, known)}")
        if not force:
            await _check_empty(mesh, master, name)
        keep = AgentStatus()
        if name in mesh.cluster.own_agents:
            # Processes have it in their configuration: only its being drained keeps jobs off it.
            keep = AgentStatus(AgentState.DRAINING)
        await master.change_settings(lambda s: s.with_agent(name, keep))
        await master.remove_agent(name)
        if keep != AgentStatus():
            typer.echo(f"agent {name} is in your configuration: take it out there too")

    with_master(find_app(app, master), work)
    typer.echo(f"agent {name} is removed")


async def _check_empty(mesh: Mesh, master: Master, name: str) -> None:
    standing = await master.cluster_settings()
    advice = f"mesh agents drain {name} first, or --force if it is lost for good"
    if standing.agent(name).state is not AgentState.DRAINING:
        raise ConfigError(f"agent '{name}' is not drained: {advice}")
    _check_known(mesh, name)
    depth = await depth_of((await all_agents(mesh))[name])
    if isinstance(depth, AgentError):
        raise ConfigError(f"agent '{name}' cannot be asked whether it is empty: {depth}; {advice}")
    jobs, lag = sum(d.total for d in depth.values()), await lag_of(mesh, name)
    if jobs or lag:
        raise ConfigError(
            f"agent '{name}' has {jobs} jobs, and {lag} ledger entries to be recorded: {advice}"
        )


def _check_known(mesh: Mesh, name: str) -> None:
    mesh.config.agent(name)
