"""What a running handler can see and say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Coroutine, Generator, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, Unpack, overload

import msgspec
from typing_extensions import TypeVar

from mesh.clock import to_datetime
from mesh.codec import ValueCodec, encode_json
from mesh.codecs.base import Codec, unseal
from mesh.errors import EventTooLarge, InvalidResult
from mesh.job import State
from mesh.outcome import Failure
from mesh.tracing import trace_fields
from mesh.wire import Envelope, Parent

if TYPE_CHECKING:
    from mesh.bound import Bound, Submitter
    from mesh.handler import Handler
    from mesh.job_handle import JobHandle
    from mesh.options import JobOptions
    from mesh.request import Job
    from mesh.sync import Sync

__all__ = [
    "DONE",
    "SAID",
    "TURN",
    "Context",
    "Emit",
    "ParentJob",
    "call_off",
    "job_fields",
    "log_event",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# With a default, a plain ``Context`` holds no Any, over which mypy could not tell overloads apart.
ProgressT = TypeVar("ProgressT", default=object)

SAID = "mesh_said"
"""The attribute of log records that are events already."""

_EVENT_SIZE = 32 * 1024


class Emit(Protocol):
    """Hands events to the worker, from any thread."""

    def __call__(self, kind: str, data: bytes, joins: bool = False) -> Awaitable[None]:
        """``data`` is JSON; ``joins``: it is text that may be joined with text before it. The
        result may be awaited, until there is room for more. Raises ``EventsWait``."""
        ...


class _Done(Awaitable[None]):
    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE: Awaitable[None] = _Done()
"""What ``Emit`` returns when there is room."""


class _Turn(Awaitable[None]):
    def __await__(self) -> Generator[None, None, None]:
        yield


TURN: Awaitable[None] = _Turn()
"""The same, and lets others on the event loop have their turn."""


class Context(Generic[ProgressT]):
    """Give a handler a parameter annotated ``Context`` and it gets one per attempt.

    ``progress``, ``chunk``, ``metric`` and ``log`` may be called from ``async`` and from ``def``
    handlers; in the former await them: it takes time only if so much is said that it must be
    written first. Events reach the master with the worker's next write. All of them raise
    ``EventTooLarge`` for what takes more than ``event_size``, and ``EventsWait``.
    """

    def __init__(
        self,
        job: Envelope,
        attempt: int,
        max_attempts: int,
        emit: Emit,
        app: Submitter | None = None,
    ) -> None:
        """``app`` is needed for what is enqueued, and for what is encrypted."""
        self._job = job
        self._emit = emit
        self._app = app
        self.attempt = attempt
        """The number of this execution, from 1."""
        self.max_attempts = max_attempts
        self._is_called_off = False
        self.failure: Failure | None = None
        """What the handler has returned, if that is a ``Failure``: for middleware, behind its
        ``yield``."""

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

    @property
    def key(self) -> str | None:
        """The job's idempotency key."""
        return self._job.key

    @property
    def parent(self) -> str | None:
        """The id of the job whose handler enqueued this one."""
        return self._job.parent

    @property
    def workflow(self) -> str | None:
        """The id of the workflow that the job is part of."""
        return self._job.workflow

    @property
    def deadline(self) -> datetime | None:
        """The moment, in UTC, beyond which no attempt runs."""
        return to_datetime(self._job.deadline) if self._job.deadline else None

    @property
    def headers(self) -> Mapping[str, str]:
        """What middleware said when the job was enqueued."""
        return self._job.headers or {}

    @cached_property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger of the standard library, ``mesh.job.<name>``, whose records have the
        attributes ``job_id``, ``job_name``, ``attempt`` and ``lane``, and within a trace
        ``trace_id`` and ``span_id``. Unlike those of ``log`` its lines are not kept with the
        job."""
        fields = job_fields(self) | trace_fields()
        return logging.LoggerAdapter(logging.getLogger(f"mesh.job.{self.name}"), fields)

    # parents and children --------------------------------------------------------------------

    @cached_property
    def parents(self) -> list[ParentJob]:
        """The jobs that this one ran after, in the order in which they were given."""
        codec = None if self._app is None else self._app.codec
        return [ParentJob(parent, codec) for parent in self._job.parents or ()]

    def parent_result(self, kind: type[T], name: str | None = None) -> T:
        """The result, of type ``kind``, of the job that this one ran after; of several, of the
        one that has this ``name`` in the workflow.

        Raises ``LookupError`` if there is no such, or not only one, ``InvalidResult`` if it has
        none of that type, ``CannotDecrypt``.
        """
        found = [parent for parent in self.parents if name in (None, parent.name)]
        if len(found) != 1:
            names = ", ".join(parent.name for parent in self.parents) or "none"
            which = "of that name" if name is not None else "but not one"
            raise LookupError(
                f"job {self.job_id} ({self.name}): parent_result(name={name!r}): it ran after "
                f"{len(found)} jobs {which}; it has: {names}"
            )
        return found[0].result_as(kind)

    @overload
    def enqueue(
        self, target: Handler[P, R, Any] | Bound[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, JobHandle[R]]: ...
    @overload
    def enqueue(
        self, target: Job[R], /, **options: Unpack[JobOptions]
    ) -> Coroutine[Any, Any, JobHandle[R]]: ...

    def enqueue(
        self, target: Any, /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, JobHandle[Any]]:
        """Store a job that is this one's child: ``ctx.enqueue(send_mail, 42)``, or of
        ``send_mail.options(...)``, or ``ctx.enqueue(request, delay=60)``. It is a job like any
        other, but remembers its ``parent``. In a ``def`` handler:
        ``ctx.sync(ctx.enqueue(send_mail, 42))``. Raises as ``Bound.enqueue`` does."""
        return self._submitter.enqueue_child(self.job_id, target, args, kwargs)

    @property
    def sync(self) -> Sync:
        """The app's ``sync``: waits for an awaitable in a ``def`` handler."""
        return self._submitter.sync

    @property
    def _submitter(self) -> Submitter:
        assert self._app is not None, "workers give it"
        return self._app

    # what it says ----------------------------------------------------------------------------

    def progress(
        self, value: ProgressT | float, total: float | None = None, label: str = ""
    ) -> Awaitable[None]:
        """How far the work is: ``progress(3, 10, "pages")``, or one value of your own type. Of
        what is said in quick succession, only the latest is kept.

        Raises ``TypeError`` if the value cannot be encoded.
        """
        said: dict[str, Any] = {"value": value}
        if isinstance(value, int | float):
            said = {"done": value, "total": total, "label": label or None}
        return self._emit("progress", self._encode("progress", said))

    def chunk(self, value: Any) -> Awaitable[None]:
        """A piece of output: text, or anything that can be encoded. Pieces of text that come in
        quick succession are kept as one; one that is longer than an event may be, as several."""
        if not isinstance(value, str):
            return self._emit("chunk", self._encode("chunk", value))
        *before, last = _pieces(value, self._event_size)
        for piece in before:
            self._emit("chunk", piece, joins=True)
        return self._emit("chunk", last, joins=True)

    def metric(self, name: str, value: float) -> Awaitable[None]:
        """A number that was measured: ``metric("rows", 1200)``."""
        if not isinstance(value, int | float) or not isfinite(value):
            raise TypeError(f"ctx.metric({name!r}, {value!r}): the value must be a finite number")
        return self._emit("metric", self._encode("metric", {"name": name, "value": value}))

    @property
    def _event_size(self) -> int:
        return _EVENT_SIZE if self._app is None else self._app.event_size

    def _encode(self, kind: str, value: Any) -> bytes:
        data, most = encode_json(value), self._event_size
        if len(data) > most:
            raise EventTooLarge(
                f"job {self.job_id} ({self.name}): ctx.{kind}(...) takes {len(data)} bytes, the "
                f"limit is {most}: say less, store it elsewhere, or raise event_size"
            )
        return data


