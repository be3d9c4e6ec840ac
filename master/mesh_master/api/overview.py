"""Routes: the cluster at a glance."""

from __future__ import annotations

import msgspec
from litestar import get

from mesh import __version__
from mesh.job import State
from mesh.settings import Mode
from mesh.sign_in import Scope
from mesh_master.api.agents import Agent, agents_of
from mesh_master.api.context import GivenApi, require
from mesh_master.api.lanes import Lane, lanes_of
from mesh_master.api.problems import PROBLEMS

__all__ = ["routes"]


class Attention(msgspec.Struct, kw_only=True):
    """Something that somebody should look at."""

    level: str
    """``warning`` or ``error``."""
    text: str
    """What it is, and the next step."""
    link: str
    """The page of the dashboard that has more."""


class Overview(msgspec.Struct, kw_only=True):
    cluster: str
    version: str
    mode: Mode
    totals: dict[str, int]
    """Jobs by state."""
    running: int
    workers: int
    lanes: list[Lane]
    agents: list[Agent]
    attention: list[Attention]


@get("/overview", guards=[require(Scope.READ)], responses=PROBLEMS, tags=["overview"])
async def overview(api: GivenApi) -> Overview:
    """The cluster at a glance."""
    seen = await api.look()
    totals = await (await api.master()).count_jobs()
    lanes = (await lanes_of(api, seen)).lanes
    agents = await agents_of(api, seen)
    mode = seen.settings.mode
    return Overview(
        cluster=api.mesh.config.cluster,
        version=__version__,
        mode=mode,
        totals={str(state): count for state, count in totals.items()},
        running=totals.get(State.RUNNING, 0),
        workers=sum(worker.state == "running" for worker in seen.workers),
        lanes=lanes,
        agents=agents,
        attention=_attention(mode, lanes, agents),
    )


def _attention(mode: Mode, lanes: list[Lane], agents: list[Agent]) -> list[Attention]:
    found: list[Attention] = []
    if mode is not Mode.ACTIVE:
        text = f"the cluster is {mode}: no job starts until 'mesh cluster mode active'"
        found.append(Attention(level="warning", text=text, link="settings"))
    for agent in agents:
        if agent.away:
            text = f"agent {agent.name} cannot be reached: {agent.away}"
            found.append(Attention(level="error", text=text, link="agents"))
    for lane in lanes:
        if lane.queued and not lane.workers:
            text = (
                f"{lane.queued} jobs wait in lane {lane.lane}, which no worker serves: "
                f"mesh worker APP --lane {lane.lane}"
            )
            found.append(Attention(level="error", text=text, link="lanes"))
        elif lane.state != "active":
            text = f"lane {lane.lane} is {lane.state}: mesh lanes resume {lane.lane}"
            found.append(Attention(level="warning", text=text, link="lanes"))
    return found


routes = [overview]
