"""What jobmesh itself says of a container that somebody describes: its command, its settings, how
long it takes to stop."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import typer.main

from mesh.cli import cli
from mesh.config import Config
from mesh.plugins import load, names
from mesh_workers.commands import LAST_WORDS

__all__ = ["check_command", "config_of", "lanes_of", "time_to_stop"]

# Variables of the command line's own options, no settings.
_OPTIONS = {"MESH_LOG_JSON"}


def check_command(arguments: Sequence[str]) -> None:
    """Raises ``ValueError`` unless ``mesh`` has that command with these arguments."""
    command, given = _mesh(), list(arguments)
    try:
        while subcommands := getattr(command, "commands", None):
            command = subcommands[given.pop(0)]
        command.make_context(command.name, given)  # parses all of it, and runs nothing
    except Exception as error:
        raise ValueError(f"mesh {' '.join(arguments)}: {error!r}") from error


@cache
def _mesh() -> Any:
    for name in names("mesh.commands"):
        load("mesh.commands", name)(cli)
    return typer.main.get_command(cli)


def config_of(environment: Mapping[str, str]) -> Config:
    """The settings. Raises ``ConfigError`` if jobmesh has no such one, or it cannot be so."""
    return Config.from_env({k: v for k, v in environment.items() if k not in _OPTIONS})


def lanes_of(arguments: Sequence[str]) -> set[str]:
    """Those that the command of a worker serves."""
    given = [value for option, value in pairwise(arguments) if option == "--lane"]
    return {lane.partition("=")[0] for lane in given}


def time_to_stop(config: Config) -> float:
    """Seconds within which a process has ended after SIGTERM, and is not to be killed."""
    return config.grace + LAST_WORDS
