"""A worker and its lanes, read from the ledger."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from worker_rig import PATIENCE, Rig

from mesh import Context, Retry
from mesh.job import State, new_job_id
from mesh.ports import Settlement
from mesh.testing.conformance.agent import make_job, make_started
from mesh.testing.memory import MemoryAgent, MemoryConsumer
from mesh.wire import Event, Finished, Heartbeat, Record, Retrying, Started
from mesh_workers import lane as lane_module
from mesh_workers import outcome, reporter

SOON = Retry(5, delay=0.01, backoff="fixed", jitter=0)


class Gate:
    """A handler's body that counts who is inside, and lets nobody out before ``open``."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entered = 0
        self.opened = asyncio.Event()
        self._changed = asyncio.Condition()

    async def pass_through(self) -> None:
        self.inside += 1
        self.entered += 1
        self.most = max(self.most, self.inside)
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1

    async def until_entered(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.entered >= count)


class TestRunning:
    async def test_the_outcome_and_its_story(self, any_rig: Rig) -> None:
        rig = any_rig

        @rig.app.job
        async def add(a: int, b: int) -> int:
            return a + b

        @rig.app.job
        def where() -> str:
            return threading.current_thread().name

        first, second = await add.enqueue(1, b=2), await where.enqueue()
        async with rig.worker() as worker:
            one, two = await rig.ended(first.id, second.id)
        assert (one.state, one.result, one.attempt, one.lost) == (State.SUCCEEDED, b"3", 1, 0)
        assert (one.name, one.lane, one.priority) == ("add", "default", 3)
        assert one.enqueued_at <= one.started_at <= one.at
        assert two.result is not None
        assert two.result.startswith(b'"mesh-default')
        assert worker.name.endswith(one.worker)
        assert await rig.is_empty()

    async def test_concurrency_is_reached_and_never_exceeded(self, rig: Rig) -> None:
        gate = Gate()

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        jobs = await handler.enqueue_many([()] * 50)
        async with rig.worker(7):
            await gate.until_entered(7)
            assert gate.inside == 7
            gate.opened.set()
            await rig.ended(*(job.id for job in jobs))
        assert gate.most == 7
        assert gate.entered == 50

    async def test_threads_run_side_by_side(self, rig: Rig) -> None:
        together = threading.Barrier(3)

        @rig.app.job
        def handler() -> None:
            together.wait(PATIENCE)

        jobs = await handler.enqueue_many([()] * 6)
        async with rig.worker(3):
            ends = await rig.ended(*(job.id for job in jobs))
        assert {end.state for end in ends} == {State.SUCCEEDED}

    async def test_many_fast_jobs_run_once_each_and_have_no_start(self, any_rig: Rig) -> None:
        rig, runs = any_rig, Counter[int]()

        @rig.app.job
        async def handler(n: int) -> int:
            runs[n] += 1
            return n

        jobs = await handler.enqueue_many([(n,) for n in range(500)])
        async with rig.worker(10):
            ends = await rig.ended(*(job.id for job in jobs))
        assert [end.result for end in ends] == [str(n).encode() for n in range(500)]
        assert set(runs.values()) == {1}
        assert len(runs) == 500
        assert len([r for r in rig.records if isinstance(r, Finished)]) == 500
        # Only those can be told of that were running just when the reporter wrote.
        assert len([r for r in rig.records if isinstance(r, Started)]) < 100
        assert await rig.is_empty()

    async def test_context_variables_do_not_leak_between_jobs(self, rig: Rig) -> None:
        variable = contextvars.ContextVar("variable", default="clean")

        @rig.app.job
        async def in_loop() -> str:
            seen = variable.get()
            variable.set("dirty")
            return seen

        @rig.app.job
        def in_thread() -> str:
            seen = variable.get()
            variable.set("dirty")
            return seen

        jobs = [await h.enqueue() for h in (in_loop, in_thread) for _ in range(5)]
        async with rig.worker(1):
            ends = await rig.ended(*(job.id for job in jobs))
        assert {end.result for end in ends} == {b'"clean"'}

    async def test_lanes_have_their_own_slots(self, rig: Rig) -> None:
        gate = Gate()

        @rig.app.job(lane="slow")
        async def slow() -> None:
            await gate.pass_through()

        @rig.app.job(lane="fast")
        async def fast() -> None: ...

        from mesh_workers import Worker

        blocked = await slow.enqueue_many([()] * 3)
        async with Worker(rig.app, "m", {"slow": 1, "fast": 1}):
            await gate.until_entered(1)
            await rig.ended(*[(await fast.enqueue()).id for _ in range(5)])
            gate.opened.set()
            await rig.ended(*(job.id for job in blocked))

    async def test_a_job_that_raises_anything_leaves_the_worker_alive(self, rig: Rig) -> None:
        @rig.app.job(retry=Retry(1))
        async def in_loop(name: str) -> None:
            raise {"exit": SystemExit(1), "stop": KeyboardInterrupt(), "gen": GeneratorExit()}[name]

        @rig.app.job(retry=Retry(1))
        def in_thread(name: str) -> None:
            raise {"exit": SystemExit(1), "stop": KeyboardInterrupt(), "gen": GeneratorExit()}[name]

        jobs = [await h.enqueue(n) for h in (in_loop, in_thread) for n in ("exit", "stop", "gen")]
        async with rig.worker():
            ends = await rig.ended(*(job.id for job in jobs))
        errors = [end.error.type if end.error else "" for end in ends]
        assert errors == ["SystemExit", "KeyboardInterrupt", "GeneratorExit"] * 2

    async def test_a_job_that_cancels_itself_waits_before_it_runs_again(self, rig: Rig) -> None:
        @rig.app.job(retry=Retry(2, delay=0.01, jitter=0))
        async def handler() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        job = await handler.enqueue()
        async with rig.worker():
            first, last = await rig.outcomes(job.id, 2)
        assert isinstance(first, Retrying)
        assert first.error.type == "CancelledError"
        assert first.due_at == pytest.approx(first.at + 0.01)
        assert isinstance(last, Finished)


