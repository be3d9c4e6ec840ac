"""A job's life on a worker, read from the ledger."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from worker_rig import PATIENCE, Gate, Rig

from mesh import Context, Retry
from mesh.job import State
from mesh.testing.conformance.agent import make_job, make_started
from mesh.wire import Defined, Finished, Record, Retrying, Started
from mesh_workers import Worker, outcome


@pytest.fixture(autouse=True)
def _short_delay_of_unknown_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_FIRST_MISS_DELAY", 0.2)


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
        async with rig.worker(1):
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
        assert end.started_at >= end.enqueued_at + 0.2
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
        assert "attempt 2 ended with its worker" in end.error.message
        assert "2 are the most" in end.error.message
        assert not ran
        assert await rig.is_empty()

    async def test_that_the_master_found_wear_it_out_too(self, any_rig: Rig) -> None:
        rig = any_rig

        @rig.app.job
        async def handler(ctx: Context[Any]) -> int:
            return ctx.attempt

        jobs = [
            make_job(name="handler", payload=b"{}", attempt=attempt, lost=1, retry=Retry(2))
            for attempt in (2, 3)
        ]
        await (await rig.agent()).push(jobs)
        async with rig.worker():
            ((last,), (worn,)) = [await rig.ended(job.id) for job in jobs]
        assert (last.state, last.attempt, last.lost) == (State.SUCCEEDED, 2, 1)
        assert (worn.state, worn.attempt) == (State.FAILED, 2)
        assert worn.error is not None
        assert worn.error.type == "WorkerDied"

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
        assert (end.attempt, end.lost) == (2, 1)

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


async def test_handlers_are_told_once_and_in_entries_of_their_own(rig: Rig) -> None:
    """A recorder of an older version cannot read the kind, and sets the entry aside: nothing else
    may be in it."""

    @rig.app.job(lane="mail")
    async def send(n: int) -> None: ...

    @rig.app.job
    async def work() -> None: ...

    entries: list[list[Record]] = []
    append = type(rig.memory).append

    async def noting(self: Any, records: Sequence[Record]) -> None:
        entries.append(list(records))
        await append(self, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(rig.memory), "append", noting)
        async with rig.worker():
            job = await work.enqueue()
            await rig.ended(job.id)
    told = [entry for entry in entries if any(isinstance(r, Defined) for r in entry)]
    (only,) = told
    assert {(r.name, r.lane) for r in only if isinstance(r, Defined)} == {
        ("send", "mail"),
        ("work", "default"),
    }
    assert len(only) == 2
