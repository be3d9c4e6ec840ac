"""Time, as one thing that can be replaced.

Inside jobmesh a moment is a ``float``: seconds since 1970-01-01 UTC. Aware ``datetime`` objects
live at the edges only (the SDK, the database columns).
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "from_datetime", "to_datetime"]


class Clock(Protocol):
    """Where the time comes from. ``mesh.testing.ManualClock`` is the other implementation."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for durations and leases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of this clock's time."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for ``event``, up to ``seconds`` (``None``: for ever). Whether it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        return event.is_set()


def to_datetime(moment: float) -> datetime:
    """An aware UTC ``datetime`` for seconds since the epoch."""
    return datetime.fromtimestamp(moment, UTC)


def from_datetime(moment: datetime) -> float:
    """Seconds since the epoch. Raises ``ValueError`` for a naive ``datetime``."""
    if moment.tzinfo is None:
        raise ValueError(
            f"{moment.isoformat()} has no time zone; use an aware datetime, "
            "such as datetime(..., tzinfo=UTC)"
        )
    return moment.timestamp()
