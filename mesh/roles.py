"""What a process can be: the services behind the entry points ``mesh.roles``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mesh.app import Mesh
from mesh.errors import ConfigError, did_you_mean
from mesh.plugins import load, names
from mesh.service import Service

__all__ = ["Role", "RoleOptions", "make_role"]


@dataclass(frozen=True, slots=True)
class RoleOptions:
    """What the command line, or a program, says about a role. A role uses what concerns it."""

    lanes: Mapping[str, int] = field(default_factory=dict)
    """Concurrency by lane, for workers. Empty: all lanes of the app's handlers."""
    concurrency: int = 10
    """For lanes that are not given one."""
    agents: tuple[str, ...] = ()
    """The agents to work on. Empty: all that are configured."""


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
