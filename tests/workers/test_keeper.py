"""Leases are kept whatever handlers do to the event loop."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from worker_rig import PATIENCE, Rig

from mesh.errors import AgentUnavailable
from mesh.job import State, new_job_id
from mesh.ports import AgentSettings, Delivery
from mesh.testing.conformance.agent import make_job
from mesh.testing.memory import MemoryAgent
from mesh.testing.servers import NatsServer
from mesh_workers import keeper as keeper_module
from mesh_workers.keeper import LeaseKeeper


class Elsewhere:
    """A worker in another thread, with an event loop of its own, as in another process."""

    def __init__(self, rig: Rig) -> None:
        self.app = rig.new_app()
        self._worker = rig.worker(app=self.app)
        self._running, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        async with self._worker:
            self._running.set()
            await asyncio.to_thread(self._ending.wait)

    def start(self) -> None:
        self._thread.start()
        self._running.wait(PATIENCE)

    async def stop(self) -> None:
        self._ending.set()
        await asyncio.to_thread(self._thread.join)

    async def __aenter__(self) -> Elsewhere:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


@pytest.fixture(params=["memory", "sqlite", "nats"])
async def short_leases(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Rig, float]]:
    """A rig with short leases, and their length in seconds."""
    lease = 1.5
    if request.param == "nats":
        lease = 1.0
        server: NatsServer = request.getfixturevalue("nats_server")
        rig = Rig(server.url, lease=lease, cluster=f"keeper-{new_job_id()[-12:]}")
    else:
        rig = Rig(
            f"sqlite:///{tmp_path}/agent.db" if request.param == "sqlite" else "", lease=lease
        )
    yield rig, lease
    await rig.close()


async def test_a_handler_that_blocks_the_event_loop_is_not_run_twice(
    short_leases: tuple[Rig, float], caplog: pytest.LogCaptureFixture
) -> None:
    rig, lease = short_leases
    other_ran, started, other_is_idle = list[int](), asyncio.Event(), asyncio.Event()

    @rig.app.job
    async def block() -> str:
        started.set()
        await other_is_idle.wait()
        time.sleep(3 * lease)  # noqa: ASYNC251
        return "here"

    elsewhere = Elsewhere(rig)

    @elsewhere.app.job(name="block")
    def run_again() -> None:
        other_ran.append(1)

    await rig.agent()  # connected now, and not while the loop is blocked
    job = await block.enqueue()
    async with rig.worker():
        await started.wait()
        async with elsewhere:
            other_is_idle.set()
            (end,) = await rig.ended(job.id)
    assert (end.attempt, end.lost, end.result) == (1, 0, b'"here"')
    assert not other_ran
    # And it is said who did that, where, and for how long.
    who = f"job {job.id} (block)"
    begun = (
        rf"{re.escape(who)} has blocked the event loop for [\d.]+ s, at .*test_keeper.py:\d+ in "
    )
    assert re.search(begun + r".*block: all other jobs", caplog.text)
    (ended,) = re.findall(rf"{re.escape(who)} blocked the event loop for ([\d.]+) s", caplog.text)
    assert lease < float(ended) < PATIENCE


async def test_a_long_job_outlives_many_leases_and_is_let_go_at_its_end() -> None:
    rig = Rig(lease=0.3)

    @rig.app.job
    async def handler() -> None:
        await asyncio.sleep(1)

    job = await handler.enqueue()
    async with rig.worker(), rig.worker():
        (end,) = await rig.ended(job.id)
    assert (end.state, end.attempt, end.lost) == (State.SUCCEEDED, 1, 0)
    await rig.close()


class TestKeeper:
    async def test_keeps_what_is_held_and_lets_go_of_what_is_released(self) -> None:
        rig = Rig(lease=0.3)
        agent, keeper = rig.memory, LeaseKeeper(lambda: rig.memory, 0.3)
        await agent.push([make_job(), make_job()])
        consumer = await agent.consume("default", lease=0.3)
        kept, dropped = await consumer.pull(2)
        keeper.hold([kept, dropped])
        keeper.start()
        keeper.release([dropped.receipt])
        async with asyncio.timeout(PATIENCE):
            (again,) = await consumer.pull(2)
        assert again.job.id == dropped.job.id
        assert keeper.held == 1
        await keeper.stop()
        async with asyncio.timeout(PATIENCE):
            while kept.job.id not in {d.job.id for d in await consumer.pull(2)}:
                pass

    async def test_forgets_a_lease_that_was_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        rig = Rig()
        keeper = LeaseKeeper(lambda: rig.memory, 0.1)
        delivery = Delivery(make_job(), "unknown/1")
        keeper.hold([delivery])
        keeper.start()
        async with asyncio.timeout(PATIENCE):
            while keeper.held:  # noqa: ASYNC110 - its thread tells nobody
                await asyncio.sleep(0.01)
        await keeper.stop()
        assert f"job {delivery.job.id} (conformance): the lease was lost" in caplog.text

    async def test_what_is_being_settled_is_not_said_to_be_lost_at_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The agent has dropped it, and the worker has not heard so yet."""
        settled, stuck = (Delivery(make_job(), f"r-{n}") for n in range(2))
        asked = asyncio.Queue[list[str]]()

        class Gone(MemoryAgent):
            async def extend(self, receipts: Sequence[str], lease: float) -> set[str]:
                loop.call_soon_threadsafe(asked.put_nowait, sorted(receipts))
                await asyncio.to_thread(answer.acquire)
                return set(receipts)

        loop, answer = asyncio.get_running_loop(), threading.Semaphore(0)
        keeper = LeaseKeeper(lambda: Gone("m", f"memory://{new_job_id()}", AgentSettings()), 0.3)
        keeper.hold([settled, stuck])
        keeper.settling([settled.receipt, stuck.receipt])
        keeper.start()
        async with asyncio.timeout(PATIENCE):
            assert await asked.get() == ["r-0", "r-1"]
            answer.release()
            await asked.get()
            keeper.release([settled.receipt])
            answer.release()
            while keeper.held:  # noqa: ASYNC110 - its thread tells nobody
                await asyncio.sleep(0.01)
        await keeper.stop()
        assert settled.job.id not in caplog.text
        assert f"job {stuck.job.id} (" in caplog.text

    async def test_says_once_whose_lease_ended_while_nothing_could_be_extended(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = 1000.0
        rig = Rig()
        keeper = LeaseKeeper(lambda: rig.memory, 30.0, now=lambda: now)
        old, settled, young = (Delivery(make_job(), f"a/{n}") for n in range(3))
        keeper.hold([old, settled])
        now += 29  # it was stopped from here on, and nothing ran
        keeper.hold([young])
        keeper.release([])
        assert not caplog.text
        now += 2
        keeper.release([settled.receipt])
        assert caplog.text.count("ended before it was extended") == 1
        assert old.job.id in caplog.text
        assert settled.job.id in caplog.text
        assert young.job.id not in caplog.text
        caplog.clear()
        keeper.release([old.receipt])
        assert not caplog.text

    @pytest.mark.parametrize("error", [ValueError("a bug"), TimeoutError(), None])
    async def test_goes_on_after_any_failure(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception | None
    ) -> None:
        monkeypatch.setattr(keeper_module, "_RETRY", 0.05)
        calls, enough = list[int](), threading.Event()

        class Failing(MemoryAgent):
            async def extend(self, receipts: Sequence[str], lease: float) -> set[str]:
                calls.append(len(receipts))
                if len(calls) == 3:
                    enough.set()
                if error is None:
                    await asyncio.Event().wait()  # no answer
                else:
                    raise error
                return set()

        url = Rig().url
        keeper = LeaseKeeper(lambda: Failing("m", url, AgentSettings()), 0.1)
        keeper.hold([Delivery(make_job(), "a/1")])
        keeper.start()
        assert await asyncio.to_thread(enough.wait, PATIENCE)
        await asyncio.wait_for(keeper.stop(), PATIENCE)
        assert keeper.held == 1

    async def test_stop_without_start_and_twice(self) -> None:
        rig = Rig()
        keeper = LeaseKeeper(lambda: rig.memory, 0.1)
        await keeper.stop()
        keeper.start()
        await keeper.stop()
        await keeper.stop()


async def test_what_waits_here_does_not_start_when_its_lease_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that was stopped, or cut off, goes on: what it had pulled has run elsewhere."""
    rig, ran, all_ran = Rig(lease=0.3), list[str](), threading.Event()
    elsewhere = Elsewhere(rig)

    async def extend(agent: MemoryAgent, receipts: Sequence[str], lease: float) -> set[str]:
        raise AgentUnavailable("cut off")

    monkeypatch.setattr(MemoryAgent, "extend", extend)

    @rig.app.job
    async def quick() -> None: ...

    @rig.app.job(priority="high")
    async def block() -> None:
        await asyncio.to_thread(elsewhere.start)
        assert all_ran.wait(PATIENCE)  # and nothing else happens in this event loop

    @rig.app.job
    async def note() -> None:
        ran.append("here")

    @elsewhere.app.job(name="note")
    async def note_there() -> None:
        ran.append("there")
        if len(ran) == 5:
            all_ran.set()

    @elsewhere.app.job(name="block")
    async def block_there() -> None: ...

    before = await quick.enqueue_many([()] * 50)
    async with rig.worker(1):
        await rig.ended(*(job.id for job in before))
        # Together, so that they are pulled together.
        jobs = [make_job(name="block", priority=4), *(make_job(name="note") for _ in range(5))]
        jobs = [msgspec.structs.replace(job, payload=b"{}") for job in jobs]
        await (await rig.agent()).push(jobs)
        await rig.ended(*(job.id for job in jobs))
        await rig.until_holds(lambda depth: not depth.total)
    await elsewhere.stop()
    assert ran == ["there"] * 5
    await rig.close()


async def test_nothing_is_held_when_all_is_settled(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepers = list[LeaseKeeper]()
    start = LeaseKeeper.start

    def noted(self: LeaseKeeper) -> None:
        keepers.append(self)
        start(self)

    monkeypatch.setattr(LeaseKeeper, "start", noted)

    @rig.app.job
    async def handler(n: int) -> None:
        if n % 3 == 0:
            raise ValueError

    jobs = await handler.enqueue_many([(n,) for n in range(30)])
    await (await rig.agent()).push([make_job(name="nobody")])
    async with rig.worker():
        for job in jobs:
            await rig.outcomes(job.id, 1)
        await rig.until_holds(lambda depth: depth.leased == 0)
        await asyncio.sleep(0)
        assert keepers[0].held == 0
