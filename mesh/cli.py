"""The command ``mesh``. Each installed part adds its own commands (entry points
``mesh.commands``); here are those that span the parts."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from mesh import __version__
from mesh.app import Mesh
from mesh.console import (
    AppArgument,
    HealthFileOption,
    HttpOption,
    ImportOption,
    JsonOption,
    MonitorOption,
    WithHttpOption,
    http_role,
    load_app,
    monitor_at,
    print_json,
    run,
    run_service,
)
from mesh.errors import MeshError
from mesh.health import health
from mesh.plugins import load, names
from mesh.ports import Agent, Check, Master
from mesh.roles import RoleOptions, make_role
from mesh.service import Group
from mesh.settings import AgentState, Mode

__all__ = ["main"]

OVERDUE = 30.0
"""Seconds after a slot by when a coordinator has surely made its job."""

cli = typer.Typer(
    name="mesh",
    help="Background jobs with the speed of a message broker and the memory of a database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script. Exits 1 on errors that jobmesh raises, 2 on wrong usage."""
    for name in names("mesh.commands"):
        try:
            load("mesh.commands", name)(cli)
        except ImportError as error:
            # One broken part must not take the others' commands away.
            sys.stderr.write(f"warning: the commands of part '{name}' are missing: {error}\n")
    try:
        cli()
    except MeshError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jobmesh {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


@cli.command()
def up(
    app: AppArgument,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", help="Jobs at once in each lane.")
    ] = 10,
    imports: ImportOption = None,
    monitor: MonitorOption = None,
    health_file: HealthFileOption = None,
    http: HttpOption = None,
    with_http: WithHttpOption = None,
) -> None:
    """Run everything in one process: the coordinator, a worker for all lanes, and the HTTP API
    with the dashboard."""
    loaded = load_app(app, imports)
    monitor_at(loaded, monitor, health_file)
    options = RoleOptions(concurrency=concurrency, http=http)
    roles = [make_role(name, loaded, options) for name in ("coordinator", "worker")]
    run_service(Group("mesh up", [*roles, *http_role(loaded, options, with_http)]), loaded)


