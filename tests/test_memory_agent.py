"""The in-memory agent keeps the port's promises."""

from __future__ import annotations

import pytest

from mesh.job import new_job_id
from mesh.ports import AgentSettings
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.conformance import AgentConformance


class MemoryHarness:
    lease = 30.0

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.url = f"memory://{new_job_id()}"

    async def connect(self) -> MemoryAgent:
        agent = MemoryAgent("memory", self.url, AgentSettings(clock=self.clock))
        await agent.open()
        return agent

    def now(self) -> float:
        return self.clock.time()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def corrupt(self, lane: str, data: bytes) -> None:
        (await self.connect()).corrupt(lane, data)

    async def corrupt_ledger(self, data: bytes) -> None:
        pass


class TestMemoryAgent(AgentConformance):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()
