"""Routes: whether the process lives, and whether it can serve."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get

from mesh.errors import MeshError
from mesh_master.api.context import PATIENCE, GivenApi

__all__ = ["routes"]


class Health(msgspec.Struct, kw_only=True):
    status: str
    """``ok``, or ``degraded``."""
    detail: str = ""


@get("/health/live", tags=["health"])
async def live() -> Health:
    """The process runs."""
    return Health(status="ok")


@get("/health/ready", tags=["health"])
async def ready(api: GivenApi) -> Response[Health]:
    """The master can be reached. If not, work that is on agents goes on without it."""
    try:
        async with asyncio.timeout(PATIENCE):
            await (await api.master()).cluster_settings()
    except TimeoutError:
        why = f"the master did not answer within {PATIENCE:g} s"
    except MeshError as error:
        why = str(error)
    else:
        return Response(Health(status="ok"))
    return Response(Health(status="degraded", detail=why), status_code=503)


routes = [live, ready]
