"""What handlers say of their attempts, and limits in time, on a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from worker_rig import Rig

from mesh import Cancel, Context, Fail, Failure, Retry, Snooze
from mesh.clock import to_datetime
from mesh.job import State
from mesh.testing import ManualClock
from mesh.testing.conformance.agent import make_job
from mesh.wire import Finished, Retrying, Started

SOON = Retry(3, delay=0.01, backoff="fixed", jitter=0)


@pytest.fixture(params=["async", "thread"])
def define(request: pytest.FixtureRequest, any_rig: Rig) -> Callable[..., Any]:
    """Registers a handler that does what ``body(ctx)`` does."""

    def define(body: Callable[[Context[Any]], Any], **options: Any) -> Any:
        async def in_the_loop(ctx: Context[Any]) -> Any:
            return body(ctx)

        def in_a_thread(ctx: Context[Any]) -> Any:
            return body(ctx)

        function = in_the_loop if request.param == "async" else in_a_thread
        return any_rig.app.job(name="handler", **options)(function)

    return define


class TestWords:
    async def test_fail_ends_the_job(self, any_rig: Rig, define: Callable[..., Any]) -> None:
        def body(ctx: Context[Any]) -> None:
            try:
                raise KeyError("user")
            except KeyError as error:
                raise Fail("no such user") from error

        job = await define(body, retry=SOON).enqueue()
        async with any_rig.worker():
            (end,) = await any_rig.ended(job.id)
        assert (end.state, end.attempt) == (State.FAILED, 1)
        assert end.error is not None
        assert (end.error.type, end.error.message) == ("Fail", "no such user")
        assert "KeyError: 'user'" in end.error.traceback

    async def test_cancel_ends_the_job(self, any_rig: Rig, define: Callable[..., Any]) -> None:
        def body(ctx: Context[Any]) -> None:
            raise Cancel("the order is gone")

        job = await define(body, retry=SOON).enqueue()
        async with any_rig.worker():
            (end,) = await any_rig.ended(job.id)
        assert (end.state, end.attempt) == (State.CANCELLED, 1)
        assert end.error is not None
        assert (end.error.type, end.error.message) == ("Cancel", "the order is gone")
        assert await any_rig.is_empty()

    async def test_retry_after_is_an_attempt(
        self, any_rig: Rig, define: Callable[..., Any]
    ) -> None:
        def body(ctx: Context[Any]) -> None:
            raise Retry.after(0.02, "busy")

        job = await define(body, retry=Retry(3, delay=3600)).enqueue()
        async with any_rig.worker():
            (end,) = await any_rig.ended(job.id)
        assert (end.state, end.attempt) == (State.FAILED, 3)
        assert end.error is not None
        assert (end.error.type, end.error.message) == ("RetryAfter", "busy")
        again = [r for r in any_rig.told(job.id, Retrying) if isinstance(r, Retrying)]
        assert [r.due_at - r.at for r in again] == pytest.approx([0.02, 0.02], abs=1e-3)

    async def test_snoozes_are_no_attempts(self, any_rig: Rig, define: Callable[..., Any]) -> None:
        seen = []

        def body(ctx: Context[Any]) -> int:
            seen.append((ctx.attempt, ctx.max_attempts))
            if ctx.attempt <= 4:
                raise Snooze(0.01)
            if ctx.attempt < ctx.max_attempts:
                raise ValueError
            return ctx.attempt

        job = await define(body, retry=Retry(2, delay=0.01, jitter=0)).enqueue()
        async with any_rig.worker():
            (end,) = await any_rig.ended(job.id)
        assert (end.state, end.attempt, end.result) == (State.SUCCEEDED, 6, b"6")
        # However often it was snoozed, the last attempt can be told.
        assert seen == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 6)]
        kinds = [r.error.type for r in any_rig.told(job.id, Retrying) if isinstance(r, Retrying)]
        assert kinds == ["Snooze"] * 4 + ["ValueError"]

    @pytest.mark.parametrize("retry", [True, False])
    async def test_a_failure_may_be_returned(
        self, any_rig: Rig, define: Callable[..., Any], retry: bool
    ) -> None:
        def body(ctx: Context[Any]) -> Any:
            return Failure("declined", retry=retry) if ctx.attempt == 1 else "paid"

        job = await define(body, retry=SOON).enqueue()
        async with any_rig.worker():
            (end,) = await any_rig.ended(job.id)
        if retry:
            assert (end.state, end.attempt, end.result) == (State.SUCCEEDED, 2, b'"paid"')
            return
        assert (end.state, end.attempt, end.result) == (State.FAILED, 1, None)
        assert end.error is not None
        assert (end.error.type, end.error.message) == ("Failure", "declined")


class TestPolicies:
    async def test_the_handlers_predicate_is_asked_whatever_policy_the_job_has(
        self, any_rig: Rig, define: Callable[..., Any]
    ) -> None:
        asked = []

        def when(error: BaseException) -> bool:
            asked.append(str(error))
            return "first" in str(error)

        def body(ctx: Context[Any]) -> None:
            raise ValueError("first" if ctx.attempt == 1 else "second")

        handler = define(body, retry=Retry(5, delay=3600, when=when))
        job = await handler.options(retry=Retry(4, delay=0.01)).enqueue()
        async with any_rig.worker():
            (end,) = await any_rig.ended(job.id)
        assert (end.state, end.attempt) == (State.FAILED, 2)
        assert asked == ["first", "second"]

    async def test_the_jobs_exceptions_are_those_that_count(
        self, any_rig: Rig, define: Callable[..., Any]
    ) -> None:
        def body(ctx: Context[Any]) -> None:
            raise ValueError

        handler = define(body, retry=Retry(3, delay=0.01, on=(OSError,)))
        given = Retry(3, delay=0.01, give_up_on=(KeyError,))
        own, other = await handler.enqueue(), await handler.options(retry=given).enqueue()
        async with any_rig.worker():
            first, second = await any_rig.ended(own.id, other.id)
        assert (first.attempt, second.attempt) == (1, 3)

    async def test_a_timeout_is_a_timeout_error(self, rig: Rig) -> None:
        @rig.app.job(timeout=0.01, retry=Retry(3, delay=0.01, give_up_on=(TimeoutError,)))
        async def handler() -> None:
            await asyncio.Event().wait()

        job = await handler.enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert (end.state, end.attempt) == (State.FAILED, 1)


class TestTime:
    @pytest.mark.parametrize("option", ["expires_at", "deadline"])
    async def test_what_is_too_late_never_starts(self, any_rig: Rig, option: str) -> None:
        ran = []

        @any_rig.app.job
        async def handler() -> None:
            ran.append(1)

        past = any_rig.app.now() - 1
        until: list[dict[str, Any]] = [{option: past}, {option: past + 3600}]
        jobs = [make_job(name="handler", **options) for options in until]
        assert await (await any_rig.agent()).push(jobs) == [None, None]
        async with any_rig.worker():
            late, good = await any_rig.ended(*(job.id for job in jobs))
        assert good.state is State.SUCCEEDED
        assert late.error is not None
        if option == "expires_at":
            assert (late.state, late.error.type) == (State.EXPIRED, "Expired")
        else:
            assert (late.state, late.error.type) == (State.FAILED, "DeadlineExceeded")
        assert (late.attempt, late.started_at) == (1, 0.0)
        assert not any_rig.told(jobs[0].id, Started)
        assert ran == [1]
        assert await any_rig.is_empty()

    async def test_a_job_that_waited_here_expires_here(self) -> None:
        rig = Rig(clock=ManualClock(), lease=1000)

        @rig.app.job
        async def handler(n: int) -> None:
            if n == 1:  # while those that were pulled with it wait for the slot
                rig.app.clock.advance(61)  # type: ignore[attr-defined]

        expiring = handler.options(expires=60)
        jobs = await expiring.enqueue_many([(1,), (2,)])
        async with rig.worker(1):
            first, second = await rig.ended(*(job.id for job in jobs))
        assert (first.state, second.state) == (State.SUCCEEDED, State.EXPIRED)
        await rig.close()

    async def test_what_has_started_in_time_is_tried_again_later(self) -> None:
        clock = ManualClock()
        rig = Rig(clock=clock, lease=1000)  # it is kept in the machine's time, not in this one

        @rig.app.job(expires=60, retry=Retry(2, delay=0))
        async def handler(ctx: Context[Any]) -> int:
            if ctx.attempt == 1:
                clock.advance(100)
                raise ValueError
            return ctx.attempt

        job = await handler.enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert (end.state, end.result) == (State.SUCCEEDED, b"2")
        await rig.close()

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_a_deadline_ends_what_runs(self, is_async: bool) -> None:
        # The job starts for certain: until then this clock stands still.
        rig, go_on = Rig(clock=ManualClock()), threading.Event()

        async def in_the_loop() -> None:
            await asyncio.Event().wait()

        def in_a_thread(ctx: Context[Any]) -> None:
            while not ctx.cancelled:
                go_on.wait(0.001)

        function: Any = in_the_loop if is_async else in_a_thread
        handler = rig.app.job(name="handler", timeout=3600)(function)
        job = await handler.options(deadline=0.05).enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        await rig.close()
        assert (end.state, end.attempt) == (State.FAILED, 1)
        assert end.error is not None
        assert end.error.type == "DeadlineExceeded"
        assert "the attempt was still running" in end.error.message

    async def test_a_snooze_beyond_the_deadline_ends_the_job(self, rig: Rig) -> None:
        moment = to_datetime(rig.app.now() + 600)

        @rig.app.job
        async def handler() -> None:
            raise Snooze(3600, "the shop is closed")

        job = await handler.options(deadline=moment).enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert isinstance(end, Finished)
        assert end.error is not None
        assert (end.state, end.error.type) == (State.FAILED, "DeadlineExceeded")
        assert moment.isoformat() in end.error.message
        assert "Snooze: the shop is closed" in end.error.message
        assert moment.tzinfo is UTC
        assert moment > datetime.now(UTC)
