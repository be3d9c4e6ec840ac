"""Traces that go on from who enqueues to who runs, without OpenTelemetry: a ``traceparent`` is
made and passed on, and ``current_trace()`` tells it to whoever logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mesh.context import Context
from mesh.middleware.base import Middleware, NewJob
from mesh.tracing import TRACEPARENT, child_of, current_trace, within_trace

__all__ = ["Trace"]


class Trace(Middleware):
    """``middleware=[Trace()]``, on both sides. ``OpenTelemetry`` does the same with spans; beside
    it this does nothing."""

    def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        for job in jobs:
            job.headers.setdefault(TRACEPARENT, child_of(current_trace()))
        yield

    def execute(self, ctx: Context[Any]) -> Iterator[None]:
        if current_trace() is not None:
            yield
            return
        with within_trace(ctx.headers.get(TRACEPARENT)):
            yield