def _pieces(text: str, most: int) -> Iterator[bytes]:
    """The text as JSON, in as many pieces as it takes, none longer than ``most`` bytes."""
    data = encode_json(text)
    if len(data) <= most or len(text) < 2:
        yield data
        return
    half = len(text) // 2
    yield from _pieces(text[:half], most)
    yield from _pieces(text[half:], most)


class ParentJob:
    """A job that another ran after."""

    def __init__(self, parent: Parent, codec: Codec | None) -> None:
        self._parent = parent
        self._codec = codec

    def __repr__(self) -> str:
        return f"<ParentJob {self.name} {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return self._parent.id

    @property
    def name(self) -> str:
        """Its name in the workflow, else its handler's."""
        return self._parent.name

    @property
    def state(self) -> State:
        """How it ended."""
        return self._parent.state

    @cached_property
    def result(self) -> Any:
        """What its handler returned, as JSON has it; ``None`` if it did not succeed. Raises
        ``CannotDecrypt``."""
        anything: Any = Any
        return None if self._parent.result is None else self.result_as(anything)

    def result_as(self, kind: type[T]) -> T:
        """The same as a value of type ``kind``. Raises ``InvalidResult`` if it is none, or if the
        job did not succeed, ``CannotDecrypt``."""
        what = f"job {self.id} ({self.name}), which ended {self.state},"
        if self._parent.result is None:
            raise InvalidResult(f"{what} has no result")
        decode = ValueCodec(kind, f"{what} has a result").decode
        try:
            value: T = decode(unseal(self._codec, self._parent.result))
        except msgspec.ValidationError as error:
            raise InvalidResult(f"{what} has another result than that: {error}") from error
        return value


def job_fields(context: Context[Any]) -> dict[str, Any]:
    """What log records say of the job."""
    return {
        "job_id": context.job_id,
        "job_name": context.name,
        "attempt": context.attempt,
        "lane": context.lane,
    }


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
        context = self._context
        entry: dict[str, Any] = {"level": logging.getLevelName(level).lower(), "message": message}
        if data:
            entry["data"] = data
        said = context._emit("log", log_event(entry, context._event_size))
        extra = {**job_fields(context), **trace_fields(), SAID: True, "data": data}
        self._logger.log(level, "%s [job %s]", message, context.job_id, extra=extra)
        return said


def log_event(entry: dict[str, Any], most: int) -> bytes:
    """The data of a ``log`` event, in at most ``most`` bytes: of one that is longer the message is
    cut, and what else there is left out."""
    data = encode_json(entry)
    if len(data) <= most:
        return data
    # A character takes up to six bytes.
    short = {"level": entry["level"], "message": entry["message"][: max(1, most // 8)] + " …"}
    return encode_json({**short, "cut": len(data)})
