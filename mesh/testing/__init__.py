"""What tests need: a manual clock, an in-memory agent, conformance suites, local servers."""

from mesh.testing.clock import ManualClock as ManualClock
from mesh.testing.memory import MemoryAgent as MemoryAgent

__all__ = ["ManualClock", "MemoryAgent"]
