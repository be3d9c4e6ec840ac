"""The command ``mesh worker``."""

from __future__ import annotations

from typing import Annotated

import typer

from mesh.console import AgentsOption, AppArgument, load_app, run_service
from mesh.errors import ConfigError
from mesh.roles import RoleOptions, make_role

__all__ = ["register"]


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
) -> None:
    """Run a worker until SIGTERM or Ctrl-C; it then finishes what runs within the grace time."""
    loaded = load_app(app)
    options = RoleOptions(
        lanes=dict(_parse_lane(text, concurrency) for text in lane or ()),
        concurrency=concurrency,
        agents=tuple(agent or ()),
    )
    run_service(make_role("worker", loaded, options), loaded)


def _parse_lane(text: str, concurrency: int) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not equals:
        return name, concurrency
    if not number.isdecimal():
        raise ConfigError(
            f"--lane {text}: '{number}' is not a number of jobs; write --lane mail=20"
        )
    return name, int(number)
