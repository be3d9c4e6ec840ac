"""The HTTP API and the dashboard: an ASGI application over the master's port.

It needs the extra ``api``; nothing else of jobmesh imports what is in here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.errors import ConfigError

if TYPE_CHECKING:
    from litestar import Litestar

    from mesh.app import Mesh

__all__ = ["create_app"]


def create_app(app: Mesh) -> Litestar:
    """The ASGI application of an app's cluster, to be served or mounted anywhere: under any path,
    in FastAPI, Starlette, Litestar. It connects when the first request comes; close ``app`` when
    it is no longer served. Raises ``ConfigError`` if the extra ``api`` is not installed."""
    built: Litestar = _import().build(app)
    return built


def _import() -> Any:
    try:
        from mesh_master.api import app as module
    except ImportError as error:
        raise ConfigError(
            f"the HTTP API needs the extra 'api': pip install 'jobmesh[api]' ({error})"
        ) from None
    return module
