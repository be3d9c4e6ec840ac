"""The ASGI application, put together."""

from __future__ import annotations

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Server

from mesh import __version__
from mesh.app import Mesh
from mesh_master.api import (
    agents,
    audited,
    events,
    handlers,
    health,
    jobs,
    lanes,
    metrics,
    overview,
    pages,
    schedules,
    session,
    settings,
    stats,
    workers,
)
from mesh_master.api.context import Api
from mesh_master.api.problems import SAFE_HEADERS, problem_handlers
from mesh_master.api.views import filter_of

__all__ = ["build"]

_BODY = 4 * 1024 * 1024
"""Bytes of a request, at most."""


def build(app: Mesh) -> Litestar:
    """See ``mesh_master.api.create_app``."""
    api = Api(app)
    metrics.count(app)

    def provide_api() -> Api:
        return api

    router = Router(
        "/api/v1",
        route_handlers=[
            jobs.router,
            events.router,
            handlers.router,
            schedules.router,
            lanes.router,
            agents.router,
            workers.router,
            settings.router,
            session.router,
            *overview.routes,
            *stats.routes,
        ],
    )
    return Litestar(
        [router, *pages.routes, *health.routes, *metrics.routes],
        state=State({"api": api}),
        dependencies={
            "api": Provide(provide_api, sync_to_thread=False),
            # Not a name that a body has: Litestar takes what is wrong with that for its own fault.
            "job_filter": Provide(filter_of, sync_to_thread=False),
        },
        middleware=[audited.audit],
        exception_handlers=problem_handlers,
        response_headers=SAFE_HEADERS,
        request_max_body_size=_BODY,
        openapi_config=_openapi(),
        logging_config=None,
        debug=False,
    )


def _openapi() -> OpenAPIConfig:
    bearer = SecurityScheme(type="http", scheme="bearer")
    return OpenAPIConfig(
        title="jobmesh",
        version=__version__,
        # All below this path is the plugin's, which answers with pages of its own.
        path="/api/v1/openapi.json",
        use_handler_docstrings=True,
        # From where the document is, whatever all is mounted under.
        servers=[Server(url="../..")],
        render_plugins=[JsonRenderPlugin(path="/")],
        components=Components(security_schemes={"bearer": bearer}),
        security=[{"bearer": []}, {}],
    )
