"""Telling an error tracker what failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args

from mesh.errors import ConfigError, did_you_mean
from mesh.job import State
from mesh.middleware.base import AttemptEnded, Middleware

__all__ = ["Report"]

Which = Literal["final", "every"]


class Report(Middleware):
    """Calls ``report`` with the attempts that failed: those after which the job ended ``failed``,
    or with ``which="every"`` also those after which it runs again.

    ::

        def to_sentry(attempt: AttemptEnded) -> None:
            with sentry_sdk.new_scope() as scope:
                scope.set_tag("job", attempt.name)
                sentry_sdk.capture_exception(attempt.exception)

        app = Mesh(..., middleware=[Report(to_sentry)])
    """

    def __init__(
        self, report: Callable[[AttemptEnded], Awaitable[None] | None], which: Which = "final"
    ) -> None:
        """``report`` may be ``async``; what it raises is logged. Raises ``ConfigError``."""
        if not callable(report):
            raise ConfigError(f"Report({report!r}): must be a function of an AttemptEnded")
        if which not in get_args(Which):
            hint = did_you_mean(str(which), get_args(Which))
            raise ConfigError(f"Report(which={which!r}): must be 'final' or 'every'{hint}")
        self._report = report
        self._states = (State.FAILED,) if which == "final" else (State.FAILED, State.RETRYING)

    def ended(self, attempt: AttemptEnded) -> Any:
        return self._report(attempt) if attempt.state in self._states else None
