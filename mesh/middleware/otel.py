"""Spans and metrics of OpenTelemetry, by its semantic conventions for messaging: a lane is the
destination, a job the message.

The span of ``enqueue`` is the parent of the attempts' spans and they are linked to it, whichever
process they run in; what a handler enqueues is below the span of its attempt. Jobs of one call
have one span together. Where nobody has set up the SDK none of it does anything but pass on a
``traceparent``, as ``Trace`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mesh.context import Context
from mesh.errors import ConfigError
from mesh.job import State
from mesh.middleware.base import AttemptEnded, Middleware, NewJob
from mesh.outcome import Cancel, Snooze
from mesh.tracing import TRACEPARENT, child_of, current_trace, exactly

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetry"]

_SCOPE = "jobmesh"

_OPERATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds: what the conventions advise."""

_ATTEMPT_BOUNDS = (*_OPERATION_BOUNDS, 30, 60, 300, 1800, 3600)
"""Jobs take longer than messages."""

_NO_ERRORS = (Cancel, Snooze)
"""What a handler raises to say something else than that it failed."""

_FAILURES = (State.FAILED, State.RETRYING)

Attributes = dict[str, str | int]


class OpenTelemetry(Middleware):
    """``middleware=[OpenTelemetry()]``, or ``MESH_OTEL=1``, on both sides. Exporters are set up as
    for any program, in code or by ``opentelemetry-instrument``."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """The providers default to the global ones. Raises ``ConfigError`` if OpenTelemetry is not
        installed."""
        try:
            # Not above: it takes long to import, for those that do not use it.
            from opentelemetry import metrics, propagate, trace
        except ImportError as error:
            raise ConfigError(
                "OpenTelemetry() and MESH_OTEL=1 need it: pip install 'jobmesh[otel]'"
            ) from error
        from mesh import __version__

        self._propagate, self._trace = propagate, trace
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Jobs that were to be stored."
        )
        self._storing = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "How long it took to store the jobs of one call.",
            explicit_bucket_boundaries_advisory=_OPERATION_BOUNDS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Attempts that ended."
        )
        self._running = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "How long attempts took.",
            explicit_bucket_boundaries_advisory=_ATTEMPT_BOUNDS,
        )
        self._waiting = meter.create_histogram(
            "mesh.attempt.wait",
            "s",
            "How long attempts waited from when they might have begun.",
            explicit_bucket_boundaries_advisory=_ATTEMPT_BOUNDS,
        )

    def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        common = _operation("enqueue", "send", _only({job.lane for job in jobs}))
        if name := _only({job.name for job in jobs}):
            common["mesh.job.name"] = name
        attributes = dict(common)
        if len(jobs) == 1:
            attributes["messaging.message.id"] = jobs[0].id
        else:
            attributes["messaging.batch.message_count"] = len(jobs)
        kind = self._trace.SpanKind.PRODUCER
        began = perf_counter()
        try:
            with self._span(common, kind=kind, attributes=attributes):
                traceparent = self._traceparent()
                headers: dict[str, str] = {}
                self._propagate.inject(headers)
                for job in jobs:
                    job.headers.update(headers)
                    job.headers[TRACEPARENT] = traceparent or child_of(current_trace())
                yield
        except BaseException as error:
            common["error.type"] = type(error).__qualname__
            raise
        finally:
            self._sent.add(len(jobs), common)
            self._storing.record(perf_counter() - began, common)

    def execute(self, ctx: Context[Any]) -> Iterator[None]:
        common = _operation("execute", "process", ctx.lane)
        attributes = common | {
            "mesh.job.name": ctx.name,
            "messaging.message.id": ctx.job_id,
            "mesh.job.attempt": ctx.attempt,
        }
        before = self._propagate.extract(ctx.headers)
        enqueued = self._trace.get_current_span(before).get_span_context()
        links = [self._trace.Link(enqueued)] if enqueued.is_valid else []
        kind = self._trace.SpanKind.CONSUMER
        with (
            self._span(
                common, context=before, kind=kind, attributes=attributes, links=links
            ) as span,
            exactly(self._traceparent() or child_of(ctx.headers.get(TRACEPARENT))),
        ):
            yield
            if ctx.failure is not None:
                self._fail(span, "Failure", str(ctx.failure.reason))

    def ended(self, attempt: AttemptEnded) -> None:
        attributes = _operation("execute", "process", attempt.lane)
        attributes |= {"mesh.job.name": attempt.name, "mesh.job.state": str(attempt.state)}
        self._waiting.record(attempt.waited, attributes)
        if attempt.error is not None and attempt.state in _FAILURES:
            attributes["error.type"] = attempt.error.type
        self._consumed.add(1, attributes)
        self._running.record(attempt.seconds, attributes)

    @contextmanager
    def _span(self, common: Attributes, **given: Any) -> Iterator[Span]:
        """The current span in the block, and what went wrong there."""
        name = f"{common['messaging.operation.name']} {common.get(_LANE, '')}".rstrip()
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False, **given
        ) as span:
            try:
                yield span
            except _NO_ERRORS:
                raise
            except BaseException as error:
                span.record_exception(error)
                self._fail(span, type(error).__qualname__, str(error))
                raise

    def _fail(self, span: Span, kind: str, message: str) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._trace.StatusCode.ERROR, f"{kind}: {message}")

    def _traceparent(self) -> str | None:
        """Of the current span, whatever propagator the program uses; ``None`` without an SDK."""
        span = self._trace.get_current_span().get_span_context()
        if not span.is_valid:
            return None
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


_LANE = "messaging.destination.name"


def _operation(name: str, kind: str, lane: str | None) -> Attributes:
    attributes: Attributes = {
        "messaging.system": "jobmesh",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }
    if lane is not None:
        attributes[_LANE] = lane
    return attributes


def _only(values: set[str]) -> str | None:
    """The value, if there is but one."""
    return next(iter(values)) if len(values) == 1 else None
