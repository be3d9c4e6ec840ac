"""What a running handler can see and say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Generic

from typing_extensions import TypeVar

from mesh.clock import to_datetime
from mesh.codec import encode_json
from mesh.wire import Envelope

__all__ = ["Context", "Emit", "call_off"]

# With a default, a plain ``Context`` holds no Any, over which mypy could not tell overloads apart.
ProgressT = TypeVar("ProgressT", default=object)

Emit = Callable[[str, bytes], None]
"""``(kind, JSON)``: hand an event to the worker, from any thread, without waiting."""


class _Said(Awaitable[None]):
    """Already done: may be awaited in ``async def`` handlers and ignored in ``def`` ones."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_SAID = _Said()


class Context(Generic[ProgressT]):
    """Give a handler a parameter annotated ``Context`` and it gets one per attempt.

    ``progress``, ``chunk`` and ``log`` may be called from ``async`` and from ``def`` handlers;
    in the former they may be awaited. Events reach the master with the worker's next write.
    """

    def __init__(self, job: Envelope, attempt: int, max_attempts: int, emit: Emit) -> None:
        self._job = job
        self._emit = emit
        self.attempt = attempt
        """The number of this execution, from 1."""
        self.max_attempts = max_attempts
        self._is_called_off = False

    @property
    def cancelled(self) -> bool:
        """Whether the work is wanted no more: the job was cancelled, the attempt's time is over,
        or the worker has stopped waiting for it. For ``def`` handlers, which nobody can interrupt:
        look at it now and then, and ``raise Cancel(...)``. May be read in any thread."""
        return self._is_called_off

    @cached_property
    def log(self) -> JobLog:
        return JobLog(self)

    @property
    def job_id(self) -> str:
        return self._job.id

    @property
    def name(self) -> str:
        """The handler's name."""
        return self._job.name

    @property
    def lane(self) -> str:
        return self._job.lane

    @property
    def schedule(self) -> str | None:
        """The name of the schedule that made the job."""
        return self._job.schedule

    @property
    def slot(self) -> datetime | None:
        """The moment of the schedule that the job is for, in UTC, whenever it really starts.
        ``None`` for jobs of no schedule, and for runs out of turn."""
        return None if self._job.slot is None else to_datetime(self._job.slot)

    @property
    def meta(self) -> Mapping[str, str]:
        return self._job.meta or {}

    def progress(
        self, value: ProgressT | float, total: float | None = None, label: str = ""
    ) -> Awaitable[None]:
        """How far the work is: ``progress(3, 10, "pages")``, or one value of your own type.

        Raises ``TypeError`` if the value cannot be encoded.
        """
        if total is None and not label:
            self._emit("progress", encode_json(value))
        else:
            self._emit("progress", encode_json({"done": value, "total": total, "label": label}))
        return _SAID

    def chunk(self, value: Any) -> Awaitable[None]:
        """A piece of output: text, or anything that can be encoded."""
        self._emit("chunk", encode_json(value))
        return _SAID


def call_off(context: Context[Any] | None) -> None:
    """Make ``context.cancelled`` true. For the worker, from any thread; not for handlers."""
    if context is not None:
        context._is_called_off = True


class JobLog:
    """Log lines that belong to the job: kept with it, and passed to ``logging`` as well."""

    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._logger = logging.getLogger(f"mesh.job.{context.name}")

    def debug(self, message: str, **data: Any) -> Awaitable[None]:
        return self._say(logging.DEBUG, message, data)

    def info(self, message: str, **data: Any) -> Awaitable[None]:
        return self._say(logging.INFO, message, data)

    def warning(self, message: str, **data: Any) -> Awaitable[None]:
        return self._say(logging.WARNING, message, data)

    def error(self, message: str, **data: Any) -> Awaitable[None]:
        return self._say(logging.ERROR, message, data)

    def _say(self, level: int, message: str, data: dict[str, Any]) -> Awaitable[None]:
        entry: dict[str, Any] = {"level": logging.getLevelName(level).lower(), "message": message}
        if data:
            entry["data"] = data
        self._context._emit("log", encode_json(entry))
        self._logger.log(level, "%s [job %s]", message, self._context.job_id)
        return _SAID
