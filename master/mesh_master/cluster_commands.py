"""The commands ``mesh cluster``, ``mesh settings`` and ``mesh lanes``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from mesh.app import Mesh
from mesh.config import Config, convert
from mesh.console import (
    AppOption,
    JsonOption,
    MasterOption,
    ask,
    find_app,
    moment,
    print_json,
    print_table,
    table,
)
from mesh.errors import AgentError, ConfigError, did_you_mean
from mesh.job import check_name
from mesh.ports import Master
from mesh.settings import SHARED, ClusterSettings, LaneState, Mode
from mesh_master.standing import (
    LaneStanding,
    all_agents,
    depth_of,
    look_at_lanes,
    purge_lane,
)

__all__ = ["cluster", "lanes", "settings", "until_empty", "with_master"]

T = TypeVar("T")

cluster = typer.Typer(help="The cluster as a whole.", no_args_is_help=True)
settings = typer.Typer(help="What holds for all processes of the cluster.", no_args_is_help=True)
lanes = typer.Typer(help="Look at lanes, pause, drain and purge them.", no_args_is_help=True)

LaneArgument = Annotated[str, typer.Argument(metavar="LANE")]

_PAUSE = 0.5
"""Seconds between two looks of those who wait."""


def with_master(mesh: Mesh, question: Callable[[Mesh, Master], Awaitable[T]]) -> T:
    """The answer of a question to the master, with all agents known."""

    async def answer(mesh: Mesh) -> T:
        master = await mesh.master()
        await mesh.meet_agents()
        return await question(mesh, master)

    return ask(mesh, answer)


# cluster -------------------------------------------------------------------------------------


@cluster.command()
def mode(
    mode: Annotated[
        str | None, typer.Argument(help="active, passive or archive; without it: which it is.")
    ] = None,
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Show or change the mode. active: everything; passive: jobs are accepted, none starts;
    archive: jobs are refused, history can be read."""
    if mode is None:
        typer.echo(with_master(find_app(app, master), _settings).mode)
        return
    try:
        wanted = Mode(mode.lower())
    except ValueError:
        raise ConfigError(f"unknown mode '{mode}'{did_you_mean(mode.lower(), Mode)}") from None
    _change(find_app(app, master), lambda s: msgspec.structs.replace(s, mode=wanted))
    typer.echo(f"the cluster is {wanted}; its processes hear of it within seconds")


async def _settings(_: Mesh, master: Master) -> ClusterSettings:
    return await master.cluster_settings()


def _change(mesh: Mesh, change: Callable[[ClusterSettings], ClusterSettings]) -> ClusterSettings:
    return with_master(mesh, lambda _, master: master.change_settings(change))


# settings ------------------------------------------------------------------------------------


