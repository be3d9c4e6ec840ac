"""A clock that stands still until it is told to go."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Any

__all__ = ["ManualClock"]


class ManualClock:
    """A ``mesh.clock.Clock`` moved by ``advance`` alone. For one event loop."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if not event.is_set():
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait())]
            if seconds is not None:
                waits.append(asyncio.ensure_future(self.sleep(seconds)))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Move on; those whose sleep ends by then wake, in order."""
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
