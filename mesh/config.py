"""What a cluster is made of and how it behaves, from three places.

Later ones win: ``mesh.toml`` in the working directory (or the file that ``MESH_CONFIG``
names), environment variables ``MESH_<KEY>``, the arguments of ``Mesh(...)``. All use the same
keys: the fields of ``Config``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from mesh.errors import ConfigError, did_you_mean
from mesh.job import check_name
from mesh.plugins import hide_password
from mesh.retry import DEFAULT_RETRY, Retry

__all__ = ["AgentConfig", "Config"]

LOCAL_AGENT = "local"
"""The agent's name where one URL is both master and agent."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One agent: where it is, and which lanes it serves (``None``: all)."""

    name: str
    url: str
    lanes: frozenset[str] | None = None

    def serves(self, lane: str) -> bool:
        return self.lanes is None or lane in self.lanes


@dataclass(frozen=True, slots=True)
class Config:
    """Durations in seconds, sizes in bytes."""

    cluster: str = "default"
    master: str | None = None
    """The master's URL. A process may do without one; then it keeps no history."""
    agents: Mapping[str, AgentConfig] = field(default_factory=dict)
    transient_threshold: float = 60.0
    """Jobs due later than this are held on the master, sooner ones on an agent."""
    payload_limit: int = 128 * 1024
    """The most that a job's encoded arguments, or its result, may take."""
    timeout: float | None = None
    """How long an attempt may take, where neither job nor handler says. ``None``: for ever."""
    retry: Retry = DEFAULT_RETRY
    """The policy where neither job nor handler has one."""
    lease: float = 30.0
    """How long a worker that died holds its jobs. A living one extends its leases."""
    grace: float = 30.0
    """How long a stopping worker waits for what is running."""
    heartbeat: float = 10.0
    """How often a worker says that it lives."""
    push_timeout: float = 5.0
    connect_timeout: float = 5.0
    auto_migrate: bool | None = None
    """Bring the master's schema up to date when it is opened. ``None``: if it is a file."""
    schema: str | None = None
    """The database schema of the master's tables, where the database has such."""
    table_prefix: str = "mesh_"

    @classmethod
    def build(cls, url: str | None = None, **values: Any) -> Config:
        """From arguments alone. ``url`` is a database that is both master and agent.

        Raises ``ConfigError``, naming the key.
        """
        return cls._convert({"url": url, **values}, "Mesh(...)")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **values: Any) -> Config:
        """From ``mesh.toml``, the environment, and ``values``, which win over both.

        Raises ``ConfigError`` if together they name neither a master nor an agent.
        """
        environ = os.environ if environ is None else environ
        merged: dict[str, Any] = {}
        for source in (_read_toml(environ), _read_environment(environ), values):
            given = {key: value for key, value in source.items() if value is not None}
            if {"url", "master", "agents"} & given.keys():
                # A place that says where the cluster is says it whole.
                for key in ("url", "master", "agents"):
                    merged.pop(key, None)
            merged |= given
        return cls._convert(merged, "the configuration")

    @classmethod
    def _convert(cls, raw: Mapping[str, Any], source: str) -> Config:
        values = {key: value for key, value in raw.items() if value is not None}
        types = {f.name: f.type for f in fields(cls)}
        for key in values:
            if key not in types and key != "url":
                raise ConfigError(f"{source}: unknown key '{key}'{did_you_mean(key, types)}")
        url = values.pop("url", None)
        if url is not None:
            if "master" in values or "agents" in values:
                raise ConfigError(f"{source}: give either one URL, or master and agents")
            values |= {"master": url, "agents": {LOCAL_AGENT: url}}
        if not values.get("master") and not values.get("agents"):
            raise ConfigError(
                f"{source} names no cluster: give a URL such as 'sqlite:///mesh.db', or master "
                "and agents (arguments, MESH_URL, MESH_MASTER and MESH_AGENTS, or mesh.toml)"
            )
        converted = {key: _convert_value(key, value, source) for key, value in values.items()}
        config = cls(**converted)
        check_name("cluster", config.cluster)
        return config

    def agent(self, name: str) -> AgentConfig:
        """The agent of that name. Raises ``ConfigError`` if there is none."""
        try:
            return self.agents[name]
        except KeyError:
            raise ConfigError(
                f"no agent is named '{name}'{did_you_mean(name, self.agents)}"
            ) from None

    def agents_for(self, lane: str) -> list[AgentConfig]:
        """The agents that serve a lane, in the configured order."""
        return [agent for agent in self.agents.values() if agent.serves(lane)]


