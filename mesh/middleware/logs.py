"""Logs for machines: which job a line belongs to, and one line for the end of each attempt.

::

    app = Mesh(..., middleware=[Trace(), Logs()])

and ``mesh worker shop:app --log-json``; in a program of your own::

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level="INFO", handlers=[handler])
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from mesh.clock import to_datetime
from mesh.context import SAID
from mesh.job import State
from mesh.job_logs import running_fields
from mesh.middleware.base import AttemptEnded, Middleware
from mesh.tracing import trace_fields, trace_of

__all__ = ["JsonFormatter", "Logs"]

_LEVELS = {State.SUCCEEDED: logging.INFO, State.RETRYING: logging.WARNING}


class Logs(Middleware):
    """``logger`` tells the end of each attempt."""

    def __init__(self, logger: str = "mesh.attempts") -> None:
        self._logger = logging.getLogger(logger)

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
        fields |= trace_of(attempt.headers)
        text = "job %s (%s) %s at attempt %d after %.3f s"
        values = attempt.job_id, attempt.name, attempt.state, attempt.attempt, attempt.seconds
        self._logger.log(level, text, *values, extra=fields)


_OWN = frozenset(vars(logging.makeLogRecord({}))) | {*("message", "asctime", "taskName", SAID)}


class JsonFormatter(logging.Formatter):
    """A JSON object a line: ``time``, ``level``, ``logger``, ``message``, whatever was given as
    ``extra``; while a handler runs, whoever logs, its job; and under ``Trace`` the trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": to_datetime(record.created).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= running_fields()
        line |= trace_fields()
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return msgspec.json.encode(line, enc_hook=str).decode()