class TestRetrying:
    async def test_with_a_delay_until_it_succeeds(self, any_rig: Rig) -> None:
        rig = any_rig

        @rig.app.job(retry=Retry(5, delay=0.05, backoff="fixed", jitter=0))
        async def handler(ctx: Context[Any]) -> int:
            if ctx.attempt < 3:
                raise ValueError(f"attempt {ctx.attempt} of {ctx.max_attempts}")
            return ctx.attempt

        job = await handler.enqueue()
        async with rig.worker():
            first, second, last = await rig.outcomes(job.id, 3)
        for number, record, after in ((1, first, second), (2, second, last)):
            assert isinstance(record, Retrying)
            assert record.attempt == number
            assert record.error.message == f"attempt {number} of 5"
            assert record.due_at == pytest.approx(record.at + 0.05)
            assert after.started_at >= record.due_at
        assert isinstance(last, Finished)
        assert (last.attempt, last.state, last.result) == (3, State.SUCCEEDED, b"3")

    async def test_until_the_attempts_are_exhausted(self, rig: Rig) -> None:
        @rig.app.job(retry=Retry(3, delay=0))
        def handler() -> None:
            raise ValueError("never")

        job = await handler.enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert (end.state, end.attempt) == (State.FAILED, 3)
        assert end.error is not None
        assert "ValueError: never" in end.error.traceback
        assert await rig.is_empty()

    @pytest.mark.parametrize(
        ("of_job", "of_handler", "expected"), [(2, 3, 2), (0, 3, 3), (0, 0, 4)]
    )
    async def test_the_jobs_policy_goes_before_the_handlers_and_the_clusters(
        self, of_job: int, of_handler: int, expected: int
    ) -> None:
        rig = Rig(retry=Retry(4, delay=0))
        options: Any = {"retry": Retry(of_handler, delay=0)} if of_handler else {}

        @rig.app.job(**options)
        async def handler() -> None:
            raise ValueError

        bound: Any = handler.options(retry=Retry(of_job, delay=0)) if of_job else handler
        job = await bound.enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert end.attempt == expected
        await rig.close()

    async def test_one_that_was_promised_runs_under_a_stricter_policy_too(self, rig: Rig) -> None:
        @rig.app.job(retry=Retry(2))
        async def handler(ctx: Context[Any]) -> int:
            return ctx.attempt

        job = make_job(name="handler", payload=b"{}", attempt=4)
        await (await rig.agent()).push([job])
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert (end.state, end.result) == (State.SUCCEEDED, b"4")


