"""When a failed attempt runs again. Pure: no I/O, no clock, randomness is passed in."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Literal

import msgspec

from mesh.errors import ConfigError

__all__ = ["DEFAULT_RETRY", "NO_RETRY", "Retry"]


class Retry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How often and when a failing job runs again.

    ``max_attempts`` counts every execution, the first and those lost to a crash included.
    ``delay`` is the seconds before the second attempt; with ``backoff="exponential"`` it is
    multiplied by ``factor`` for each attempt after that, up to ``max_delay`` seconds.
    ``jitter`` spreads each delay evenly by that fraction to both sides, so that jobs which
    failed together don't come back together.
    """

    max_attempts: int = 5
    delay: float = 2.0
    backoff: Literal["fixed", "exponential"] = "exponential"
    factor: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(
                f"Retry(max_attempts={self.max_attempts}): the first execution counts, "
                "so the least is 1 (never again)"
            )
        if not (0 <= self.delay < inf and 0 <= self.max_delay < inf):
            raise ConfigError(
                f"Retry(delay={self.delay}, max_delay={self.max_delay}): must be seconds, 0 or more"
            )
        if self.backoff not in ("fixed", "exponential"):
            raise ConfigError(f"Retry(backoff={self.backoff!r}): must be 'fixed' or 'exponential'")
        if not 1 <= self.factor < inf:
            raise ConfigError(f"Retry(factor={self.factor}): below 1 the delays would shrink")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"Retry(jitter={self.jitter}): must be between 0 and 1")

    def next_delay(self, attempt: int, random: Random) -> float | None:
        """Seconds to wait after ``attempt`` (from 1) failed, or ``None``: no more attempts."""
        if attempt >= self.max_attempts:
            return None
        delay = self.delay
        if self.backoff == "exponential":
            try:
                delay *= self.factor ** (attempt - 1)
            except OverflowError:
                delay = self.max_delay
        delay = min(delay, self.max_delay)
        return delay * (1 + self.jitter * random.uniform(-1, 1))


DEFAULT_RETRY = Retry()
NO_RETRY = Retry(max_attempts=1)
