"""Middleware around enqueue, and the middleware that is built in."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh import (
    AgentUnavailable,
    AttemptEnded,
    ConfigError,
    Context,
    Job,
    Mesh,
    MeshError,
    Middleware,
    NewJob,
    Snooze,
    State,
)
from mesh.context import DONE
from mesh.job_logs import RUNNING
from mesh.middleware import (
    JsonFormatter,
    Logs,
    OpenTelemetry,
    Report,
    Trace,
    current_trace,
    within_trace,
)
from mesh.testing.conformance.agent import make_job
from mesh.testing.servers import free_port
from mesh.wire import Envelope, ErrorInfo
from mesh_workers.outcome import Run

from .conftest import MemoryMesh


class Marking(Middleware):
    """Notes what passes, and marks it."""

    def __init__(self, name: str = "m", notes: list[str] | None = None) -> None:
        self.name = name
        self.notes: list[str] = [] if notes is None else notes

    def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        self.notes.append(f"{self.name} before {len(jobs)} {jobs[0].name}")
        for job in jobs:
            job.headers[self.name] = job.payload.decode()
            job.meta["seen"] = job.meta.get("seen", "") + self.name
        try:
            yield
        except MeshError as error:
            self.notes.append(f"{self.name} saw {type(error).__name__}")
            raise
        self.notes.append(f"{self.name} after")


class MarkingAsync(Marking):
    async def enqueue(  # type: ignore[override]
        self, jobs: Sequence[NewJob]
    ) -> AsyncIterator[None]:
        self.notes.append(f"{self.name} before {len(jobs)} {jobs[0].name}")
        for job in jobs:
            job.meta["seen"] = job.meta.get("seen", "") + self.name
        yield
        self.notes.append(f"{self.name} after")


def new_app(*middleware: Middleware, **settings: Any) -> MemoryMesh:
    return MemoryMesh(middleware=middleware, **settings)


# around enqueue ----------------------------------------------------------------------------------


class Ping(Job[int], name="ping"):
    n: int


async def test_jobs_pass_through_middleware_in_order() -> None:
    notes: list[str] = []
    async with new_app(Marking("a", notes), MarkingAsync("b", notes)) as app:

        @app.job
        async def work(n: int) -> None: ...

        await work.options(meta={"mine": "yes"}).enqueue(1)
        await work.enqueue_many([(2,), (3,)])
        await app.enqueue(Ping(4))
        jobs = await app.taken()
    assert notes == [
        *("a before 1 work", "b before 1 work", "b after", "a after"),
        *("a before 2 work", "b before 2 work", "b after", "a after"),
        *("a before 1 ping", "b before 1 ping", "b after", "a after"),
    ]
    assert [job.headers for job in jobs] == [{"a": f'{{"n":{n}}}'} for n in (1, 2, 3, 4)]
    assert jobs[0].meta == {"mine": "yes", "seen": "ab"}
    assert jobs[1].meta == {"seen": "ab"}


async def test_middleware_can_refuse_and_then_nothing_is_stored() -> None:
    class Refusing(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
            if any(job.lane == "default" for job in jobs):
                raise PermissionError("not from here")
            yield

    outer = Marking()
    async with new_app(outer, Refusing()) as app:

        @app.job
        async def work(n: int) -> None: ...

        with pytest.raises(PermissionError, match="not from here"):
            await work.enqueue(1)
        assert await app.stored() == 0
        await work.options(lane="other").enqueue(1)
        assert await app.stored() == 1


@pytest.mark.parametrize("count", [1, 3])
async def test_middleware_sees_that_storing_failed(count: int) -> None:
    outer = Marking()
    async with new_app(outer) as app:

        @app.job
        async def work(n: int) -> None: ...

        agent: Any = await app.agent("m")

        async def push(jobs: Sequence[Envelope]) -> list[AgentUnavailable]:
            return [AgentUnavailable("full")] * len(jobs)

        agent.push = push
        with pytest.raises(AgentUnavailable):
            await work.enqueue_many([(n,) for n in range(count)])
        with pytest.raises(AgentUnavailable):
            await work.enqueue(1)
    assert outer.notes.count("m saw AgentUnavailable") == 2
    assert "m after" not in outer.notes


async def test_a_hook_that_swallows_what_failed_changes_nothing() -> None:
    class Swallowing(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
            with suppress(MeshError):
                yield

    async with new_app(Swallowing()) as app:

        @app.job
        async def work(n: int) -> None: ...

        agent: Any = await app.agent("m")

        async def push(jobs: Sequence[Envelope]) -> list[AgentUnavailable]:
            return [AgentUnavailable("full")] * len(jobs)

        agent.push = push
        with pytest.raises(AgentUnavailable):
            await work.enqueue(1)


def test_hooks_that_are_not_as_they_must_be_are_refused() -> None:
    class Plain(Middleware):
        def execute(self, ctx: Context[Any]) -> Any:
            return None

    class Yielding(Middleware):
        def ended(self, attempt: AttemptEnded) -> Any:
            yield

    with pytest.raises(ConfigError, match=r"Plain.execute\(\) must be a generator"):
        new_app(Plain())
    with pytest.raises(ConfigError, match=r"Yielding.ended\(\) .* must not yield"):
        new_app(Yielding())
    with pytest.raises(ConfigError, match=r"must be an object of a subclass of mesh\.Middleware"):
        new_app(Plain)  # type: ignore[arg-type]


async def test_an_app_without_middleware_stores_jobs_as_they_are(app: MemoryMesh) -> None:
    @app.job
    async def work() -> None: ...

    await work.enqueue()
    (job,) = await app.taken()
    assert (job.headers, job.meta, app._dresses) == (None, None, False)


# traces ------------------------------------------------------------------------------------------


def context_of(job: Envelope) -> Context[Any]:
    return Context(job, 1, 5, lambda kind, data, joins=False: DONE)


async def headers_of_a_job(middleware: Middleware) -> dict[str, str]:
    async with new_app(middleware) as app:

        @app.job
        async def work() -> None: ...

        await work.enqueue()
        (job,) = await app.taken()
        return job.headers or {}


def executing(middleware: Trace | OpenTelemetry, headers: dict[str, str]) -> Iterator[None]:
    return middleware.execute(context_of(make_job(headers=headers)))


async def test_a_trace_goes_on_from_caller_to_handler_to_its_jobs() -> None:
    middleware = Trace()
    with within_trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01"):
        headers = await headers_of_a_job(middleware)
    version, trace_id, span, flags = headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", "a" * 32, "01")
    assert span != "b" * 16
    assert current_trace() is None
    running = executing(middleware, headers)
    next(running)
    within = current_trace()
    assert within is not None
    assert trace_id in within
    child = await headers_of_a_job(middleware)
    next(running, None)
    assert trace_id in child["traceparent"]
    assert current_trace() is None


@given(st.none() | st.text() | st.just("00-" + "0" * 32 + "-" + "b" * 16 + "-01"))
def test_what_is_no_traceparent_begins_a_new_trace(given: str | None) -> None:
    with within_trace(given) as one, within_trace(one) as other:
        assert one.split("-")[1] == other.split("-")[1]
        assert one.split("-")[2] != other.split("-")[2]
    assert current_trace() is None


class Telemetry:
    """An SDK of the test's own, and the middleware that uses it."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.middleware = OpenTelemetry(tracers, MeterProvider([self._reader]))

    def points(self) -> dict[str, list[Any]]:
        """What was measured, by the name of the instrument."""
        data = self._reader.get_metrics_data()
        assert data is not None
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: list(metric.data.data_points) for metric in scope.metrics}


