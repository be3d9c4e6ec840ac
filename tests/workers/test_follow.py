"""What workers learn from their agent's board: cancels, paused lanes, the cluster's settings."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from worker_rig import PATIENCE, Gate, Rig

from mesh import Context, Retry
from mesh.job import State
from mesh.notices import CLUSTER, Cancel, cancel_key
from mesh.settings import AgentState, AgentStatus, ClusterSettings, LaneState, Mode
from mesh.testing.conformance import make_job
from mesh.wire import Started


async def say(rig: Rig, **changes: Any) -> ClusterSettings:
    """Post settings with the next revision, as the control duty would."""
    before = rig.app.cluster.settings
    settings = msgspec.structs.replace(before, **{"revision": before.revision + 1} | changes)
    await (await rig.agent()).post({CLUSTER: settings.encode()})
    return settings


async def cancel(rig: Rig, job_id: str, reason: str) -> None:
    await (await rig.agent()).post({cancel_key(job_id): Cancel(reason, rig.app.now()).encode()})


async def until(condition: Any) -> None:
    """Look until it is so: lanes don't tell."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_job_that_was_cancelled_before_the_worker_came_never_starts(any_rig: Rig) -> None:
    rig, ran = any_rig, list[int]()

    @rig.app.job
    async def handler(n: int) -> None:
        ran.append(n)

    one, two = await handler.enqueue(1), await handler.enqueue(2)
    await cancel(rig, one.id, "no need")
    async with rig.worker():
        first, second = await rig.ended(one.id, two.id)
    assert (first.state, second.state) == (State.CANCELLED, State.SUCCEEDED)
    assert first.error is not None
    assert (first.error.type, first.error.message) == ("Cancelled", "no need")
    assert ran == [2]
    assert not rig.told(one.id, Started)
    assert await rig.is_empty()


async def test_a_running_job_is_cancelled_through_the_board(any_rig: Rig) -> None:
    rig, started, seen = any_rig, asyncio.Event(), list[bool]()

    @rig.app.job
    async def handler(ctx: Context[Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(ctx.cancelled)
            raise

    job = await handler.enqueue()
    async with rig.worker():
        await asyncio.wait_for(started.wait(), PATIENCE)
        await cancel(rig, job.id, "a mistake")
        (end,) = await rig.ended(job.id)
    assert end.state is State.CANCELLED
    assert seen == [True]


async def test_a_job_is_cancelled_between_two_attempts(any_rig: Rig) -> None:
    rig, tries = any_rig, list[int]()

    @rig.app.job(retry=Retry(5, delay=0.3, backoff="fixed", jitter=0))
    async def handler() -> None:
        tries.append(len(tries))
        raise ValueError

    job = await handler.enqueue()
    async with rig.worker():
        await rig.outcomes(job.id, 1)
        await cancel(rig, job.id, "it will not get better")
        (end,) = await rig.ended(job.id)
    assert end.state is State.CANCELLED
    assert end.attempt == len(tries) + 1


@pytest.mark.parametrize(
    "paused",
    [
        {"mode": Mode.PASSIVE},
        {"mode": Mode.ARCHIVE},
        {"lanes": {"default": LaneState.PAUSED}},
        {"agents": {"m": AgentStatus(AgentState.DRAINING)}},
    ],
    ids=["passive", "archive", "lane", "agent"],
)
async def test_paused_lanes_hold_what_comes(any_rig: Rig, paused: dict[str, Any]) -> None:
    rig, gate, ran = any_rig, Gate(), list[int]()

    @rig.app.job
    async def handler(n: int) -> None:
        ran.append(n)
        if n == 0:
            await gate.pass_through()

    async with rig.worker(1) as worker:
        running = await handler.enqueue(0)
        await gate.until_entered(1)
        waiting = await handler.enqueue(1)
        await say(rig, **paused)
        await until(lambda: rig.app.cluster.settings.revision == 1)
        # What runs ends; the one that waited, and the one that comes, stay on the agent.
        gate.opened.set()
        await rig.ended(running.id)
        # Pushed by one who has not heard yet: producers that have would not.
        coming = make_job(name=handler.name, payload=b'{"n":2}')
        assert await (await rig.agent()).push([coming]) == [None]
        await until(lambda: not worker.lanes[0].load.held)
        assert not worker.lanes[0].load.running
        await rig.until_holds(lambda depth: depth.total == 2)
        await rig.until_holds(lambda depth: depth.leased == 0)
        assert ran == [0]
        await say(rig, mode=Mode.ACTIVE, lanes={}, agents={})
        await rig.ended(waiting.id, coming.id)
    assert sorted(ran) == [0, 1, 2]
    assert await rig.is_empty()


async def test_a_worker_that_starts_in_a_paused_lane_takes_nothing(any_rig: Rig) -> None:
    rig = any_rig

    @rig.app.job
    async def handler() -> None: ...

    await say(rig, lanes={"default": LaneState.PAUSED, "other": LaneState.DRAINING})
    job = await handler.enqueue()
    async with rig.worker():
        await rig.until(lambda: bool(rig.beats()))
        assert (await rig.holds()).ready == 1
        await say(rig, lanes={})
        await rig.ended(job.id)


async def test_the_clusters_defaults_apply_where_the_process_has_none(any_rig: Rig) -> None:
    rig = any_rig

    @rig.app.job
    async def slow() -> None:
        await asyncio.Event().wait()

    await say(rig, timeout=0.05, retry=Retry(1), payload_limit=77)
    async with rig.worker():
        (end,) = await rig.ended((await slow.enqueue()).id)
    assert (end.state, end.attempt) == (State.FAILED, 1)
    assert end.error is not None
    assert end.error.type == "TimeoutError"
    assert rig.app.config.payload_limit == 77


async def test_a_stale_board_changes_nothing(any_rig: Rig) -> None:
    rig = any_rig
    now = await say(rig, revision=7, lanes={"default": LaneState.PAUSED})
    assert rig.app.cluster.learn(now)
    assert not rig.app.cluster.learn(msgspec.structs.replace(now, revision=6, lanes={}))
    assert not rig.app.cluster.hear({CLUSTER: b"{not json"})
    assert not rig.app.cluster.hear({CLUSTER: None})
    assert rig.app.cluster.settings == now