class TestTimeouts:
    @pytest.mark.parametrize(
        ("of_job", "of_handler", "of_cluster", "expected"),
        [(0.02, 60, 60, 0.02), (None, 0.03, 60, 0.03), (None, None, 0.04, 0.04)],
    )
    async def test_the_jobs_goes_before_the_handlers_and_the_clusters(
        self, of_job: float | None, of_handler: float | None, of_cluster: float, expected: float
    ) -> None:
        rig = Rig(timeout=of_cluster, retry=Retry(1))
        options: Any = {"timeout": of_handler} if of_handler else {}

        @rig.app.job(**options)
        async def handler() -> None:
            await asyncio.Event().wait()

        bound: Any = handler.options(timeout=of_job) if of_job else handler
        job = await bound.enqueue()
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert end.error is not None
        assert end.error.message == f"the attempt took longer than {expected:g} s"
        await rig.close()

    async def test_a_thread_keeps_its_slot_and_its_outcome_is_told_at_once(self, rig: Rig) -> None:
        release, order = threading.Event(), []

        @rig.app.job(timeout=0.05, retry=Retry(1))
        def endless() -> None:
            order.append("endless")
            release.wait(PATIENCE)
            order.append("its end")

        @rig.app.job
        async def quick() -> None:
            order.append("quick")

        job = await endless.enqueue()
        async with rig.worker(1) as worker:
            (end,) = await rig.ended(job.id)
            assert end.error is not None
            assert end.error.type == "TimeoutError"
            later = await quick.enqueue()
            assert order == ["endless"]
            release.set()
            await rig.ended(later.id)
        assert order == ["endless", "its end", "quick"]


class TestUnknownHandlers:
    async def test_a_worker_that_knows_it_gets_the_job(self, any_rig: Rig) -> None:
        rig = any_rig
        knowing = rig.new_app()

        @rig.app.job
        async def handler() -> int:
            return 1

        ignorant = rig.new_app()

        @knowing.job(name="handler")
        async def the_same() -> int:
            return 2

        job = await handler.enqueue()
        async with rig.worker(app=ignorant):
            await rig.until_holds(lambda depth: depth.delayed == 1)
        async with rig.worker(app=knowing):
            (end,) = await rig.ended(job.id)
        assert (end.result, end.attempt) == (b"2", 1)
        assert end.at >= end.enqueued_at + 1
        assert rig.told(job.id) == [end]

    async def test_it_fails_after_enough_misses(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outcome, "MISS_LIMIT", 2)
        job = make_job(name="nobody")
        await (await rig.agent()).push([job])
        async with rig.worker():
            (end,) = await rig.ended(job.id)
        assert end.state is State.FAILED
        assert end.error is not None
        assert (end.error.type, end.attempt) == ("UnknownHandler", 1)
        assert await rig.is_empty()

    async def test_it_takes_no_slot_from_those_that_are_known(self, rig: Rig) -> None:
        gate = Gate()

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        job = await handler.enqueue()
        async with rig.worker(1):
            await gate.until_entered(1)
            await (await rig.agent()).push([make_job(name="nobody") for _ in range(20)])
            gate.opened.set()
            await rig.ended(job.id, (await handler.enqueue()).id)


async def lose(rig: Rig, **changes: Any) -> str:
    """A job whose worker started it and died."""
    agent = await rig.agent()
    job = make_job(name="handler", payload=b"{}", **changes)
    await agent.push([job])
    consumer = await agent.consume("default", lease=0.05)
    (delivery,) = await consumer.pull(1)
    await agent.append([make_started(delivery)])
    await consumer.close()
    return job.id


