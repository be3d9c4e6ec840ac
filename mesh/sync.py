"""``app.sync``: the same objects for code without an event loop.

``app.sync(job.result(timeout=10))`` runs the awaitable on an event loop in a thread of its own
and returns what it returns, or raises what it raises. There is no second set of methods.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
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
        self._thread: _LoopThread | None = None

    def __call__(self, awaitable: Awaitable[T]) -> T:
        """The awaitable's result. Raises ``MeshError`` where an event loop runs."""
        try:
            self._refuse_loop()
        except MeshError:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise
        return self._running().call(awaitable)

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """``for event in app.sync.iterate(job.events())``."""

        async def following() -> tuple[T] | None:
            try:
                return (await anext(iterator),)
            except StopAsyncIteration:
                return None

        try:
            while (item := self(following())) is not None:
                yield item[0]
        finally:
            if isinstance(iterator, AsyncGenerator):
                self(iterator.aclose())

    def close(self) -> None:
        """Disconnect and end the thread. It starts anew when used again.

        Calls in which other threads wait end, in ``concurrent.futures.CancelledError`` at worst.
        """
        self._refuse_loop()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread.pid == os.getpid():
            thread.call(self._close())
            thread.stop()

    @staticmethod
    def _refuse_loop() -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise MeshError("app.sync(...) was called where an event loop runs: use await instead")

    def _running(self) -> _LoopThread:
        thread = self._thread
        if thread is None or thread.pid != os.getpid():
            with self._lock:
                thread = self._thread
                if thread is None or thread.pid != os.getpid():
                    thread = self._thread = _LoopThread()
        return thread


class _LoopThread:
    """An event loop that runs in a daemon thread of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=_run, args=(started,), name="mesh-sync", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def call(self, awaitable: Awaitable[T]) -> T:
        async def run() -> T:
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C, say: nobody waits for it any more.
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _run(started: Future[asyncio.AbstractEventLoop]) -> None:
    # The runner's end cancels what is left, and closes generators and the loop.
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        started.set_result(loop)
        loop.run_forever()
