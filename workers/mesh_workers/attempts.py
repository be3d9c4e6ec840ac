"""Attempts: a handler is run, within its limits, and what became of it is posted.

An attempt is *begun* → *over* (its outcome is posted). One in a thread that is over because its
time was may have a *straggler*: the thread goes on, and so keeps its slot.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Iterable
from random import Random
from types import FrameType
from typing import Any

import msgspec

from mesh.context import Context, Emit, call_off
from mesh.errors import AgentError
from mesh.job import State
from mesh.job_logs import EMIT, RUNNING
from mesh.ports import Delivery, Settlement
from mesh.retry import Retry
from mesh.service import Backoff
from mesh.tracing import trace_of
from mesh.wire import Envelope, ErrorInfo, Finished, Retrying
from mesh_workers.around import Around, surround, tell
from mesh_workers.execute import execute
from mesh_workers.outcome import Cancelled, Failed, Outcome, Run, Succeeded, decide, time_limit
from mesh_workers.outlets import Outlet
from mesh_workers.processes import Processes
from mesh_workers.settle import Settler
from mesh_workers.threads import Threads
from mesh_workers.tools import Tools

__all__ = ["Attempts", "log_end"]

log = logging.getLogger("mesh")


class Attempts:
    """One lane's."""

    def __init__(
        self, lane: str, concurrency: int, tools: Tools, settler: Settler, giving_up: asyncio.Event
    ) -> None:
        """``giving_up``: nothing is waited for any more."""
        self.finished = 0
        """How many are over."""
        self.duration: float | None = None
        """Seconds that they take, as a moving average."""
        self.stragglers: set[asyncio.Task[Any] | None] = set()
        """Tasks whose attempt is over and whose thread is not. The job's next may run by now."""
        self._tools = tools
        self._app = tools.app
        self._clock = tools.app.clock
        self._settler = settler
        self._giving_up = giving_up
        self._interrupted = False
        self._logs_are_events = tools.app.config.log_events != "off"
        self._random = Random()
        self._contexts: dict[str, Context[Any]] = {}
        """Of those under way that have one, by job id."""
        self._called_off: dict[str, str] = {}
        """Why, by job id: of those under way."""
        self._threads: Threads[Any] = Threads(concurrency, f"mesh-{lane}")
        self._processes = Processes()

    async def close(self) -> None:
        """End idle threads and processes."""
        self._threads.close()
        await self._processes.close()

    def interrupt(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Cancel the attempts that run in ``tasks``. Async handlers get ``CancelledError``."""
        self._interrupted = True
        for context in self._contexts.values():
            call_off(context)
        for task in tasks:
            _cancel(task)

    def call_off(self, job: Envelope, task: asyncio.Task[None], reason: str) -> bool:
        """Call off the attempt at ``job`` that runs in ``task``. Returns whether it was not yet
        over. May be repeated."""
        if task in self.stragglers:
            return False
        if job.id not in self._called_off:
            self._called_off[job.id] = reason
            call_off(self._contexts.get(job.id))
            handler = self._app.handlers[job.name]
            if handler.is_async or handler.in_process:
                _cancel(task)
        return True

    def policy(self, job: Envelope) -> Retry:
        """The job's, else its handler's, else the cluster's; always with the handler's ``when``."""
        handler = self._app.handlers.get(job.name)
        if handler is None:
            return job.retry or self._app.config.retry
        policy = job.retry or handler.defaults.retry or self._app.config.retry
        if handler.retry_when is not None:
            return msgspec.structs.replace(policy, when=handler.retry_when)
        return policy

    async def run(self, delivery: Delivery, run: Run) -> None:
        """Run the handler and post what became of it. Raises nothing, whatever handlers do."""
        reporter, job = self._tools.reporter, delivery.job
        handler, policy = self._app.handlers[job.name], self.policy(job)
        context: Context[Any] | None = None
        around: Around | None = None
        outlet: Outlet | None = None
        # What was snoozed does not count: the last attempt is ``max_attempts`` all the same.
        most = policy.max_attempts + job.snoozes
        RUNNING.set(run)
        if handler.needs_context or self._logs_are_events:
            outlet = reporter.outlets.open(job.id, run.attempt, self._app.codec)
            emit = self._emitter(outlet)
            if self._logs_are_events:
                EMIT.set(emit)
            if handler.needs_context and not handler.in_process:
                context = Context(job, run.attempt, most, emit, self._app)
                self._contexts[job.id] = context
                around = surround(handler, context)
        timeout = job.timeout or handler.defaults.timeout or self._app.config.timeout
        limit = straggler = None
        if timeout is not None or job.deadline:
            limit = time_limit(job, timeout, run.started_at)
        if self._app.monitor.counts:
            self._tools.tally.began(run)
        begun = self._clock.monotonic()
        try:
            if delivery.redelivered:
                # A job that kills its worker must not do so uncounted: its start is on disk first.
                reporter.started(run)
                backoff = Backoff(self._giving_up)
                await backoff.retry("recording a start", reporter.flush, AgentError)
            if self._interrupted or job.id in self._called_off:
                raise asyncio.CancelledError
            size = self._app.payload_limit
            if handler.in_process:
                say = None if outlet is None else outlet.say
                outcome = await self._processes.run(handler, run, say, limit, policy, size)
            else:
                outcome, straggler = await execute(
                    handler, job.payload, context, limit, policy, size, self._threads, around
                )
        except asyncio.CancelledError:
            outcome = self._cancelled()
        if context is not None:
            self._contexts.pop(job.id, None)
        if self._called_off:
            outcome = self._as_called_off(job.id, outcome)
        seconds = self._clock.monotonic() - begun
        self._measure(seconds)
        self.finished += 1
        record, again = decide(run, outcome, policy, self._clock.time(), self._random)
        if not isinstance(outcome, Succeeded):
            log_end(record, outcome.error, job)
        if outlet is not None:
            outlet.close()
        if outlet is None or not outlet.has_said:
            reporter.ended(job.id, run.attempt)
        self._settler.post(Settlement(delivery, record, again))
        if self._app.hooks.ended:
            raised = None if around is None else around.error
            await self._app.hooks.tell(tell(run, record, most, seconds, outcome, raised))
        if straggler is not None:
            call_off(context)
            await self._outlast(straggler, job)

    def job_in(self, frame: FrameType | None) -> Envelope | None:
        """The job whose attempt that stack is in, of whichever thread it is."""
        while frame is not None:
            if frame.f_code is Attempts.run.__code__ and frame.f_locals.get("self") is self:
                job = frame.f_locals.get("job")
                return job if isinstance(job, Envelope) else None
            frame = frame.f_back
        return None

    async def _outlast(self, straggler: asyncio.Future[Any], job: Envelope) -> None:
        """A thread's slot is not free before the thread is."""
        task = asyncio.current_task()
        self.stragglers.add(task)
        log.warning(
            "job %s (%s): its thread goes on after the time-out and keeps its slot until it ends, "
            "as %d of this lane do now; threads cannot be stopped from outside: let the handler "
            "look at ctx.cancelled, or make it process=True",
            job.id,
            job.name,
            len(self.stragglers),
        )
        try:
            await asyncio.wait([straggler])
        finally:
            self.stragglers.discard(task)

    def _as_called_off(self, job_id: str, outcome: Outcome) -> Outcome:
        """The outcome of a job that may have been cancelled meanwhile: a result came first."""
        reason = self._called_off.pop(job_id, None)
        if reason is None or isinstance(outcome, Succeeded):
            return outcome
        return Cancelled(ErrorInfo("Cancelled", reason, outcome.error.traceback))

    def _cancelled(self) -> Failed:
        if not self._interrupted:
            return Failed(
                ErrorInfo("CancelledError", "the job's task was cancelled, not by the worker")
            )
        grace = self._app.config.grace
        message = f"the worker stopped before the job had ended; its grace time is {grace:g} s"
        return Failed(ErrorInfo("WorkerStopped", message), delay=0.0)

    def _emitter(self, outlet: Outlet) -> Emit:
        clock = self._clock

        def emit(kind: str, data: bytes, joins: bool = False) -> Awaitable[None]:
            return outlet.say(kind, data, clock.time(), joins)

        return emit

    def _measure(self, seconds: float) -> None:
        """A moving average, quick to rise: one long job must end the pulling ahead."""
        if self.duration is None or seconds > 4 * self.duration:
            self.duration = seconds
        else:
            self.duration += (seconds - self.duration) / 16


def _cancel(attempt: asyncio.Task[None]) -> None:
    """Cancel an attempt, if it has begun: a task that is cancelled before its first step never
    takes it, and nothing would become of the job. One that has not looks before its handler
    runs."""
    body = attempt.get_coro()
    if inspect.iscoroutine(body) and inspect.getcoroutinestate(body) == inspect.CORO_CREATED:
        return
    attempt.cancel()


def log_end(record: Finished | Retrying, error: ErrorInfo, job: Envelope) -> None:
    """Say how an attempt ended that did not succeed."""
    extra = {
        "job_id": record.id,
        "job_name": record.name,
        "attempt": record.attempt,
        "lane": record.lane,
        **trace_of(job.headers),
    }
    if isinstance(record, Retrying):
        log.warning(
            "job %s (%s), attempt %d: %s: %s; again in %.1f s",
            record.id,
            record.name,
            record.attempt,
            error.type,
            error.message,
            max(0.0, record.due_at - record.at),
            extra=extra,
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
            extra=extra,
        )
