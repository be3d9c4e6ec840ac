"""Routes: handlers, as workers told of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Router, delete, get
from litestar.params import FromPath

from mesh.clock import to_datetime
from mesh.errors import UnknownHandler, did_you_mean
from mesh.ports import HandlerInfo
from mesh.sign_in import Scope
from mesh_master.api.context import GivenApi, require
from mesh_master.api.problems import PROBLEMS

__all__ = ["router"]


class Handler(msgspec.Struct, kw_only=True):
    """A handler, and what it says of itself."""

    name: str
    app: str
    lane: str
    kind: str
    title: str | None = None
    description: str | None = None
    icon: str | None = None
    runs: str
    definition: dict[str, Any]
    """All of it: options, and the JSON schemas ``arguments`` and ``result``."""
    first_seen: datetime
    changed_at: datetime
    seen_at: datetime


@get("/", guards=[require(Scope.READ)], responses=PROBLEMS)
async def list_handlers(api: GivenApi) -> list[Handler]:
    """All handlers that a worker ever had, by name."""
    return [_shown(handler) for handler in await (await api.master()).handlers()]


@get("/{name:str}", guards=[require(Scope.READ)], responses=PROBLEMS)
async def show_handler(api: GivenApi, name: FromPath[str]) -> Handler:
    """One handler."""
    known = {handler.name: handler for handler in await (await api.master()).handlers()}
    if name not in known:
        raise _unknown(name, known)
    return _shown(known[name])


@delete("/{name:str}", guards=[require(Scope.ADMIN)], responses=PROBLEMS)
async def remove_handler(api: GivenApi, name: FromPath[str]) -> None:
    """Forget a handler that no code has any more. A worker that starts with it brings it back."""
    master = await api.master()
    if not await master.remove_handler(name):
        raise _unknown(name, {handler.name: handler for handler in await master.handlers()})


def _unknown(name: str, known: dict[str, HandlerInfo]) -> UnknownHandler:
    return UnknownHandler(f"no worker has told of a handler '{name}'{did_you_mean(name, known)}")


def _shown(handler: HandlerInfo) -> Handler:
    definition = handler.definition
    return Handler(
        name=handler.name,
        app=handler.app,
        lane=definition.lane,
        kind=definition.kind,
        title=definition.title,
        description=definition.description,
        icon=definition.icon,
        runs=definition.runs,
        definition=msgspec.to_builtins(definition),
        first_seen=to_datetime(handler.first_seen),
        changed_at=to_datetime(handler.changed_at),
        seen_at=to_datetime(handler.seen_at),
    )


router = Router(
    "/handlers", tags=["handlers"], route_handlers=[list_handlers, show_handler, remove_handler]
)
