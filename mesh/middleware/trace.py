"""Traces that go on from who enqueues to who runs, by the W3C's ``traceparent``.

With OpenTelemetry installed, its spans: one for storing, one for each attempt. Without it, the
same header is made and passed on, and ``current_trace()`` tells it to whoever logs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mesh.context import Context
from mesh.errors import ConfigError
from mesh.middleware.base import Middleware, NewJob

__all__ = ["Trace", "current_trace", "within_trace"]

_HEADER = "traceparent"
_FORMAT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_current: ContextVar[str | None] = ContextVar("mesh_traceparent", default=None)


def current_trace() -> str | None:
    """The ``traceparent`` of what runs here, if it is known: in a handler under ``Trace``, and
    in the block of ``within_trace``."""
    return _current.get()


@contextmanager
def within_trace(traceparent: str | None) -> Iterator[str]:
    """In the block, that is the trace; ``None``, or one that is not well-formed, begins a new
    one. For the header of a web request, where OpenTelemetry does not see to it."""
    token = _current.set(_child(traceparent))
    try:
        yield _current.get() or ""
    finally:
        _current.reset(token)


def _child(traceparent: str | None) -> str:
    """A span of its own in the same trace, or in a new one."""
    if traceparent is None or not _FORMAT.match(traceparent):
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _, trace_id, _, flags = traceparent.split("-")[:4]
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"


class Trace(Middleware):
    """``middleware=[Trace()]``, on both sides."""

    def __init__(self, *, opentelemetry: bool | None = None) -> None:
        """``opentelemetry``: use it (default: if it is installed). Raises ``ConfigError`` if it is
        wanted, and not there."""
        self._spans: _Spans | None = None
        if opentelemetry is not False:
            try:
                self._spans = _Spans()
            except ImportError as error:
                if opentelemetry:
                    raise ConfigError(
                        "Trace(opentelemetry=True): it is not installed: "
                        "pip install opentelemetry-sdk"
                    ) from error

    def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        if self._spans is None:
            for job in jobs:
                job.headers[_HEADER] = _child(current_trace())
            yield
            return
        with self._spans.storing(jobs) as headers:
            headers.setdefault(_HEADER, _child(current_trace()))
            for job in jobs:
                job.headers.update(headers)
            yield

    def execute(self, ctx: Context[Any]) -> Iterator[None]:
        if self._spans is None:
            with within_trace(ctx.headers.get(_HEADER)):
                yield
            return
        with self._spans.executing(ctx) as headers:
            token = _current.set(headers.get(_HEADER) or _child(ctx.headers.get(_HEADER)))
            try:
                yield
            finally:
                _current.reset(token)


class _Spans:
    """OpenTelemetry's. Each gives the headers that tell of its span: none, where no SDK is set
    up."""

    def __init__(self) -> None:
        """Raises ``ImportError``."""
        # Not above: it takes long to import, for those that have it and do not use it here.
        from opentelemetry import propagate, trace

        self._propagate, self._trace = propagate, trace

    @contextmanager
    def storing(self, jobs: Sequence[NewJob]) -> Iterator[dict[str, str]]:
        name = jobs[0].name
        attributes: dict[str, str | int] = {"mesh.job.name": name, "mesh.jobs": len(jobs)}
        with self._trace.get_tracer("mesh").start_as_current_span(
            f"enqueue {name}", kind=self._trace.SpanKind.PRODUCER, attributes=attributes
        ):
            yield self._headers()

    @contextmanager
    def executing(self, ctx: Context[Any]) -> Iterator[dict[str, str]]:
        attributes: dict[str, str | int] = {
            "mesh.job.id": ctx.job_id,
            "mesh.job.name": ctx.name,
            "mesh.job.attempt": ctx.attempt,
            "mesh.lane": ctx.lane,
        }
        with self._trace.get_tracer("mesh").start_as_current_span(
            f"execute {ctx.name}",
            context=self._propagate.extract(ctx.headers),
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
        ):
            yield self._headers()

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._propagate.inject(headers)
        return headers
