"""Routes: agents."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from litestar import Router, delete, get, post
from litestar.params import FromPath, JSONBody

from mesh.config import AgentConfig, convert
from mesh.sign_in import Scope
from mesh_master.agent_work import add_agent, drain_agent, remove_agent, undrain_agent
from mesh_master.api.context import Api, GivenApi, require
from mesh_master.api.problems import PROBLEMS
from mesh_master.api.views import moment
from mesh_master.standing import Look, look_at_agents

__all__ = ["Agent", "agents_of", "router"]


class Agent(msgspec.Struct, kw_only=True):
    """An agent, and what it has."""

    name: str
    url: str
    lanes: list[str] | None = None
    """``null``: all."""
    state: str
    is_added: bool
    away: str = ""
    """Why it cannot be asked."""
    jobs: int | None = None
    lag: int | None = None
    """Entries of its ledger that are not recorded yet."""
    seen_at: datetime | None = None
    """When its recorder last wrote to the master."""


class NewAgent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    url: str
    lanes: list[str] | None = None
    check: bool = True
    """Connect to it first."""


async def agents_of(api: Api, seen: Look | None = None) -> list[Agent]:
    """The agents as they are now, or as they were ``seen``."""
    seen = seen or await api.look()
    found = await look_at_agents(api.mesh, await api.master(), seen)
    return [
        Agent(
            name=agent.name,
            url=agent.url,
            lanes=agent.lanes,
            state=agent.state,
            is_added=agent.is_added,
            away=agent.away,
            jobs=agent.jobs,
            lag=agent.lag,
            seen_at=moment(agent.seen_at or None),
        )
        for agent in found
    ]


@get("/", guards=[require(Scope.READ)], responses=PROBLEMS)
async def list_agents(api: GivenApi) -> list[Agent]:
    """The agents that the master knows, and what they have."""
    return await agents_of(api)


@post("/", guards=[require(Scope.ADMIN)], status_code=201, responses=PROBLEMS)
async def add(api: GivenApi, data: JSONBody[NewAgent]) -> list[Agent]:
    """Add an agent to the running cluster, or bring back one that was drained."""
    given = {"url": data.url} | ({} if data.lanes is None else {"lanes": data.lanes})
    config: AgentConfig = convert("POST /agents", "agents", {data.name: given})[data.name]
    await add_agent(api.mesh, await api.known_agents(), config, data.check)
    return await agents_of(api)


@delete("/{name:str}", guards=[require(Scope.ADMIN)], responses=PROBLEMS)
async def remove(api: GivenApi, name: FromPath[str]) -> None:
    """Remove an agent that has been drained."""
    await remove_agent(api.mesh, await api.known_agents(), name)


@post(
    "/{name:str}/{action:str}", guards=[require(Scope.ADMIN)], status_code=200, responses=PROBLEMS
)
async def set_agent(
    api: GivenApi, name: FromPath[str], action: FromPath[Literal["drain", "undrain"]]
) -> list[Agent]:
    """`drain`: give it no more jobs, and move what it has to others; `undrain`: use it again."""
    work = drain_agent if action == "drain" else undrain_agent
    await work(api.mesh, await api.known_agents(), name)
    return await agents_of(api)


router = Router("/agents", tags=["agents"], route_handlers=[list_agents, add, remove, set_agent])
