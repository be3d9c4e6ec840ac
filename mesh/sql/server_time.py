"""The time of a database server.

Leases and due times are judged by it, so that a machine whose clock is wrong does no harm: the
offset is measured on connecting and again each minute, and carried on with the monotonic clock in
between.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock, SystemClock

__all__ = ["ServerTime"]

_RESYNC = 60.0
_QUICK = 0.5
"""Seconds for an answer. It was given at some moment in between: one that took as long as a lease,
as when the connection hung, tells nothing that leases may be judged by."""
_RETRY = 5.0
_OLD = 600.0
"""Seconds: the server's clock may have been set since."""


class ServerTime:
    """Seconds since the epoch, by the server's clock."""

    def __init__(self, clock: Clock, *, query: str | None) -> None:
        """``query`` asks the server's clock; ``None``: the database has no other than this
        machine's."""
        self.skew = 0.0
        """Seconds that the server's clock is ahead of this machine's, when last measured."""
        self._clock = clock
        self._query = query
        # A clock in the system clock's place is the time, for the database too.
        self._is_measured = query is not None and isinstance(clock, SystemClock)
        self._server_time = 0.0
        self._measured_at = float("-inf")
        self._uncertainty = float("inf")
        """Seconds by which the server's time may be another, as it was measured."""
        self._measure_at = float("-inf")

    def now(self) -> float:
        if not self._is_measured or self._measured_at == float("-inf"):
            # Not measured yet: the database is being opened.
            return self._clock.time()
        return self._server_time + (self._clock.monotonic() - self._measured_at)

    async def measure_now_and_then(self, connection: AsyncConnection) -> None:
        if self._clock.monotonic() >= self._measure_at:
            await self.measure(connection)

    async def measure(self, connection: AsyncConnection) -> None:
        """Ask the server. An answer that took long counts only for want of a better. Where there
        is nothing to ask, this still proves that the database can be opened."""
        before = self._clock.monotonic()
        result = await connection.execute(text(self._query or "SELECT 1"))
        after = self._clock.monotonic()
        uncertainty = (after - before) / 2
        self._measure_at = after + (_RESYNC if uncertainty <= _QUICK / 2 else _RETRY)
        is_worse = uncertainty > max(_QUICK / 2, self._uncertainty)
        if is_worse and after - self._measured_at < _OLD:
            return
        self._uncertainty = uncertainty
        self._measured_at = (before + after) / 2
        if self._query is not None:
            self._server_time = float(result.scalar_one())
            self.skew = self.now() - self._clock.time()
