"""Time, as one thing that can be replaced.

Inside jobmesh a moment is a ``float``: seconds since 1970-01-01 UTC. Aware ``datetime`` objects
live at the edges only (the SDK, the database columns).
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "from_datetime", "parse_duration", "to_datetime"]


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


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhdw])\s*)+\Z")


def parse_duration(text: str) -> float:
    """Seconds from how people write them: ``90``, ``90s``, ``1h 30m``, ``7d``, ``2w``.

    Raises ``ValueError``.
    """
    text = text.strip().lower()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if _DURATION.match(text):
        parts = re.findall(r"([\d.]+)(ms|[smhdw])", text)
        return sum(float(count) * _UNITS[unit] for count, unit in parts)
    raise ValueError(
        f"'{text}' is no duration: write seconds, or numbers with ms, s, m, h, d or w, such as "
        "90s, 1h 30m or 7d"
    )
