"""``mesh worker --mode drain``: empties agents, and ends.

It runs no job. It says in the master that the agents are draining, so that nothing new goes there
and other workers there rest, moves what they have to other agents or back to the master, waits
for what still runs or is not due yet, and ends when there is nothing left. Coordinators do the
same meanwhile if there are any; each job is moved by one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from mesh.app import Mesh
from mesh.emptying import Mover
from mesh.errors import MeshError
from mesh.notices import CLUSTER
from mesh.ports import Agent
from mesh.service import Backoff, Service
from mesh.settings import AgentState, ClusterSettings

__all__ = ["Drain"]

log = logging.getLogger("mesh")

_PAUSE = 0.5


class Drain(Service):
    """Ends by itself when the agents are empty."""

    def __init__(self, app: Mesh, agents: Sequence[str]) -> None:
        super().__init__(f"draining of {', '.join(agents)}")
        self._app = app
        self._names = list(agents)

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(self.stopping)
        try:
            if await backoff.retry(self.name, self._declare, MeshError) is None:
                return
            for name in self._names:
                await self._empty(name, backoff)
        finally:
            await self._app.close()

    async def _declare(self) -> bool:
        master = await self._app.master()
        for name in self._names:
            settings = await master.change_settings(partial(_leave, name))
            self._app.cluster.learn(settings)
            # Its workers are to rest whether a coordinator tells them or not.
            await (await self._app.agent(name)).post({CLUSTER: settings.encode()})
        return True

    async def _empty(self, name: str, backoff: Backoff) -> None:
        master = await self._app.master()
        targets: list[Agent] = []
        mover = Mover(master, lambda _: targets)

        async def look() -> int:
            """How many jobs are left, once what may be moved has been."""
            agent = await self._app.agent(name)
            await mover.empty(agent)
            return sum(depth.total for depth in (await agent.depth()).values())

        said = None
        while not self.stopping.is_set():
            left = await backoff.retry(self.name, look, MeshError)
            if not left:
                break
            if left != said:
                said = left
                log.info("agent %s: %d jobs moved, %d are left", name, mover.moved, left)
            await backoff.pause(_PAUSE)
        else:
            return
        log.info("agent %s: %d jobs moved, it is empty", name, mover.moved)


def _leave(name: str, settings: ClusterSettings) -> ClusterSettings:
    return settings.with_agent_state(name, AgentState.DRAINING)
