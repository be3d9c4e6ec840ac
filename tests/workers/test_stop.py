"""Stopping a worker: what runs is finished, the rest goes to others, and it ends in time."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from worker_rig import PATIENCE, Rig

from mesh import Context, Retry
from mesh.errors import MeshError
from mesh.job import State
from mesh.ports import Delivery
from mesh.testing.memory import MemoryConsumer
from mesh.wire import Finished, Retrying
from mesh_workers import Worker
from mesh_workers import lane as lane_module
from mesh_workers import worker as worker_module


@pytest.fixture(autouse=True)
def _short_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_LAST_WORDS", 0.2)
    monkeypatch.setattr(lane_module, "_LAST_MOMENT", 0.2)


async def in_time(stopping: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        await stopping


async def swallow_cancellations(started: asyncio.Event, go_on: asyncio.Event) -> None:
    started.set()
    while not go_on.is_set():
        with suppress(asyncio.CancelledError):
            await go_on.wait()


class TestStop:
    async def test_waits_for_what_runs_and_gives_back_the_rest(self, any_rig: Rig) -> None:
        rig, started, go_on = any_rig, asyncio.Event(), asyncio.Event()

        @rig.app.job
        async def long() -> None:
            started.set()
            await go_on.wait()

        @rig.app.job
        async def quick() -> None: ...

        first, second = rig.worker(1), rig.worker(1)
        await first.start()
        await rig.ended(*(job.id for job in await quick.enqueue_many([()] * 20)))
        blocker = await long.enqueue()
        await started.wait()
        others = await quick.enqueue_many([()] * 5)
        stopping = asyncio.create_task(first.stop())
        await second.start()
        ends = await rig.ended(*(job.id for job in others))
        assert not stopping.done()
        go_on.set()
        await in_time(stopping)
        (end,) = await rig.ended(blocker.id)
        await in_time(second.stop())
        assert {(e.worker, e.attempt) for e in ends} == {(second.worker_id, 1)}
        assert (end.worker, end.attempt, end.state) == (first.worker_id, 1, State.SUCCEEDED)
        assert await rig.is_empty()

    async def test_repeats_at_once_what_exceeds_the_grace_time(self) -> None:
        rig, started = Rig(grace=0.05), asyncio.Event()

        @rig.app.job(retry=Retry(5, delay=60))
        async def handler(ctx: Context[Any]) -> int:
            if ctx.attempt == 1:
                started.set()
                await asyncio.Event().wait()
            return ctx.attempt

        job = await handler.enqueue()
        first = rig.worker()
        await first.start()
        await started.wait()
        await in_time(first.stop())
        async with rig.worker():
            stopped, end = await rig.outcomes(job.id, 2)
        assert isinstance(stopped, Retrying)
        assert stopped.error.type == "WorkerStopped"
        assert "grace time is 0.05 s" in stopped.error.message
        assert stopped.due_at == stopped.at
        assert isinstance(end, Finished)
        assert (end.attempt, end.result) == (2, b"2")
        await rig.close()

    async def test_fails_what_exceeds_the_grace_time_in_its_last_attempt(self) -> None:
        rig, started = Rig(grace=0.05), asyncio.Event()

        @rig.app.job(retry=Retry(1))
        async def handler() -> None:
            started.set()
            await asyncio.Event().wait()

        job = await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        await in_time(worker.stop())
        (end,) = await rig.ended(job.id)
        assert end.state is State.FAILED
        assert end.error is not None
        assert end.error.type == "WorkerStopped"
        await rig.close()

    async def test_lets_a_handler_end_when_it_is_cancelled(self) -> None:
        rig, started = Rig(grace=0.05), asyncio.Event()

        @rig.app.job
        async def handler() -> str:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
            return "saved"

        job = await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        await in_time(worker.stop())
        (end,) = await rig.ended(job.id)
        assert (end.state, end.result) == (State.SUCCEEDED, b'"saved"')
        await rig.close()

    async def test_leaves_behind_a_handler_that_swallows_every_cancellation(self) -> None:
        rig, started, go_on = Rig(grace=0.05), asyncio.Event(), asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            await swallow_cancellations(started, go_on)

        await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        try:
            await in_time(worker.stop())
            assert (await rig.holds()).leased == 1  # until its lease ends
        finally:
            go_on.set()
        await rig.close()

    async def test_leaves_behind_a_thread_that_does_not_end(self) -> None:
        rig, started, go_on = Rig(grace=0.05), asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        @rig.app.job
        def endless() -> None:
            loop.call_soon_threadsafe(started.set)
            go_on.wait(PATIENCE)

        job = await endless.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        await in_time(worker.stop())
        (stopped,) = await rig.outcomes(job.id, 1)
        assert isinstance(stopped, Retrying)
        assert stopped.error.type == "WorkerStopped"
        go_on.set()
        await rig.close()

    @pytest.mark.parametrize("busy", [False, True])
    async def test_ends_in_time_while_the_agent_is_away(self, busy: bool) -> None:
        rig, started, go_on = Rig(grace=0.3), asyncio.Event(), asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            started.set()
            await go_on.wait()

        await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        rig.memory.go_down()
        if not busy:
            go_on.set()
        await in_time(worker.stop())
        rig.memory.go_down(False)
        assert (await rig.holds()).leased == 1
        await rig.close()

    async def test_ends_in_time_while_the_agent_hangs(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection through which nothing comes, and that nobody has closed."""
        monkeypatch.setattr(lane_module, "_CLOSING", 0.1)
        pull, hung = MemoryConsumer.pull, asyncio.Event()

        async def hangs(self: MemoryConsumer, limit: int) -> list[Delivery]:
            if done.is_set():
                hung.set()
                await asyncio.Event().wait()
            return await pull(self, limit)

        monkeypatch.setattr(MemoryConsumer, "pull", hangs)
        done = asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            done.set()

        job = await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await rig.ended(job.id)
        await handler.enqueue()  # the pull that waits brings it, and the next one hangs
        await in_time(hung.wait())
        await in_time(worker.stop())

    async def test_outcomes_are_written_if_the_agent_is_back_in_time(self, rig: Rig) -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            started.set()
            await go_on.wait()

        job = await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        rig.memory.go_down()
        stopping = asyncio.create_task(worker.stop())
        go_on.set()
        asyncio.get_running_loop().call_later(0.1, rig.memory.go_down, False)
        await in_time(stopping)
        (end,) = await rig.ended(job.id)
        assert end.state is State.SUCCEEDED


