"""The lease keeper: extends the leases of what a worker holds, from a thread of its own.

A handler that blocks the event loop must not lose its lease and be run twice, so the keeper
shares nothing with that loop: it has its own thread, its own event loop and its own connection
to the agent. It extends every held lease each third of the lease's length; so a lease that it
keeps has at least a third of its length left even when one extension fails. While the process
is frozen nothing is extended, and leases end: that is what they are for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable

from mesh.ports import Agent

__all__ = ["LeaseKeeper"]

log = logging.getLogger("mesh")

_RETRY = 1.0
_PATIENCE = 5.0


class LeaseKeeper:
    """``hold`` and ``release`` may be called from any thread."""

    def __init__(self, connect: Callable[[], Agent], lease: float) -> None:
        self._connect = connect
        self._lease = lease
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def hold(self, receipts: Iterable[str]) -> None:
        """Keep these leases from now on."""
        with self._lock:
            self._held.update(receipts)

    def release(self, receipts: Iterable[str]) -> None:
        """They are settled."""
        with self._lock:
            self._held.difference_update(receipts)

    @property
    def held(self) -> int:
        with self._lock:
            return len(self._held)

    def start(self) -> None:
        """Return when the thread runs. Once."""
        running = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(running)), name="mesh-leases", daemon=True
        )
        self._thread.start()
        running.wait()

    async def stop(self) -> None:
        """Return when the thread has ended, or is stuck. What is held is left to expire."""
        thread, self._thread = self._thread, None
        if thread is not None:
            assert self._loop is not None
            assert self._stop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(thread.join, _PATIENCE)

    async def _run(self, running: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        running.set()
        agent = self._connect()
        keeping = asyncio.create_task(self._keep(agent))
        try:
            await self._stop.wait()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await agent.close()

    async def _keep(self, agent: Agent) -> None:
        third = self._lease / 3
        pause = third
        while True:
            await asyncio.sleep(pause)
            pause = third
            with self._lock:
                held = list(self._held)
            if not held:
                continue
            try:
                async with asyncio.timeout(max(third, _RETRY)):
                    await agent.open()
                    lost = await agent.extend(held, self._lease)
            except Exception as error:  # whatever it is, the next try may do better
                log.warning("leases of %d jobs are not extended: %r", len(held), error)
                pause = min(_RETRY, third)
            else:
                self._forget(lost)

    def _forget(self, lost: set[str]) -> None:
        with self._lock:
            # Some may have been settled, and so have ended, while the extension was under way.
            lost = lost & self._held
            self._held -= lost
        if lost:
            log.warning(
                "the leases of %d running jobs were lost: others may run them again, and only the "
                "first outcome will count",
                len(lost),
            )
