"""How many of a kind may be under way, across the cluster, and how many may begin in a time.

Pure: what is said once, for a handler or a lane, becomes the ``Limit``s that each job carries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mesh.errors import ConfigError
from mesh.wire import Limit

__all__ = ["KeyFunction", "LimitRules", "parse_rate"]

KeyFunction = Callable[..., Any]
"""Called with a job's arguments by name: jobs for which it returns the same share a limit.
``None``: such a job is under no limit."""

_RATE = re.compile(r"\s*(\d+)\s*/\s*(second|minute|hour|day|s|m|h|d)\s*\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_KEY = 200


def parse_rate(text: Any, where: str = "limit") -> float:
    """How many a second ``"100/minute"`` are. Raises ``ConfigError``."""
    match = _RATE.match(text) if isinstance(text, str) else None
    if match is None or int(match[1]) < 1:
        raise ConfigError(
            f"{where}={text!r}: write a number and a second, minute, hour or day, such as "
            "'100/minute'"
        )
    return int(match[1]) / _SECONDS[match[2][0]]


@dataclass(frozen=True, slots=True)
class LimitRules:
    """The limits of a handler, or of a lane."""

    kind: str
    """``job`` or ``lane``: with the name, what tells limits of one from those of others."""
    name: str
    concurrency: int | None = None
    concurrency_key: KeyFunction | None = None
    rate: float | None = None
    """How many may begin a second."""
    burst: float = 1.0
    rate_key: KeyFunction | None = None

    @classmethod
    def parse(
        cls,
        kind: str,
        name: str,
        where: str,
        concurrency: Any = None,
        concurrency_key: Any = None,
        limit: Any = None,
        limit_key: Any = None,
        burst: Any = None,
    ) -> LimitRules | None:
        """``None``: nothing is limited. Raises ``ConfigError``, which begins with ``where``."""
        if concurrency_key is not None and concurrency is None:
            concurrency = 1
        if concurrency is not None and (
            not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1
        ):
            raise ConfigError(
                f"{where}: concurrency={concurrency!r}: must be a whole number, 1 or more"
            )
        for option, value, needs, given in (
            ("limit_key", limit_key, "limit", limit),
            ("burst", burst, "limit", limit),
            ("concurrency_key", concurrency_key, "concurrency", concurrency),
        ):
            if value is None:
                continue
            if given is None:
                raise ConfigError(f"{where}: {option} says nothing without {needs}=...")
            if option != "burst" and not callable(value):
                raise ConfigError(
                    f"{where}: {option}={value!r}: must be a function of the job's arguments, "
                    "such as lambda user_id, **_: user_id"
                )
        rate = None if limit is None else parse_rate(limit, f"{where}: limit")
        if burst is None:
            # What begins within a second need not be told apart.
            burst = max(1.0, rate or 0.0)
        elif not isinstance(burst, int | float) or burst < 1:
            raise ConfigError(f"{where}: burst={burst!r}: must be 1 or more")
        if concurrency is None and rate is None:
            return None
        return cls(kind, name, concurrency, concurrency_key, rate, float(burst), limit_key)

    def named(self, name: str) -> LimitRules:
        """The same for a handler, or a lane, of this name."""
        return replace(self, name=name)

    @property
    def needs_arguments(self) -> bool:
        return self.concurrency_key is not None or self.rate_key is not None

    def limits(self, arguments: Mapping[str, Any]) -> list[Limit]:
        """Those of a job. Raises what the functions raise."""
        found: list[Limit] = []
        if self.concurrency is not None:
            key = self._key("concurrency", self.concurrency_key, arguments)
            if key is not None:
                found.append(Limit(key, concurrency=self.concurrency))
        if self.rate is not None:
            key = self._key("rate", self.rate_key, arguments)
            if key is not None:
                found.append(Limit(key, rate=self.rate, burst=self.burst))
        return found

    def _key(
        self, what: str, function: KeyFunction | None, arguments: Mapping[str, Any]
    ) -> str | None:
        key = f"{self.kind}:{self.name}:{what}"
        if function is None:
            return key
        value = function(**arguments)
        if value is None:
            return None
        # No database keeps a NUL in a text.
        text = str(value).replace("\0", "\N{REPLACEMENT CHARACTER}")
        if len(text) > _LONGEST_KEY:
            raise ConfigError(
                f"handler '{self.name}': the {what} key {text[:40]!r}... has {len(text)} "
                f"characters; {_LONGEST_KEY} are the most"
            )
        return f"{key}:{text}"
