"""What a handler can say of its own attempt: words to raise, and one to return.

They are no errors of jobmesh, and no failures of the handler: whoever catches ``Exception``
around them should raise them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from mesh.errors import ConfigError

__all__ = ["Cancel", "Fail", "Failure", "RetryAfter", "Snooze"]


class Fail(Exception):
    """``raise Fail("reason")``: the job ends ``failed``, whatever attempts are left."""


class Cancel(Exception):
    """``raise Cancel("reason")``: the job ends ``cancelled``."""


class _Later(Exception):
    def __init__(self, seconds: float, reason: str = "") -> None:
        if not isinstance(seconds, int | float) or not 0 <= seconds < inf:
            raise ConfigError(
                f"{self.word}({seconds!r}): must be a number of seconds, 0 or more, from now"
            )
        super().__init__(reason or f"{self.word}({seconds:g})")
        self.seconds = float(seconds)

    word = ""


class Snooze(_Later):
    """``raise Snooze(seconds)``: not now; run the job again after so many seconds. The attempt
    does not count against the policy's ``max_attempts``. Raises ``ConfigError``."""

    word = "Snooze"


class RetryAfter(_Later):
    """What ``Retry.after(seconds)`` returns, to be raised."""

    word = "Retry.after"


@dataclass(frozen=True, slots=True)
class Failure:
    """``return Failure("reason")``: the attempt failed, said with a value. The job runs again as
    its policy says, or with ``retry=False`` it ends ``failed``. It is no result: a handler that
    is annotated ``-> Receipt | Failure`` results in a ``Receipt``."""

    reason: str
    retry: bool = True
