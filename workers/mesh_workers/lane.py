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
import threading
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Any

import msgspec

from mesh.app import Mesh
from mesh.batcher import Batcher
from mesh.context import Context, Emit, call_off
from mesh.errors import AgentError
from mesh.job import State
from mesh.ports import Agent, Consumer, Delivery, Settlement
from mesh.retry import Retry
from mesh.service import Backoff
from mesh.wire import Envelope, ErrorInfo, Event, Finished, LaneLoad, Retrying
from mesh_workers.execute import execute
from mesh_workers.keeper import LeaseKeeper
from mesh_workers.outcome import (
    Cancelled,
    Failed,
    Outcome,
    Run,
    Succeeded,
    decide,
    end_unstarted,
    miss,
    time_limit,
    too_late,
)
from mesh_workers.processes import Processes
from mesh_workers.reporter import Reporter
from mesh_workers.threads import Threads

__all__ = ["Lane", "Tools"]

log = logging.getLogger("mesh")

AHEAD = 0.1
SLICE = 0.25
MOST_AHEAD = 1024
MOST_UNSETTLED = 4096

_LAST_MOMENT = 1.0
"""Seconds for what has not ended when the lane must."""

_SEQ_PER_ATTEMPT = 2**32
"""Events of an attempt count from ``attempt * _SEQ_PER_ATTEMPT``, so that ``seq`` grows over a
job's attempts without asking anyone."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker's lanes share."""

    app: Mesh
    agent: Agent
    worker: str
    keeper: LeaseKeeper
    reporter: Reporter
    cancels: Mapping[str, str] = field(default_factory=dict)
    """Why jobs are to be cancelled, by job id; kept up to date by the worker."""


