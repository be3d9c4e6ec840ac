"""The janitor: forgets what the history need not keep.

One works for the cluster, by the lease ``janitor``. States: *waiting* (another has the lease),
*sweeping* (page after page of jobs whose time is over, removed in small transactions, then what
was counted brought together, with a rest after each as long as it took, so that at most half of
one connection's time goes to it; a sweep that lasts longer than the time between two may not keep
up with what ends, and rests no longer than others need to get a turn),
*resting* (until the next sweep).

A sweep may end at any point, and two may meet for a moment, when a lease changes hands: what is
to go is found by its age, removed at most once, and what is not ended or still needed is left by
the master itself (``Master.remove``). So writes need not carry the lease. Within a sweep pages go
on behind each other: jobs that are kept for others' sake are looked at once a sweep.

What was forgotten is gone, so each sweep first asks the master itself for the cluster's settings:
those that have come by way of the board may be old. An archive's history is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mesh.clock import Clock, SystemClock
from mesh.errors import MasterError
from mesh.job import State
from mesh.ports import Master
from mesh.service import Problems, Service
from mesh.settings import ClusterSettings, Mode
from mesh_master.leader import Term, lead

__all__ = ["Janitor"]

log = logging.getLogger("mesh")

_WORKERS_KEPT = 24 * 3600.0
"""Seconds for which the last heartbeat of a worker that has gone is kept."""
_SERIES_KEPT = 90 * 24 * 3600.0
"""Seconds for which what happened is kept by the hour, or longer, if jobs are."""
_LEAST_REST = 0.01


class Janitor(Service):
    """Forgets for the whole cluster, whenever it leads."""

    def __init__(
        self,
        master: Master,
        *,
        retention: Callable[[ClusterSettings], Mapping[str, float]],
        holder: str,
        clock: Clock | None = None,
        interval: float = 60.0,
        batch: int = 800,
        ttl: float = 10.0,
    ) -> None:
        """``retention`` says what holds under the cluster's settings, as ``Config`` has it;
        ``interval`` is the seconds between two sweeps, ``batch`` how many jobs are removed before
        a rest."""
        super().__init__("janitor")
        self.removed = 0
        """Jobs forgotten."""
        self.sweeps = 0
        """Sweeps that came to their end."""
        self._retention = retention
        self._master = master
        self._holder = holder
        self._clock = clock or SystemClock()
        self._interval = interval
        self._batch = batch
        self._ttl = ttl

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await lead(
            self._master,
            "janitor",
            self._holder,
            self._duty,
            stopping=self.stopping,
            clock=self._clock,
            ttl=self._ttl,
        )

    async def _duty(self, term: Term) -> None:
        problems = Problems(self.name)
        while not term.over.is_set():
            try:
                await self._sweep(term.over)
            except MasterError as error:
                problems.say(error)
            else:
                problems.over()
            await self._clock.wait(term.over, self._interval)

    async def _sweep(self, over: asyncio.Event) -> None:
        before, page = self.removed, None
        keeps_up_until = self._clock.monotonic() + self._interval
        settings = await self._master.cluster_settings()
        retention = {State(state): kept for state, kept in self._retention(settings).items()}
        kept = max(_SERIES_KEPT, *retention.values(), 0.0)

        async def remove() -> bool:
            nonlocal page
            page = await self._remove_page(retention, page)
            return page is not None

        async def sweep() -> bool:
            workers_before = self._clock.time() - _WORKERS_KEPT
            return await self._master.sweep(workers_before, self._batch) >= self._batch

        async def roll_up() -> bool:
            return await self._master.roll_up(kept, self._batch) >= self._batch

        is_archive = settings.mode is Mode.ARCHIVE
        for step in (sweep,) if is_archive else (remove, sweep, roll_up):
            await self._repeat(step, over, keeps_up_until)
        if not over.is_set():
            self.sweeps += 1
        if self.removed > before:
            log.info("%s: %d jobs of history forgotten", self.name, self.removed - before)

    async def _remove_page(self, retention: Mapping[State, float], page: Any) -> Any:
        found = await self._master.outlived(retention, self._batch, page)
        if found.job_ids:
            self.removed += len(await self._master.remove(found.job_ids))
        return found.page

    async def _repeat(
        self, step: Callable[[], Awaitable[bool]], over: asyncio.Event, keeps_up_until: float
    ) -> None:
        """Until nothing is left, as the step says, with a rest after each."""
        while not over.is_set():
            began = self._clock.monotonic()
            if not await step():
                return
            now = self._clock.monotonic()
            rest = now - began if now < keeps_up_until else 0.0
            await self._clock.wait(over, max(_LEAST_REST, rest))
