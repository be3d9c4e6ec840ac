"""The watchdog: notices from another thread that the worker's event loop stands still.

A handler that computes or waits without ``await`` holds up all others of its process: their
progress, their time-outs, the pulling of jobs. It does no harm to leases, which is why nobody
would notice. States: *asking* (the loop is to answer) → *pausing* → *asking*; or, with no answer
in time, *blocked* (said at once, with the place in the code) → *asking* (said with its length).

If this thread too came to run late, the process had been stopped, or something kept Python's
global lock; that is said, and nobody is blamed for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from mesh.wire import Envelope

__all__ = ["Blame", "Watchdog"]

log = logging.getLogger("mesh")

Blame = Callable[[FrameType], Envelope | None]
"""The job that is being run in that stack of the event loop's thread."""

_PATIENCE = 1.0
"""Seconds without an answer, at most, until the event loop counts as blocked."""


class Watchdog:
    """``watch`` is called in the event loop to be watched, ``run`` is run in another's thread."""

    def __init__(
        self, lease: float, blame: Blame | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """``lease``: a loop that is blocked for a third of so many seconds is noticed."""
        self._now = now
        self._patience = min(_PATIENCE, lease / 3)
        self._blame = blame
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def watch(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    async def run(self) -> None:
        """Until cancelled, or until the event loop is closed."""
        assert self._loop is not None
        here = asyncio.get_running_loop()
        while True:
            answered, asked = asyncio.Event(), self._now()

            def answer(event: asyncio.Event = answered) -> None:
                with suppress(RuntimeError):  # closed: nobody asks any more
                    here.call_soon_threadsafe(event.set)

            try:
                self._loop.call_soon_threadsafe(answer)
            except RuntimeError:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await answered.wait()
            waited = self._now() - asked
            if waited > 2 * self._patience:
                log.warning(
                    "this process did not run for %.1f s: it was stopped, had no processor, or "
                    "native code kept Python's global lock",
                    waited,
                )
            elif not answered.is_set():
                await self._wait_for_end(answered, asked)
            await asyncio.sleep(self._patience / 4)

    async def _wait_for_end(self, answered: asyncio.Event, asked: float) -> None:
        frame = sys._current_frames().get(self._thread)
        if frame is None:  # the thread has ended, and so has the loop
            return
        job = self._blame(frame) if self._blame is not None else None
        who = "something" if job is None else f"job {job.id} ({job.name})"
        code = frame.f_code
        where = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        del frame
        log.warning(
            "%s has blocked the event loop for %.1f s, at %s: all other jobs of this process "
            "wait; let it await, or make it a def handler or process=True",
            who,
            self._now() - asked,
            where,
        )
        await answered.wait()
        log.warning("%s blocked the event loop for %.1f s", who, self._now() - asked)
