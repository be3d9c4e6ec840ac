"""A short round of chaos, as a test."""

from __future__ import annotations

from collections.abc import Mapping

from .cluster import Deployment
from .run import Settings, run

__all__ = ["SECONDS", "SEEDS", "short_round"]

SECONDS = 20.0
SEEDS: Mapping[Deployment, int] = {"nats": 459, "sql": 12, "mariadb": 1219, "embedded": 1}
"""Whose plans break much in so little time: see the test of that."""


async def short_round(deployment: Deployment) -> None:
    outcome = await run(Settings(deployment, SEEDS[deployment], SECONDS, pause=0.2))
    assert outcome.ok, outcome.text()
