"""What a cluster is made of and how it behaves, from three places.

Later ones win: ``mesh.toml`` in the working directory (or the file that ``MESH_CONFIG``
names), environment variables ``MESH_<KEY>``, the arguments of ``Mesh(...)``. All use the same
keys: the fields of ``Config``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from mesh.clock import parse_duration
from mesh.errors import ConfigError, InvalidSchedule, did_you_mean
from mesh.events import Kind
from mesh.job import TERMINAL, State, check_name
from mesh.limits import LimitRules
from mesh.place import Place
from mesh.prefix import Prefix
from mesh.recurring import Existing, Orphaned
from mesh.retry import DEFAULT_RETRY, Retry
from mesh.sign_in import JwtRules, OperatorMay, SignIn

__all__ = ["RETENTION", "AgentConfig", "Config", "LogLevel", "convert"]

_DAY = 86_400.0
RETENTION: Mapping[str, float] = {
    state: (7 if state is State.SUCCEEDED else 30) * _DAY for state in sorted(TERMINAL)
}

LogLevel = Literal["off", "debug", "info", "warning", "error"]

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
    outbox: str | None = None
    """The URL of the application's own database, if that is not the master's: jobs enqueued in
    its transactions wait there in the table ``mesh_outbox`` until a coordinator moves them."""
    agents: Mapping[str, AgentConfig] = field(default_factory=dict)
    lanes: Mapping[str, LimitRules] = field(default_factory=dict)
    """Limits of whole lanes: ``{"mail": {"concurrency": 5, "limit": "100/minute"}}``."""
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
    rescue_after: float | None = None
    """When nothing has happened for so long to a job that is due on an agent, the agent is asked
    whether it still has it. ``None``: twice `lease`, or twice the time in which a worker counts as
    gone, three `heartbeat`s, if that is longer."""
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
    retention: Mapping[str, float] = field(default_factory=lambda: dict(RETENTION))
    """How long the history keeps ended jobs, by state, in seconds or as `7d`; a state that is not
    named is kept for ever, `{}` or `off` keeps all. Default: `succeeded` 7 days, others 30."""
    persist_events: tuple[Kind, ...] = ("lifecycle", "progress", "result")
    """The kinds of events that are kept as long as their jobs, of `progress`, `log`, `chunk` and
    `metric`; `lifecycle` and `result` always are: `progress,log`."""
    event_ttl: float = 900.0
    """How long events of other kinds are kept; 0: they are not stored."""
    event_size: int = 32 * 1024
    """The most that one event of a handler may take."""
    log_events: LogLevel = "off"
    """From this level on, what a handler and what it calls say to `logging` become events too."""
    prefix: str = ""
    """In front of the names of the app's handlers, lanes and schedules, and of its keys, as in
    `shop-`: for apps that share a cluster."""
    timezone: str = "UTC"
    """The zone, by its IANA name, in which schedules that name none are read. It is the
    coordinators' that counts."""
    schedules_existing: Existing = "update_from_code"
    """When a process starts whose code has a schedule that the master has otherwise."""
    schedules_orphaned: Orphaned = "disable"
    """What becomes of a schedule that no living process of the app has in its code any more."""
    http: str = "127.0.0.1:8642"
    """Where the HTTP API and the dashboard listen, or `off`. While sign-in is off this must be an
    address of the machine itself."""
    sign_in: SignIn = "auto"
    """`auto`: as soon as there is a user, an API key, `jwt` or a hook, the HTTP API lets in none
    who does not sign in; before, it is open, on this machine alone. `required`: from the start."""
    session_ttl: float = 12 * 3600.0
    """How long a browser stays signed in."""
    jwt: JwtRules | None = None
    """Bearer tokens that the HTTP API believes: `issuer`, `audience`, and `secret` or `jwks`."""
    redact: tuple[str, ...] = ()
    """Names of fields whose values are hidden wherever jobs are shown: `password,token`."""
    operators_may: tuple[OperatorMay, ...] = ("retry", "cancel", "remove")
    """What those with the scope `operate` may do with jobs of `kind="user"`."""

    otel: bool = False
    """OpenTelemetry's spans and metrics of every job, as with `middleware=[OpenTelemetry()]`."""

    monitor: str | None = None
    """Where a worker or master process answers `/health/live`, `/health/ready` and `/metrics` by
    HTTP: a port of 127.0.0.1, or `HOST:PORT`."""
    health_file: str | None = None
    """A file to which a worker or master process writes every 5 seconds how it is."""

    given: frozenset[str] = frozenset()
    """The keys that were given, and so are not the cluster's to set. Not a key itself."""

    @classmethod
    def build(cls, url: str | None = None, **values: Any) -> Config:
        """From arguments alone. ``url`` is a database that is both master and agent.

        Raises ``ConfigError``, naming the key.
        """
        place = "Mesh(...)"
        return cls._make(_checked(place, {"url": url, **values}), place)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **values: Any) -> Config:
        """From ``mesh.toml``, the environment, and ``values``, which win over both.

        A place that says where the cluster is (``url``, ``master`` or ``agents``) says it whole.
        Raises ``ConfigError`` if together they name neither a master nor an agent.
        """
        environ = os.environ if environ is None else environ
        merged: dict[str, Any] = {}
        for place, raw in (
            _read_toml(environ),
            ("the environment (MESH_*)", _read_environment(environ)),
            ("the arguments", values),
        ):
            given = _checked(place, raw)
            if "master" in given or "agents" in given:
                merged.pop("master", None)
                merged.pop("agents", None)
            merged |= given
        return cls._make(merged, "the configuration")

    @classmethod
    def _make(cls, values: Mapping[str, Any], place: str) -> Config:
        if not values.get("master") and not values.get("agents"):
            raise ConfigError(
                f"{place} names no cluster: give a URL such as 'sqlite:///mesh.db', or master "
                "and agents (arguments, MESH_URL, MESH_MASTER and MESH_AGENTS, or mesh.toml)"
            )
        given = frozenset(values)
        if prefix := Prefix(values.get("prefix", "")):
            values = {**values, **_prefixed(prefix, values)}
        return cls(**values, given=given)

    @property
    def silence(self) -> float:
        """Seconds after which a worker that has said nothing counts as gone: it may miss two
        heartbeats."""
        return 3 * self.heartbeat

    @property
    def rescues_after(self) -> float:
        """Seconds: ``rescue_after``, or what follows from the others."""
        return self.rescue_after or 2 * max(self.lease, self.silence)

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


