"""Waiting for jobs to end: one poller for all who wait in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mesh.clock import Clock
from mesh.errors import MasterUnavailable, ResultTimeout
from mesh.job import TERMINAL
from mesh.ports import JobInfo
from mesh.service import Backoff

__all__ = ["Ends"]

_FIRST_POLL = 0.005
_LONGEST_POLL = 0.5


class Ends:
    """``ask`` gives what the master knows of jobs; ``closing`` ends the asking."""

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Awaitable[Mapping[str, JobInfo]]],
        clock: Clock,
        closing: asyncio.Event,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._closing = closing
        self._waiting: dict[str, list[asyncio.Future[JobInfo]]] = {}
        self._new_waiter = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    async def close(self, error: Exception) -> None:
        """Who waits, is told."""
        self._fail(error)
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])

    async def wait(self, job_id: str, timeout: float | None) -> JobInfo:
        """The job, once it is in a terminal state. Raises ``ResultTimeout``."""
        future: asyncio.Future[JobInfo] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(future)
        self._new_waiter.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="mesh-results")
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise ResultTimeout(f"job {job_id} has not ended after {timeout:g} s") from None
        finally:
            waiters = self._waiting.get(job_id, [])
            if future in waiters:
                waiters.remove(future)
            if not waiters:
                self._waiting.pop(job_id, None)

    async def _poll(self) -> None:
        """Ask for all jobs that anyone waits for, in one query; less often the longer it takes."""
        pause = _FIRST_POLL
        backoff = Backoff(self._closing, clock=self._clock)
        while self._waiting:
            if self._new_waiter.is_set():
                self._new_waiter.clear()
                pause = _FIRST_POLL
            try:
                found = await backoff.retry("waiting for results", self._look, MasterUnavailable)
            except Exception as error:
                self._fail(error)
                return
            for job_id, job in (found or {}).items():
                if job.state in TERMINAL:
                    for future in self._waiting.pop(job_id, []):
                        if not future.done():
                            future.set_result(job)
                    pause = _FIRST_POLL
            await self._clock.wait(self._new_waiter, pause)
            pause = min(pause * 1.5, _LONGEST_POLL)

    def _fail(self, error: Exception) -> None:
        for waiters in self._waiting.values():
            for future in waiters:
                if not future.done():
                    future.set_exception(error)
        self._waiting.clear()

    async def _look(self) -> Mapping[str, JobInfo]:
        return await self._ask(list(self._waiting))
