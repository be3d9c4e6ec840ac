"""What is opened around a piece of work and closed after it, written as a generator that yields
once. Middleware and dependencies alike are made of this.

Unlike the context managers of ``contextlib``, which these are, they cannot swallow what went
wrong inside: a failure stays one, for all that was opened before too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any

__all__ = ["Scoped", "scoped"]

Opened = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]


@dataclass(frozen=True, slots=True)
class Scoped:
    """A generator function, to be opened any number of times."""

    is_async: bool
    make: Callable[..., Opened]

    async def enter(self, stack: AsyncExitStack, /, *args: Any, **kwargs: Any) -> Any:
        """Run it to its ``yield``, on the event loop; ``stack`` runs the rest. Returns what it
        yields, raises what it raises."""
        opened = self.make(*args, **kwargs)
        if isinstance(opened, AbstractContextManager):
            return _enter(stack, opened)
        value = await opened.__aenter__()

        async def leave(
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> bool:
            await opened.__aexit__(kind, error, trace)
            return False

        stack.push_async_exit(leave)
        return value

    def enter_here(self, stack: ExitStack, /, *args: Any, **kwargs: Any) -> Any:
        """The same for one that is not async, where no event loop runs."""
        opened = self.make(*args, **kwargs)
        assert isinstance(opened, AbstractContextManager)
        return _enter(stack, opened)


def _enter(stack: ExitStack | AsyncExitStack, opened: AbstractContextManager[Any]) -> Any:
    value = opened.__enter__()

    def leave(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        opened.__exit__(kind, error, trace)
        return False

    stack.push(leave)
    return value


def scoped(function: Callable[..., Any]) -> Scoped | None:
    """``None`` if the function is no generator."""
    if inspect.isgeneratorfunction(function):
        return Scoped(False, contextmanager(function))
    if inspect.isasyncgenfunction(function):
        return Scoped(True, asynccontextmanager(function))
    return None