class TestLifecycle:
    async def test_stop_and_start_any_number_of_times(self, rig: Rig) -> None:
        @rig.app.job
        async def handler() -> None: ...

        worker = rig.worker()
        await worker.stop()
        for _ in range(3):
            await asyncio.gather(worker.start(), worker.start())
            await rig.ended((await handler.enqueue()).id)
            await in_time(asyncio.gather(worker.stop(), worker.stop()))
            await worker.stop()

    async def test_stop_before_the_agent_is_reached(self, rig: Rig) -> None:
        rig.memory.go_down()
        worker = rig.worker()
        starting = asyncio.create_task(worker.start())
        await asyncio.sleep(0)
        await in_time(worker.stop())
        await in_time(starting)
        rig.memory.go_down(False)

    async def test_abort_ends_at_once_and_says_so_to_handlers(self, rig: Rig) -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        job = await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        await in_time(worker.abort())
        assert cancelled.is_set()
        (stopped,) = await rig.outcomes(job.id, 1)
        assert isinstance(stopped, Retrying)
        assert stopped.error.type == "WorkerStopped"

    async def test_abort_while_it_stops(self, rig: Rig) -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            await swallow_cancellations(started, go_on)

        await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        await started.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        try:
            await in_time(worker.abort())
            await in_time(stopping)
        finally:
            go_on.set()

    async def test_abort_while_it_starts(self, rig: Rig) -> None:
        rig.memory.go_down()
        worker = rig.worker()
        starting = asyncio.create_task(worker.start())
        await asyncio.sleep(0)
        await in_time(worker.abort())
        with pytest.raises(MeshError, match="stopped before it was ready"):
            await starting
        rig.memory.go_down(False)

    async def test_a_lane_that_breaks_ends_the_worker_and_what_it_ran(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pull, started, pulls = MemoryConsumer.pull, asyncio.Event(), list[int]()

        async def breaks(self: MemoryConsumer, limit: int) -> Any:
            pulls.append(limit)
            if len(pulls) == 1:
                return await pull(self, limit)
            await started.wait()
            raise ValueError("a bug")

        monkeypatch.setattr(MemoryConsumer, "pull", breaks)

        @rig.app.job
        async def handler() -> None:
            started.set()
            await asyncio.Event().wait()

        job = await handler.enqueue()
        worker = rig.worker()
        await worker.start()
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await asyncio.wait_for(worker.wait(), PATIENCE)
        (stopped,) = await rig.outcomes(job.id, 1)
        assert isinstance(stopped, Retrying)
        assert stopped.error.type == "WorkerStopped"

    async def test_workers_that_come_and_go_lose_and_repeat_nothing(self, any_rig: Rig) -> None:
        rig, runs, enough = any_rig, Counter[int](), asyncio.Event()

        @rig.app.job
        async def handler(n: int) -> None:
            runs[n] += 1
            await asyncio.sleep(0.001)
            if len(runs) % 60 == 0 or len(runs) == 400:
                enough.set()

        jobs = await handler.enqueue_many([(n,) for n in range(400)])
        while len(runs) < 400:
            enough.clear()
            workers = [rig.worker(3), rig.worker(3)]
            for worker in workers:
                await worker.start()
            await asyncio.wait_for(enough.wait(), PATIENCE)
            await in_time(asyncio.gather(*(worker.stop() for worker in workers)))
        ends = await rig.ended(*(job.id for job in jobs))
        assert {(end.state, end.attempt) for end in ends} == {(State.SUCCEEDED, 1)}
        assert set(runs.values()) == {1}
        assert await rig.is_empty()


async def test_each_worker_has_its_own_id(rig: Rig) -> None:
    assert Worker(rig.app, "m", {"a": 1}).worker_id != Worker(rig.app, "m", {"a": 1}).worker_id
