"""What a worker tells, how much it takes, and bad days."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from worker_rig import PATIENCE, Gate, Rig

from mesh import AgentUnavailable, Context, Retry
from mesh.job import State
from mesh.ports import Delivery, Settlement
from mesh.testing.memory import MemoryAgent, MemoryConsumer
from mesh.wire import Event, Finished, Heartbeat, Record, Started
from mesh_workers import lane as lane_module
from mesh_workers import outlets

SOON = Retry(5, delay=0.01, backoff="fixed", jitter=0)


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

    async def test_what_it_is_over_with_is_settled(self, rig: Rig) -> None:
        """Its load says so: the rescuer looks for what began before."""
        gate = Gate()

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        job = await handler.enqueue()
        async with rig.worker() as worker, asyncio.timeout(PATIENCE):
            lane = worker.lanes[0]
            await rig.until(lambda: bool(rig.told(job.id, Started)))
            (start,) = rig.told(job.id, Started)
            assert isinstance(start, Started)
            assert lane.load.since == start.started_at
            rig.memory.go_down()
            gate.opened.set()
            while lane.running:  # noqa: ASYNC110 - lanes do not tell
                await asyncio.sleep(0)
            assert lane.load.since == start.started_at
            rig.memory.go_down(False)
            await rig.ended(job.id)
            while lane.load.since == start.started_at:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert lane.load.since > start.started_at

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
            assert seqs == [2**32 + 1, 2**32 + 2, 2**32 + 3]

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
        monkeypatch.setattr(outlets, "_MOST", outlets.Size(5, 100_000))

        @rig.app.job
        async def handler(ctx: Context[Any]) -> None:
            for number in range(20):
                ctx.chunk(number)

        job = await handler.enqueue()
        async with rig.worker():
            await rig.ended(job.id)
        dropped, *kept = [r for r in rig.told(job.id) if isinstance(r, Event)]
        assert (dropped.kind, json.loads(dropped.data)["data"]) == ("log", {"dropped": 15})
        assert [json.loads(r.data) for r in kept] == [15, 16, 17, 18, 19]


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

    async def test_what_is_given_back_keeps_its_order(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate, back, all_back = Gate(), list[str](), asyncio.Event()
        settle = MemoryConsumer.settle

        async def noted(self: MemoryConsumer, settlements: Sequence[Settlement]) -> None:
            back.extend(s.delivery.job.id for s in settlements if s.record is None)
            await settle(self, settlements)
            if len(back) >= 20:
                all_back.set()

        monkeypatch.setattr(MemoryConsumer, "settle", noted)

        @rig.app.job
        async def long() -> None:
            await gate.pass_through()

        @rig.app.job
        async def quick() -> None: ...

        async with rig.worker(1):
            await rig.ended(*(job.id for job in await quick.enqueue_many([()] * 20)))
            await long.enqueue()
            await gate.until_entered(1)
            jobs = await quick.enqueue_many([()] * 20)
            await asyncio.wait_for(all_back.wait(), PATIENCE)
            gate.opened.set()
            await rig.ended(*(job.id for job in jobs))
        assert back == [job.id for job in jobs]

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


class CutOff:
    """An agent that takes no word of this worker's, though it hands out jobs: leases end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, settles: bool) -> None:
        self.is_over = False
        self.redelivered = asyncio.Event()
        pull, settle, extend = MemoryConsumer.pull, MemoryConsumer.settle, MemoryAgent.extend

        async def noting(consumer: MemoryConsumer, limit: int) -> list[Delivery]:
            deliveries = await pull(consumer, limit)
            if any(delivery.redelivered for delivery in deliveries):
                self.is_over = True
                self.redelivered.set()
            return deliveries

        async def settling(consumer: MemoryConsumer, settlements: Sequence[Settlement]) -> None:
            if not (self.is_over or settles):
                raise AgentUnavailable("cut off")
            await settle(consumer, settlements)

        async def extending(agent: MemoryAgent, receipts: Sequence[str], lease: float) -> set[str]:
            if not self.is_over:
                raise AgentUnavailable("cut off")
            return await extend(agent, receipts, lease)

        monkeypatch.setattr(MemoryConsumer, "pull", noting)
        monkeypatch.setattr(MemoryConsumer, "settle", settling)
        monkeypatch.setattr(MemoryAgent, "extend", extending)


class TestBadDays:
    async def test_what_was_not_settled_in_time_is_settled_when_it_comes_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig, ran = Rig(lease=0.3), list[int]()
        cut_off = CutOff(monkeypatch, settles=False)

        @rig.app.job(retry=SOON)
        async def handler(n: int) -> int:
            ran.append(n)
            if n and len(ran) < 3:
                raise ConnectionError
            return n

        jobs = [await handler.enqueue(n) for n in (0, 1)]
        async with rig.worker():
            await asyncio.wait_for(cut_off.redelivered.wait(), PATIENCE)
            ends = await rig.ended(*(job.id for job in jobs))
            await rig.until_holds(lambda depth: not depth.total)
        assert sorted(ran) == [0, 1, 1]
        assert [(end.state, end.attempt) for end in ends] == [("succeeded", 1), ("succeeded", 2)]
        await rig.close()

    async def test_what_runs_goes_on_when_it_comes_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig, gate = Rig(lease=0.3), Gate()
        cut_off = CutOff(monkeypatch, settles=True)

        @rig.app.job
        async def handler() -> None:
            await gate.pass_through()

        jobs = await handler.enqueue_many([()] * 2)
        async with rig.worker(3):
            await asyncio.wait_for(cut_off.redelivered.wait(), PATIENCE)
            gate.opened.set()
            ends = await rig.ended(*(job.id for job in jobs))
            await rig.until_holds(lambda depth: not depth.total)
        assert gate.entered == 2
        assert [(end.state, end.attempt) for end in ends] == [("succeeded", 1)] * 2
        await rig.close()

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
        async with rig.worker(5):
            await gate.until_entered(5)
            gate.opened.set()
            await rig.ended(*(job.id for job in others))
        # Its lease was let go: it will be run again.
        assert (await rig.holds()).leased == 1
