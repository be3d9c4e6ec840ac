"""Telling those who follow jobs that there is something new, without any haste.

The first signal after a quiet time leaves at once, what comes soon after it together: recorders
write many small batches a second, each signal is a statement to a server, and nobody's eyes are
faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from mesh.ports import EVERY_JOB, MANY_JOBS, Signals

__all__ = ["Announcer"]

_SPACING = 0.05
_MOST = 64
"""Topics in one signal; beyond that everybody looks."""


class Announcer:
    """Belongs to one event loop."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._topics: set[str] = set()
        self._said_at = float("-inf")
        self._later: asyncio.TimerHandle | None = None

    def announce(self, topics: Collection[str]) -> None:
        """Signal these topics now or soon."""
        if not topics:
            return
        self._topics.update(topics)
        if self._later is None:
            loop = asyncio.get_running_loop()
            rest = self._said_at + _SPACING - loop.time()
            if rest <= 0:
                self._say(loop)
            else:
                self._later = loop.call_later(rest, self._say, loop)

    def close(self) -> None:
        """Signal what waits; that is all for now."""
        if self._later is not None:
            self._later.cancel()
            self._say(asyncio.get_running_loop())

    def _say(self, loop: asyncio.AbstractEventLoop) -> None:
        topics, self._topics, self._later = self._topics, set(), None
        self._said_at = loop.time()
        self._signals.signal(topics if len(topics) <= _MOST else {EVERY_JOB, MANY_JOBS})
