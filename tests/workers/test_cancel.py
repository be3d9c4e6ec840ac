"""Calling jobs off in the worker that has them."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from worker_rig import PATIENCE, Rig

from mesh import Cancel, Context, Retry
from mesh.job import State, new_job_id
from mesh.testing.conformance.agent import make_job
from mesh.wire import Finished, Started
from mesh_workers import Worker


def cancelled(end: Finished, reason: str) -> bool:
    return (
        end.state is State.CANCELLED
        and end.error is not None
        and (end.error.type, end.error.message) == ("Cancelled", reason)
        and end.result is None
    )


def cancel(worker: Worker, job_id: str, reason: str) -> bool:
    (lane,) = worker.lanes
    return lane.cancel(job_id, reason)


async def test_a_job_that_waits_for_a_slot_never_starts(any_rig: Rig) -> None:
    rig, ran, answers = any_rig, list[int](), list[bool]()
    worker = rig.worker(1)

    @rig.app.job
    async def handler(n: int) -> None:
        ran.append(n)
        if n == 1:
            answers.append(cancel(worker, jobs[2].id, "no need"))

    async with worker:
        # It learns that they are quick, so it will pull all three at once.
        await rig.ended(*(job.id for job in await handler.enqueue_many([(0,)] * 20)))
        jobs = await handler.enqueue_many([(1,), (2,), (3,)])
        *_, end = await rig.ended(*(job.id for job in jobs))
    assert answers == [True]
    assert ran[20:] == [1, 2]
    assert cancelled(end, "no need")
    assert (end.attempt, end.started_at) == (1, 0.0)
    assert not rig.told(jobs[2].id, Started)
    assert await rig.is_empty()


async def test_a_running_async_handler_is_told(any_rig: Rig) -> None:
    rig, started = any_rig, asyncio.Event()
    seen = list[object]()

    @rig.app.job
    async def handler(ctx: Context[Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(ctx.cancelled)
            raise

    job = await handler.enqueue()
    async with rig.worker() as worker:
        await asyncio.wait_for(started.wait(), PATIENCE)
        assert cancel(worker, job.id, "a mistake")
        assert cancel(worker, job.id, "again")
        (end,) = await rig.ended(job.id)
        assert not cancel(worker, job.id, "too late")
    assert cancelled(end, "a mistake")
    assert seen == [True]
    assert await rig.is_empty()


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_an_attempt_whose_task_has_not_run_yet_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """As before Python 3.12 after it was begun; what is cancelled then never runs."""

    @rig.app.job(retry=Retry(2))
    async def handler() -> None:
        await asyncio.Event().wait()

    async with rig.worker() as worker:
        (lane,) = worker.lanes
        fill = lane._fill

        def fill_and_call_off() -> None:
            fill()
            if how == "cancel":
                lane.cancel(job.id, "a mistake")
            else:
                lane.interrupt()

        monkeypatch.setattr(lane, "_fill", fill_and_call_off)
        job = await handler.enqueue()
        (end,) = await rig.outcomes(job.id, 1)
        assert end.error is not None
        assert end.error.type == ("Cancelled" if how == "cancel" else "WorkerStopped")
        assert isinstance(end, Finished) == (how == "cancel")
        monkeypatch.undo()


async def test_a_handler_that_fails_while_it_is_cancelled_is_not_run_again(rig: Rig) -> None:
    started = asyncio.Event()

    @rig.app.job
    async def handler() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    job = await handler.enqueue()
    async with rig.worker() as worker:
        await asyncio.wait_for(started.wait(), PATIENCE)
        assert cancel(worker, job.id, "a mistake")
        (end,) = await rig.ended(job.id)
    assert cancelled(end, "a mistake")
    assert end.error is not None
    assert "while cleaning up" in end.error.traceback


async def test_a_result_that_came_first_wins(rig: Rig) -> None:
    started = asyncio.Event()

    @rig.app.job
    async def handler() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    job = await handler.enqueue()
    async with rig.worker() as worker:
        await asyncio.wait_for(started.wait(), PATIENCE)
        assert cancel(worker, job.id, "a mistake")
        (end,) = await rig.ended(job.id)
    assert (end.state, end.result) == (State.SUCCEEDED, b'"saved"')


@pytest.mark.parametrize("looks", [True, False])
async def test_a_thread_ends_when_it_will(rig: Rig, looks: bool) -> None:
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @rig.app.job
    def handler(ctx: Context[Any]) -> int:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(PATIENCE)
        if looks and ctx.cancelled:
            raise RuntimeError("half-way")
        return 1

    job = await handler.enqueue()
    async with rig.worker() as worker:
        await asyncio.wait_for(started.wait(), PATIENCE)
        assert cancel(worker, job.id, "a mistake")
        go_on.set()
        (end,) = await rig.ended(job.id)
    if looks:
        assert cancelled(end, "a mistake")
    else:
        assert (end.state, end.result) == (State.SUCCEEDED, b"1")


async def test_a_thread_whose_time_is_over_is_told_and_counted() -> None:
    rig = Rig(heartbeat=0.05)
    told, go_on, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @rig.app.job(timeout=0.05)
    def handler(ctx: Context[Any]) -> None:
        while not ctx.cancelled:
            go_on.wait(0.001)
        loop.call_soon_threadsafe(told.set)
        go_on.wait(PATIENCE)
        ended.set()

    job = await handler.options(retry=Retry(1)).enqueue()
    async with rig.worker() as worker:
        (end,) = await rig.ended(job.id)
        await asyncio.wait_for(told.wait(), PATIENCE)
        assert not cancel(worker, job.id, "its attempt is over")
        await rig.until(lambda: rig.beats()[-1].stragglers == 1)
        go_on.set()
        await rig.until(lambda: rig.beats()[-1].stragglers == 0)
    assert end.error is not None
    assert (end.state, end.error.type) == (State.FAILED, "TimeoutError")
    assert ended.is_set()
    await rig.close()


async def test_the_attempt_beside_a_straggler_can_be_cancelled(rig: Rig) -> None:
    again, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @rig.app.job(timeout=0.05)
    def handler(ctx: Context[Any]) -> int:
        if ctx.attempt == 1:
            # The next has all the time it needs.
            handler.defaults = replace(handler.defaults, timeout=None)
            go_on.wait(PATIENCE)  # it does not look whether it was cancelled
            return 1
        loop.call_soon_threadsafe(again.set)
        while not ctx.cancelled:
            go_on.wait(0.001)
        raise Cancel("half-way")

    job = make_job(name="handler", retry=Retry(2, delay=0, jitter=0))
    assert await (await rig.agent()).push([job]) == [None]
    async with rig.worker(2) as worker:
        await asyncio.wait_for(again.wait(), PATIENCE)
        assert cancel(worker, job.id, "a mistake")
        (end,) = await rig.ended(job.id)
        go_on.set()
    assert (end.state, end.attempt) == (State.CANCELLED, 2)


async def test_a_worker_says_that_it_has_no_such_job(rig: Rig) -> None:
    @rig.app.job
    async def handler() -> None: ...

    async with rig.worker() as worker:
        assert not cancel(worker, new_job_id(), "unknown")