def attributes_of(thing: Any) -> dict[str, Any]:
    return dict(thing.attributes)


async def test_with_opentelemetry_spans_hang_together() -> None:
    telemetry = Telemetry()
    headers = await headers_of_a_job(telemetry.middleware)
    running = executing(telemetry.middleware, headers)
    next(running)
    assert otel.get_current_span().get_span_context().is_valid
    within = current_trace() or ""
    child = await headers_of_a_job(telemetry.middleware)
    with pytest.raises(ValueError, match="broken"):
        running.throw(ValueError("broken"))  # type: ignore[attr-defined]
    stored, below, ran = telemetry.spans.get_finished_spans()
    assert (stored.name, ran.name) == ("enqueue default", "execute default")
    assert (stored.kind, ran.kind) == (otel.SpanKind.PRODUCER, otel.SpanKind.CONSUMER)
    assert stored.context is not None
    assert ran.context is not None
    assert ran.parent is not None
    assert below.parent is not None
    assert ran.parent.span_id == ran.links[0].context.span_id == stored.context.span_id
    assert below.parent.span_id == ran.context.span_id
    assert ran.status.description == "ValueError: broken"
    assert attributes_of(ran)["error.type"] == "ValueError"
    assert headers["traceparent"].split("-")[1] == f"{stored.context.trace_id:032x}"
    assert child["traceparent"].split("-")[1] == headers["traceparent"].split("-")[1]
    assert within.split("-")[1:3] == [f"{ran.context.trace_id:032x}", f"{ran.context.span_id:016x}"]