class TestLostAttempts:
    async def test_count(self, any_rig: Rig) -> None:
        rig = any_rig

        @rig.app.job
        async def handler(ctx: Context[Any]) -> int:
            return ctx.attempt

        job_id = await lose(rig)
        async with rig.worker():
            (end,) = await rig.ended(job_id)
        assert (end.state, end.attempt, end.lost, end.result) == (State.SUCCEEDED, 2, 1, b"2")

    async def test_wear_a_job_out(self, any_rig: Rig) -> None:
        rig, ran = any_rig, []

        @rig.app.job
        async def handler() -> None:
            ran.append(1)

        job_id = await lose(rig, attempt=2, retry=Retry(2))
        async with rig.worker():
            (end,) = await rig.ended(job_id)
        assert (end.state, end.attempt) == (State.FAILED, 2)
        assert end.error is not None
        assert end.error.type == "WorkerDied"
        assert "attempt 2 of 2" in end.error.message
        assert not ran
        assert await rig.is_empty()

    async def test_are_not_forgotten_when_the_job_is_given_back(self, any_rig: Rig) -> None:
        rig = any_rig

        @rig.app.job
        async def handler(ctx: Context[Any]) -> int:
            return ctx.attempt

        job_id = await lose(rig)
        async with rig.worker(app=rig.new_app()):  # knows no handler
            await rig.until_holds(lambda depth: depth.delayed == 1)
        async with rig.worker():
            (end,) = await rig.ended(job_id)
        assert end.attempt == 2

    async def test_a_redelivered_jobs_start_is_durable_before_it_runs(self, any_rig: Rig) -> None:
        rig, seen = any_rig, list[Record]()

        @rig.app.job
        async def handler(ctx: Context[Any]) -> None:
            ledger = await (await rig.agent()).ledger()
            seen.extend((await ledger.read(10_000, 0)).records)

        job_id = await lose(rig)
        async with rig.worker():
            await rig.ended(job_id)
        starts = [r for r in seen if isinstance(r, Started) and r.id == job_id]
        assert [r.attempt for r in starts] == [1, 2]


