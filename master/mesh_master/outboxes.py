"""Moving jobs from an application's outbox to the master.

Any number of coordinators may: each row is with one of them at a time. A row goes when the master
has its job; if the coordinator dies between the two, another brings the job again, which changes
nothing.

Where the master is there and refuses a batch, its jobs are brought one by one, so that one that it
does not take holds up no others; after ``_TRIES`` times that one is set aside.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from mesh.clock import Clock, SystemClock
from mesh.errors import MasterError, MasterUnavailable
from mesh.ports import Master
from mesh.service import Backoff, Service, pass_on
from mesh.sql.outbox import Outbox, Taken

__all__ = ["OutboxDuty"]

log = logging.getLogger("mesh")

_BATCH = 500
_TRIES = 3
"""How often the master must refuse a job by itself: what is wrong may be of the moment."""
_ONE_BY_ONE = 10.0
"""Seconds of a batch in which more than one job is brought by itself: its database waits."""


class OutboxDuty(Service):
    """Owns its connections: opens them, and closes them when it stops."""

    def __init__(self, outbox: Outbox, master: Master, clock: Clock | None = None) -> None:
        super().__init__("outbox")
        self._outbox = outbox
        self._master = master
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()
        self._refused: Counter[int] = Counter()
        """How often, by the number of the row."""

    async def run(self, ready: Callable[[], None]) -> None:
        ready()  # nobody need wait for the application's database
        backoff = Backoff(self.stopping, clock=self._clock)
        try:
            if await backoff.retry(self.name, self._open, MasterError) is None:
                return
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pass_on(self.stopping, self._wake))
                with self._outbox.waiting(self._wake):
                    await self._empty_again_and_again(backoff)
        finally:
            await self._outbox.close()
            await self._master.close()

    async def _empty_again_and_again(self, backoff: Backoff) -> None:
        looks = 0
        while not self.stopping.is_set():
            self._wake.clear()
            moved = await backoff.retry(self.name, self._move, MasterError)
            looks = 0 if moved else looks + 1
            if not moved:
                await self._clock.wait(self._wake, min(1.0, self._outbox.signals.pause(looks)))

    async def _open(self) -> bool:
        await self._outbox.open()
        await self._master.open()
        return True

    async def _move(self) -> int:
        until = self._clock.monotonic() + _ONE_BY_ONE
        async with self._outbox.take(_BATCH) as taken:
            if taken.jobs:
                try:
                    await self._master.submit(list(taken.jobs.values()))
                except MasterUnavailable:
                    raise
                except MasterError as error:
                    log.warning("%s: the master refuses some of a batch: %s", self.name, error)
                    await self._move_each(taken, until)
            return len(taken.jobs) - len(taken.kept)

    async def _move_each(self, taken: Taken, until: float) -> None:
        for place, (number, held) in enumerate(taken.jobs.items()):
            if place and self._clock.monotonic() > until:
                taken.kept.add(number)
                continue
            try:
                await self._master.submit([held])
            except MasterUnavailable:
                raise
            except MasterError as error:
                self._refused[number] += 1
                if self._refused[number] < _TRIES:
                    taken.kept.add(number)
                else:
                    taken.refused[number] = str(error)
                    del self._refused[number]
