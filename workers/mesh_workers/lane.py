"""One lane of a worker: pulls jobs that can start soon, runs them, settles them.

States of a job here: *queued* (pulled, not started), *running*, *unsettled* (ended, its outcome
on the way to the ledger). All three hold a lease, which the keeper extends.

How much is pulled: free slots, plus what the slots will finish within ``AHEAD`` seconds by the
measured duration of this lane's jobs. When all slots have been busy for ``SLICE`` seconds and
none has ended, nothing is pulled ahead and what was queued is given back, so that no job waits
here for a long one while another worker idles.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import msgspec

from mesh.errors import AgentError
from mesh.job import State
from mesh.ports import Consumer, Delivery, Settlement
from mesh.service import Backoff
from mesh.wire import Envelope, ErrorInfo, Finished, LaneLoad
from mesh_workers.attempts import Attempts, log_end
from mesh_workers.outcome import Run, end_unstarted, miss, too_late
from mesh_workers.settle import Settler, next_attempt
from mesh_workers.tools import Tools

__all__ = ["Lane"]

log = logging.getLogger("mesh")

AHEAD = 0.1
SLICE = 0.25
MOST_AHEAD = 1024
MOST_UNSETTLED = 4096

RECOVERED = 10.0
"""Seconds after a failure to pull in which no other shows that it is over: while it lasts, there is
one every 5 s or so."""

_HEAD_START = 5.0
"""Seconds for which nothing is pulled after an outage, while something is to be settled."""

_CLOSING = 2.0
"""Seconds for an agent to answer who pulls no more."""

_LAST_MOMENT = 1.0
"""Seconds for what has not ended when the lane must."""


class Lane:
    """``run`` returns after ``stopping`` was set and what ran has been settled."""

    def __init__(self, name: str, concurrency: int, tools: Tools, stopping: asyncio.Event) -> None:
        self.name = name
        self.concurrency = concurrency
        self._tools = tools
        self._app = tools.app
        self._clock = tools.app.clock
        self._stopping = stopping
        self._giving_up = asyncio.Event()
        self._paused = False
        self._failed_at: float | None = None
        self._resting: asyncio.Task[None] | None = None
        self._queue: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[None], tuple[Delivery, Run]] = {}
        self._changed = asyncio.Event()
        self._moved_at = self._clock.monotonic()
        self._settler = Settler(name, tools, self._giving_up, self._changed.set)
        self._attempts = Attempts(name, concurrency, tools, self._settler, self._giving_up)

    @property
    def load(self) -> LaneLoad:
        running, held = len(self._running), len(self._queue)
        return LaneLoad(self.name, self.concurrency, running, held, self._since())

    def _since(self) -> float:
        """When the first began of what runs here, and of what has ended and is not settled."""
        runs = [
            run.started_at
            for task, (_, run) in self._running.items()
            if task not in self._attempts.stragglers
        ]
        return min([self._clock.time(), *runs, *self._settler.began()])

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def finished(self) -> int:
        """Attempts ended."""
        return self._attempts.finished

    @property
    def stragglers(self) -> int:
        """Threads that go on although their attempts are over."""
        return len(self._attempts.stragglers)

    @property
    def is_pulling(self) -> bool:
        """Whether it asks the agent for jobs whenever it has room, or is paused."""
        failed = self._failed_at
        return (
            self._settler.consumer is not None
            and not self._stopping.is_set()
            and (failed is None or self._clock.monotonic() - failed > RECOVERED)
        )

    async def run(self) -> None:
        backoff = Backoff(self._stopping)
        consumer = await backoff.retry(f"lane {self.name}", self._consume, AgentError)
        if consumer is None:
            return
        self._settler.consumer = consumer
        try:
            async with asyncio.TaskGroup() as tasks:
                puller = tasks.create_task(self._pull(consumer, backoff))
                giver = tasks.create_task(self._give_back_when_stuck())
                tasks.create_task(self._close_on_stop(consumer, puller))
                await asyncio.wait([puller])
                giver.cancel()
            self._give_back()
            while self._running:
                await asyncio.wait(self._running)
            await self._settler.drain()
        finally:
            await self._abandon()
            await self._attempts.close()

    def pause(self, paused: bool) -> None:
        """Start nothing more, and give back what has not started; or go on. Call it in the
        worker's event loop; again is harmless."""
        if paused == self._paused:
            return
        self._paused = paused
        log.info("lane %s %s", self.name, "is paused" if paused else "goes on")
        self._changed.set()
        if paused and self._settler.consumer is not None:
            self._give_back()
            self._resting = asyncio.create_task(self._settler.consumer.rest(), name="mesh-rest")

    async def _consume(self) -> Consumer:
        return await self._tools.agent.consume(self.name, lease=self._app.config.lease)

    async def _close_on_stop(self, consumer: Consumer, puller: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        self._changed.set()
        try:
            async with asyncio.timeout(_CLOSING):
                await consumer.close()
                await asyncio.wait([puller])
        except TimeoutError:
            log.warning("lane %s: the agent does not answer; what it gave is left to it", self.name)
        puller.cancel()

    async def _abandon(self) -> None:
        """Leave behind what has not ended, after a last moment: handlers that swallow their
        cancellation, outcomes that the agent does not take. Their leases will end."""
        self.interrupt()
        if self._running:
            await asyncio.wait(self._running, timeout=_LAST_MOMENT)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MOMENT):
                await self._settler.drain()
        self._giving_up.set()

    # pulling ---------------------------------------------------------------------------------

    async def _pull(self, consumer: Consumer, backoff: Backoff) -> None:
        while not self._stopping.is_set():
            if self._paused:
                self._changed.clear()
                await self._changed.wait()
                continue
            limit = self._room()
            if limit <= 0:
                self._changed.clear()
                await self._clock.wait(self._changed, SLICE)
                continue
            pull = partial(self._ask, consumer, limit)
            deliveries = await backoff.retry(f"lane {self.name}", pull, AgentError)
            if deliveries:
                self._tools.keeper.hold(deliveries)
                for delivery in deliveries:
                    self._take(delivery)
                if self._paused:
                    self._give_back()
                self._fill()

    async def _ask(self, consumer: Consumer, limit: int) -> list[Delivery]:
        failed = self._failed_at
        if failed is not None and self._clock.monotonic() - failed < RECOVERED:
            await self._settle_first()
        try:
            return await consumer.pull(limit)
        except AgentError:
            self._failed_at = self._clock.monotonic()
            raise

    async def _settle_first(self) -> None:
        """After an outage: what has not been settled may come again, to whoever asks first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_HEAD_START, self._app.config.lease / 3)):
                await self._settler.drain()

    def _is_stuck(self) -> bool:
        return (
            len(self._running) >= self.concurrency
            and self._clock.monotonic() - self._moved_at > SLICE
        )

    def _room(self) -> int:
        """How many jobs to pull now; 0 or less: none."""
        if self._settler.unsettled >= MOST_UNSETTLED:
            return 0
        free = self.concurrency - len(self._running)
        ahead, duration = 0, self._attempts.duration
        if duration is not None and not self._is_stuck():
            ahead = min(int(self.concurrency * AHEAD / max(duration, 1e-4)), MOST_AHEAD)
        room = free + ahead - len(self._queue)
        # Not by ones and twos while there is enough to do.
        if free <= len(self._queue) and room < (self.concurrency + ahead) // 4:
            return 0
        return room

    def _take(self, delivery: Delivery) -> None:
        """Queue a job that was pulled, if it is for this worker to run."""
        cancels = self._tools.cancels
        if delivery.redelivered and self._is_here(delivery):
            return
        if cancels and (reason := cancels.get(delivery.job.id)) is not None:
            self._end_unstarted(delivery, State.CANCELLED, ErrorInfo("Cancelled", reason))
        elif _lost_before(delivery) and self._is_worn_out(delivery):
            self._end_worn_out(delivery)
        elif delivery.job.name not in self._app.handlers:
            self._give_to_others(delivery)
        else:
            self._queue.append(delivery)

    def _is_here(self, delivery: Delivery) -> bool:
        """Whether this worker has the job already, under a lease that ended: as when the agent was
        away for longer than that. Nothing is done twice; it goes on under the new lease."""
        job_id = delivery.job.id
        for index, queued in enumerate(self._queue):
            if queued.job.id == job_id:
                self._tools.keeper.release([queued.receipt])
                self._queue[index] = delivery
                return True
        for running, _ in self._running.values():
            # Unless another has begun it since: then the attempts' numbers are not ours to give.
            if running.job.id == job_id and next_attempt(delivery) <= next_attempt(running) + 1:
                self._settler.renew(running, delivery)
                return True
        return self._settler.repeat(delivery)

    def _fill(self) -> None:
        """Start queued jobs in free slots."""
        begun = False
        if self._queue and self._tools.keeper.is_behind:
            self._drop_lost()
        while self._queue and len(self._running) < self.concurrency and not self._stopping.is_set():
            delivery = self._queue.popleft()
            run = self._new_run(delivery)
            if (run.job.expires_at or run.job.deadline) and self._ends_too_late(delivery, run):
                continue
            task = _start_task(self._attempts.run(delivery, run), run.job.id)
            begun = True
            if task.done():
                self._look_at(task, delivery)
                continue
            if not delivery.redelivered:  # those see to it themselves
                self._tools.reporter.started(run)
            self._running[task] = delivery, run
            task.add_done_callback(self._ended)
        if begun:
            self._moved_at = self._clock.monotonic()

    def _drop_lost(self) -> None:
        """Do not start what others may have by now: this process was stopped, or cut off."""
        lost = self._tools.keeper.lost(self._queue)
        if lost:
            self._queue = deque(d for d in self._queue if d.receipt not in lost)
            self._tools.keeper.release(list(lost))

    def _ended(self, task: asyncio.Task[None]) -> None:
        delivery, _ = self._running.pop(task)
        self._look_at(task, delivery)
        self._moved_at = self._clock.monotonic()
        self._fill()
        if self._room() > 0:
            self._changed.set()

    def _look_at(self, task: asyncio.Task[None], delivery: Delivery) -> None:
        """An attempt ends without an exception, unless the worker itself has a fault."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "job %s: the worker itself failed; the job comes back when its lease ends",
                delivery.job.id,
                exc_info=error,
            )
            self._tools.keeper.release([delivery.receipt])

    def _new_run(self, delivery: Delivery) -> Run:
        return Run(
            delivery.job,
            next_attempt(delivery),
            _lost_before(delivery),
            self._tools.worker,
            self._clock.time(),
        )

    # giving back -----------------------------------------------------------------------------

    async def _give_back_when_stuck(self) -> None:
        while True:
            await self._clock.sleep(SLICE)
            if self._queue and self._is_stuck():
                self._give_back()

    def _give_back(self) -> None:
        """Put all queued jobs back on the agent, unstarted."""
        while self._queue:
            delivery = self._queue.popleft()
            self._settler.post(Settlement(delivery, again=self._unstarted(delivery)))

    def _unstarted(self, delivery: Delivery) -> Envelope:
        """The job as it came. What its earlier workers lost goes with it: the agent forgets."""
        if not delivery.lost:
            return delivery.job
        return msgspec.structs.replace(
            delivery.job, attempt=next_attempt(delivery), lost=_lost_before(delivery)
        )

    def interrupt(self) -> None:
        """Cancel what runs. Async handlers get ``CancelledError``."""
        self._attempts.interrupt(self._running)

    def cancel(self, job_id: str, reason: str) -> bool:
        """Call a job off, if this lane has it. Returns whether it was here and not yet over.

        One that waits here never starts; a running async handler gets ``CancelledError``; a
        process is killed; a thread sees ``ctx.cancelled`` and ends when it will. The job ends
        ``cancelled``, unless its handler has returned a result: then it has succeeded. Call it
        in the worker's event loop; again is harmless.
        """
        for delivery in self._queue:
            if delivery.job.id == job_id:
                self._queue.remove(delivery)
                self._end_unstarted(delivery, State.CANCELLED, ErrorInfo("Cancelled", reason))
                return True
        return any(
            self._attempts.call_off(delivery.job, task, reason)
            for task, (delivery, _) in self._running.items()
            if delivery.job.id == job_id
        )

    def job_in(self, frame: FrameType) -> Envelope | None:
        """The job of this lane that is being run in that stack; see ``Attempts.job_in``."""
        return self._attempts.job_in(frame)

    # ending what has not started -------------------------------------------------------------

    def _is_worn_out(self, delivery: Delivery) -> bool:
        counted = next_attempt(delivery) - delivery.job.snoozes
        return counted > self._attempts.policy(delivery.job).max_attempts

    def _end_worn_out(self, delivery: Delivery) -> None:
        last = next_attempt(delivery) - 1
        most = self._attempts.policy(delivery.job).max_attempts + delivery.job.snoozes
        run = Run(delivery.job, last, _lost_before(delivery) - 1, self._tools.worker, 0.0)
        error = ErrorInfo(
            "WorkerDied",
            f"attempt {last} ended with its worker, as others may have, and {most} are the most: "
            "the process was killed, crashed or lost its lease while it had this job",
        )
        self._post_end(delivery, end_unstarted(run, State.FAILED, error, self._clock.time()))

    def _ends_too_late(self, delivery: Delivery, run: Run) -> bool:
        late = too_late(run.job, run.attempt, run.started_at)
        if late is not None:
            self._end_unstarted(delivery, *late)
        return late is not None

    def _end_unstarted(self, delivery: Delivery, state: State, error: ErrorInfo) -> None:
        attempt = next_attempt(delivery)
        run = Run(delivery.job, attempt, _lost_before(delivery), self._tools.worker, 0.0)
        self._post_end(delivery, end_unstarted(run, state, error, self._clock.time()))

    def _post_end(self, delivery: Delivery, record: Finished) -> None:
        assert record.error is not None
        log_end(record, record.error, delivery.job)
        self._settler.post(Settlement(delivery, record))

    def _give_to_others(self, delivery: Delivery) -> None:
        job = self._unstarted(delivery)
        run = Run(job, job.attempt, job.lost, self._tools.worker, 0.0)
        record, again = miss(run, self._clock.time())
        self._settler.post(Settlement(delivery, record, again))
        log.warning(
            "job %s: this worker knows no handler '%s'; %s",
            job.id,
            job.name,
            "given to others" if again else "no worker did, so it failed",
        )


def _lost_before(delivery: Delivery) -> int:
    """How many attempts just before the next one were lost, without a word in the ledger."""
    return delivery.job.lost + delivery.lost


def _start_task(attempt: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that runs the attempt. Where Python can (3.12), it begins at once; an attempt that
    never waits has ended then, and the loop need not know of it."""
    if sys.version_info >= (3, 12):
        loop = asyncio.get_running_loop()
        return asyncio.Task(attempt, loop=loop, name=name, eager_start=True)
    return asyncio.create_task(attempt, name=name)