async def test_spans_and_metrics_speak_as_the_conventions_do() -> None:
    telemetry = Telemetry()
    app = new_app(telemetry.middleware)

    @app.job(lane="mail")
    async def send(number: int) -> None: ...

    job = await send.enqueue(1)
    await send.enqueue_many([(n,) for n in range(5)])
    await app.close()
    one, many = telemetry.spans.get_finished_spans()
    common = {
        "messaging.system": "jobmesh",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "mesh.job.name": "send",
    }
    assert attributes_of(one) == common | {"messaging.message.id": job.id}
    assert attributes_of(many) == common | {"messaging.batch.message_count": 5}
    telemetry.middleware.ended(FAILED)
    points = telemetry.points()
    (sent,) = points["messaging.client.sent.messages"]
    assert (sent.value, attributes_of(sent)) == (6, common)
    (storing,) = points["messaging.client.operation.duration"]
    assert storing.count == 2
    (took,) = points["messaging.process.duration"]
    assert attributes_of(took) == common | {
        "messaging.operation.name": "execute",
        "messaging.operation.type": "process",
        "mesh.job.name": "mail.send",
        "mesh.job.state": "failed",
        "error.type": "ValueError",
    }
    assert took.sum == FAILED.seconds
    (waited,) = points["mesh.attempt.wait"]
    assert waited.sum == FAILED.waited
    (consumed,) = points["messaging.client.consumed.messages"]
    assert consumed.value == 1


async def test_what_was_not_stored_is_an_error_of_the_span_and_in_the_metrics() -> None:
    telemetry = Telemetry()
    nobody = f"nats://127.0.0.1:{free_port()}"
    middleware = [telemetry.middleware]
    async with Mesh(agents={"m": nobody}, connect_timeout=0.1, middleware=middleware) as app:

        @app.job
        async def work() -> None: ...

        with pytest.raises(AgentUnavailable):
            await work.enqueue()
    (stored,) = telemetry.spans.get_finished_spans()
    assert stored.status.status_code is otel.StatusCode.ERROR
    (sent,) = telemetry.points()["messaging.client.sent.messages"]
    assert attributes_of(sent)["error.type"] == "AgentUnavailable"


def test_a_snooze_is_no_error() -> None:
    telemetry = Telemetry()
    running = executing(telemetry.middleware, {})
    next(running)
    with pytest.raises(Snooze):
        running.throw(Snooze(5))  # type: ignore[attr-defined]
    (ran,) = telemetry.spans.get_finished_spans()
    assert ran.status.status_code is otel.StatusCode.UNSET
    assert ran.parent is None


@pytest.mark.parametrize("first", [True, False])
async def test_trace_leaves_the_spans_of_opentelemetry_alone(first: bool) -> None:
    telemetry = Telemetry()
    both = [telemetry.middleware, Trace()] if first else [Trace(), telemetry.middleware]
    async with new_app(*both) as app:

        @app.job
        async def work() -> None: ...

        await work.enqueue()
        (job,) = await app.taken()
    (stored,) = telemetry.spans.get_finished_spans()
    assert stored.context is not None
    assert (job.headers or {})["traceparent"].split("-")[2] == f"{stored.context.span_id:016x}"