_POSITIVE = {"lease", "heartbeat", "push_timeout", "connect_timeout", "payload_limit"}
_SCALARS: dict[str, Any] = {
    "cluster": str,
    "master": str,
    "transient_threshold": float,
    "payload_limit": int,
    "timeout": float,
    "lease": float,
    "grace": float,
    "heartbeat": float,
    "push_timeout": float,
    "connect_timeout": float,
    "auto_migrate": bool,
    "schema": str,
    "table_prefix": str,
}


def _convert_value(key: str, value: Any, source: str) -> Any:
    if key == "agents":
        return _convert_agents(value, source)
    if key == "retry":
        return _convert_retry(value, source)
    try:
        converted = msgspec.convert(value, _SCALARS[key], strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {key}={value!r}: {error}") from None
    if isinstance(converted, int | float) and (
        converted < 0 or (converted == 0 and key in _POSITIVE)
    ):
        raise ConfigError(f"{source}: {key}={value!r} is too small")
    return converted


def _convert_agents(value: Any, source: str) -> dict[str, AgentConfig]:
    if isinstance(value, str):
        value = _parse_agents(value, source)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source}: agents must map names to URLs, not {value!r}")
    agents: dict[str, AgentConfig] = {}
    for name, given in value.items():
        check_name("agent", name)
        if isinstance(given, AgentConfig):
            agents[name] = given
            continue
        entry = {"url": given} if isinstance(given, str) else dict(given)
        for key in entry:
            if key not in ("url", "lanes"):
                raise ConfigError(
                    f"{source}: agent '{name}': unknown key '{key}'"
                    f"{did_you_mean(key, ('url', 'lanes'))}"
                )
        if not isinstance(entry.get("url"), str) or "://" not in entry["url"]:
            raise ConfigError(f"{source}: agent '{name}' has no URL such as nats://host:4222")
        lanes = entry.get("lanes")
        if lanes is not None:
            lanes = frozenset(check_name("lane", lane) for lane in lanes)
        agents[name] = AgentConfig(name, entry["url"], lanes)
    return agents


def _parse_agents(value: str, source: str) -> dict[str, str]:
    """``name=url,name=url`` as environment variables hold it."""
    agents: dict[str, str] = {}
    for item in re.split(r"[,\s]+(?=[\w-]+=\w+://)", value.strip()):
        name, equals, url = item.partition("=")
        if not equals or "://" not in url:
            raise ConfigError(
                f"{source}: agents '{hide_password(item)}' is not of the form name=url"
            )
        agents[name] = url
    return agents


def _convert_retry(value: Any, source: str) -> Retry:
    if isinstance(value, Retry):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source}: retry must be a Retry or a table, not {value!r}")
    known = Retry.__struct_fields__
    for key in value:
        if key not in known:
            raise ConfigError(f"{source}: retry: unknown key '{key}'{did_you_mean(key, known)}")
    return Retry(**value)


def _read_toml(environ: Mapping[str, str]) -> dict[str, Any]:
    named = environ.get("MESH_CONFIG")
    path = Path(named or "mesh.toml")
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        if named:
            raise ConfigError(f"MESH_CONFIG names {path}, which does not exist") from None
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {*_SCALARS, "agents", "url"}
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        key = variable.removeprefix("MESH_").lower()
        if not variable.startswith("MESH_") or key in ("config", "app") or not value:
            continue
        if key in known:
            values[key] = value
        elif "did you mean" in (hint := did_you_mean(key, known)):
            # Other programs may have MESH_ variables too: only a near miss is a mistake.
            raise ConfigError(f"environment: unknown variable {variable}{hint}")
    return values
