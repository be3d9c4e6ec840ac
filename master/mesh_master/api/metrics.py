"""The route of Prometheus."""

from __future__ import annotations

from dataclasses import replace

from litestar import MediaType, Response, get
from litestar.exceptions import HTTPException

from mesh.app import Mesh
from mesh.errors import ConfigError
from mesh.monitor import Families
from mesh.sign_in import Scope
from mesh_master.api.context import GivenApi, require
from mesh_master.api.problems import PROBLEMS
from mesh_master.metrics import render

__all__ = ["count", "routes"]


def count(app: Mesh) -> None:
    """Let the app's process count what it does, if somebody can ask for it."""
    try:
        Families()
    except ConfigError:
        return
    app.monitor.counts = True


@get(
    "/metrics",
    guards=[require(Scope.READ)],
    media_type=MediaType.TEXT,
    responses={**PROBLEMS, 501: replace(PROBLEMS[400], description="Not Implemented")},
    tags=["health"],
)
async def metrics(api: GivenApi) -> Response[str]:
    """The metrics of this process and of the cluster, in Prometheus' text format."""
    try:
        body, kind = await render(api.mesh)
    except ConfigError as error:
        raise HTTPException(str(error), status_code=501) from error
    return Response(body.decode(), media_type=kind)


routes = [metrics]