class Lane:
    """``run`` returns after ``stopping`` was set and what ran has been settled."""

    def __init__(self, name: str, concurrency: int, tools: Tools, stopping: asyncio.Event) -> None:
        self.name = name
        self.concurrency = concurrency
        self.finished = 0
        """Attempts ended."""
        self._tools = tools
        self._app = tools.app
        self._clock = tools.app.clock
        self._stopping = stopping
        self._paused = False
        self._resting: asyncio.Task[None] | None = None
        self._interrupted = False
        self._giving_up = asyncio.Event()
        self._random = Random()
        self._queue: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[None], Delivery] = {}
        self._contexts: dict[str, Context[Any]] = {}
        """Of those that run and have one, by job id."""
        self._called_off: dict[str, str] = {}
        """Why, by job id: of attempts under way."""
        self._stragglers: set[str] = set()
        """Jobs whose attempt is over and whose thread is not."""
        self._unsettled = 0
        self._changed = asyncio.Event()
        self._duration: float | None = None
        self._moved_at = self._clock.monotonic()
        self._consumer: Consumer | None = None
        self._settle = Batcher(self._write, max_items=1024)
        self._threads: Threads[Any] = Threads(concurrency, f"mesh-{name}")
        self._processes = Processes()

    @property
    def load(self) -> LaneLoad:
        return LaneLoad(self.name, self.concurrency, len(self._running), len(self._queue))

    @property
    def running(self) -> int:
        return len(self._running)

    async def run(self) -> None:
        backoff = Backoff(self._stopping)
        consumer = await backoff.retry(f"lane {self.name}", self._consume, AgentError)
        if consumer is None:
            return
        self._consumer = consumer
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._close_on_stop(consumer))
                giver = tasks.create_task(self._give_back_when_stuck())
                await self._pull(consumer, backoff)
                giver.cancel()
            self._give_back()
            while self._running:
                await asyncio.wait(self._running)
            await self._settle.drain()
        finally:
            await self._abandon()
            self._threads.close()
            await self._processes.close()

    def pause(self, paused: bool) -> None:
        """Start nothing more, and give back what has not started; or go on. Call it in the
        worker's event loop; again is harmless."""
        if paused == self._paused:
            return
        self._paused = paused
        log.info("lane %s %s", self.name, "is paused" if paused else "goes on")
        self._changed.set()
        if paused and self._consumer is not None:
            self._give_back()
            self._resting = asyncio.create_task(self._consumer.rest(), name="mesh-rest")

    async def _consume(self) -> Consumer:
        return await self._tools.agent.consume(self.name, lease=self._app.config.lease)

    async def _close_on_stop(self, consumer: Consumer) -> None:
        await self._stopping.wait()
        self._changed.set()
        await consumer.close()

    async def _abandon(self) -> None:
        """Leave behind what has not ended, after a last moment: handlers that swallow their
        cancellation, outcomes that the agent does not take. Their leases will end."""
        self.interrupt()
        if self._running:
            await asyncio.wait(self._running, timeout=_LAST_MOMENT)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MOMENT):
                await self._settle.drain()
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
            pull = partial(consumer.pull, limit)
            deliveries = await backoff.retry(f"lane {self.name}", pull, AgentError)
            if deliveries:
                self._tools.keeper.hold([d.receipt for d in deliveries])
                for delivery in deliveries:
                    self._take(delivery)
                if self._paused:
                    self._give_back()
                self._fill()

    def _is_stuck(self) -> bool:
        return (
            len(self._running) >= self.concurrency
            and self._clock.monotonic() - self._moved_at > SLICE
        )

    def _room(self) -> int:
        """How many jobs to pull now; 0 or less: none."""
        if self._unsettled >= MOST_UNSETTLED:
            return 0
        free = self.concurrency - len(self._running)
        ahead = 0
        if self._duration is not None and not self._is_stuck():
            ahead = min(int(self.concurrency * AHEAD / max(self._duration, 1e-4)), MOST_AHEAD)
        room = free + ahead - len(self._queue)
        # Not by ones and twos while there is enough to do.
        if free <= len(self._queue) and room < (self.concurrency + ahead) // 4:
            return 0
        return room

    def _take(self, delivery: Delivery) -> None:
        """Queue a job that was pulled, if it is for this worker to run."""
        cancels = self._tools.cancels
        if cancels and (reason := cancels.get(delivery.job.id)) is not None:
            self._end_unstarted(delivery, State.CANCELLED, ErrorInfo("Cancelled", reason))
        elif delivery.lost and self._is_worn_out(delivery):
            self._end_worn_out(delivery)
        elif delivery.job.name not in self._app.handlers:
            self._give_to_others(delivery)
        else:
            self._queue.append(delivery)

    def _fill(self) -> None:
        """Start queued jobs in free slots."""
        begun = False
        while self._queue and len(self._running) < self.concurrency and not self._stopping.is_set():
            delivery = self._queue.popleft()
            run = self._new_run(delivery)
            if (run.job.expires_at or run.job.deadline) and self._ends_too_late(delivery, run):
                continue
            task = _start_task(self._attempt(delivery, run), run.job.id)
            begun = True
            if task.done():
                self._look_at(task, delivery)
                continue
            if not delivery.redelivered:  # those see to it themselves
                self._tools.reporter.started(run)
            self._running[task] = delivery
            task.add_done_callback(self._ended)
        if begun:
            self._moved_at = self._clock.monotonic()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._look_at(task, self._running.pop(task))
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

    @staticmethod
    def _attempt_of(delivery: Delivery) -> int:
        return delivery.job.attempt + delivery.lost

    def _policy(self, job: Envelope) -> Retry:
        handler = self._app.handlers.get(job.name)
        if handler is None:
            return job.retry or self._app.config.retry
        policy = job.retry or handler.defaults.retry or self._app.config.retry
        if handler.retry_when is not None:
            return msgspec.structs.replace(policy, when=handler.retry_when)
        return policy

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
            self._post(Settlement(delivery, again=self._unstarted(delivery)))

    def _unstarted(self, delivery: Delivery) -> Envelope:
        """The job as it came. What its earlier workers lost goes with it: the agent forgets."""
        if not delivery.lost:
            return delivery.job
        return msgspec.structs.replace(delivery.job, attempt=self._attempt_of(delivery))

    def interrupt(self) -> None:
        """Cancel what runs. Async handlers get ``CancelledError``."""
        self._interrupted = True
        for context in self._contexts.values():
            call_off(context)
        for task in self._running:
            task.cancel()

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
        for task, delivery in self._running.items():
            if delivery.job.id == job_id and job_id not in self._stragglers:
                if job_id not in self._called_off:
                    self._called_off[job_id] = reason
                    call_off(self._contexts.get(job_id))
                    handler = self._app.handlers[delivery.job.name]
                    if handler.is_async or handler.in_process:
                        task.cancel()
                return True
        return False

    # running ---------------------------------------------------------------------------------

    async def _attempt(self, delivery: Delivery, run: Run) -> None:
        reporter, job = self._tools.reporter, delivery.job
        handler, policy = self._app.handlers[job.name], self._policy(job)
        context: Context[Any] | None = None
        if handler.wants_context and not handler.in_process:
            # What was snoozed does not count: the last attempt is ``max_attempts`` all the same.
            most = policy.max_attempts + job.snoozes
            context = Context(job, run.attempt, most, self._emitter(run))
            self._contexts[job.id] = context
        timeout = job.timeout or handler.defaults.timeout or self._app.config.timeout
        straggler = None
        limit = time_limit(job, timeout, run.started_at)
        begun = self._clock.monotonic()
        try:
            if delivery.redelivered:
                # A job that kills its worker must not do so uncounted: its start is on disk first.
                reporter.started(run)
                backoff = Backoff(self._giving_up)
                await backoff.retry("recording a start", reporter.flush, AgentError)
            if job.id in self._called_off:
                raise asyncio.CancelledError
            size = self._app.payload_limit
            if handler.in_process:
                emit = self._emitter(run)
                outcome = await self._processes.run(handler, run, emit, limit, policy, size)
            else:
                outcome, straggler = await execute(
                    handler, job.payload, context, limit, policy, size, self._threads
                )
        except asyncio.CancelledError:
            outcome = self._cancelled()
        outcome = self._as_called_off(job.id, outcome)
        self._measure(self._clock.monotonic() - begun)
        self.finished += 1
        record, again = decide(run, outcome, policy, self._clock.time(), self._random)
        if not isinstance(outcome, Succeeded):
            _log_end(record, outcome.error)
        reporter.ended(job.id, run.attempt)
        self._post(Settlement(delivery, record, again))
        if straggler is not None:
            await self._outlast(straggler, job, context)
        if context is not None:
            self._contexts.pop(job.id, None)

    async def _outlast(
        self, straggler: asyncio.Future[Any], job: Envelope, context: Context[Any] | None
    ) -> None:
        """A thread's slot is not free before the thread is."""
        call_off(context)
        log.warning(
            "job %s (%s): its thread goes on after the time-out and keeps its slot until it "
            "ends; threads cannot be stopped from outside",
            job.id,
            job.name,
        )
        self._stragglers.add(job.id)
        try:
            await asyncio.wait([straggler])
        finally:
            self._stragglers.discard(job.id)

    def _as_called_off(self, job_id: str, outcome: Outcome) -> Outcome:
        """The outcome of a job that may have been cancelled meanwhile: a result came first."""
        reason = self._called_off.pop(job_id, None) if self._called_off else None
        if reason is None or isinstance(outcome, Succeeded):
            return outcome
        return Cancelled(ErrorInfo("Cancelled", reason, outcome.error.traceback))

    def _new_run(self, delivery: Delivery) -> Run:
        return Run(
            delivery.job,
            self._attempt_of(delivery),
            delivery.lost,
            self._tools.worker,
            self._clock.time(),
        )

    def _cancelled(self) -> Failed:
        if not self._interrupted:
            return Failed(
                ErrorInfo("CancelledError", "the job's task was cancelled, not by the worker")
            )
        grace = self._app.config.grace
        message = f"the worker stopped before the job had ended; its grace time is {grace:g} s"
        return Failed(ErrorInfo("WorkerStopped", message), delay=0.0)

    def _emitter(self, run: Run) -> Emit:
        loop, loop_thread = asyncio.get_running_loop(), threading.get_ident()
        reporter, clock = self._tools.reporter, self._clock
        seqs = count(run.attempt * _SEQ_PER_ATTEMPT)

        def take(kind: str, data: bytes, at: float) -> None:
            reporter.event(Event(run.job.id, next(seqs), at, kind, data))

        def emit(kind: str, data: bytes) -> None:
            # Numbered in the loop's thread always; and there at once, so that it comes before
            # the attempt's end.
            if threading.get_ident() == loop_thread:
                take(kind, data, clock.time())
            else:
                loop.call_soon_threadsafe(take, kind, data, clock.time())

        return emit

    def _is_worn_out(self, delivery: Delivery) -> bool:
        counted = self._attempt_of(delivery) - delivery.job.snoozes
        return counted > self._policy(delivery.job).max_attempts

    def _end_worn_out(self, delivery: Delivery) -> None:
        policy, last = self._policy(delivery.job), self._attempt_of(delivery) - 1
        run = Run(delivery.job, last, delivery.lost - 1, self._tools.worker, 0.0)
        error = ErrorInfo(
            "WorkerDied",
            f"attempt {last} of {policy.max_attempts} ended with its worker: the process was "
            "killed, crashed or lost its lease while it ran this job",
        )
        self._post_end(delivery, end_unstarted(run, State.FAILED, error, self._clock.time()))

    def _ends_too_late(self, delivery: Delivery, run: Run) -> bool:
        late = too_late(run.job, run.attempt, run.started_at)
        if late is not None:
            self._end_unstarted(delivery, *late)
        return late is not None

    def _end_unstarted(self, delivery: Delivery, state: State, error: ErrorInfo) -> None:
        attempt = self._attempt_of(delivery)
        run = Run(delivery.job, attempt, delivery.lost, self._tools.worker, 0.0)
        self._post_end(delivery, end_unstarted(run, state, error, self._clock.time()))

    def _post_end(self, delivery: Delivery, record: Finished) -> None:
        assert record.error is not None
        _log_end(record, record.error)
        self._post(Settlement(delivery, record))

    def _give_to_others(self, delivery: Delivery) -> None:
        job = self._unstarted(delivery)
        run = Run(job, job.attempt, 0, self._tools.worker, 0.0)
        record, again = miss(run, self._clock.time())
        self._post(Settlement(delivery, record, again))
        log.warning(
            "job %s: this worker knows no handler '%s'; %s",
            job.id,
            job.name,
            "given to others" if again else "no worker did, so it failed",
        )

    def _measure(self, seconds: float) -> None:
        """A moving average, quick to rise: one long job must end the pulling ahead."""
        if self._duration is None or seconds > 4 * self._duration:
            self._duration = seconds
        else:
            self._duration += (seconds - self._duration) / 16

    # settling --------------------------------------------------------------------------------

    def _post(self, settlement: Settlement) -> None:
        self._unsettled += 1
        self._settle.put(settlement)

    async def _write(self, settlements: Sequence[Settlement]) -> list[None]:
        try:
            await self._store(settlements)
        finally:
            # Written or not: a lease that is kept any longer is kept for nobody.
            self._tools.keeper.release([s.delivery.receipt for s in settlements])
            self._unsettled -= len(settlements)
            self._changed.set()
        return [None] * len(settlements)

    async def _store(self, settlements: Sequence[Settlement]) -> None:
        consumer, reporter = self._consumer, self._tools.reporter
        assert consumer is not None

        async def write() -> bool:
            # What a handler said must be in the ledger before the word that it ended.
            if reporter.has_events:
                await reporter.flush()
            await consumer.settle(settlements)
            return True

        backoff = Backoff(self._giving_up)
        try:
            done = await backoff.retry(f"settling jobs of lane {self.name}", write, AgentError)
        except Exception:
            if len(settlements) > 1:
                # Nobody else's outcome is lost with one that cannot be written.
                for settlement in settlements:
                    await self._store([settlement])
                return
            job = settlements[0].delivery.job
            log.exception(
                "job %s (%s): its outcome cannot be written; it runs again when its lease ends",
                job.id,
                job.name,
            )
            return
        if not done:
            log.error(
                "lane %s: the outcomes of %d jobs could not be written; they run again when their "
                "leases end",
                self.name,
                len(settlements),
            )


def _start_task(attempt: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that runs the attempt. Where Python can (3.12), it begins at once; an attempt that
    never waits has ended then, and the loop need not know of it."""
    if sys.version_info >= (3, 12):
        loop = asyncio.get_running_loop()
        return asyncio.Task(attempt, loop=loop, name=name, eager_start=True)
    return asyncio.create_task(attempt, name=name)


def _log_end(record: Finished | Retrying, error: ErrorInfo) -> None:
    """Say how an attempt ended that did not succeed."""
    if isinstance(record, Retrying):
        log.warning(
            "job %s (%s), attempt %d: %s: %s; again in %.1f s",
            record.id,
            record.name,
            record.attempt,
            error.type,
            error.message,
            max(0.0, record.due_at - record.at),
        )
    else:
        log.log(
            logging.ERROR if record.state is State.FAILED else logging.INFO,
            "job %s (%s) %s at attempt %d: %s: %s",
            record.id,
            record.name,
            record.state,
            record.attempt,
            error.type,
            error.message,
        )
