"""Running a handler once, whatever it does.

Nothing a handler raises, ``BaseException`` included, leaves ``execute``; only the cancellation
of the task that runs it does, since that is the worker's own doing. (Real signals never arrive
as exceptions here: the process handles SIGINT and SIGTERM on its event loop.)
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from mesh.context import Context
from mesh.handler import Handler
from mesh.wire import ErrorInfo
from mesh_workers.outcome import Failed, Outcome, Succeeded, describe
from mesh_workers.threads import Threads

__all__ = ["Straggler", "execute"]

Straggler = asyncio.Future[Any] | None
"""A thread that went on after its attempt's time was over; its slot is not free before."""


async def execute(
    handler: Handler[..., Any, Any],
    payload: bytes,
    context: Context[Any] | None,
    timeout: float | None,
    result_limit: int,
    threads: Threads[Any],
) -> tuple[Outcome, Straggler]:
    """The outcome of one call of the handler. ``timeout`` in seconds, ``result_limit`` in bytes.
    ``context`` is for a handler that wants one."""
    try:
        arguments = handler.bind(handler.decode(payload), context)
    except BaseException as error:  # types may bring code of their own
        cause = describe(error)
        message = f"the stored arguments do not fit this version of the handler: {cause.message}"
        cause = ErrorInfo("InvalidArguments", message, cause.traceback)
        return Failed(cause, retryable=False), None
    if handler.is_async:
        outcome = await _run_async(handler.function, arguments, timeout)
        straggler: Straggler = None
    else:
        outcome, straggler = await _run_thread(
            partial(handler.function, **arguments), timeout, threads
        )
    if isinstance(outcome, Failed):
        return outcome, straggler
    return _encode(handler, outcome[0], result_limit), straggler


async def _run_async(
    function: Callable[..., Coroutine[Any, Any, Any]],
    arguments: dict[str, Any],
    timeout: float | None,
) -> tuple[Any] | Failed:
    limit: asyncio.Timeout | None = None
    try:
        if timeout is None:
            return (await function(**arguments),)
        limit = asyncio.timeout(timeout)
        async with limit:
            return (await function(**arguments),)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            raise
        # The handler raised it, or something it awaited was cancelled.
        return Failed(describe(error, skip=1))
    except BaseException as error:
        if isinstance(error, TimeoutError) and limit is not None and limit.expired():
            return _timed_out(timeout)
        return Failed(describe(error, skip=1))


async def _run_thread(
    call: Callable[[], Any], timeout: float | None, threads: Threads[Any]
) -> tuple[tuple[Any] | Failed, Straggler]:
    context = contextvars.copy_context()
    future = threads.call(partial(_guarded, context, call))
    if timeout is None:
        return await future, None
    await asyncio.wait([future], timeout=timeout)
    if future.done():
        return future.result(), None
    return _timed_out(timeout), future


def _guarded(context: contextvars.Context, call: Callable[[], Any]) -> tuple[Any] | Failed:
    # SystemExit and the like must not travel through the future into the event loop.
    try:
        return (context.run(call),)
    except BaseException as error:
        return Failed(describe(error, skip=1))


def _timed_out(timeout: float | None) -> Failed:
    return Failed(ErrorInfo("TimeoutError", f"the attempt took longer than {timeout:g} s"))


def _encode(handler: Handler[..., Any, Any], value: Any, limit: int) -> Outcome:
    # Not retryable: the work is done, and doing it again would end in the same way.
    try:
        result = handler.shape.result.encode(value)
    except BaseException as error:
        cause = describe(error)
        message = f"the handler returned a value that cannot be encoded: {cause.message}"
        return Failed(ErrorInfo(cause.type, message, cause.traceback), retryable=False)
    if len(result) > limit:
        message = (
            f"the result takes {len(result)} bytes, the limit is {limit}: store it elsewhere and "
            "return a reference, or raise payload_limit"
        )
        return Failed(ErrorInfo("ResultTooLarge", message), retryable=False)
    return Succeeded(result)
