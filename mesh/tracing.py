"""Which trace the code that runs here belongs to, by the W3C's ``traceparent``: version, trace,
span and flags, as in ``00-<32 hex digits>-<16 hex digits>-01``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = [
    "TRACEPARENT",
    "child_of",
    "current_trace",
    "exactly",
    "trace_fields",
    "trace_of",
    "within_trace",
]

TRACEPARENT = "traceparent"
"""The header, of HTTP and of jobs."""

_FORMAT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_current: ContextVar[str | None] = ContextVar("mesh_traceparent", default=None)


def current_trace() -> str | None:
    """The ``traceparent`` of what runs here, if it is known: in a handler under ``Trace`` or
    ``OpenTelemetry``, and in the block of ``within_trace``."""
    return _current.get()


@contextmanager
def within_trace(traceparent: str | None) -> Iterator[str]:
    """In the block, that is the trace; ``None``, or one that is not well-formed, begins a new
    one. For the header of a web request, where OpenTelemetry does not see to it."""
    with exactly(child_of(traceparent)) as current:
        yield current


@contextmanager
def exactly(traceparent: str) -> Iterator[str]:
    """In the block, the span itself is the current one, and not a child of it."""
    token = _current.set(traceparent)
    try:
        yield traceparent
    finally:
        _current.reset(token)


def child_of(traceparent: str | None) -> str:
    """A span of its own in the same trace, or in a new one."""
    if traceparent is None or not _FORMAT.match(traceparent):
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _, trace_id, _, flags = traceparent.split("-")[:4]
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"


def trace_fields() -> dict[str, str]:
    """What log records say of the current trace, ``trace_id`` and ``span_id``: nothing, if there
    is none."""
    traceparent = _current.get()
    if traceparent is None:
        return {}
    return {**_trace_id(traceparent), "span_id": traceparent.split("-")[2]}


def trace_of(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The same of a job with these headers, outside of its attempts: its ``trace_id``."""
    return _trace_id((headers or {}).get(TRACEPARENT, ""))


def _trace_id(traceparent: str) -> dict[str, str]:
    return {"trace_id": traceparent.split("-")[1]} if _FORMAT.match(traceparent) else {}
