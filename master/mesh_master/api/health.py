"""Routes: whether the process lives, and whether it can serve."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from mesh.errors import MeshError
from mesh.monitor import Monitor
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


@get(
    "/health/ready",
    responses={503: ResponseSpec(Health, generate_examples=False, description="Not ready")},
    tags=["health"],
)
async def ready(api: GivenApi) -> Response[Health]:
    """The master can be reached, and all that runs in this process is well. Without the master,
    work that is on agents goes on."""
    try:
        async with asyncio.timeout(PATIENCE):
            await (await api.master()).cluster_settings()
    except TimeoutError:
        why = f"the master did not answer within {PATIENCE:g} s"
    except MeshError as error:
        why = str(error)
    else:
        why = await _amiss(api.mesh.monitor)
    if not why:
        return Response(Health(status="ok"))
    return Response(Health(status="degraded", detail=why), status_code=503)


async def _amiss(monitor: Monitor) -> str:
    """What is not well of what runs here; an application that only serves this has none of it."""
    if not monitor.parts:
        return ""
    health = await monitor.health()
    return "; ".join(f"{check.subject}: {check.detail}" for check in health.checks if not check.ok)


routes = [live, ready]
