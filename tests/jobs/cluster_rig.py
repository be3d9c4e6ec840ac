"""A whole cluster in one process: a master, an agent, a coordinator and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mesh import Mesh
from mesh.roles import RoleOptions, make_role
from mesh.service import Group

__all__ = ["PATIENCE", "Rig"]

PATIENCE = 30.0


class Rig:
    """Where the cluster is, and how to run an app on it."""

    def __init__(self, **where: Any) -> None:
        self.where = where

    @property
    def master_url(self) -> str:
        return str(self.where.get("url") or self.where["master"])

    def app(self, **settings: Any) -> Mesh:
        """One more app on the same cluster, with handlers of its own. It has time to connect: the
        machine may have other tests to run."""
        return Mesh(**self.where, auto_migrate=True, connect_timeout=30, **settings)

    @asynccontextmanager
    async def running(self, app: Mesh, *, worker: bool = True) -> AsyncIterator[None]:
        """A coordinator and, where wanted, a worker, for as long as the block; then the app is
        closed."""
        roles = ["coordinator", *(["worker"] if worker else [])]
        async with Group("cluster", [make_role(role, app, RoleOptions()) for role in roles]):
            try:
                yield
            finally:
                await app.close()
                # Handlers in threads may have used it.
                await asyncio.to_thread(app.sync.close)
