"""An app on an agent in memory, and what it stored there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh import Mesh
from mesh.job import new_job_id
from mesh.testing import ManualClock
from mesh.wire import Envelope


class MemoryMesh(Mesh):
    """One agent, ``m``, nobody else's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            agents={"m": f"memory://{new_job_id()}"},
            clock=ManualClock(),
            payload_limit=2000,
            **settings,
        )

    async def stored(self) -> int:
        """How many jobs are on the agent."""
        return sum(depth.total for depth in (await (await self.agent("m")).depth()).values())

    async def taken(self, lane: str = "default") -> list[Envelope]:
        """The jobs of a lane, as its workers get them. They must be due."""
        if not (await (await self.agent("m")).depth()).get(lane):
            return []
        consumer = await (await self.agent("m")).consume(lane, lease=30)
        return [delivery.job for delivery in await consumer.pull(10_000)]


@pytest.fixture
async def app() -> AsyncIterator[MemoryMesh]:
    async with MemoryMesh() as app:
        yield app
