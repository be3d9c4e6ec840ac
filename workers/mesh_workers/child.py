"""A process that runs handlers for a worker, one at a time: the other end of ``processes``.

It reads ``Call`` messages from the socket that it was given and answers each with *begun*, what
the handler says meanwhile, and *ended*. A thread does the reading, so that the end of the worker
is noticed while a handler runs: then nobody wants the result, and the process ends at once.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import logging
import os
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import msgspec

from mesh.context import DONE, SAID, Context
from mesh.handler import Handler
from mesh.job_logs import RUNNING
from mesh.retry import Retry
from mesh.wire import Envelope, ErrorInfo
from mesh_workers.around import surround
from mesh_workers.execute import Returned, catch, conclude, prepare, released, run_async, run_sync
from mesh_workers.outcome import Failed, Outcome, describe

__all__ = ["LENGTH", "Begun", "Call", "Ended", "Logged", "Message", "Said", "Word", "main"]

LENGTH = struct.Struct("!I")
"""In front of each message: its length in bytes."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """Run a job's handler."""

    module: str
    handler: str
    """Where it is in the module."""
    job: Envelope
    attempt: int
    max_attempts: int
    policy: Retry
    result_limit: int
    """Bytes."""


class Begun(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The handler has been found; it runs from now on."""


class Word(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event that has no number yet."""

    kind: str
    data: bytes
    at: float
    joins: bool


class Said(msgspec.Struct, frozen=True, gc=False, tag=True):
    """What the handler has said since the last time."""

    events: list[Word]


class Logged(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A line for the worker's log."""

    logger: str
    level: int
    text: str
    is_event: bool = False
    """It was told as an event too."""


class Ended(msgspec.Struct, frozen=True, gc=False, tag=True):
    outcome: Outcome


Message = Begun | Said | Logged | Ended


class _Pipe:
    """The socket to the worker. ``send`` may be called from any thread."""

    def __init__(self, fileno: int) -> None:
        os.set_inheritable(fileno, False)
        self._socket = socket.socket(fileno=fileno)
        self._file = self._socket.makefile("rb")
        self._lock = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Call)

    def send(self, message: Message) -> None:
        data = self._encoder.encode(message)
        with self._lock:
            self._socket.sendall(LENGTH.pack(len(data)) + data)

    def receive(self) -> Call | None:
        """``None``: the worker has gone."""
        try:
            head = self._file.read(LENGTH.size)
            if len(head) < LENGTH.size:
                return None
            (length,) = LENGTH.unpack(head)
            data = self._file.read(length)
        except ConnectionResetError:  # it was killed, and had not read all that was said
            return None
        return self._decoder.decode(data) if len(data) == length else None

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class _Voice:
    """Hands an attempt's events to the worker. What a thread says has left the process when its
    call returns, so it is heard even if the process dies then; but what others say meanwhile is
    sent together with it. When the worker takes no more, they wait."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._words: deque[Word] = deque()
        self._is_over = False

    def emit(self, kind: str, data: bytes, joins: bool = False) -> Awaitable[None]:
        self._words.append(Word(kind, data, time.time(), joins))
        with self._lock:
            words = [self._words.popleft() for _ in range(len(self._words))]
            if words and not self._is_over:
                self._pipe.send(Said(words))
        return DONE

    def close(self) -> None:
        """Say nothing from now on: threads that the handler left behind may go on."""
        with self._lock:
            self._is_over = True


class _ToWorker(logging.Handler):
    """Log lines go where the worker's go."""

    def __init__(self, pipe: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        try:
            is_event = getattr(record, SAID, False)
            self._pipe.send(Logged(record.name, record.levelno, self.format(record), is_event))
        except Exception:
            self.handleError(record)


def main(fileno: int, log_level: int) -> None:
    """Serve until the worker closes its end."""
    faulthandler.enable()  # where a crash of native code happened goes to the worker's stderr
    # The worker alone decides when to stop: what a process group or a container is sent must
    # not end handlers before it has drained. (A function and not SIG_IGN, which handlers' own
    # child processes would inherit.)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    pipe = _Pipe(fileno)
    logging.basicConfig(level=log_level, format="%(message)s", handlers=[_ToWorker(pipe)])
    calls: SimpleQueue[Call | None] = SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(pipe, calls, busy), name="mesh-pipe", daemon=True).start()
    # The worker may be killed at any moment: then nobody waits for what is left to be said.
    with suppress(BrokenPipeError):
        while (call := calls.get()) is not None:
            voice = _Voice(pipe)
            outcome = _run(call, pipe, voice)
            voice.close()
            pipe.send(Ended(outcome))
            busy.clear()
    pipe.close()


def _read(pipe: _Pipe, calls: SimpleQueue[Call | None], busy: threading.Event) -> None:
    try:
        while (call := pipe.receive()) is not None:
            busy.set()
            calls.put(call)
    finally:
        if busy.is_set():
            os._exit(1)
        calls.put(None)


def _run(call: Call, pipe: _Pipe, voice: _Voice) -> Outcome:
    RUNNING.set(call)
    try:
        handler = _find(call)
    except BaseException as error:  # a module may do anything when it is imported
        cause = describe(error)
        where = f"{call.module}.{call.handler}"
        message = f"{where} cannot be imported in a process of its own: {cause.message}"
        return Failed(ErrorInfo(cause.type, message, cause.traceback))
    policy = call.policy
    if handler.retry_when is not None:
        policy = msgspec.structs.replace(policy, when=handler.retry_when)
    context: Context[Any] | None = None
    if handler.needs_context:
        context = Context(call.job, call.attempt, call.max_attempts, voice.emit, handler.app)
    pipe.send(Begun())
    around = surround(handler, context)
    arguments = prepare(handler, call.job.payload, context, around)
    if isinstance(arguments, Failed):
        return arguments
    if handler.is_async:
        function = handler.function if around is None else around.run
        outcome = _run_on_loop(handler, function, arguments, policy)
    elif around is not None and around.needs_loop:
        function = partial(around.run_elsewhere, _call)
        outcome = _run_on_loop(handler, function, arguments, policy)
    elif around is not None:
        outcome = run_sync(partial(around.run_here, {}, **arguments), policy)
    else:
        outcome = run_sync(partial(handler.function, **arguments), policy)
    if isinstance(outcome, tuple):
        return conclude(handler, outcome[0], call.result_limit)
    return outcome


def _run_on_loop(
    handler: Handler[..., Any, Any],
    function: Callable[..., Coroutine[Any, Any, Any]],
    arguments: dict[str, Any],
    policy: Retry,
) -> Returned | Outcome:
    async def run() -> Returned | Outcome:
        try:
            return await run_async(function, arguments, None, policy)
        finally:
            # What it has enqueued on this loop, which ends with it, was enqueued through this.
            await handler.app.close()

    outcome = run_sync(partial(asyncio.run, run()), policy)
    return outcome[0] if isinstance(outcome, tuple) else outcome


async def _call(function: Callable[[], Any]) -> Any:
    # In a thread, as in a worker: a ``def`` handler may wait for the loop.
    return released(await asyncio.to_thread(catch, function))


def _find(call: Call) -> Handler[..., Any, Any]:
    found: Any = importlib.import_module(call.module)
    for name in call.handler.split("."):
        found = getattr(found, name)
    if not isinstance(found, Handler):
        raise TypeError(f"it is {found!r}, and not a handler")
    _ = found.shape
    return found
