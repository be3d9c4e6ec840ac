"""Log records and the jobs in whose handlers they come up.

``RUNNING`` is set where a handler runs: in its task, its thread, its process. By it
``mesh.middleware.JsonFormatter`` knows whose record it has. ``EventLog`` makes events of records.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from mesh.config import LogLevel
from mesh.context import SAID, Emit, log_event
from mesh.wire import Envelope

__all__ = ["EMIT", "RUNNING", "EventLog", "Running", "events_of_logs", "running_fields"]


class Running(Protocol):
    """An attempt."""

    @property
    def job(self) -> Envelope: ...
    @property
    def attempt(self) -> int: ...


RUNNING: ContextVar[Running | None] = ContextVar("mesh_running", default=None)

EMIT: ContextVar[Emit | None] = ContextVar("mesh_emit", default=None)
"""Where ``EventLog`` hands events of the attempt."""

_JOBS_OWN = "mesh.job."
_MOST_TRACEBACK = 8 * 1024


class EventLog(logging.Handler):
    """Makes ``log`` events of what handlers, and what they call, say to ``logging``. For the root
    logger, once in a process. What jobmesh itself says is left out."""

    def __init__(self, level: int, event_size: int) -> None:
        super().__init__(level)
        self._event_size = event_size

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the lock that handlers take: a thread may wait in ``emit`` for the event loop,
        # which may have to log meanwhile.
        passes = bool(self.filter(record))
        if passes:
            self.emit(record)
        return passes

    def emit(self, record: logging.LogRecord) -> None:
        emit = EMIT.get()
        if emit is None or not _is_handlers(record):
            return
        try:
            entry: dict[str, Any] = {
                "level": record.levelname.lower(),
                "message": record.getMessage(),
                "logger": record.name,
            }
            if record.exc_info:
                text = logging.Formatter().formatException(record.exc_info)
                entry["data"] = {"traceback": text[-_MOST_TRACEBACK:]}
            emit("log", log_event(entry, self._event_size))
        except Exception:
            self.handleError(record)


_users: Counter[logging.Handler] = Counter()


@contextmanager
def events_of_logs(level: LogLevel, event_size: int) -> Iterator[None]:
    """Within the block, what handlers say to ``logging`` from that level on becomes events; once,
    however many workers a process has."""
    if level == "off":
        yield
        return
    root = logging.getLogger()
    found = next((one for one in root.handlers if isinstance(one, EventLog)), None)
    handler = found or EventLog(logging.getLevelNamesMapping()[level.upper()], event_size)
    root.addHandler(handler)
    _users[handler] += 1
    try:
        yield
    finally:
        _users[handler] -= 1
        if not _users[handler]:
            del _users[handler]
            root.removeHandler(handler)


def _is_handlers(record: logging.LogRecord) -> bool:
    if record.name.startswith(_JOBS_OWN):
        return not getattr(record, SAID, False)
    return record.name != "mesh" and not record.name.startswith("mesh.")


def running_fields() -> dict[str, Any]:
    """What log records say of the job whose handler runs here."""
    running = RUNNING.get()
    if running is None:
        return {}
    job = running.job
    return {"job_id": job.id, "job_name": job.name, "attempt": running.attempt, "lane": job.lane}
