"""When a failed attempt runs again. Pure: no I/O, no clock, randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from mesh.errors import ConfigError, did_you_mean
from mesh.outcome import RetryAfter

__all__ = ["DEFAULT_RETRY", "NO_RETRY", "Retry"]

Backoff = Literal["fixed", "linear", "exponential"]
_BACKOFFS = get_args(Backoff)

if TYPE_CHECKING:
    Kinds = tuple[type[BaseException] | str, ...]
else:
    # What is kept, and travels: the classes' names.
    Kinds = tuple[str, ...]


class Retry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How often and when a failing job runs again.

    ``max_attempts`` counts every execution, the first and those lost to a crash included, but
    not those that were snoozed. ``delay`` is the seconds before the second attempt. With
    ``backoff="linear"`` it is added once more for each attempt after that, with
    ``"exponential"`` it is multiplied by ``factor``, up to ``max_delay`` seconds. ``jitter``
    spreads each delay evenly by that fraction to both sides, so that jobs which failed together
    don't come back together.

    Which failures are worth it: those of the exceptions ``on``, subclasses included (empty:
    all), but none of ``give_up_on``, and only if ``when(error)`` is true. What is not ends the
    job at once. The classes travel by their names (``"ValueError"``,
    ``"shop.errors.CardDeclined"``), which may be given instead. A function cannot travel, so
    ``when`` belongs to a handler's own policy; it is asked whatever policy the job carries.
    """

    max_attempts: int = 5
    delay: float = 2.0
    backoff: Backoff = "exponential"
    factor: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.2
    on: Kinds = ()
    give_up_on: Kinds = ()
    when: Callable[[BaseException], bool] | None = None

    @staticmethod
    def after(seconds: float, reason: str = "") -> RetryAfter:
        """``raise Retry.after(60)``: this attempt failed; run the next, if there is one left,
        after so many seconds instead of the policy's delay. Raises ``ConfigError``."""
        return RetryAfter(seconds, reason)

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
        if self.backoff not in _BACKOFFS:
            hint = did_you_mean(str(self.backoff), _BACKOFFS)
            raise ConfigError(f"Retry(backoff={self.backoff!r}): no such backoff{hint}")
        if not 1 <= self.factor < inf:
            raise ConfigError(f"Retry(factor={self.factor}): below 1 the delays would shrink")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"Retry(jitter={self.jitter}): must be between 0 and 1")
        # Most policies name none, and are made with each job that carries one.
        if self.on != ():
            msgspec.structs.force_setattr(self, "on", _names("on", self.on))
        if self.give_up_on != ():
            msgspec.structs.force_setattr(self, "give_up_on", _names("give_up_on", self.give_up_on))
        if self.when is not None and not callable(self.when):
            raise ConfigError(
                f"Retry(when={self.when!r}): must be a function of the error that says whether "
                "to run again"
            )

    def is_for(self, error: BaseException) -> bool:
        """Whether the job may run again after this error. Raises what ``when`` raises."""
        if self.on or self.give_up_on:
            names = {_name(kind) for kind in type(error).__mro__}
            if self.on and names.isdisjoint(self.on):
                return False
            if not names.isdisjoint(self.give_up_on):
                return False
        return self.when is None or bool(self.when(error))

    def next_delay(self, attempt: int, random: Random) -> float | None:
        """Seconds to wait after ``attempt`` (from 1) failed, or ``None``: no more attempts."""
        if attempt >= self.max_attempts:
            return None
        delay = self.delay
        if self.backoff == "linear":
            delay *= attempt
        elif self.backoff == "exponential":
            try:
                delay *= self.factor ** (attempt - 1)
            except OverflowError:
                delay = self.max_delay
        delay = min(delay, self.max_delay)
        return delay * (1 + self.jitter * random.uniform(-1, 1))


def _names(option: str, kinds: object) -> tuple[str, ...]:
    if not isinstance(kinds, tuple | list):
        raise ConfigError(
            f"Retry({option}={kinds!r}): must be a tuple of exceptions, such as (ConnectionError,)"
        )
    names = []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseException):
            kind = _name(kind)
        if not isinstance(kind, str) or not kind:
            raise ConfigError(
                f"Retry({option}=...): {kind!r} is no exception; give its class, or its name such "
                "as 'shop.errors.CardDeclined'"
            )
        names.append(kind)
    return tuple(names)


def _name(kind: type) -> str:
    """How an exception's class is known to other processes."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


DEFAULT_RETRY = Retry()
NO_RETRY = Retry(max_attempts=1)
