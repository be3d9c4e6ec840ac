"""Threads for ``def`` handlers.

``ThreadPoolExecutor`` wakes a thread for each call and the event loop for each result, and with
quick handlers that waking is most of the work. Here:

- A thread that takes a call while others wait *calls one* more thread, and nobody calls another
  before that one has come. With the GIL held, quick calls are all worked off by the first thread;
  as soon as it blocks, the one that was called goes on, and calls the next: so threads come as
  fast as there is work for them, and no faster.
- Results gather until the event loop has time: it is woken once for all of them.

States of a thread: *coming* (started or notified, at most one) → *looking* (holds the lock) →
*running* a call → looking → … → *idle* → coming; idle or looking → *ended*, once closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")


class Threads(Generic[T]):
    """Up to ``most`` threads that serve the event loop that ``call`` is used in."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._some = threading.Condition(threading.Lock())
        self._calls: deque[tuple[Callable[[], T], asyncio.Future[T]]] = deque()
        self._started = self._idle = 0
        self._coming = self._closed = False
        self._ended: deque[tuple[asyncio.Future[T], T]] = deque()
        self._waking = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run it in a thread. It must not raise. Cancelling the future changes nothing for it.
        Raises ``RuntimeError`` if the system gives no thread at all."""
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._some:
            self._calls.append((function, future))
            try:
                self._call_one()
            except RuntimeError:
                self._calls.pop()
                raise
        return future

    def close(self) -> None:
        """Threads end when they have nothing to run. May be repeated."""
        with self._some:
            self._closed = True
            self._some.notify_all()

    def _call_one(self) -> None:
        if self._coming:
            return
        if self._idle:
            self._coming = True
            self._some.notify()
        elif self._started < self._most:
            self._coming = True
            self._started += 1
            name = f"{self._name}_{self._started}"
            try:
                threading.Thread(target=self._run, name=name).start()
            except RuntimeError:  # the system gives no more threads: those that are must do
                self._coming = False
                self._started -= 1
                if not self._started:
                    raise

    def _run(self) -> None:
        with self._some:
            self._coming = False
        while (taken := self._take()) is not None:
            function, future = taken
            self._ended.append((future, function()))
            # It is cleared before results are taken from the queue, so none is left behind.
            if not self._waking:
                self._waking = True
                self._wake()
            del taken, function, future

    def _take(self) -> tuple[Callable[[], T], asyncio.Future[T]] | None:
        with self._some:
            while not self._calls:
                if self._closed:
                    return None
                self._idle += 1
                self._some.wait()
                self._idle -= 1
                self._coming = False
            taken = self._calls.popleft()
            if self._calls:
                self._call_one()
            return taken

    def _wake(self) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False
        while self._ended:
            future, result = self._ended.popleft()
            if not future.done():
                future.set_result(result)
