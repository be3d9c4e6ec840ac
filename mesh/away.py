"""Agents that failed just now, as one client saw it: a circuit breaker for each.

*closed*: jobs are offered. After a failure that came at once the agent is tried last, for a second.
After one that took long, as when nothing answers, it is *open*: nobody waits for it again until a
pause is over, which is longer each time. Then one offer goes there (*half open*), and decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import AgentUnavailable

__all__ = ["Away"]

_LAST = 1.0
_PAUSE, _LONGEST = 1.0, 15.0


@dataclass
class _Breaker:
    last_until: float = 0.0
    open_until: float = 0.0
    is_half_open: bool = False
    pause: float = _PAUSE


class Away:
    """See the module. Times are of the clock's monotonic one."""

    def __init__(self, clock: Clock, slow: float) -> None:
        """``slow``: seconds after which a failure was slow."""
        self._clock = clock
        self._slow = slow
        self._breakers: dict[str, _Breaker] = {}

    def is_last(self, agent: str) -> bool:
        """Whether others are to be tried before it."""
        breaker = self._breakers.get(agent)
        return breaker is not None and breaker.last_until > self._clock.monotonic()

    def ask(self, agent: str) -> AgentUnavailable | None:
        """Why nothing is to be offered to it now; ``None`` lets the caller do so, who then says
        what came of it: ``failed`` or ``answered``."""
        breaker = self._breakers.get(agent)
        if breaker is None or not breaker.open_until:
            return None
        now = self._clock.monotonic()
        if now >= breaker.open_until:
            breaker.is_half_open = True
            breaker.open_until = now + 2 * self._slow  # others do not wait for what comes of it
            return None
        return AgentUnavailable(
            f"agent {agent} did not answer in time just now, and is asked again in "
            f"{breaker.open_until - now:.1f} s; check it with mesh doctor"
        )

    def failed(self, agent: str, took: float) -> None:
        """It was unavailable, or gave no answer, after so many seconds."""
        breaker = self._breakers.setdefault(agent, _Breaker())
        now = self._clock.monotonic()
        if breaker.open_until > now and not breaker.is_half_open:
            return  # one of many that were waiting for it
        breaker.is_half_open = False
        if took < self._slow:
            breaker.open_until, breaker.last_until = 0.0, now + _LAST
            return
        breaker.open_until = breaker.last_until = now + breaker.pause
        breaker.pause = min(2 * breaker.pause, _LONGEST)

    def answered(self, agent: str) -> None:
        self._breakers.pop(agent, None)
