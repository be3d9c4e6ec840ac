"""Who holds up the event loop is named; who does not, is not."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from worker_rig import PATIENCE

from mesh_workers.watchdog import Watchdog


class Lines(logging.Handler):
    """What was logged, and signals for it in both kinds of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.some = threading.Event()
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.some.set()
        self._loop.call_soon_threadsafe(self._changed.set)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.texts) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def said() -> AsyncIterator[Lines]:
    lines = Lines()
    log = logging.getLogger("mesh")
    log.addHandler(lines)
    yield lines
    log.removeHandler(lines)


@asynccontextmanager
async def watched(
    patience: float, now: Callable[[], float] = time.monotonic
) -> AsyncIterator[None]:
    """Another thread's event loop runs a watchdog over this one."""
    dog, running = Watchdog(3 * patience, None, now), threading.Event()
    loop = asyncio.new_event_loop()
    dog.watch()

    async def run() -> None:
        running.set()
        await dog.run()

    async def end() -> None:
        task.cancel()
        await asyncio.wait([task])
        loop.stop()

    task = loop.create_task(run())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running.wait(PATIENCE)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop)
        await asyncio.to_thread(thread.join)
        loop.close()


async def test_nobody_is_blamed_while_the_loop_goes_round(said: Lines) -> None:
    async with watched(0.2):
        for _ in range(50):
            await asyncio.sleep(0.01)
    assert not [line for line in said.texts if "blocked" in line]


async def test_where_the_loop_stands_is_said_while_it_does(said: Lines) -> None:
    async with watched(0.1):
        assert said.some.wait(PATIENCE)  # the loop stands still until then
        await said.until(2)
    begun, ended = said.texts
    assert "something has blocked the event loop for" in begun
    assert "threading.py" in begun
    assert "something blocked the event loop for" in ended


async def test_a_process_that_was_stopped_blames_nobody(said: Lines) -> None:
    moments = iter([0.0, 5.0])  # of one round, in which the process was stopped
    async with watched(0.2, lambda: next(moments, 5.0)):
        await said.until(1)
    assert said.texts == [
        "this process did not run for 5.0 s: it was stopped, had no processor, or native code "
        "kept Python's global lock"
    ]
