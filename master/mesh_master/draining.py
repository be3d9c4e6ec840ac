"""The duty of emptying an agent that is draining: its jobs go to others, or back to the master.

One coordinator does it for an agent, by the lease ``drain:<agent>``; workers there rest. What is
not due yet, or still running, is moved or ends when it may be pulled or has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mesh.clock import Clock
from mesh.emptying import Mover
from mesh.errors import MeshError
from mesh.ports import Agent, Master
from mesh.service import Backoff, Service
from mesh_master.leader import Term, lead

__all__ = ["Draining"]

log = logging.getLogger("mesh")

_PAUSE = 1.0
"""Seconds between two looks at an agent that has nothing to be pulled."""


class Draining(Service):
    """Moves what is on ``agent`` for as long as it runs."""

    def __init__(
        self, master: Master, agent: Agent, mover: Mover, *, holder: str, clock: Clock
    ) -> None:
        super().__init__(f"draining of {agent.name}")
        self._master = master
        self._agent = agent
        self._mover = mover
        self._holder = holder
        self._clock = clock

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await lead(
            self._master,
            f"drain:{self._agent.name}",
            self._holder,
            self._lead,
            stopping=self.stopping,
            clock=self._clock,
        )

    async def _lead(self, term: Term) -> None:
        backoff = Backoff(term.over, clock=self._clock)

        async def empty() -> bool:
            await self._agent.open()
            before = self._mover.moved
            try:
                await self._mover.empty(self._agent)
            finally:
                if moved := self._mover.moved - before:
                    log.info("%s: %d jobs moved", self.name, moved)
            return True

        while not term.over.is_set():
            await backoff.retry(self.name, empty, MeshError)
            await self._clock.wait(term.over, _PAUSE)
