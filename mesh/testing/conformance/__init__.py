"""Behaviour that every implementation of a port shows.

Subclass ``AgentConformance`` in a test module and provide its ``harness`` fixture::

    class TestMyAgent(AgentConformance):
        @pytest.fixture
        async def harness(self): yield MyHarness(...)

The suites need pytest with pytest-asyncio in auto mode.
"""

from mesh.testing.conformance.agent import AgentConformance as AgentConformance
from mesh.testing.conformance.agent import AgentHarness as AgentHarness
from mesh.testing.conformance.agent import make_job as make_job

__all__ = ["AgentConformance", "AgentHarness", "make_job"]
