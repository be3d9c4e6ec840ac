"""Slowing down those who try passwords.

Failures are counted per address, and per address and user name, in buckets that refill: a bucket
is *full* → each failure takes one → *empty*: refused until one has come back. So nobody can lock
out somebody else from elsewhere. Counted per process, in bounded memory; what is forgotten first
is what failed longest ago.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Throttle"]


class Throttle:
    """Moments are monotonic seconds."""

    def __init__(self, most: int, per: float, remembered: int = 10_000) -> None:
        """``most`` failures at once, then one each ``per`` seconds."""
        self._most, self._per, self._remembered = most, per, remembered
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """How many count, and when that was so."""

    def wait(self, who: str, now: float) -> float:
        """Seconds until ``who`` may try again; 0 is now."""
        count = self._count(who, now)
        return max(0.0, (count - self._most + 1) * self._per)

    def failed(self, who: str, now: float) -> None:
        self._failures[who] = (self._count(who, now) + 1, now)
        self._failures.move_to_end(who)
        while len(self._failures) > self._remembered:
            self._failures.popitem(last=False)

    def succeeded(self, who: str) -> None:
        self._failures.pop(who, None)

    def _count(self, who: str, now: float) -> float:
        count, then = self._failures.get(who, (0.0, now))
        return max(0.0, count - (now - then) / self._per)
