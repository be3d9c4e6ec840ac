"""The lease keeper: extends the leases of what a worker holds, from a thread of its own.

A handler that blocks the event loop must not lose its lease and be run twice, so the keeper
shares nothing with that loop: it has its own thread, its own event loop and its own connection
to the agent. It extends every held lease each third of the lease's length; so a lease that it
keeps has at least a third of its length left even when one extension fails. While the process
is frozen nothing is extended, and leases end: that is what they are for. A process that goes on
after that says which jobs others may be running by now; agents need not tell, since the time
without an extension does.

In the same thread a ``Watchdog`` looks after that event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from mesh.ports import Agent, Delivery
from mesh_workers.watchdog import Blame, Watchdog

__all__ = ["LeaseKeeper"]

log = logging.getLogger("mesh")

_RETRY = 1.0
_PATIENCE = 5.0
_MOST_NAMED = 20
"""How many jobs a log line names."""


class LeaseKeeper:
    """``hold`` and ``release`` may be called from any thread."""

    def __init__(
        self,
        connect: Callable[[], Agent],
        lease: float,
        blame: Blame | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``blame``: for the watchdog."""
        self._now = now
        self._connect = connect
        self._lease = lease
        self._watchdog = Watchdog(lease, blame)
        self._held: dict[str, tuple[float, Delivery]] = {}
        """Deliveries by receipt, and when they were pulled."""
        self._kept_at = self._now()
        """The leases of all that was held then have been extended."""
        self._ended: set[str] = set()
        """Receipts whose lease has ended, as far as is known; said once."""
        self._settling: set[str] = set()
        self._doubtful: set[str] = set()
        """Those that were gone as they were being settled: they may be just that."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """Keep these leases from now on."""
        now = self._now()
        with self._lock:
            self._held.update({d.receipt: (now, d) for d in deliveries})

    def settling(self, receipts: Sequence[str]) -> None:
        """They may be gone from now on, before ``release`` says so."""
        with self._lock:
            self._settling.update(receipts)

    def release(self, receipts: Sequence[str]) -> None:
        """They are settled."""
        with self._lock:
            ended = self._find_ended()
            for receipt in receipts:
                self._held.pop(receipt, None)
            self._ended.difference_update(receipts)
            self._settling.difference_update(receipts)
        self._say_ended(ended)

    @property
    def is_behind(self) -> bool:
        """Whether some leases may have ended: to be asked before anything is started."""
        return bool(self._ended) or self._is_overdue()

    def lost(self, deliveries: Iterable[Delivery]) -> set[str]:
        """The receipts of those whose lease has ended since nobody extended it in time. Others may
        have the jobs by now, also if a later extension seemed to do."""
        with self._lock:
            ended = self._find_ended()
            lost = self._ended & {delivery.receipt for delivery in deliveries}
        self._say_ended(ended)
        return lost

    @property
    def held(self) -> int:
        with self._lock:
            return len(self._held)

    def start(self) -> None:
        """Return when the thread runs. Once, in the event loop that is to be watched."""
        self._watchdog.watch()
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
        tasks = [
            asyncio.create_task(self._keep(agent)),
            asyncio.create_task(self._watchdog.run()),
        ]
        try:
            await self._stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await agent.close()

    async def _keep(self, agent: Agent) -> None:
        third = self._lease / 3
        pause = third
        while True:
            await asyncio.sleep(pause)
            pause = third
            with self._lock:
                now = self._now()
                ended = self._find_ended()
                held = list(self._held)
            self._say_ended(ended)
            if not held:
                self._kept_at = now
                continue
            try:
                async with asyncio.timeout(max(third, _RETRY)):
                    await agent.open()
                    lost = await agent.extend(held, self._lease)
            except Exception as error:  # whatever it is, the next try may do better
                log.warning("leases of %d jobs are not extended: %r", len(held), error)
                pause = min(_RETRY, third / 4)
            else:
                self._kept_at = now
                self._forget(lost)

    def _is_overdue(self) -> bool:
        return self._now() - self._kept_at > self._lease

    def _find_ended(self) -> dict[str, Delivery]:
        """Those whose lease has ended since nobody extended it, and of which this was not said."""
        if not self._is_overdue():
            return {}
        last = self._now() - self._lease
        found = {
            receipt: delivery
            for receipt, (since, delivery) in self._held.items()
            if since < last and receipt not in self._ended
        }
        self._ended |= found.keys()
        return found

    def _say_ended(self, ended: Mapping[str, Delivery]) -> None:
        if ended:
            log.error(
                "%s: the lease of %g s ended before it was extended, since this process was "
                "stopped or cut off for longer: another worker may run the job, and only the "
                "first outcome counts",
                _names(ended.values()),
                self._lease,
            )

    def _forget(self, lost: set[str]) -> None:
        with self._lock:
            # Some may have been settled, and so have ended, while the extension was under way; or
            # may be just now, and the word of it has not come here.
            sure = {r for r in lost if r not in self._settling or r in self._doubtful}
            self._doubtful = lost - sure
            gone = {r: self._held.pop(r)[1] for r in sure if r in self._held}
            self._ended.difference_update(gone)
        if gone:
            log.error(
                "%s: the lease was lost: others may run the job again, and only the first "
                "outcome will count",
                _names(gone.values()),
            )


def _names(deliveries: Iterable[Delivery]) -> str:
    names = sorted(f"job {d.job.id} ({d.job.name})" for d in deliveries)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
