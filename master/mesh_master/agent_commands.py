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
from mesh.ports import Master
from mesh_master.agent_work import add_agent, drain_agent, remove_agent
from mesh_master.cluster_commands import until_empty, with_master
from mesh_master.standing import lag_of, look_at_agents

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

    with_master(mesh, lambda mesh, master: add_agent(mesh, master, config, check))
    typer.echo(f"agent {name} is added; a worker for it: mesh worker APP --agent {name}")


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
        await drain_agent(mesh, master, name)
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
        typer.Option(
            "--force",
            help="Even if it has jobs, or is gone: others get those that the master knows.",
        ),
    ] = False,
) -> None:
    """Remove an agent that has been drained."""

    if with_master(find_app(app, master), lambda m, store: remove_agent(m, store, name, force)):
        typer.echo(f"agent {name} is in your configuration: take it out there too")
    typer.echo(f"agent {name} is removed")
