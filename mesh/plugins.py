"""Finding the parts: transports, stores, roles and CLI commands, by entry point.

``mesh`` imports none of its siblings; a third party's part plugs in the same way:

- ``mesh.agents``: URL scheme → ``(name, url, AgentSettings) -> Agent``
- ``mesh.masters``: URL scheme → ``(url, MasterSettings) -> Master``
- ``mesh.roles``: role name → ``(Mesh, RoleOptions) -> Service``
- ``mesh.commands``: any name → ``(typer.Typer) -> None``, which adds commands
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from mesh.errors import ConfigError, did_you_mean
from mesh.ports import Agent, AgentSettings, Master, MasterSettings

__all__ = ["Group", "connect_agent", "connect_master", "hide_password", "load", "names"]

Group = Literal["mesh.agents", "mesh.masters", "mesh.roles", "mesh.commands"]


@cache
def _group(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def names(group: Group) -> list[str]:
    """What is installed in a group."""
    return sorted(_group(group))


def load(group: Group, name: str) -> Any:
    """The object behind an entry point. Raises ``KeyError`` if there is none of that name."""
    return _group(group)[name].load()


def connect_agent(name: str, url: str, settings: AgentSettings) -> Agent:
    """The agent for a URL, not yet opened."""
    agent: Agent = _by_scheme("mesh.agents", "agent", url)(name, url, settings)
    return agent


def connect_master(url: str, settings: MasterSettings) -> Master:
    """The master for a URL, not yet opened."""
    master: Master = _by_scheme("mesh.masters", "master", url)(url, settings)
    return master


def _by_scheme(group: Group, kind: str, url: str) -> Any:
    scheme = url.partition("://")[0].partition("+")[0] if "://" in url else ""
    try:
        return load(group, scheme)
    except KeyError:
        raise ConfigError(
            f"{kind} URL '{hide_password(url)}' has the scheme '{scheme}', which no installed "
            f"part serves{did_you_mean(scheme, names(group))}"
        ) from None


def hide_password(url: str) -> str:
    """The URL, fit for logs: its password, or a token in the user's place, as ``***``.

    In doubt it hides too much: a password with a ``/``, ``?`` or ``#`` that should have been
    quoted is no password to a URL parser.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "***" if "@" in url else url
    head, question, query = rest.partition("?")
    if "=" not in query.partition("@")[0]:
        head, question, query = rest, "", ""
    userinfo, at, host = head.rpartition("@")
    if not at or head.startswith("/"):
        return url
    user, colon, _ = userinfo.partition(":")
    shown = f"{user}:***" if colon else "***"
    return f"{scheme}://{shown}@{host}{question}{query}"
