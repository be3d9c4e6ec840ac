"""Whether the agent has room for more jobs, by the option ``max_bytes``.

The server's own limits cannot serve: they are of all streams together, so a store that is full of
jobs has no room for the outcomes that would empty it. This one is looked at before jobs are
pushed, and holds for nothing else: workers go on. It is not exact, as each client looks at most
once in ``_EVERY`` seconds: leave as much free as comes in meanwhile.
"""

from __future__ import annotations

import asyncio
import time

from mesh.errors import AgentError, AgentUnavailable
from mesh_agents.nats.streams import Streams

__all__ = ["Room"]

_EVERY = 1.0


class Room:
    """One of each agent object."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._most = streams.connection.options.max_bytes
        self._used = 0
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def refusal(self) -> AgentUnavailable | None:
        """Why no job may be pushed now."""
        if self._most is None:
            return None
        async with self._looking:
            if time.monotonic() - self._looked_at >= _EVERY:
                try:
                    self._used = (await self._streams.info("JOBS"))["state"]["bytes"]
                except AgentError:
                    return None  # A push meets the same, and can do more about it.
                self._looked_at = time.monotonic()
        if self._used < self._most:
            return None
        return AgentUnavailable(
            f"{self._streams.where}: its jobs take {self._used} bytes and max_bytes is "
            f"{self._most}: nothing was stored; workers make room, or raise max_bytes in its URL"
        )