class TestReporting:
    async def test_a_long_job_is_told_of_when_it_starts(self, rig: Rig) -> None:
        gate = Gate()

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        job = await handler.enqueue()
        async with rig.worker() as worker:
            await rig.until(lambda: bool(rig.told(job.id, Started)))
            gate.opened.set()
            (end,) = await rig.ended(job.id)
        start, *others = rig.told(job.id)
        assert isinstance(start, Started)
        assert (start.attempt, start.started_at) == (1, end.started_at)
        assert others == [end]
        assert worker.name.endswith(start.worker)

    @pytest.mark.parametrize("in_thread", [False, True])
    async def test_events_are_in_the_ledger_before_the_end(self, rig: Rig, in_thread: bool) -> None:
        def talk(ctx: Context[Any]) -> None:
            ctx.progress(1, 2)
            ctx.log.info("half")
            ctx.chunk("text")

        async def in_loop(ctx: Context[Any]) -> None:
            talk(ctx)

        def threaded(ctx: Context[Any]) -> None:
            talk(ctx)

        handler: Any = rig.app.job(threaded if in_thread else in_loop)
        jobs = await handler.enqueue_many([()] * 300)
        async with rig.worker(10):
            await rig.ended(*(job.id for job in jobs))
        for job in jobs:
            told = rig.told(job.id, Event, Finished)
            assert isinstance(told.pop(), Finished)
            assert [r.kind for r in told if isinstance(r, Event)] == ["progress", "log", "chunk"]
            seqs = [r.seq for r in told if isinstance(r, Event)]
            assert seqs == [2**32, 2**32 + 1, 2**32 + 2]

    async def test_events_on_their_way_come_before_the_end(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writing, go_on, append = asyncio.Event(), asyncio.Event(), MemoryAgent.append

        async def slow(self: MemoryAgent, records: Sequence[Record]) -> None:
            if any(isinstance(r, Event) for r in records):
                writing.set()
                await go_on.wait()
            await append(self, records)

        monkeypatch.setattr(MemoryAgent, "append", slow)

        @rig.app.job
        async def handler(ctx: Context[Any]) -> None:
            ctx.chunk("said")
            await writing.wait()
            asyncio.get_running_loop().call_later(0.05, go_on.set)

        job = await handler.enqueue()
        async with rig.worker():
            await rig.ended(job.id)
        assert [type(r) for r in rig.told(job.id, Event, Finished)] == [Event, Finished]

    async def test_events_of_later_attempts_have_greater_numbers(self, rig: Rig) -> None:
        @rig.app.job(retry=SOON)
        async def handler(ctx: Context[Any]) -> None:
            ctx.chunk(ctx.attempt)
            if ctx.attempt < 3:
                raise ValueError

        job = await handler.enqueue()
        async with rig.worker():
            await rig.ended(job.id)
        events = [r for r in rig.told(job.id) if isinstance(r, Event)]
        assert [e.data for e in events] == [b"1", b"2", b"3"]
        assert [e.seq for e in events] == sorted({e.seq for e in events})

    async def test_heartbeats_tell_of_a_workers_life(self) -> None:
        rig, gate = Rig(heartbeat=0.05), Gate()

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        def states() -> list[str]:
            return [beat.state for beat in rig.beats()]

        job = await handler.enqueue()
        worker = rig.worker(3)
        await worker.start()
        await gate.until_entered(1)
        await rig.until(lambda: len(states()) > 2 and rig.beats()[-1].lanes[0].running == 1)
        stopping = asyncio.create_task(worker.stop())
        await rig.until(lambda: states().count("draining") >= 3)  # it says so as long as it does
        gate.opened.set()
        await stopping
        await rig.until(lambda: "stopped" in states())
        assert list(dict.fromkeys(states())) == ["running", "draining", "stopped"]
        last: Heartbeat = rig.beats()[-1]
        assert (last.finished, last.agent) == (1, "m")
        assert (last.lanes[0].lane, last.lanes[0].concurrency) == ("default", 3)
        await rig.ended(job.id)
        await rig.close()

    async def test_too_many_events_are_dropped_and_starts_are_not(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "_MOST_EVENTS", 5)

        @rig.app.job
        async def handler(ctx: Context[Any]) -> None:
            for number in range(20):
                ctx.chunk(number)

        job = await handler.enqueue()
        async with rig.worker():
            await rig.ended(job.id)
        assert len(rig.told(job.id, Event)) == 5


class TestSharing:
    async def test_jobs_do_not_wait_behind_a_long_one(self, rig: Rig) -> None:
        gate, quick_done = Gate(), Counter[str]()

        @rig.app.job
        async def long() -> None:
            await gate.pass_through()

        @rig.app.job
        async def quick() -> None:
            quick_done["quick"] += 1

        # The first worker learns that its jobs are quick, so it pulls ahead; then one is not.
        async with rig.worker(1) as first:
            warm = await quick.enqueue_many([()] * 20)
            await rig.ended(*(job.id for job in warm))
            blocker, *others = [await long.enqueue(), *await quick.enqueue_many([()] * 20)]
            await gate.until_entered(1)
            async with rig.worker(1) as second:
                ends = await rig.ended(*(job.id for job in others))
            gate.opened.set()
            (end,) = await rig.ended(blocker.id)
        assert {e.worker for e in ends} == {second.name.removeprefix("worker ")}
        assert {e.attempt for e in ends} == {1}
        assert first.name.endswith(end.worker)

    async def test_what_is_given_back_keeps_its_order(self, rig: Rig) -> None:
        gate, order = Gate(), list[int]()

        @rig.app.job
        async def long() -> None:
            await gate.pass_through()

        @rig.app.job
        async def quick(n: int) -> None:
            order.append(n)

        async with rig.worker(1):
            await rig.ended(*(j.id for j in await quick.enqueue_many([(-1,)] * 20)))
            await long.enqueue()
            jobs = await quick.enqueue_many([(n,) for n in range(20)])
            await gate.until_entered(1)
            async with rig.worker(1):
                await rig.ended(*(job.id for job in jobs))
            gate.opened.set()
        assert [n for n in order if n >= 0] == list(range(20))

    async def test_what_is_pulled_ahead_is_bounded(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane_module, "MOST_AHEAD", 16)
        asked, pull = list[int](), MemoryConsumer.pull

        async def noted(self: MemoryConsumer, limit: int) -> Any:
            asked.append(limit)
            return await pull(self, limit)

        monkeypatch.setattr(MemoryConsumer, "pull", noted)

        @rig.app.job
        async def handler() -> None: ...

        jobs = await handler.enqueue_many([()] * 300)
        async with rig.worker(4):
            await rig.ended(*(job.id for job in jobs))
        assert asked[0] == 4  # nothing is known of the jobs yet
        assert 4 < max(asked) <= 20

    async def test_nothing_is_pulled_while_too_much_is_unsettled(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane_module, "MOST_UNSETTLED", 10)
        monkeypatch.setattr(lane_module, "MOST_AHEAD", 5)
        settle, go_on, ran = MemoryConsumer.settle, asyncio.Event(), list[int]()

        async def slow(self: MemoryConsumer, settlements: Sequence[Settlement]) -> None:
            await go_on.wait()
            await settle(self, settlements)

        monkeypatch.setattr(MemoryConsumer, "settle", slow)
        half_way = asyncio.Event()

        @rig.app.job
        async def handler() -> None:
            ran.append(1)
            if len(ran) == 10:
                half_way.set()

        jobs = await handler.enqueue_many([()] * 100)
        async with rig.worker(2):
            await asyncio.wait_for(half_way.wait(), PATIENCE)
            await asyncio.sleep(lane_module.SLICE * 2)  # it would pull more in this time
            assert len(ran) <= 10 + 2 + 5
            go_on.set()
            await rig.ended(*(job.id for job in jobs))
        assert len(ran) == 100


class TestBadDays:
    async def test_an_outage_delays_outcomes_and_repeats_nothing(self, rig: Rig) -> None:
        gate, runs = Gate(), Counter[int]()

        @rig.app.job
        async def handler(n: int) -> int:
            runs[n] += 1
            await gate.pass_through()
            return n

        jobs = await handler.enqueue_many([(n,) for n in range(10)])
        async with rig.worker(5):
            await gate.until_entered(5)
            rig.memory.go_down()
            gate.opened.set()
            await gate.until_entered(5)
            rig.memory.go_down(False)
            ends = await rig.ended(*(job.id for job in jobs))
        assert {end.state for end in ends} == {State.SUCCEEDED}
        assert set(runs.values()) == {1}
        assert await rig.is_empty()

    async def test_a_worker_starts_before_its_agent(self, rig: Rig) -> None:
        @rig.app.job
        async def handler() -> None: ...

        job = await handler.enqueue()
        rig.memory.go_down()
        worker = rig.worker()
        starting = asyncio.create_task(worker.start())
        await asyncio.sleep(0)
        rig.memory.go_down(False)
        await asyncio.wait_for(starting, PATIENCE)
        await rig.ended(job.id)
        await worker.stop()

    async def test_one_outcome_that_cannot_be_written_harms_no_other(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settle, gate = MemoryConsumer.settle, Gate()

        async def picky(self: MemoryConsumer, settlements: Sequence[Settlement]) -> None:
            if any(s.delivery.job.id == poison.id for s in settlements):
                raise ValueError("cannot be encoded")
            await settle(self, settlements)

        monkeypatch.setattr(MemoryConsumer, "settle", picky)

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        poison, *others = await handler.enqueue_many([()] * 5)
        async with rig.worker(5) as worker:
            await gate.until_entered(5)
            gate.opened.set()
            await rig.ended(*(job.id for job in others))
            assert worker.lanes[0].running == 0  # type: ignore[attr-defined]
        # Its lease was let go: it will be run again.
        assert (await rig.holds()).leased == 1

    async def test_a_job_id_of_any_kind(self, rig: Rig) -> None:
        @rig.app.job
        async def handler() -> None: ...

        job = await handler.options(id=new_job_id()).enqueue()
        async with rig.worker():
            await rig.ended(job.id)
