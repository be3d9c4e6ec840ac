"""The behavioural suite of what a master has to say: cancels, settings, agents of run time."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec
import pytest

from mesh.config import AgentConfig
from mesh.errors import ConfigError
from mesh.job import State, new_job_id
from mesh.notices import CLUSTER, Cancel, cancel_key
from mesh.ports import Backlog, Master
from mesh.settings import AgentState, AgentStatus, ClusterSettings, LaneState, Mode
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.board import read_until, standing
from mesh.wire import Accepted, Record

__all__ = ["SteeringConformance"]


class _Harness(Protocol):
    ttl: float

    async def connect(self) -> Any: ...
    def now(self) -> float: ...


async def _record(master: Master, *records: Record) -> None:
    lease = await master.acquire("recorder:a-1", "me", 30)
    assert lease is not None
    await master.record("a-1", records, lease)


def _set(**changes: Any) -> Any:
    return lambda settings: msgspec.structs.replace(settings, **changes)


class SteeringConformance:
    """A part of ``MasterConformance``."""

    # cancels ---------------------------------------------------------------------------------

    async def test_a_held_job_is_cancelled_at_once(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = make_job(due_at=harness.now() + 1000)
        await master.hold([job])
        assert await master.cancel([job.id], "no need") == {job.id: State.CANCELLED}
        info = (await master.get_jobs([job.id]))[job.id]
        assert (info.state, info.error_type, info.error_message) == (
            State.CANCELLED,
            "Cancelled",
            "no need",
        )
        assert info.finished_at is not None
        assert await master.claim_due(harness.now() + 2000, 10, 60) == []
        assert cancel_key(job.id) not in await standing(master)

    async def test_a_claimed_job_is_not_ours_to_end(self, harness: _Harness) -> None:
        """A dispatcher may have pushed it already: a worker says what becomes of it."""
        master = await harness.connect()
        job = make_job(due_at=harness.now())
        await master.hold([job])
        assert await master.claim_due(harness.now() + 1, 10, 60) == [job]
        assert await master.cancel([job.id], "late") == {job.id: State.SCHEDULED}
        notice = (await standing(master))[cancel_key(job.id)]
        assert notice is not None
        assert Cancel.decode(notice).reason == "late"
        await master.unclaim([job.id])
        assert await master.cancel([job.id], "again") == {job.id: State.CANCELLED}

    async def test_a_job_on_an_agent_is_called_off_by_a_notice(self, harness: _Harness) -> None:
        master, other = await harness.connect(), await harness.connect()
        job, unknown = make_job(), new_job_id()
        await _record(master, Accepted(job, harness.now()))
        board = await other.board()
        await board.read(0.0)
        found = await master.cancel([job.id, unknown, "no id"], "first")
        assert found == {job.id: State.QUEUED}
        notices = await standing(master)
        assert {cancel_key(job.id), cancel_key(unknown)} <= notices.keys()
        await read_until(board, {cancel_key(job.id): notices[cancel_key(job.id)]})
        await master.cancel([job.id], "second")
        assert (await standing(master))[cancel_key(job.id)] == notices[cancel_key(job.id)]

    async def test_an_ended_job_stays_as_it_is(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = make_job(due_at=harness.now() + 1000)
        await master.hold([job])
        await master.cancel([job.id], "one")
        assert await master.cancel([job.id], "two") == {job.id: State.CANCELLED}
        assert (await master.get_jobs([job.id]))[job.id].error_message == "one"

    # settings --------------------------------------------------------------------------------

    async def test_settings_change_and_are_posted(self, harness: _Harness) -> None:
        master, other = await harness.connect(), await harness.connect()
        assert await master.cluster_settings() == ClusterSettings()
        board = await other.board()
        await board.read(0.0)
        first = await master.change_settings(_set(mode=Mode.PASSIVE, timeout=3.5))
        assert (first.revision, first.mode, first.timeout) == (1, Mode.PASSIVE, 3.5)
        assert await other.cluster_settings() == first
        second = await other.change_settings(lambda s: s.with_lane("mail", LaneState.PAUSED))
        assert second == msgspec.structs.replace(
            first, revision=2, lanes={"mail": LaneState.PAUSED}
        )
        await read_until(board, {CLUSTER: second.encode()})

    async def test_concurrent_changes_lose_none(self, harness: _Harness) -> None:
        masters = [await harness.connect() for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for index in range(12):
                lane = f"lane-{index}"
                tasks.create_task(
                    masters[index % 3].change_settings(
                        lambda s, lane=lane: s.with_lane(lane, LaneState.PAUSED)
                    )
                )
        settings = await masters[0].cluster_settings()
        assert settings.revision == 12
        assert len(settings.lanes) == 12

    async def test_a_change_that_raises_changes_nothing(self, harness: _Harness) -> None:
        master = await harness.connect()

        def refuse(settings: ClusterSettings) -> ClusterSettings:
            raise ConfigError("no")

        with pytest.raises(ConfigError, match="no"):
            await master.change_settings(refuse)
        assert await master.cluster_settings() == ClusterSettings()
        status = AgentStatus(AgentState.DRAINING)
        assert (await master.change_settings(lambda s: s.with_agent("a", status))).revision == 1

    # agents ----------------------------------------------------------------------------------

    async def test_agents_are_added_and_forgotten(self, harness: _Harness) -> None:
        master, other = await harness.connect(), await harness.connect()
        one = AgentConfig("one", "nats://mesh:secret@host:4222", frozenset({"mail"}))
        await master.add_agent(one)
        await master.add_agent(two := AgentConfig("two", "sqlite:///two.db"))
        assert await other.added_agents() == {"one": one, "two": two}
        shown = {agent.name: agent.url for agent in await other.agents()}
        assert shown == {"one": "nats://mesh:***@host:4222", "two": "sqlite:///two.db"}
        # A coordinator notes what it has; that takes nothing away.
        await other.register_agents(shown | {"three": "nats://x"})
        await master.add_agent(one := AgentConfig("one", "nats://elsewhere"))
        assert await other.added_agents() == {"one": one, "two": two}
        assert await other.remove_agent("one") is True
        assert await other.remove_agent("one") is False
        assert await master.added_agents() == {"two": two}
        assert {agent.name for agent in await master.agents()} == {"two", "three"}

    # jobs that come from agents, and what waits ----------------------------------------------

    async def test_a_job_taken_back_is_held_whatever_its_agent_still_tells(
        self, harness: _Harness
    ) -> None:
        master = await harness.connect()
        job = make_job()
        accepted = Accepted(job, harness.now())
        await _record(master, accepted)
        back = msgspec.structs.replace(job, attempt=2, snoozes=1)
        for _ in range(2):
            await master.take_back([back])
            await _record(master, accepted)
        assert (await master.get_jobs([job.id]))[job.id].state is State.SCHEDULED
        assert await master.claim_due(harness.now() + 1, 10, 60) == [back]

    async def test_one_that_goes_on_meanwhile_is_not_taken_back(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = make_job()
        await _record(master, Accepted(msgspec.structs.replace(job, attempt=3), harness.now()))
        await master.take_back([msgspec.structs.replace(job, attempt=2, snoozes=1)])
        assert (await master.get_jobs([job.id]))[job.id].state is State.QUEUED
        assert await master.claim_due(harness.now() + 1, 10, 60) == []

    async def test_the_backlog_counts_what_waits(self, harness: _Harness) -> None:
        master = await harness.connect()
        now = round(harness.now())
        await master.hold([make_job("a", enqueued_at=now - 9.0, due_at=now + 100.0)])
        await master.hold([make_job("a", enqueued_at=now - 3.0)])
        await _record(master, *(Accepted(make_job("b", enqueued_at=now - 5.0), now) for _ in "12"))
        assert await master.backlog() == {
            "a": Backlog(held=2, sent=0, oldest_at=now - 3.0),
            "b": Backlog(held=0, sent=2, oldest_at=now - 5.0),
        }

    async def test_a_lane_can_be_left_out_of_a_claim(self, harness: _Harness) -> None:
        master = await harness.connect()
        await master.hold([make_job("a"), b := make_job("b")])
        assert await master.claim_due(harness.now() + 1, 10, 60, {"a", "c"}) == [b]
        assert len(await master.claim_due(harness.now() + 1, 10, 60)) == 1
