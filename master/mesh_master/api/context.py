"""What all routes use: the app, the door, and who is asking."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from litestar.connection import ASGIConnection
from litestar.connection import Request as HttpRequest
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler

from mesh.app import Mesh
from mesh.errors import ConfigError, JobNotFound
from mesh.job import check_job_id
from mesh.ports import JobInfo, Master
from mesh.sign_in import Scope
from mesh_master.access.door import Door, JobAction, Principal, Request
from mesh_master.standing import Look, look

__all__ = ["PATIENCE", "AnyRequest", "Api", "GivenApi", "SignedIn", "mounted_at", "require", "seen"]

PATIENCE = 2.0
"""Seconds to wait for an agent when a page is made."""


@dataclass(slots=True)
class Api:
    """One of an ASGI application."""

    mesh: Mesh
    door: Door = field(init=False)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: streams end then."""

    def __post_init__(self) -> None:
        self.door = Door(self.mesh)

    async def master(self) -> Master:
        """Raises ``MasterError``; ``ConfigError`` if none is configured."""
        return await self.mesh.master()

    async def known_agents(self) -> Master:
        """The master, once the agents are known that were added at run time."""
        await self.mesh.meet_agents()
        return await self.master()

    async def look(self) -> Look:
        """The cluster as it is now, as far as it answers soon."""
        return await look(self.mesh, await self.known_agents(), PATIENCE)

    async def job(self, job_id: str) -> JobInfo:
        """Raises ``JobNotFound``."""
        try:
            wanted = check_job_id(job_id)
        except ConfigError:
            raise JobNotFound(job_id, ": ids are UUIDs") from None
        master = await self.master()
        found = (await master.get_jobs([wanted])).get(wanted)
        if found is None:
            raise JobNotFound(wanted, ": jobs appear here once their ledger is recorded")
        return found

    async def check_job(self, principal: Principal, action: JobAction, job: JobInfo) -> None:
        """Raises ``Forbidden`` if they may not do that to the job."""
        self.door.check_job(principal, action, await self.door.kind(job.name))


SignedIn = HttpRequest[Principal, Any, Any]
"""A request that a guard has let pass."""

AnyRequest = HttpRequest[Any, Any, Any]

GivenApi = NamedDependency[Api]
"""How a route asks for it."""


def require(scope: Scope) -> Any:
    """The guard of routes that need a scope. Whoever passes is ``request.user``."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        api: Api = connection.app.state.api
        principal = connection.scope.get("user")
        if not isinstance(principal, Principal):
            principal = await api.door.enter(seen(connection))
            connection.scope["user"] = principal
        api.door.check_scope(principal, scope)

    guard.scope = scope  # type: ignore[attr-defined]  # for the docs
    return guard


def seen(connection: ASGIConnection[Any, Any, Any, Any]) -> Request:
    return Request(
        method=str(connection.scope.get("method", "GET")),
        headers={name.lower(): value for name, value in connection.headers.items()},
        cookies=connection.cookies,
        client=connection.client.host if connection.client is not None else "",
    )


def mounted_at(request: AnyRequest) -> str:
    """The path that the application is mounted under, without a slash at the end."""
    if root := str(request.scope.get("root_path", "")).rstrip("/"):
        return root
    # Litestar shortens the path for what it mounts, and does not say of what.
    whole = unquote(request.scope["raw_path"].partition(b"?")[0].decode("ascii", "replace"))
    return whole.rstrip("/").removesuffix(request.scope["path"].rstrip("/"))
