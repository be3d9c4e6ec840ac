"""The middleware of an app, sorted by hook once, so that jobs pay only for what there is."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mesh.errors import ConfigError
from mesh.middleware.base import AttemptEnded, Middleware, NewJob
from mesh.scoped import Scoped, scoped
from mesh.wire import Envelope

__all__ = ["Hooks"]

log = logging.getLogger("mesh")


class Hooks:
    """What ``middleware`` overrides, in its order."""

    def __init__(self, middleware: Iterable[Middleware]) -> None:
        """Raises ``ConfigError`` for what is no middleware, or a hook that is not as it must
        be."""
        self.enqueue: list[Scoped] = []
        self.execute: list[Scoped] = []
        self.ended: list[Callable[[AttemptEnded], Any]] = []
        for each in middleware:
            if not isinstance(each, Middleware):
                raise ConfigError(
                    f"middleware={each!r}: must be an object of a subclass of mesh.Middleware"
                )
            kind = type(each)
            if kind.enqueue is not Middleware.enqueue:
                self.enqueue.append(_scoped(each, "enqueue"))
            if kind.execute is not Middleware.execute:
                self.execute.append(_scoped(each, "execute"))
            if kind.ended is not Middleware.ended:
                self.ended.append(_told(each))

    @property
    def at_attempts(self) -> bool:
        """Whether workers have anything to do."""
        return bool(self.execute or self.ended)

    @asynccontextmanager
    async def storing(self, jobs: Sequence[Envelope]) -> AsyncIterator[list[Envelope]]:
        """Around the storing of ``jobs``; gives them as they are to be stored."""
        new = [NewJob(job) for job in jobs]
        async with AsyncExitStack() as stack:
            for hook in self.enqueue:
                await hook.enter(stack, new)
            yield [job.envelope() for job in new]

    async def tell(self, attempt: AttemptEnded) -> None:
        """Tell all who want to know. Raises nothing but ``CancelledError``."""
        for told in self.ended:
            try:
                waiting = told(attempt)
                if inspect.isawaitable(waiting):
                    await waiting
            except asyncio.CancelledError:
                raise
            except BaseException:
                # The outcome stands, whatever a reporter makes of it.
                log.exception("job %s (%s): middleware failed", attempt.job_id, attempt.name)


def _scoped(middleware: Middleware, hook: str) -> Scoped:
    found = scoped(getattr(middleware, hook))
    if found is None:
        raise ConfigError(
            f"{type(middleware).__qualname__}.{hook}() must be a generator that yields once: what "
            "stands before the yield runs before, the rest after"
        )
    return found


def _told(middleware: Middleware) -> Callable[[AttemptEnded], Any]:
    if scoped(middleware.ended) is not None:
        raise ConfigError(
            f"{type(middleware).__qualname__}.ended() is told what became of an attempt, and "
            "surrounds nothing: it must not yield"
        )
    return middleware.ended
