"""One lifecycle for everything that runs: workers, recorders, dispatchers, whole processes.

States: *new* → *starting* → *running* → *stopping* → *stopped*, and from *stopped* again to
*starting*. ``start`` and ``stop`` may be called any number of times, in any order and
concurrently; each returns when the service is where it was asked to be. A ``start`` while it
is *stopping* waits for the end and starts it anew. A subclass writes ``run`` alone, with
structured concurrency inside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from mesh.clock import Clock, SystemClock
from mesh.errors import MeshError

__all__ = ["Backoff", "Group", "Problems", "Service", "pass_on", "unique_name"]

log = logging.getLogger("mesh")
T = TypeVar("T")


def unique_name() -> str:
    """A name for a worker or coordinator of this process, by which people can find it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def pass_on(event: asyncio.Event, to: asyncio.Event) -> None:
    """Set ``to`` once ``event`` is set: for what waits for one of several reasons."""
    await event.wait()
    to.set()


class Service:
    """Something that is started, runs until stopped, and can be waited for.

    Subclasses implement ``run(ready)``: call ``ready()`` once others may rely on the service,
    return soon after ``self.stopping`` is set, finish what must be finished before returning.
    Cancellation of ``run`` means: stop now.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopping = asyncio.Event()
        """Set when the service was asked to stop."""
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """The service's work; see the class."""
        raise NotImplementedError

    async def start(self) -> None:
        """Return when the service is ready. Raises what ``run`` raised before it was."""
        while self._task is not None and self.stopping.is_set() and not self._task.done():
            await asyncio.wait([self._task])
        if self._task is None or self._task.done():
            self.stopping.clear()
            self._ready = ready = asyncio.get_running_loop().create_future()

            def is_ready() -> None:
                if not ready.done():
                    ready.set_result(None)

            self._task = asyncio.create_task(self.run(is_ready), name=self.name)
            self._task.add_done_callback(partial(self._ended, ready))
        assert self._ready is not None
        await asyncio.shield(self._ready)

    async def stop(self) -> None:
        """Ask the service to stop and return when it has. Does not raise what ``run`` raised."""
        self.stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def abort(self) -> None:
        """Cancel ``run`` and return when it ended: for tests, and for the end of a grace time."""
        self.stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait(self) -> None:
        """Return when the service ended, by itself or not; raise what ``run`` raised."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _ended(self, ready: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if ready.done():
            if error is not None:
                log.error("%s ended: %s", self.name, error, exc_info=error)
            elif task.cancelled() and not self.stopping.is_set() and not task.cancelling():
                # Nobody asked for it, as an event loop does that ends: something within let go
                # of a cancellation that was not its own.
                log.error(
                    "%s ended: a cancellation came from within, that nobody asked for", self.name
                )
        elif task.cancelled():
            ready.set_exception(MeshError(f"{self.name} was stopped before it was ready"))
            ready.exception()  # asked for here, so that nobody else must
        elif error is not None:
            ready.set_exception(error)
            ready.exception()
        else:
            # Stopped before it was ready: whoever waits in start() is let go.
            ready.set_result(None)


class Group(Service):
    """Services that run together: started in order, stopped in the reverse order, or all at once
    where none needs another.

    When one of them ends on its own, the group stops the others and ends with its exception.
    """

    def __init__(self, name: str, members: Sequence[Service], *, at_once: bool = False) -> None:
        """``at_once``: how they are stopped."""
        super().__init__(name)
        self.members = tuple(members)
        self._at_once = at_once

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            for member in self.members:
                if self.stopping.is_set():
                    return
                await member.start()
            ready()
            await self._first_end()
        finally:
            await self._stop_members()

    async def stop(self) -> None:
        self.stopping.set()
        # A member that is still starting, perhaps for ever, must hear of it too.
        await self._stop_members()
        await super().stop()

    async def abort(self) -> None:
        self.stopping.set()
        for member in reversed(self.members):
            await member.abort()
        await super().abort()

    async def _stop_members(self) -> None:
        if self._at_once:
            await asyncio.gather(*(member.stop() for member in self.members))
            return
        for member in reversed(self.members):
            await member.stop()

    async def _first_end(self) -> None:
        stop: asyncio.Task[Any] = asyncio.create_task(self.stopping.wait())
        tasks = [stop, *(asyncio.create_task(member.wait()) for member in self.members)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


class Problems:
    """What is amiss: logged once for each subject, until it changes or is over."""

    def __init__(self, name: str) -> None:
        """``name`` says whose problems these are."""
        self._name = name
        self._said: dict[str, str] = {}

    def say(self, problem: object, about: str = "") -> None:
        """Log it, unless it is what was said about this subject last."""
        text = str(problem)
        if self._said.get(about, "") != text:
            self._said[about] = text
            log.warning("%s: %s; trying again", self._name, text)

    def over(self, about: str = "") -> bool:
        """Nothing is amiss with this subject any more. Whether something was."""
        return self._said.pop(about, None) is not None


class Backoff:
    """Pauses between tries that double from ``first`` to ``longest`` seconds.

    ``wait`` ends early when ``stopping`` is set. ``reset`` after a success.
    """

    def __init__(
        self,
        stopping: asyncio.Event,
        first: float = 0.1,
        longest: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._stopping = stopping
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    async def wait(self) -> None:
        pause, self._next = self._next, min(self._next * 2, self._longest)
        await self.pause(pause)

    async def pause(self, seconds: float) -> None:
        """Wait, or less if ``stopping`` is set."""
        await self._clock.wait(self._stopping, seconds)

    async def retry(
        self, what: str, attempt: Callable[[], Awaitable[T]], errors: type[Exception]
    ) -> T | None:
        """The result of ``attempt``, tried until it raises none of ``errors``; ``None`` if
        ``stopping`` was set before. Each failure is logged once until its text changes."""
        problems = Problems(what)
        while not self._stopping.is_set():
            try:
                result = await attempt()
            except errors as error:
                problems.say(error)
                await self.wait()
            else:
                if problems.over():
                    log.warning("%s: back", what)
                self.reset()
                return result
        return None
