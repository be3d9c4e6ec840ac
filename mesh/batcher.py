"""Group commit: many callers, few writes.

While one write is under way the next items gather; then they leave together. There is no
linger: an item that finds the batcher idle is written at once. Each caller is resumed after
the write that carried its own item.

States: *idle* (nothing pending, no write), *writing* (up to ``max_in_flight`` writes). The
writes run in tasks that the batcher owns, because a batch belongs to all its callers: one of
them being cancelled must not take the write from the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Gathers items of concurrent ``submit`` calls into calls of ``write``.

    ``write`` gets at most ``max_items`` items, in the order of submission, and returns one
    result for each. If it raises, every caller of that batch gets the exception. With
    ``max_in_flight`` above 1 writes overlap.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_items: int = 1024,
        max_in_flight: int = 1,
    ) -> None:
        self._write = write
        self._max_items = max_items
        self._max_in_flight = max_in_flight
        self._pending: deque[tuple[Item, asyncio.Future[Result] | None]] = deque()
        self._writers: set[asyncio.Task[None]] = set()
        # Not len(_writers): a writer that has seen the queue empty is no longer active, but
        # its task is still in the set until the loop has called its done callback.
        self._active = 0

    async def submit(self, item: Item) -> Result:
        """Return the item's result once its write is done.

        Cancelling the caller does not recall the item: it may be written all the same.
        """
        return await self.post(item)

    def post(self, item: Item) -> asyncio.Future[Result]:
        """Like ``submit``, for callers that look at the result later or on ``drain``."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._add(item, future)
        return future

    def put(self, item: Item) -> None:
        """Like ``post``, for callers that need no result: ``write`` itself sees to failures."""
        self._add(item, None)

    def _add(self, item: Item, future: asyncio.Future[Result] | None) -> None:
        self._pending.append((item, future))
        if self._active >= self._max_in_flight:
            return
        self._active += 1
        writer = asyncio.get_running_loop().create_task(self._run(), name="mesh-batcher")
        self._writers.add(writer)
        writer.add_done_callback(self._writers.discard)

    @property
    def pending(self) -> int:
        """Items that wait for a write to begin."""
        return len(self._pending)

    async def drain(self) -> None:
        """Return when all that was submitted has been written, or failed."""
        while self._writers:
            await asyncio.wait(set(self._writers))

    async def _run(self) -> None:
        try:
            await self._write_pending()
        finally:
            self._active -= 1

    async def _write_pending(self) -> None:
        while self._pending:
            count = min(len(self._pending), self._max_items)
            batch = [self._pending.popleft() for _ in range(count)]
            try:
                results = await self._write([item for item, _ in batch])
                if len(results) != len(batch):
                    raise RuntimeError(
                        f"the write of {len(batch)} items returned {len(results)} results"
                    )
            except Exception as error:
                _fail(batch, error)
            except BaseException as error:
                # Nobody goes on here: those who wait for the next write must not hang.
                _fail([*batch, *self._pending], error)
                self._pending.clear()
                raise
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if future is not None and not future.done():
                        future.set_result(result)


def _fail(batch: Sequence[tuple[Any, asyncio.Future[Any] | None]], error: BaseException) -> None:
    for _, future in batch:
        if future is not None and not future.done():
            future.set_exception(error)
            # A caller that was cancelled, or posted and left, never looks.
            future.exception()
