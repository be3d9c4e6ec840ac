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

    def now(self) -> float:
        if not self._is_measured or self._measured_at == float("-inf"):
            # Not measured yet: the database is being opened.
            return self._clock.time()
        return self._server_time + (self._clock.monotonic() - self._measured_at)

    async def measure_now_and_then(self, connection: AsyncConnection) -> None:
        if self._clock.monotonic() - self._measured_at > _RESYNC:
            await self.measure(connection)

    async def measure(self, connection: AsyncConnection) -> None:
        if self._query is None:
            # Also proves that the file can be opened.
            await connection.execute(text("SELECT 1"))
            self._measured_at = self._clock.monotonic()
            return
        before = self._clock.monotonic()
        result = await connection.execute(text(self._query))
        self._server_time = float(result.scalar_one())
        self._measured_at = (before + self._clock.monotonic()) / 2
        self.skew = self.now() - self._clock.time()
