"""Logs for machines: which job a line belongs to, and one line for the end of each attempt.

::

    app = Mesh(..., middleware=[Trace(), Logs()])
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level="INFO", handlers=[handler])
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec

from mesh.clock import to_datetime
from mesh.context import Context, job_fields
from mesh.job import State
from mesh.middleware.base import AttemptEnded, Middleware
from mesh.tracing import TRACEPARENT, trace_fields

__all__ = ["JsonFormatter", "Logs"]

_fields: ContextVar[dict[str, Any] | None] = ContextVar("mesh_log_fields", default=None)

_LEVELS = {State.SUCCEEDED: logging.INFO, State.RETRYING: logging.WARNING}


class Logs(Middleware):
    """Every line that is logged while a handler runs, whoever logs it, is the job's for
    ``JsonFormatter``; and ``logger`` tells the end of each attempt."""

    def __init__(self, logger: str = "mesh.attempts") -> None:
        self._logger = logging.getLogger(logger)

    def execute(self, ctx: Context[Any]) -> Iterator[None]:
        token = _fields.set(job_fields(ctx))
        try:
            yield
        finally:
            _fields.reset(token)

    def ended(self, attempt: AttemptEnded) -> None:
        level = _LEVELS.get(attempt.state, logging.ERROR)
        if attempt.state is State.CANCELLED:
            level = logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        fields: dict[str, Any] = {
            "job_id": attempt.job_id,
            "job_name": attempt.name,
            "attempt": attempt.attempt,
            "lane": attempt.lane,
            "state": str(attempt.state),
            "seconds": round(attempt.seconds, 6),
        }
        if attempt.error is not None:
            fields |= {"error_type": attempt.error.type, "error": attempt.error.message}
        if traceparent := attempt.headers.get(TRACEPARENT):
            fields |= trace_fields(traceparent)
        text = "job %s (%s) %s at attempt %d after %.3f s"
        values = attempt.job_id, attempt.name, attempt.state, attempt.attempt, attempt.seconds
        self._logger.log(level, text, *values, extra=fields)


_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A JSON object a line: ``time``, ``level``, ``logger``, ``message``, whatever was given as
    ``extra``, and under ``Logs`` and ``Trace`` the job and the trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": to_datetime(record.created).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields.get() or {}
        line |= trace_fields()
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return msgspec.json.encode(line, enc_hook=str).decode()
