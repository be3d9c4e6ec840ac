"""Running a handler once: nothing it does leaves ``execute``."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from mesh import Context, Mesh, Retry
from mesh.context import DONE
from mesh.testing.conformance.agent import make_job
from mesh_workers.execute import Straggler, execute
from mesh_workers.outcome import Failed, Outcome, Succeeded, TimeLimit
from mesh_workers.threads import Threads


class Odd(BaseException):
    pass


class Broken(Exception):
    def __str__(self) -> str:
        raise SystemExit("even its message")


class Call:
    """Registers a function and executes it, as a lane does."""

    def __init__(self) -> None:
        self.app = Mesh(agents={"m": "memory://unused"})
        self.threads = Threads[Any](2, "mesh-test")

    async def with_straggler(
        self,
        function: Callable[..., Any],
        payload: bytes = b"{}",
        timeout: float | None = None,
        limit: int = 1000,
    ) -> tuple[Outcome, Straggler]:
        handler = self.app.handlers.get(function.__name__) or self.app.job(function)
        context: Context[Any] = Context(make_job(), 1, 5, lambda kind, data, joins=False: DONE)
        time = None if timeout is None else TimeLimit(timeout)
        return await execute(handler, payload, context, time, Retry(), limit, self.threads)

    async def __call__(
        self,
        function: Callable[..., Any],
        payload: bytes = b"{}",
        timeout: float | None = None,
        limit: int = 1000,
    ) -> Outcome:
        outcome, straggler = await self.with_straggler(function, payload, timeout, limit)
        assert straggler is None
        return outcome


@pytest.fixture
def call() -> Iterator[Call]:
    call = Call()
    yield call
    call.threads.close()


def raiser(error: BaseException | type[BaseException], is_async: bool) -> Callable[[], Any]:
    def sync_handler() -> None:
        raise error

    async def async_handler() -> None:
        raise error

    return async_handler if is_async else sync_handler


def failure(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


@pytest.fixture(params=[True, False], ids=["async", "thread"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class TestReturning:
    async def test_async(self, call: Call) -> None:
        async def add(a: int, b: int = 2) -> int:
            await asyncio.sleep(0)
            return a + b

        assert await call(add, b'{"a":1}') == Succeeded(b"3")

    async def test_in_a_thread(self, call: Call) -> None:
        def where(ctx: Context[Any], a: int) -> list[Any]:
            return [threading.current_thread() is not threading.main_thread(), a, ctx.attempt]

        assert await call(where, b'{"a":7}') == Succeeded(b"[true,7,1]")

    @pytest.mark.parametrize("value", [object(), {1j}, "\ud800", lambda: None])
    async def test_a_value_that_cannot_be_encoded(
        self, call: Call, value: Any, is_async: bool
    ) -> None:
        def sync_handler() -> Any:
            return value

        async def async_handler() -> Any:
            return value

        outcome = failure(await call(async_handler if is_async else sync_handler))
        assert not outcome.retryable
        assert "cannot be encoded" in outcome.error.message

    async def test_a_value_whose_encoding_exits(self, call: Call) -> None:
        class Model:
            __pydantic_validator__ = None

            def model_dump(self, mode: str) -> Any:
                sys.exit(1)

        async def handler() -> Any:
            return Model()

        assert not failure(await call(handler)).retryable

    async def test_a_result_of_the_greatest_size_and_one_more(self, call: Call) -> None:
        async def text(length: int) -> str:
            return "x" * length

        assert isinstance(await call(text, b'{"length":98}', limit=100), Succeeded)
        outcome = failure(await call(text, b'{"length":99}', limit=100))
        assert (outcome.error.type, outcome.retryable) == ("ResultTooLarge", False)
        assert "101 bytes" in outcome.error.message


class TestRaising:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("no"),
            SystemExit(1),
            KeyboardInterrupt(),
            GeneratorExit(),
            asyncio.CancelledError(),
            TimeoutError("its own"),
            StopAsyncIteration(),
            Odd(),
            BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError()]),
        ],
        ids=repr,
    )
    async def test_is_a_retryable_failure(
        self, call: Call, error: BaseException, is_async: bool
    ) -> None:
        for timeout in (None, 60.0):
            handler = raiser(error.with_traceback(None), is_async)
            outcome = failure(await call(handler, timeout=timeout))
            assert outcome.retryable
            assert outcome.error.type == type(error).__name__
            assert outcome.error.message == str(error)
            assert "sync_handler" in outcome.error.traceback
            assert "mesh_workers" not in outcome.error.traceback

    async def test_stop_iteration(self, call: Call, is_async: bool) -> None:
        outcome = failure(await call(raiser(StopIteration(), is_async)))
        assert "StopIteration" in outcome.error.type + outcome.error.message

    async def test_a_message_that_exits(self, call: Call, is_async: bool) -> None:
        assert failure(await call(raiser(Broken(), is_async))).error.type == "Broken"

    async def test_leaving_the_thread(self, call: Call) -> None:
        def leave() -> None:
            _thread.exit()

        assert failure(await call(leave)).error.type == "SystemExit"

    async def test_cancelling_what_it_awaits(self, call: Call) -> None:
        async def handler() -> None:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

        assert failure(await call(handler)).error.type == "CancelledError"


class TestArguments:
    @pytest.mark.parametrize(
        "payload", [b'{"a":"x"}', b"{}", b"not json", b"[]", b'{"a":"\\ud800"}', b"\xff", b""]
    )
    async def test_that_do_not_fit_are_not_tried_again(self, call: Call, payload: bytes) -> None:
        ran = []

        async def handler(a: int) -> None:
            ran.append(a)

        outcome = failure(await call(handler, payload))
        assert (outcome.error.type, outcome.retryable) == ("InvalidArguments", False)
        assert not ran

    async def test_whose_type_exits(self, call: Call) -> None:
        class Model:
            @classmethod
            def model_validate(cls, value: Any) -> Any:
                raise KeyboardInterrupt

        async def handler(a: Any) -> None: ...

        handler.__annotations__["a"] = Model
        assert not failure(await call(handler, b'{"a":1}')).retryable


class TestTimeout:
    async def test_async(self, call: Call) -> None:
        cancelled = asyncio.Event()

        async def handler() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        outcome = failure(await call(handler, timeout=0.01))
        assert outcome.error.message == "the attempt took longer than 0.01 s"
        assert outcome.error.type == "TimeoutError"
        assert outcome.retryable
        assert cancelled.is_set()

    async def test_one_of_its_own_inside(self, call: Call) -> None:
        async def handler() -> None:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()

        outcome = failure(await call(handler, timeout=60))
        assert "longer than" not in outcome.error.message
        assert "handler" in outcome.error.traceback

    async def test_a_handler_that_raises_something_else_then(self, call: Call) -> None:
        async def handler() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("while cleaning up") from None

        assert failure(await call(handler, timeout=0.01)).error.type == "ValueError"

    async def test_a_handler_that_swallows_it_and_returns(self, call: Call) -> None:
        async def handler() -> int:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return 1

        assert await call(handler, timeout=0.01) == Succeeded(b"1")
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    async def test_a_thread_goes_on_as_a_straggler(self, call: Call) -> None:
        release = threading.Event()

        def handler() -> None:
            release.wait(20)

        outcome, straggler = await call.with_straggler(handler, timeout=0.01)
        assert failure(outcome).error.type == "TimeoutError"
        assert straggler is not None
        assert not straggler.done()
        release.set()
        await asyncio.wait_for(straggler, 20)


class TestCancellation:
    async def test_of_the_worker_goes_through(self, call: Call, is_async: bool) -> None:
        started, release = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        async def async_handler() -> None:
            started.set()
            await asyncio.Event().wait()

        def sync_handler() -> None:
            loop.call_soon_threadsafe(started.set)
            release.wait(20)

        task = asyncio.create_task(call(async_handler if is_async else sync_handler, timeout=60))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    async def test_that_is_answered_with_a_result(self, call: Call) -> None:
        started = asyncio.Event()

        async def handler() -> int:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 5
            return 6

        task = asyncio.create_task(call(handler))
        await started.wait()
        task.cancel()
        assert await task == Succeeded(b"5")


async def test_context_variables_stay_in_their_thread_call(call: Call) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("the worker's")

    def handler() -> str:
        seen = variable.get()
        variable.set("the handler's")
        return seen

    for _ in range(5):
        assert await call(handler) == Succeeded(b'"the worker\'s"')
    assert variable.get() == "the worker's"
