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

from mesh.codecs.base import seal
from mesh.context import Context
from mesh.errors import CannotDecrypt, ConfigError
from mesh.handler import Handler
from mesh.outcome import Failure
from mesh.retry import Retry
from mesh.wire import ErrorInfo
from mesh_workers.around import Around
from mesh_workers.outcome import (
    Failed,
    Outcome,
    Succeeded,
    TimeLimit,
    describe,
    judge,
    returned_failure,
)
from mesh_workers.threads import Threads

__all__ = ["Straggler", "execute"]

Straggler = asyncio.Future[Any] | None
"""A thread that went on after its attempt's time was over; its slot is not free before."""


async def execute(
    handler: Handler[..., Any, Any],
    payload: bytes,
    context: Context[Any] | None,
    limit: TimeLimit | None,
    policy: Retry,
    result_limit: int,
    threads: Threads[Any],
    around: Around | None = None,
) -> tuple[Outcome, Straggler]:
    """The outcome of one call of the handler. ``policy`` says which failures are worth another
    attempt; ``result_limit`` in bytes. ``context`` is for a handler that needs one, and
    ``around`` what ``surround`` returned for both."""
    arguments = prepare(handler, payload, context, around)
    if isinstance(arguments, Failed):
        return arguments, None
    straggler: Straggler = None
    if handler.is_async:
        if around is None:
            outcome = await run_async(handler.function, arguments, limit, policy)
        else:
            outcome = await run_async(around.run, arguments, limit, policy)
    elif around is None:
        call = partial(handler.function, **arguments)
        outcome, straggler = await _run_thread(call, limit, policy, threads)
    elif not around.needs_loop:
        call = partial(around.run_here, {}, **arguments)
        outcome, straggler = await _run_thread(call, limit, policy, threads)
    else:
        outcome, straggler = await _run_both(around, arguments, limit, policy, threads)
    if isinstance(outcome, tuple):
        return conclude(handler, outcome[0], result_limit), straggler
    return outcome, straggler


def prepare(
    handler: Handler[..., Any, Any],
    payload: bytes,
    context: Context[Any] | None,
    around: Around | None = None,
) -> dict[str, Any] | Failed:
    """The handler's arguments by name."""
    try:
        if around is not None:
            around.prepare()
        return handler.bind(handler.decode(payload), context)
    except (CannotDecrypt, ConfigError) as error:
        # Neither is better the next time.
        return Failed(describe(error), retryable=False)
    except BaseException as error:  # types may bring code of their own
        cause = describe(error)
        message = f"the stored arguments do not fit this version of the handler: {cause.message}"
        cause = ErrorInfo("InvalidArguments", message, cause.traceback)
        return Failed(cause, retryable=False)


Returned = tuple[Any]
"""What the handler returned."""


async def run_async(
    function: Callable[..., Coroutine[Any, Any, Any]],
    arguments: dict[str, Any],
    limit: TimeLimit | None,
    policy: Retry,
) -> Returned | Outcome:
    timeout: asyncio.Timeout | None = None
    try:
        if limit is None:
            return (await function(**arguments),)
        timeout = asyncio.timeout(limit.seconds)
        async with timeout:
            return (await function(**arguments),)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            raise
        # The handler raised it, or something it awaited was cancelled.
        return judge(error, policy)
    except BaseException as error:
        if isinstance(error, TimeoutError) and timeout is not None and timeout.expired():
            assert limit is not None
            return timed_out(limit, policy)
        return judge(error, policy)


async def _run_thread(
    call: Callable[[], Any],
    limit: TimeLimit | None,
    policy: Retry,
    threads: Threads[Any],
) -> tuple[Returned | Outcome, Straggler]:
    context = contextvars.copy_context()
    future = threads.call(partial(run_sync, partial(context.run, call), policy))
    if limit is None:
        return await future, None
    await asyncio.wait([future], timeout=limit.seconds)
    if future.done():
        return future.result(), None
    return timed_out(limit, policy), future


async def _run_both(
    around: Around,
    arguments: dict[str, Any],
    limit: TimeLimit | None,
    policy: Retry,
    threads: Threads[Any],
) -> tuple[Returned | Outcome, Straggler]:
    """For a handler in a thread, with something around it on the event loop: which must be there
    for as long as the thread goes on, time-out or not. So the straggler is all of it."""
    is_in_thread = False

    async def call(function: Callable[[], Any]) -> Any:
        nonlocal is_in_thread
        is_in_thread = True
        context = contextvars.copy_context()
        return released(await threads.call(partial(catch, partial(context.run, function))))

    running = partial(around.run_elsewhere, call)
    task = asyncio.ensure_future(run_async(running, arguments, None, policy))
    try:
        await asyncio.wait([task], timeout=None if limit is None else limit.seconds)
    except asyncio.CancelledError:
        if not is_in_thread:
            task.cancel()
        raise
    if task.done():
        return task.result(), None
    assert limit is not None
    if is_in_thread:
        return timed_out(limit, policy), task
    task.cancel()
    await asyncio.wait([task])
    return timed_out(limit, policy), None


def catch(call: Callable[[], Any]) -> Returned | BaseException:
    """What it returns or raises, as a value: some exceptions cannot pass through a future."""
    try:
        return (call(),)
    except BaseException as error:
        return error


def released(caught: Returned | BaseException) -> Any:
    """What ``catch`` has caught, returned or raised."""
    if isinstance(caught, BaseException):
        raise caught
    return caught[0]


def run_sync(call: Callable[[], Any], policy: Retry) -> Returned | Outcome:
    # SystemExit and the like must not travel through the future into the event loop.
    try:
        return (call(),)
    except BaseException as error:
        return judge(error, policy)


def timed_out(limit: TimeLimit, policy: Retry) -> Outcome:
    """The outcome of an attempt that took longer than it may."""
    exceeded = limit.exceeded()
    return exceeded if isinstance(exceeded, Failed) else judge(exceeded, policy)


def conclude(handler: Handler[..., Any, Any], value: Any, limit: int) -> Outcome:
    """The outcome of a handler that returned ``value``; ``limit`` in bytes."""
    if isinstance(value, Failure):
        return returned_failure(value)
    # Not retryable: the work is done, and doing it again would end in the same way.
    try:
        result = handler.encode_result(value)
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
    return Succeeded(seal(handler.app.codec, result))
