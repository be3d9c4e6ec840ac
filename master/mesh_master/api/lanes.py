"""Routes: lanes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from litestar import Router, get, post
from litestar.params import FromPath, JSONBody

from mesh.job import check_name
from mesh.settings import LaneState
from mesh.sign_in import Scope
from mesh_master.api.context import Api, GivenApi, require
from mesh_master.api.problems import PROBLEMS, BodyOptional
from mesh_master.api.views import moment
from mesh_master.standing import LaneStanding, Look, look_at_lanes, purge_lane

__all__ = ["Lane", "lanes_of", "router"]


class LaneDepth(msgspec.Struct, kw_only=True):
    """What an agent has of a lane."""

    agent: str
    ready: int
    leased: int
    delayed: int


class Lane(msgspec.Struct, kw_only=True):
    """A lane, and who serves it."""

    lane: str
    state: LaneState
    agents: list[LaneDepth]
    held: int
    """On the master."""
    queued: int
    """All that have not started: held, and ready or delayed on agents."""
    oldest_at: datetime | None = None
    """When the oldest was enqueued that is due and has not begun."""
    workers: int
    running: int
    concurrency: int


class Lanes(msgspec.Struct, kw_only=True):
    lanes: list[Lane]
    away: dict[str, str]
    """Agents that are not counted, and why."""


class Purged(msgspec.Struct, kw_only=True):
    cancelled: int
    left: int
    """Held by agents until they are due."""


class Purge(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = "its lane was purged"


async def lanes_of(api: Api, seen: Look | None = None) -> Lanes:
    """The lanes as they are now, or as they were ``seen``."""
    seen = seen or await api.look()
    found, away = await look_at_lanes(api.mesh, await api.master(), seen)
    return Lanes(lanes=[_shown(lane) for lane in found], away=away)


def _shown(lane: LaneStanding) -> Lane:
    depths = lane.agents.items()
    return Lane(
        lane=lane.lane,
        state=lane.state,
        agents=[
            LaneDepth(agent=name, ready=d.ready, leased=d.leased, delayed=d.delayed)
            for name, d in depths
        ],
        held=lane.held,
        queued=lane.held + sum(d.ready + d.delayed for _, d in depths),
        oldest_at=moment(lane.oldest_at),
        workers=lane.workers,
        running=lane.running,
        concurrency=lane.concurrency,
    )


@get("/", guards=[require(Scope.READ)], responses=PROBLEMS)
async def list_lanes(api: GivenApi) -> Lanes:
    """The lanes: how they stand, what waits in them and where, who serves them."""
    return await lanes_of(api)


_STATES: dict[str, LaneState] = {
    "pause": LaneState.PAUSED,
    "resume": LaneState.ACTIVE,
    "drain": LaneState.DRAINING,
}


@post(
    "/{lane:str}/{action:str}",
    guards=[require(Scope.OPERATE)],
    status_code=200,
    responses=PROBLEMS,
)
async def set_lane(
    api: GivenApi, lane: FromPath[str], action: FromPath[Literal["pause", "resume", "drain"]]
) -> Lanes:
    """`pause`: start no more of its jobs; `drain`: let workers run what agents have of it, new ones
    wait on the master; `resume`: go on."""
    name = check_name("lane", api.mesh.prefix.of(lane))
    await (await api.master()).change_settings(lambda s: s.with_lane(name, _STATES[action]))
    return await lanes_of(api)


@post(
    "/{lane:str}/purge",
    guards=[require(Scope.OPERATE)],
    status_code=200,
    responses=PROBLEMS,
    operation_class=BodyOptional,
)
async def purge(api: GivenApi, lane: FromPath[str], data: JSONBody[Purge | None] = None) -> Purged:
    """End a lane's jobs that have not started as cancelled. What runs goes on."""
    name = check_name("lane", api.mesh.prefix.of(lane))
    reason = (data or Purge()).reason
    ended, left = await purge_lane(api.mesh, await api.known_agents(), name, reason)
    return Purged(cancelled=ended, left=left)


router = Router("/lanes", tags=["lanes"], route_handlers=[list_lanes, set_lane, purge])