@settings.command("ls")
def list_settings(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List the settings, and what holds where none is set."""
    found = with_master(find_app(app, master), _settings)
    if as_json:
        print_json(found)
        return
    rows, built_in = table("key", "value", ""), Config()
    for key in SHARED:
        value = getattr(found, key)
        is_set = value is not None
        shown = _shown(value if is_set else getattr(built_in, key))
        rows.add_row(key, shown, "" if is_set else "default")
    print_table(rows)


@settings.command("set")
def set_setting(
    key: Annotated[str, typer.Argument(help=f"One of {', '.join(SHARED)}.")],
    value: Annotated[str, typer.Argument(help='Such as 30, or {"max_attempts": 3}.')],
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Set a default for all processes that are not told otherwise by their own configuration."""
    parsed: Any = value
    with suppress(ValueError):
        parsed = json.loads(value)
    checked = convert("mesh settings set", _check_key(key), parsed)
    _change(find_app(app, master), lambda s: msgspec.structs.replace(s, **{key: checked}))
    typer.echo(f"{key} is {_shown(checked)}; running processes hear of it within seconds")


@settings.command("unset")
def unset_setting(
    key: Annotated[str, typer.Argument(help=f"One of {', '.join(SHARED)}.")],
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Go back to the built-in default."""
    _check_key(key)
    _change(find_app(app, master), lambda s: msgspec.structs.replace(s, **{key: None}))
    typer.echo(f"{key} is as built in")


def _check_key(key: str) -> str:
    if key not in SHARED:
        raise ConfigError(f"no setting of the cluster is named '{key}'{did_you_mean(key, SHARED)}")
    return key


def _shown(value: object) -> str:
    if isinstance(value, msgspec.Struct):
        return json.dumps(msgspec.structs.asdict(value), default=str)
    if isinstance(value, Mapping):
        return json.dumps(value)
    return "none" if value is None else str(value)


# lanes ---------------------------------------------------------------------------------------


@lanes.command("ls")
def list_lanes(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List the lanes: how they stand, what waits in them and where, who serves them."""
    found, away = with_master(find_app(app, master), look_at_lanes)
    if as_json:
        print_json({"lanes": found, "away": away})
        return
    rows = table("lane", "state", "on agents", "held", "oldest", "workers")
    for lane in found:
        on_agents = ", ".join(
            f"{name} {d.ready}+{d.leased}+{d.delayed}" for name, d in lane.agents.items()
        )
        rows.add_row(
            lane.lane,
            lane.state,
            on_agents,
            str(lane.held),
            moment(lane.oldest_at),
            str(lane.workers),
        )
    print_table(rows)
    typer.echo("on agents: ready + leased + delayed; held: on the master")
    for name, why in away.items():
        typer.echo(f"agent {name} is not counted: {why}", err=True)


@lanes.command()
def pause(lane: LaneArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Start no more jobs of a lane; new ones are accepted, and wait. What runs goes on."""
    name = _set_lane(find_app(app, master), lane, LaneState.PAUSED)
    typer.echo(f"lane {name} is paused: mesh lanes resume {name}")


@lanes.command()
def resume(lane: LaneArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Let a lane that was paused or drained go on."""
    name = _set_lane(find_app(app, master), lane, LaneState.ACTIVE)
    typer.echo(f"lane {name} goes on")


@lanes.command()
def drain(
    lane: LaneArgument,
    app: AppOption = None,
    master: MasterOption = None,
    wait: Annotated[bool, typer.Option(help="Return when agents have none of it.")] = True,
) -> None:
    """Let workers run what agents have of a lane; new jobs wait on the master until it is
    resumed."""
    mesh = find_app(app, master)
    drained = _lane(mesh, lane)

    async def work(mesh: Mesh, master: Master) -> None:
        await master.change_settings(lambda s: s.with_lane(drained, LaneState.DRAINING))
        if wait:
            await until_empty(mesh, lambda name: name == drained, f"lane {drained}")

    with_master(mesh, work)
    typer.echo(f"lane {drained} is {'empty' if wait else 'draining'}: mesh lanes resume {drained}")


async def until_empty(
    mesh: Mesh, counts: Callable[[str], bool], what: str, agents: tuple[str, ...] = ()
) -> None:
    """Wait until the agents (default: all) have no jobs of the lanes that count; say how many
    there are whenever that changes. Raises ``AgentError`` if one cannot be asked."""
    said: tuple[int, ...] = ()
    while True:
        ready = leased = delayed = 0
        for name, agent in (await all_agents(mesh)).items():
            if agents and name not in agents:
                continue
            depth = await depth_of(agent)
            if isinstance(depth, AgentError):
                raise depth
            for lane, jobs in depth.items():
                if counts(lane):
                    ready, leased, delayed = (
                        ready + jobs.ready,
                        leased + jobs.leased,
                        delayed + jobs.delayed,
                    )
        if not ready and not leased and not delayed:
            return
        if said != (ready, leased, delayed):
            said = ready, leased, delayed
            typer.echo(f"{what}: {ready} ready, {leased} held by workers, {delayed} not due yet")
        await mesh.clock.sleep(_PAUSE)


@lanes.command()
def purge(
    lane: LaneArgument,
    app: AppOption = None,
    master: MasterOption = None,
    reason: Annotated[str, typer.Option(help="Kept with each job.")] = "its lane was purged",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End a lane's jobs that have not started as cancelled. What runs goes on; what an agent
    holds until it is due stays."""
    mesh = find_app(app, master)
    name = _lane(mesh, lane)
    if not yes:
        found, _ = with_master(mesh, look_at_lanes)
        here = next((x for x in found if x.lane == name), LaneStanding(name, LaneState.ACTIVE))
        count = here.held + sum(d.ready for d in here.agents.values())
        typer.confirm(f"cancel the {count} jobs that wait in lane {name}?", abort=True)

    ended, left = with_master(mesh, lambda mesh, m: purge_lane(mesh, m, name, reason))
    rest = f"; {left} are held by agents until they are due" if left else ""
    typer.echo(f"{ended} jobs of lane {name} are cancelled{rest}")


def _lane(mesh: Mesh, lane: str) -> str:
    """The cluster's name of a lane. Raises ``ConfigError``."""
    return check_name("lane", mesh.prefix.of(lane))


def _set_lane(mesh: Mesh, lane: str, state: LaneState) -> str:
    name = _lane(mesh, lane)
    _change(mesh, lambda s: s.with_lane(name, state))
    return name
