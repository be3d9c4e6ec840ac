"""What a process can be: the services behind the entry points ``mesh.roles``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mesh.app import Mesh
from mesh.errors import ConfigError, did_you_mean
from mesh.plugins import load, names
from mesh.service import Service

__all__ = ["Role", "RoleOptions", "WorkerMode", "make_role"]


WorkerMode = Literal["full", "execution", "coordinator", "drain"]
"""What a worker process does. ``full``: it runs jobs, and uses the master for what only that can
do, such as declaring the schedules of its code. ``execution``: it runs jobs, and opens no
connection to a master, whatever its configuration says. ``coordinator``: it runs no jobs but the
master's duties. ``drain``: it runs no jobs, empties its agents, and ends."""


@dataclass(frozen=True, slots=True)
class RoleOptions:
    """What the command line, or a program, says about a role. A role uses what concerns it."""

    lanes: Mapping[str, int] = field(default_factory=dict)
    """Concurrency by lane, for workers. Empty: all lanes of the app's handlers."""
    concurrency: int = 10
    """For lanes that are not given one."""
    mode: WorkerMode = "full"
    """Of workers."""
    agents: tuple[str, ...] = ()
    """The agents to work on. Empty: all that are configured."""
    http: str | None = None
    """Where the HTTP API listens, ``host:port``; port 0 takes a free one. ``None``: as the
    configuration says."""


class Role(Protocol):
    """The type behind an entry point ``mesh.roles``."""

    def __call__(self, app: Mesh, options: RoleOptions) -> Service: ...


def make_role(name: str, app: Mesh, options: RoleOptions) -> Service:
    """The service for a role, not yet started. Raises ``ConfigError`` for an unknown one."""
    try:
        role: Role = load("mesh.roles", name)
    except KeyError:
        raise ConfigError(
            f"no installed part has the role '{name}'{did_you_mean(name, names('mesh.roles'))}"
        ) from None
    return role(app, options)
