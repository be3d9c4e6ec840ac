"""Behaviour that every implementation of a port shows.

Subclass ``AgentConformance``, or ``MasterConformance`` and the suites of a master's parts
(``ConditionsConformance``, ``EventsConformance``, ``HistoryConformance``,
``SchedulesConformance``, ``StatisticsConformance``), in a test module and provide its ``harness``
fixture::

    class TestMyAgent(AgentConformance):
        @pytest.fixture
        async def harness(self): yield MyHarness(...)

The suites need pytest with pytest-asyncio in auto mode.
"""

from mesh.testing.conformance.agent import AgentConformance as AgentConformance
from mesh.testing.conformance.agent import AgentHarness as AgentHarness
from mesh.testing.conformance.agent import make_job as make_job
from mesh.testing.conformance.conditions import ConditionsConformance as ConditionsConformance
from mesh.testing.conformance.events import EventsConformance as EventsConformance
from mesh.testing.conformance.history import HistoryConformance as HistoryConformance
from mesh.testing.conformance.master import MasterConformance as MasterConformance
from mesh.testing.conformance.master import MasterHarness as MasterHarness
from mesh.testing.conformance.schedules import SchedulesConformance as SchedulesConformance
from mesh.testing.conformance.statistics import StatisticsConformance as StatisticsConformance

__all__ = [
    "AgentConformance",
    "AgentHarness",
    "ConditionsConformance",
    "EventsConformance",
    "HistoryConformance",
    "MasterConformance",
    "MasterHarness",
    "SchedulesConformance",
    "StatisticsConformance",
    "make_job",
]
