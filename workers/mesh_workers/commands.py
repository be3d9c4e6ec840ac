"""The command ``mesh worker``."""

from __future__ import annotations

from typing import Annotated, get_args

import msgspec
import typer

from mesh.app import Mesh
from mesh.console import (
    AgentsOption,
    AppArgument,
    HealthFileOption,
    ImportOption,
    LogJsonOption,
    MonitorOption,
    load_app,
    monitor_at,
    run,
    run_service,
)
from mesh.errors import ConfigError, did_you_mean
from mesh.roles import RoleOptions, WorkerMode, make_role
from mesh_workers.supervise import Supervisor

__all__ = ["LAST_WORDS", "register"]

LAST_WORDS = 15.0
"""Seconds beyond the grace time that a worker may take to end."""


def register(cli: typer.Typer) -> None:
    """Add this part's commands."""
    cli.command()(worker)


def worker(
    app: AppArgument,
    lane: Annotated[
        list[str] | None,
        typer.Option(
            "--lane",
            help="A lane to serve, with its own concurrency if given: mail or mail=20. "
            "Repeatable. Default: all lanes of the app.",
        ),
    ] = None,
    agent: AgentsOption = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", help="Jobs at once in each lane.")
    ] = 10,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="full: run jobs, using the master where that must be. execution: run jobs "
            "without any connection to the master. coordinator: run the master's duties instead. "
            "drain: empty the agents named by --agent, and end.",
        ),
    ] = "full",
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            "-p",
            help="Worker processes to run, each with that concurrency. Python computes on one "
            "core a process.",
        ),
    ] = 1,
    imports: ImportOption = None,
    monitor: MonitorOption = None,
    health_file: HealthFileOption = None,
    log_json: LogJsonOption = False,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C; it then finishes what runs within the grace time."""
    loaded = load_app(app, imports)
    monitor_at(loaded, monitor, health_file)
    if loaded.config.master is not None and not loaded.config.agents.keys() >= set(agent or ()):
        run(_meet_agents(loaded))
    if processes != 1:
        arguments = ["worker", app, "--concurrency", str(concurrency)]
        arguments += [word for text in lane or () for word in ("--lane", text)]
        arguments += [word for name in agent or () for word in ("--agent", name)]
        arguments += [word for module in imports or () for word in ("--import", module)]
        arguments += ["--mode", _parse_mode(mode), *(["--log-json"] if log_json else [])]
        if mode == "drain":
            raise ConfigError("--mode drain ends when the agents are empty: leave out --processes")
        patience = loaded.config.grace + LAST_WORDS
        supervisor = Supervisor(arguments, processes, patience, loaded.monitor)
        run_service(supervisor, loaded, is_monitored=False, log_json=log_json)
        return
    options = RoleOptions(
        lanes=dict(_parse_lane(text, concurrency) for text in lane or ()),
        concurrency=concurrency,
        agents=tuple(agent or ()),
        mode=_parse_mode(mode),
    )
    run_service(make_role("worker", loaded, options), loaded, log_json=log_json)


async def _meet_agents(app: Mesh) -> None:
    async with app:
        await app.meet_agents()


def _parse_mode(text: str) -> WorkerMode:
    try:
        mode: WorkerMode = msgspec.convert(text, WorkerMode)
    except msgspec.ValidationError:
        raise ConfigError(
            f"--mode {text}: unknown{did_you_mean(text, get_args(WorkerMode))}"
        ) from None
    return mode


def _parse_lane(text: str, concurrency: int) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not equals:
        return name, concurrency
    if not number.isdecimal():
        raise ConfigError(
            f"--lane {text}: '{number}' is not a number of jobs; write --lane mail=20"
        )
    return name, int(number)