_POSITIVE = {
    "event_size",
    "timeout",
    "lease",
    "session_ttl",
    "heartbeat",
    "rescue_after",
    "push_timeout",
    "connect_timeout",
    "payload_limit",
}
_TYPES = {key: kind for key, kind in get_type_hints(Config).items() if key != "given"}
_KNOWN = ("url", *_TYPES)
_RENAMED = {
    "schedule_prefix": "is prefix now, which goes in front of the names of handlers and lanes, and "
    "of keys, too: prefix='shop-'"
}


def _checked(place: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``Config`` that one place gives, converted."""
    values = {key: value for key, value in raw.items() if value is not None}
    for key in values:
        if key in _RENAMED:
            raise ConfigError(f"{place}: {key}: {_RENAMED[key]}")
        if key not in _KNOWN:
            raise ConfigError(f"{place}: unknown key '{key}'{did_you_mean(key, _KNOWN)}")
    url = values.pop("url", None)
    if url is not None:
        if "master" in values or "agents" in values:
            raise ConfigError(f"{place}: give either one URL, or master and agents")
        values |= {"master": _check_url(place, "url", url), "agents": {LOCAL_AGENT: url}}
    return {key: _convert(place, key, value) for key, value in values.items()}


def convert(place: str, key: str, value: Any) -> Any:
    """A value for one of the keys, checked; text is read as in the environment. Raises
    ``ConfigError``, naming ``place`` and the key."""
    return _convert(place, key, value)


def _convert(place: str, key: str, value: Any) -> Any:
    if key == "agents":
        return _convert_agents(place, value)
    if key == "lanes":
        return _convert_lanes(place, value)
    if key == "retry":
        return _convert_retry(place, value)
    if key == "retention":
        return _convert_retention(place, value)
    if key == "monitor":
        return str(Place.parse(str(value)))
    if key == "jwt":
        return JwtRules.parse(place, value)
    if key in ("redact", "operators_may", "persist_events") and isinstance(value, str):
        value = [word for word in re.split(r"[,\s]+", value) if word]
    if key in ("master", "outbox"):
        return _check_url(place, key, value)
    converted = _convert_to(_TYPES[key], place, key, value)
    if key == "cluster":
        return check_name(key, converted)
    if key == "prefix":
        try:
            Prefix(converted)
        except ValueError as error:
            raise ConfigError(f"{place}: {key}={value!r}: {error}") from None
    if key == "timezone":
        return _zone_name(place, converted)
    if isinstance(converted, int | float) and not (
        0 < converted < inf or (converted == 0 and key not in _POSITIVE)
    ):
        least = "above 0" if key in _POSITIVE else "0 or more"
        raise ConfigError(f"{place}: {key}={value!r}: must be a number, {least}")
    return converted


def _zone_name(place: str, value: str) -> str:
    # Not above: programs that only enqueue start faster without the language.
    from mesh.schedule.zones import zone_named

    try:
        return zone_named(value).name
    except InvalidSchedule as error:
        raise ConfigError(f"{place}: timezone={value!r}: {error}") from None


def _convert_to(kind: Any, place: str, key: str, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {key}={value!r}: {error}") from None


def _check_url(place: str, key: str, value: Any) -> str:
    # What is wrong is not shown: there may be a password in it.
    if not isinstance(value, str) or not _URL.match(value):
        raise ConfigError(
            f"{place}: {key} is not a URL, such as postgresql://host/database, "
            "sqlite:///mesh.db or nats://host:4222"
        )
    return value


_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def _convert_agents(place: str, value: Any) -> dict[str, AgentConfig]:
    if isinstance(value, str):
        value = _parse_agents(place, value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{place}: agents must map names to URLs; a {type(value).__name__} does not"
        )
    return {name: _convert_agent(place, name, given) for name, given in value.items()}


def _convert_agent(place: str, name: Any, given: Any) -> AgentConfig:
    what = f"agent '{check_name('agent', name)}'"
    if isinstance(given, str):
        given = {"url": given}
    elif isinstance(given, AgentConfig):
        if given.name != name:
            raise ConfigError(f"{place}: {what} is configured as '{given.name}'")
        given = {"url": given.url, "lanes": given.lanes}
    elif not isinstance(given, Mapping):
        raise ConfigError(f"{place}: {what} must be a URL, or a table of url and lanes")
    for key in given:
        if key not in ("url", "lanes"):
            hint = did_you_mean(key, ("url", "lanes"))
            raise ConfigError(f"{place}: {what}: unknown key '{key}'{hint}")
    lanes = given.get("lanes")
    if lanes is not None:
        if isinstance(lanes, str) or not isinstance(lanes, Collection):
            raise ConfigError(f"{place}: {what}: lanes={lanes!r}: must be a list of names")
        lanes = frozenset(check_name("lane", lane) for lane in lanes)
    return AgentConfig(name, _check_url(place, f"the URL of {what}", given.get("url")), lanes)


def _prefixed(prefix: Prefix, values: Mapping[str, Any]) -> dict[str, Any]:
    """The lanes that the values name, as the cluster knows them."""

    def full(lane: str) -> str:
        return check_name("lane", prefix.of(lane))

    rules: Mapping[str, LimitRules] = values.get("lanes", {})
    agents: Mapping[str, AgentConfig] = values.get("agents", {})
    return {
        "lanes": {full(lane): each.named(full(lane)) for lane, each in rules.items()},
        "agents": {
            name: agent
            if agent.lanes is None
            else AgentConfig(name, agent.url, frozenset(map(full, agent.lanes)))
            for name, agent in agents.items()
        },
    }


_LANE_KEYS = ("concurrency", "limit", "burst")


def _convert_lanes(place: str, value: Any) -> dict[str, LimitRules]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{place}: lanes={value!r} is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: lanes={value!r}: must map lanes to tables of their limits")
    lanes: dict[str, LimitRules] = {}
    for name, given in value.items():
        where = f"{place}: lane '{check_name('lane', name)}'"
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: {given!r}: must be a table such as {{concurrency = 5}}")
        for key in given:
            if key not in _LANE_KEYS:
                hint = did_you_mean(key, _LANE_KEYS)
                raise ConfigError(f"{where}: unknown key '{key}'{hint}")
        rules = LimitRules.parse("lane", name, where, **given)
        if rules is not None:
            lanes[name] = rules
    return lanes


def _parse_agents(place: str, value: str) -> dict[str, str]:
    """``name=url,name=url`` as environment variables hold it."""
    agents: dict[str, str] = {}
    for item in re.split(r"[,\s]+(?=[\w-]+=[\w+.-]+://)", value.strip(", \t\n")):
        name, equals, url = item.partition("=")
        if not equals:
            raise ConfigError(f"{place}: agents must be of the form name=url,name=url")
        if name in agents:
            raise ConfigError(f"{place}: agents: '{name}' is there twice")
        agents[name] = url
    return agents


def _convert_retry(place: str, value: Any) -> Retry:
    if isinstance(value, Retry):
        if value.when is not None:
            raise ConfigError(
                f"{place}: retry=Retry(when=...): a function is for one handler's policy, "
                "@app.job(retry=Retry(when=...))"
            )
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{place}: retry={value!r}: must be a Retry, or a table such as "
            "{max_attempts = 5, delay = 2}"
        )
    types = get_type_hints(Retry)
    del types["when"]  # a function, which no table can hold
    for key in value:
        if key not in types:
            raise ConfigError(f"{place}: retry: unknown key '{key}'{did_you_mean(key, types)}")
    return Retry(
        **{
            key: _convert_to(types[key], f"{place}: retry", key, given)
            for key, given in value.items()
        }
    )


def _convert_retention(place: str, value: Any) -> dict[str, float]:
    if isinstance(value, str):
        pairs = [] if value.strip().lower() == "off" else re.split(r"\s*,\s*", value.strip(", "))
        value = {state: duration for state, _, duration in (p.partition("=") for p in pairs)}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{place}: retention={value!r}: must map states to durations, such as "
            "{succeeded = '7d', failed = '30d'}, or be 'off'"
        )
    kept: dict[str, float] = {}
    for state, duration in value.items():
        if state not in RETENTION:
            raise ConfigError(
                f"{place}: retention: '{state}' is no state in which jobs end"
                f"{did_you_mean(str(state), RETENTION)}"
            )
        try:
            kept[str(state)] = parse_duration(str(duration))
        except ValueError as error:
            raise ConfigError(f"{place}: retention: {state}: {error}") from None
    return kept


def _read_toml(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = environ.get("MESH_CONFIG")
    path = Path(named or "mesh.toml")
    try:
        return str(path), tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if named:
            raise ConfigError(f"MESH_CONFIG names {path}, which does not exist") from None
        return str(path), {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        key = variable.removeprefix("MESH_").lower()
        if not variable.startswith("MESH_") or key in ("config", "app") or not value:
            continue
        if key in _KNOWN or key in _RENAMED:
            values[key] = value
        elif "did you mean" in (hint := did_you_mean(key, _KNOWN)):
            # Other programs may have MESH_ variables too: only a near miss is a mistake.
            raise ConfigError(f"unknown environment variable {variable}{hint}")
    return values
