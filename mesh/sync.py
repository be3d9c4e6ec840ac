"""``app.sync``: the same objects for code without an event loop.

``app.sync(job.result(timeout=10))`` runs the awaitable on an event loop in a thread of its own
and returns what it returns, or raises what it raises. There is no second set of methods.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from mesh.errors import MeshError

__all__ = ["Sync"]

T = TypeVar("T")


class Sync:
    """A bridge to an event loop in a background thread, started when first used.

    May be called from any thread that runs no event loop. After a fork (gunicorn, uwsgi) the
    child starts a thread of its own.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def __call__(self, awaitable: Awaitable[T]) -> T:
        """The awaitable's result."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise MeshError("app.sync(...) was called where an event loop runs: use await instead")

        async def run() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._running()).result()

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """``for event in app.sync.iterate(job.events())``."""

        async def following() -> tuple[T] | None:
            try:
                return (await anext(iterator),)
            except StopAsyncIteration:
                return None

        while (item := self(following())) is not None:
            yield item[0]

    def close(self) -> None:
        """Disconnect and end the thread. It starts anew when used again."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None and self._pid == os.getpid():

                async def end() -> None:
                    await self._close()

                asyncio.run_coroutine_threadsafe(end(), loop).result()
                loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(loop,), name="mesh-sync", daemon=True).start()
                self._loop, self._pid = loop, os.getpid()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
