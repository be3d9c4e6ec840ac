"""One lane of a worker: pulls jobs that can start soon, runs them, settles them.

States of a job here: *queued* (pulled, not started), *running*, *unsettled* (ended, its outcome
on the way to the ledger). All three hold a lease, which the keeper extends.

How much is pulled: free slots, plus what the slots will finish within ``SLICE`` seconds by the
measured duration of this lane's jobs. When all slots have been busy for longer than that,
nothing is pulled ahead and what was queued is given back, so that no job waits here for a long
one while another worker idles.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.app import Mesh
from mesh.batcher import Batcher
from mesh.context import Context
from mesh.errors import AgentError
from mesh.handler import Handler
from mesh.ports import Agent, Consumer, Delivery, Settlement
from mesh.retry import Retry
from mesh.service import Backoff
from mesh.wire import ErrorInfo, Event, Finished, LaneLoad, Record, Retrying, Started

from mesh_workers.execute import execute
from mesh_workers.keeper import LeaseKeeper
from mesh_workers.outcome import Failure, Run, decide, miss
from mesh_workers.reporter import Reporter

__all__ = ["Lane", "Tools"]

log = logging.getLogger("mesh")

SLICE = 0.25
MOST_AHEAD = 1024
MOST_UNSETTLED = 4096

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
        self._giving_up = asyncio.Event()
        self._random = Random()
        self._queue: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[None], Delivery] = {}
        self._unsettled: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()
        self._duration: float | None = None
        self._moved_at = self._clock.monotonic()
        self._consumer: Consumer | None = None
        self._settle = Batcher(self._write, max_items=1024)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix=f"mesh-{name}")
        self._backoff = Backoff(self._giving_up)

    @property
    def load(self) -> LaneLoad:
        return LaneLoad(self.name, self.concurrency, len(self._running), len(self._queue))

    @property
    def running(self) -> int:
        return len(self._running)

    # pulling ---------------------------------------------------------------------------------

    async def run(self) -> None:
        backoff = Backoff(self._stopping)
        self._consumer = await backoff.retry(f"lane {self.name}", self._consume, AgentError)
        if self._consumer is None:
            return
        async with asyncio.TaskGroup() as tasks:
            closer = tasks.create_task(self._close_on_stop())
            giver = tasks.create_task(self._give_back_when_stuck())
            while not self._stopping.is_set():
                limit = self._room()
                if limit <= 0:
                    self._changed.clear()
                    await self._clock.wait(self._changed, SLICE)
                    continue
                deliveries = await backoff.retry(
                    f"lane {self.name}", lambda n=limit: self._pull(n), AgentError
                )
                if deliveries:
                    self._tools.keeper.hold(d.receipt for d in deliveries)
                    self._queue.extend(deliveries)
                    self._fill(tasks)
            await closer
            giver.cancel()
            self._give_back(len(self._queue))
        await self._settle.drain()
        await self._consumer.close()
        self._threads.shutdown(wait=False)

    async def _consume(self) -> Consumer:
        return await self._tools.agent.consume(self.name, lease=self._app.config.lease)

    async def _pull(self, limit: int) -> list[Delivery]:
        assert self._consumer is not None
        return await self._consumer.pull(limit)

    async def _close_on_stop(self) -> None:
        await self._stopping.wait()
        assert self._consumer is not None
        await self._consumer.close()
        self._changed.set()

    def _is_stuck(self) -> bool:
        return (
            len(self._running) >= self.concurrency
            and self._clock.monotonic() - self._moved_at > SLICE
        )

    def _room(self) -> int:
        """How many jobs to pull now; 0 or less: none."""
        if len(self._unsettled) >= MOST_UNSETTLED:
            return 0
        free = self.concurrency - len(self._running)
        ahead = 0
        if self._duration is not None and not self._is_stuck():
            ahead = min(int(self.concurrency * SLICE / max(self._duration, 1e-4)), MOST_AHEAD)
        room = free + ahead - len(self._queue)
        # Not by ones and twos while there is enough to do.
        if free <= len(self._queue) and room < (self.concurrency + ahead) // 4:
            return 0
        return room

    def _fill(self, tasks: asyncio.TaskGroup) -> None:
        """Start queued jobs in free slots."""
        while self._queue and len(self._running) < self.concurrency:
            delivery = self._queue.popleft()
            self._moved_at = self._clock.monotonic()
            task = tasks.create_task(self._attempt(delivery), name=f"mesh-job-{delivery.job.id}")
            self._running[task] = delivery

            def ended(task: asyncio.Task[None]) -> None:
                del self._running[task]
                self._moved_at = self._clock.monotonic()
                if not self._stopping.is_set():
                    self._fill(tasks)
                self._changed.set()

            task.add_done_callback(ended)

    # giving back -----------------------------------------------------------------------------

    async def _give_back_when_stuck(self) -> None:
        while True:
            await self._clock.sleep(SLICE)
            if self._queue and self._is_stuck():
                self._give_back(len(self._queue))

    def _give_back(self, count: int) -> None:
        """Put the last ``count`` queued jobs back on the agent, unstarted."""
        for _ in range(count):
            delivery = self._queue.pop()
            self._post(Settlement(delivery, again=delivery.job))

    def interrupt(self) -> None:
        """The grace time is over: cancel what runs. Async handlers get ``CancelledError``."""
        for task in self._running:
            task.cancel()

    def give_up(self) -> None:
        """Settle no longer: the agent is away, and leases will end by themselves."""
        self._giving_up.set()

    # running ---------------------------------------------------------------------------------

    async def _attempt(self, delivery: Delivery) -> None:
        job = delivery.job
        run = Run(
            job,
            job.attempt + delivery.lost,
            delivery.lost,
            self._tools.worker,
            self._clock.time(),
        )
        handler = self._app.handlers.get(job.name)
        policy = job.retry or (handler and handler.defaults.retry) or self._app.config.retry
        if run.attempt > policy.max_attempts:
            self._end_worn_out(delivery, run, policy)
        elif handler is None:
            self._give_to_others(delivery, run)
        else:
            await self._run_handler(delivery, run, handler, policy)

    async def _run_handler(
        self, delivery: Delivery, run: Run, handler: Handler[..., Any, Any], policy: Retry
    ) -> None:
        reporter, job = self._tools.reporter, run.job
        reporter.started(_started(run))
        if delivery.redelivered:
            # A job that kills its worker must not do so uncounted: its start is on disk first.
            await self._backoff.retry("recording a start", reporter.flush, AgentError)
        context: Context[Any] = Context(job, run.attempt, policy.max_attempts, self._emitter(run))
        timeout = job.timeout or handler.defaults.timeout or self._app.config.timeout
        straggler = None
        begun = self._clock.monotonic()
        try:
            outcome, straggler = await execute(
                handler, job.payload, context, timeout, self._app.payload_limit, self._threads
            )
        except asyncio.CancelledError:
            grace = self._app.config.grace
            why = f"the worker stopped, and the job had not ended within the grace time of {grace:g} s"
            outcome = Failure(ErrorInfo("WorkerStopped", why), at_once=True)
        self._measure(self._clock.monotonic() - begun)
        record, again = decide(run, outcome, policy, self._clock.time(), self._random)
        if isinstance(outcome, Failure):
            _log_failure(record, outcome)
        self._post(Settlement(delivery, record, again))
        if straggler is not None:
            log.warning(
                "job %s (%s): its thread goes on after the time-out and keeps its slot until it "
                "ends; threads cannot be stopped from outside",
                job.id,
                job.name,
            )
            await asyncio.wait([straggler])

    def _emitter(self, run: Run) -> Any:
        loop = asyncio.get_running_loop()
        reporter, clock = self._tools.reporter, self._clock
        next_seq = run.attempt * _SEQ_PER_ATTEMPT

        def take(kind: str, data: bytes, at: float) -> None:
            nonlocal next_seq
            reporter.event(Event(run.job.id, next_seq, at, kind, data))
            next_seq += 1

        def emit(kind: str, data: bytes) -> None:
            # From the handler's thread or from the loop: in both cases numbered by the loop.
            loop.call_soon_threadsafe(take, kind, data, clock.time())

        return emit

    def _end_worn_out(self, delivery: Delivery, run: Run, policy: Retry) -> None:
        last = Run(run.job, policy.max_attempts, 0, run.worker, 0.0)
        error = ErrorInfo(
            "WorkerDied",
            f"attempt {policy.max_attempts} of {policy.max_attempts} ended with its worker: the "
            "process was killed, crashed or lost its lease while it ran this job",
        )
        record, _ = decide(
            last, Failure(error, retryable=False), policy, self._clock.time(), self._random
        )
        self._post(Settlement(delivery, record))
        log.error("job %s (%s) failed: %s", run.job.id, run.job.name, error.message)

    def _give_to_others(self, delivery: Delivery, run: Run) -> None:
        record, again = miss(run, self._clock.time())
        self._post(Settlement(delivery, record, again))
        log.warning(
            "job %s: this worker knows no handler '%s'; %s",
            run.job.id,
            run.job.name,
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
        record = settlement.record
        if record is not None and not isinstance(record, Started):
            self.finished += 1
        future = self._settle.post(settlement)
        self._unsettled.add(future)
        future.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[None]) -> None:
        self._unsettled.discard(future)
        self._changed.set()

    async def _write(self, settlements: Sequence[Settlement]) -> list[None]:
        assert self._consumer is not None
        consumer, reporter = self._consumer, self._tools.reporter
        for settlement in settlements:
            record: Record | None = settlement.record
            if isinstance(record, Finished | Retrying):
                reporter.ended(record.id, record.attempt)

        async def write() -> bool:
            # What a handler said must be in the ledger before the word that it ended.
            if reporter.has_events:
                await reporter.flush()
            await consumer.settle(settlements)
            return True

        done = await self._backoff.retry(f"settling jobs of lane {self.name}", write, AgentError)
        if not done:
            log.error(
                "lane %s: the outcomes of %d jobs could not be written; they will run again",
                self.name,
                len(settlements),
            )
        self._tools.keeper.release(s.delivery.receipt for s in settlements)
        return [None] * len(settlements)


def _started(run: Run) -> Started:
    job = run.job
    return Started(
        job.id,
        run.attempt,
        run.started_at,
        job.name,
        job.lane,
        job.priority,
        job.enqueued_at,
        run.worker,
        run.started_at,
        run.lost,
    )


def _log_failure(record: Finished | Retrying, outcome: Failure) -> None:
    error = outcome.error
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
        log.error(
            "job %s (%s) failed at attempt %d: %s: %s",
            record.id,
            record.name,
            record.attempt,
            error.type,
            error.message,
        )