def test_records_of_a_job_say_which_trace_they_belong_to(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    context = context_of(make_job())
    with within_trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01") as trace:
        context.log.info("of the job")
        context.logger.info("of the process")
    for record in caplog.records:
        assert (record.__dict__["trace_id"], record.__dict__["job_id"]) == (
            "a" * 32,
            context.job_id,
        )
        assert record.__dict__["span_id"] == trace.split("-")[2]
    assert len(caplog.records) == 2


async def test_opentelemetry_without_an_sdk_still_passes_a_trace_on() -> None:
    middleware = OpenTelemetry()
    headers = await headers_of_a_job(middleware)
    running = executing(middleware, headers)
    next(running)
    assert (current_trace() or "").split("-")[1] == headers["traceparent"].split("-")[1]
    next(running, None)


def test_opentelemetry_that_is_wanted_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(isinstance(hook, OpenTelemetry) for hook in new_app().hooks.ended)
    assert new_app(otel=True).hooks.ended
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    new_app()
    with pytest.raises(ConfigError, match=r"pip install 'jobmesh\[otel\]'"):
        new_app(otel=True)


# logs --------------------------------------------------------------------------------------------

FAILED = AttemptEnded(
    job_id="0198",
    name="mail.send",
    lane="mail",
    attempt=2,
    max_attempts=5,
    state=State.FAILED,
    seconds=0.25,
    error=ErrorInfo("ValueError", "no"),
    exception=ValueError("no"),
    meta={},
    headers={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"},
    waited=1.5,
)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_the_end_of_an_attempt_is_one_line_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    Logs().ended(FAILED)
    (line,) = lines_of(caplog)
    del line["time"]
    assert line == {
        "level": "error",
        "logger": "mesh.attempts",
        "message": "job 0198 (mail.send) failed at attempt 2 after 0.250 s",
        "job_id": "0198",
        "job_name": "mail.send",
        "attempt": 2,
        "lane": "mail",
        "state": "failed",
        "seconds": 0.25,
        "error_type": "ValueError",
        "error": "no",
        "trace_id": "a" * 32,
    }


def test_lines_of_a_handler_say_whose_they_are() -> None:
    formatter = JsonFormatter()
    token = RUNNING.set(Run(make_job(id="0198"), 1, 0, "w", 0.0))

    def line(**fields: Any) -> dict[str, Any]:
        record = logging.LogRecord("lib", logging.INFO, "f.py", 1, "said %s", ("it",), None)
        vars(record).update(fields)
        parsed: dict[str, Any] = json.loads(formatter.format(record))
        return parsed

    with within_trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01"):
        within = line(size={1, 2}, job_id="mine")
    RUNNING.reset(token)
    assert (within["message"], within["job_name"]) == ("said it", "conformance")
    assert (within["trace_id"], within["job_id"]) == ("a" * 32, "mine")
    assert within["size"] == [1, 2]
    assert not {"job_id", "trace_id"} & line().keys()


def test_exceptions_are_in_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("lib", logging.ERROR, "f.py", 1, "oh", (), sys.exc_info())
    assert "ValueError: broken" in json.loads(JsonFormatter().format(record))["exception"]


# reports -----------------------------------------------------------------------------------------


def test_reports_are_of_what_failed_for_good_or_of_every_failure() -> None:
    final: list[State] = []
    every: list[State] = []
    for state in (State.SUCCEEDED, State.RETRYING, State.FAILED, State.CANCELLED):
        Report(lambda attempt: final.append(attempt.state)).ended(replace(FAILED, state=state))
        Report(lambda a: every.append(a.state), "every").ended(replace(FAILED, state=state))
    assert final == [State.FAILED]
    assert every == [State.RETRYING, State.FAILED]
    with pytest.raises(ConfigError, match=r"which='evry'.* did you mean 'every'\?"):
        Report(print, "evry")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a function of an AttemptEnded"):
        Report("sentry")  # type: ignore[arg-type]


def test_from_env_takes_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_AGENTS", "m=memory://unused")
    app = Mesh.from_env(middleware=[Logs()])
    assert app.hooks.at_attempts
