"""Enqueuing by name: through the app's own handler if it has its code, else by what a worker told
of it."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.app import Mesh
from mesh.codec import encode_json
from mesh.errors import ConfigError, InvalidArguments, UnknownHandler, did_you_mean
from mesh.job_handle import JobHandle
from mesh.ports import HandlerInfo
from mesh_master.api.context import Api

__all__ = ["enqueue_by_name"]


async def enqueue_by_name(
    api: Api, name: str, payload: dict[str, Any], options: dict[str, Any]
) -> JobHandle[Any]:
    """Enqueue a job of the handler with that full name. Raises what ``enqueue`` raises."""
    own = api.mesh.handlers.get(name)
    if own is None:
        own = _stand_in(api.mesh, await _told(api, name))
    try:
        values = own.decode(encode_json(payload))
    except msgspec.MsgspecError as error:
        raise InvalidArguments(f"handler '{name}': {error}") from None
    handle: JobHandle[Any] = await own.options(**options).enqueue(**values)
    return handle


async def _told(api: Api, name: str) -> HandlerInfo:
    known = {handler.name: handler for handler in await (await api.master()).handlers()}
    found = known.get(name)
    if found is None:
        raise UnknownHandler(
            f"no worker has told of a handler '{name}'"
            f"{did_you_mean(name, {*known, *api.mesh.handlers})}; start one that has its code, or "
            "see GET /handlers"
        )
    return found


def _stand_in(mesh: Mesh, told: HandlerInfo) -> Any:
    raise ConfigError(
        f"handler '{told.name}' is in the code of workers, and not of this server: run it with "
        "your app (mesh master APP)"
    )
