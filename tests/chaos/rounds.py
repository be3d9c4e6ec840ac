"""A short round of chaos, as a test."""

from __future__ import annotations

from .cluster import Deployment
from .run import Settings, run

__all__ = ["short_round"]


async def short_round(deployment: Deployment, seed: int) -> None:
    outcome = await run(Settings(deployment, seed, seconds=20, pause=0.1))
    assert outcome.ok, outcome.text()