@cli.command()
def doctor(app: AppArgument, imports: ImportOption = None, as_json: JsonOption = False) -> None:
    """Check every connection, schema, stream and clock, and say what to do. Exits 1 if
    anything is wrong."""
    checks = run(examine(load_app(app, imports)))
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            mark = typer.style("ok  ", fg="green") if check.ok else typer.style("FAIL", fg="red")
            typer.echo(f"{mark}  {check.subject}: {check.detail}")
            if check.advice:
                typer.echo(f"      → {check.advice}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


async def examine(app: Mesh) -> list[Check]:
    """The findings of ``mesh doctor``."""
    checks = [_check_handlers(app)]
    master: Master | None = None
    if app.config.master is None:
        checks.append(
            Check("master", False, "none is configured", "give master=..., or set MESH_MASTER")
        )
    else:
        master = app.connect_master()
        checks += await _check_part("master", master)
    agents = [app.connect_agent(name) for name in app.config.agents]
    if master is not None and all(check.ok for check in checks):
        added = await master.added_agents()
        agents += [app.connect_agent_of(a) for n, a in added.items() if n not in app.config.agents]
    found = await asyncio.gather(*(_check_part(f"agent {a.name}", a) for a in agents))
    for agent_checks in found:
        checks += agent_checks
    if master is not None and all(check.ok for check in checks):
        checks += await _check_cluster(master)
        checks += await _check_lanes(app, master)
        zone = app.cluster.under(await master.cluster_settings()).timezone
        checks += await _check_schedules(master, zone)
    for agent in agents:
        await agent.close()
    if master is not None:
        await master.close()
    return checks


def _check_handlers(app: Mesh) -> Check:
    for handler in app.handlers.values():
        try:
            _ = handler.shape
        except MeshError as error:
            return Check("app", False, str(error), "change the handler's signature")
    lanes = ", ".join(app.lanes) or "no lanes"
    return Check("app", True, f"{len(app.handlers)} handlers in {lanes}")


async def _check_part(subject: str, part: Agent | Master) -> list[Check]:
    try:
        await part.open()
    except MeshError as error:
        return [Check(subject, False, str(error), "then run mesh doctor again")]
    return await part.check()


async def _check_cluster(master: Master) -> list[Check]:
    """Whether anything keeps all jobs, or some lane's or agent's, from running."""
    checks: list[Check] = []
    settings = await master.cluster_settings()
    if settings.mode is not Mode.ACTIVE:
        advice = "mesh cluster mode active"
        checks.append(Check("cluster", False, f"is {settings.mode}: no job starts", advice))
    for lane, state in settings.lanes.items():
        checks.append(Check(f"lane {lane}", False, f"is {state}", f"mesh lanes resume {lane}"))
    for name, status in settings.agents.items():
        if status.state is not AgentState.ACTIVE:
            advice = f"to use it again: mesh agents add {name} URL; else: mesh agents rm {name}"
            checks.append(Check(f"agent {name}", False, f"is {status.state}", advice))
    if leases := await master.leases():
        count = len(set(leases.values()))
        checks.append(Check("coordinators", True, f"{count} of them do the master's duties"))
    else:
        nobody = "none runs: what the master holds stays there, and it hears of nothing"
        checks.append(Check("coordinators", False, nobody, "start one: mesh master APP"))
    return checks


async def _check_lanes(app: Mesh, master: Master) -> list[Check]:
    """Whether each lane has a living worker."""
    alive = await master.workers(seen_after=app.now() - 3 * app.config.heartbeat)
    served = {lane.lane for worker in alive if worker.state == "running" for lane in worker.lanes}
    return [
        Check(f"lane {lane}", True, "has a worker")
        if lane in served
        else Check(
            f"lane {lane}",
            False,
            "no worker has been heard of lately",
            f"start one: mesh worker APP --lane {lane}; if one runs, check that a coordinator "
            "runs too (mesh master APP): heartbeats reach the master through it",
        )
        for lane in app.lanes
    ]


async def _check_schedules(master: Master, zone: str) -> list[Check]:
    """Whether jobs are made, in the cluster's time zone, and no schedule was given up."""
    found = [s for s in await master.schedules.all() if s.state != "deleted"]
    if not found:
        return []
    now = master.schedules.now()
    checks: list[Check] = []
    for schedule in found:
        subject = f"schedule {schedule.name}"
        if schedule.state == "disabled":
            advice = f"then: mesh schedules resume {schedule.name}"
            checks.append(Check(subject, False, f"is disabled: {schedule.reason}", advice))
        elif schedule.next_slot is not None and schedule.next_slot < now - OVERDUE:
            late = f"has made no job for {now - schedule.next_slot:.0f} s"
            advice = "start a coordinator: mesh master APP; if one runs, see its log"
            checks.append(Check(subject, False, late, advice))
        elif (
            schedule.state == "active"
            and schedule.definition.cluster_zone
            and schedule.zone != zone
        ):
            where = f"is made in the zone {schedule.zone}, and timezone is {zone} here"
            advice = "tell all: mesh settings set timezone ZONE; a coordinator must run to hear it"
            checks.append(Check(subject, False, where, advice))
    if not checks:
        active = sum(schedule.state == "active" for schedule in found)
        checks.append(Check("schedules", True, f"{active} active, {len(found) - active} paused"))
    return checks


cli.command()(health)


@cli.command()
def demo(
    agent: Annotated[
        str, typer.Option("--agent", help="'local' (a SQLite file) or 'nats' (a real server).")
    ] = "local",
    files: Annotated[
        int | None, typer.Option("--files", help="At most so many files. Default: all.")
    ] = None,
) -> None:
    """Run real jobs on real input: Python's own standard library, file by file."""
    from mesh.demo import demo as run_demo

    run_demo(agent, files)
