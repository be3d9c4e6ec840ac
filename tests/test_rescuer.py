"""The rescuer brings back what agents have lost, on evidence, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from mesh.job import State, new_job_id
from mesh.ports import AgentSettings, MasterSettings
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.master import Story
from mesh.wire import Accepted, Envelope, Heartbeat, LaneLoad, Record
from mesh_master.rescuer import Rescuer
from mesh_master.store import SqlMaster

PATIENCE = 30.0
AFTER, SILENCE, INTERVAL = 60.0, 30.0, 777.0
TTL = 3e6
"""Long enough that no lease ends while the clock goes from one sweep to the next."""


class SweepingClock(ManualClock):
    """Between two looks of a sweep, and while ledgers are waited for, it goes on by itself; between
    two sweeps it stands still, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.swept = asyncio.Event()
        self.looked = asyncio.Event()
        self.doubts = 0
        """How often something was to be looked at again."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        task = asyncio.current_task()
        if task is not None and task.get_name() == "mesh-rescuer-claims":
            self.looked.set()
        elif seconds == INTERVAL:
            self.swept.set()
        elif seconds is not None and seconds < TTL / 3:
            self.doubts += seconds == SILENCE
            self.advance(seconds)
            return event.is_set()
        return await super().wait(event, seconds)

    async def sleep(self, seconds: float) -> None:
        if seconds == 0.25:  # a look at the ledgers
            self.advance(seconds)
            seconds = 0
        await super().sleep(seconds)

    async def next_sweep(self) -> None:
        self.swept.clear()
        await asyncio.sleep(0)  # the wait begins behind us in the loop
        self.advance(INTERVAL)
        async with asyncio.timeout(PATIENCE):
            await self.swept.wait()


class AskedAgent(MemoryAgent):
    """Counts what it is asked."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        super().__init__(name, f"memory://{new_job_id()}", AgentSettings(clock=clock))
        self.asked: list[str] = []

    async def missing(self, jobs: Mapping[str, Collection[str]]) -> set[str]:
        gone = await super().missing(jobs)
        self.asked += [job_id for ids in jobs.values() for job_id in ids]
        return gone


class Rig:
    """A master, agents, and a recorder that records when it is told to."""

    def __init__(self, master: SqlMaster, clock: SweepingClock) -> None:
        self.master = master
        self.clock = clock
        self.agents = {name: AskedAgent(name, clock) for name in ("a", "b")}

    async def record(self, name: str = "a", *more: Record) -> None:
        """Bring the agent's ledger to the master."""
        agent = self.agents[name]
        await agent.append(more)
        ledger = await agent.ledger()
        batch = await ledger.read(1000, 0.0)
        lease = await self.master.acquire(f"recorder:{name}", "me", 30)
        assert lease is not None
        await self.master.record(name, batch.records, lease)
        await ledger.ack(batch)

    async def push(self, *jobs: Envelope, to: str = "a") -> None:
        assert await self.agents[to].push(jobs) == [None] * len(jobs)
        await self.record(to)

    def rescuer(self, **changes: Any) -> Rescuer:
        options: dict[str, Any] = {"holder": "me", "ttl": TTL, "interval": INTERVAL} | changes
        return Rescuer(
            *(self.master, self.agents), clock=self.clock, after=AFTER, silence=SILENCE, **options
        )

    async def sweep(self, **changes: Any) -> Rescuer:
        """One sweep, a while after what happened before."""
        self.clock.advance(AFTER)
        self.clock.swept.clear()
        async with self.rescuer(**changes) as rescuer, asyncio.timeout(PATIENCE):
            await self.clock.swept.wait()
        assert isinstance(rescuer, Rescuer)
        return rescuer

    async def states(self, *jobs: Envelope) -> list[tuple[State, int]]:
        found = await self.master.get_jobs([job.id for job in jobs])
        return [(found[job.id].state, found[job.id].attempt) for job in jobs]

    def beat(self, worker: str, state: str = "running", since: float = 0.0) -> Heartbeat:
        now = self.clock.time()
        lanes = [LaneLoad("default", 1, 1, 0, since)]
        return Heartbeat(worker, now, "a", "host", 1, "1", now, state, lanes)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    clock = SweepingClock()
    master = SqlMaster(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings(clock=clock))
    await master.open()
    await master.register_agents({"a": "memory://a", "b": "memory://b"})
    yield Rig(master, clock)
    await master.close()


def make_old(rig: Rig, **changes: Any) -> Envelope:
    return make_job(**{"enqueued_at": rig.clock.time(), **changes})


async def test_what_an_agent_lost_is_held_again(rig: Rig) -> None:
    lost, kept = [make_old(rig) for _ in range(3)], make_old(rig)
    await rig.push(*lost, kept)
    rig.agents["a"].lose(*(job.id for job in lost))
    rescuer = await rig.sweep()
    assert await rig.states(*lost, kept) == [(State.SCHEDULED, 2)] * 3 + [(State.QUEUED, 1)]
    assert rescuer.rescued == {"a": 3}
    assert rescuer.sweeps == 1
    # It was asked of the lost ones twice.
    assert sorted(rig.agents["a"].asked) == sorted(
        [kept.id, *(job.id for job in lost)] + [job.id for job in lost]
    )


async def test_while_nothing_waits_for_long_nobody_is_asked(rig: Rig) -> None:
    await rig.push(make_old(rig, enqueued_at=rig.clock.time() + AFTER))
    rig.agents["a"].lose()
    assert (await rig.sweep()).rescued == {}
    assert rig.agents["a"].asked == []
    assert rig.clock.doubts == 0


async def test_many_are_looked_at_in_parts(rig: Rig) -> None:
    jobs = [make_old(rig) for _ in range(25)]
    await rig.push(*jobs)
    rig.agents["a"].lose(*(job.id for job in jobs[::2]))
    rescuer = await rig.sweep(batch=4)
    assert rescuer.rescued == {"a": 13}


async def test_a_lost_job_runs_where_its_lane_is_served(rig: Rig) -> None:
    job = make_old(rig)
    await rig.push(job)
    rig.agents["a"].lose()
    await rig.sweep()
    (again,) = await rig.master.claim_due(rig.clock.time(), 10, 60)
    await rig.push(again, to="b")
    assert await rig.states(job) == [(State.QUEUED, 2)]
    assert (await rig.master.get_jobs([job.id]))[job.id].agent == "b"


async def test_a_living_worker_is_waited_for(rig: Rig) -> None:
    story = Story(rig.clock.time())
    await rig.push(story.job)
    await rig.record("a", story.started())
    rig.agents["a"].lose()
    rig.clock.advance(AFTER)
    await rig.record("a", rig.beat("w-1"))
    async with rig.rescuer() as rescuer:
        await rig.clock.swept.wait()
        assert await rig.states(story.job) == [(State.RUNNING, 1)]
        assert rig.agents["a"].asked == []
        await rig.clock.next_sweep()  # it has been silent meanwhile
    assert await rig.states(story.job) == [(State.SCHEDULED, 2)]
    assert isinstance(rescuer, Rescuer)
    (again,) = await rig.master.claim_due(rig.clock.time(), 10, 60)
    assert (again.lost, again.snoozes) == (1, 0)


async def test_what_a_living_worker_is_over_with_is_lost(rig: Rig) -> None:
    """It ran the job, and what it told of it was lost with the agent."""
    began = rig.clock.time()
    told, still = Story(began), Story(began + 1)
    exactly = still.begin + 1 + 1e-7  # the master keeps microseconds
    await rig.push(told.job, still.job)
    await rig.record("a", told.started(), still.started())
    asked: list[set[str]] = []

    async def missing(jobs: Mapping[str, Collection[str]]) -> set[str]:
        asked.append({job_id for ids in jobs.values() for job_id in ids})
        await rig.record("a", rig.beat("w-1", since=exactly))
        return asked[-1]

    rig.agents["a"].missing = missing  # type: ignore[method-assign]
    rig.clock.advance(AFTER + 2)
    await rig.record("a", rig.beat("w-1", since=exactly))
    async with rig.rescuer():
        await rig.clock.swept.wait()
    assert asked == [{told.id}, {told.id}]
    assert await rig.states(told.job, still.job) == [(State.SCHEDULED, 2), (State.RUNNING, 1)]


async def test_a_worker_that_comes_back_between_two_looks_is_waited_for(rig: Rig) -> None:
    """Its agent was away and so it could not be heard."""
    story = Story(rig.clock.time())
    await rig.push(story.job)
    await rig.record("a", story.started())
    agent = rig.agents["a"]
    agent.lose()

    async def missing(jobs: Mapping[str, Collection[str]]) -> set[str]:
        if rig.clock.doubts == 0:
            rig.clock.advance(1)
            await rig.record("a", rig.beat("w-1"))
        return {job_id for ids in jobs.values() for job_id in ids}

    agent.missing = missing  # type: ignore[method-assign]
    rig.clock.advance(1)
    assert (await rig.sweep()).rescued == {}
    assert rig.clock.doubts == 1
    assert await rig.states(story.job) == [(State.RUNNING, 1)]


async def test_the_jobs_of_a_worker_that_said_goodbye_are_lost(rig: Rig) -> None:
    story = Story(rig.clock.time())
    await rig.push(story.job)
    await rig.record("a", story.started())
    rig.agents["a"].lose()
    rig.clock.advance(AFTER)
    await rig.record("a", rig.beat("w-1", "stopped"))
    assert (await rig.sweep()).rescued == {"a": 1}


async def test_an_agent_that_cannot_be_asked_has_lost_nothing(rig: Rig) -> None:
    jobs = [make_old(rig), make_old(rig)]
    await rig.push(jobs[0])
    await rig.push(jobs[1], to="b")
    for agent in rig.agents.values():
        agent.lose()
    rig.agents["a"].go_down()
    assert (await rig.sweep()).rescued == {"b": 1}
    assert await rig.states(*jobs) == [(State.QUEUED, 1), (State.SCHEDULED, 2)]
    rig.agents["a"].go_down(False)
    assert (await rig.sweep()).rescued == {"a": 1}


async def test_the_ledger_is_heard_first(rig: Rig) -> None:
    """A job that ended is not there any more, and the master does not know it yet."""
    story = Story(rig.clock.time())
    await rig.push(story.job)
    await rig.agents["a"].append([story.finished()])
    rig.agents["a"].lose()
    assert (await rig.sweep()).rescued == {}
    assert await rig.states(story.job) == [(State.QUEUED, 1)]
    await rig.record("a")
    assert (await rig.sweep()).rescued == {}
    assert await rig.states(story.job) == [(State.SUCCEEDED, 1)]


async def test_a_job_that_was_moved_is_not_lost(rig: Rig) -> None:
    """It is on another agent, whose ledger has not been recorded yet."""
    job = make_old(rig)
    await rig.push(job)
    moved = make_old(rig, id=job.id, attempt=2)
    assert await rig.agents["b"].push([moved]) == [None]
    rig.agents["a"].lose()
    assert (await rig.sweep()).rescued == {}
    await rig.record("b")
    assert (await rig.sweep()).rescued == {}
    assert await rig.states(job) == [(State.QUEUED, 2)]


async def test_an_agent_that_was_removed_has_none(rig: Rig) -> None:
    jobs = [make_old(rig), make_old(rig)]
    await rig.push(*jobs)
    del rig.agents["a"]
    assert (await rig.sweep()).rescued == {}  # another coordinator may have it
    await rig.master.remove_agent("a")
    assert (await rig.sweep()).rescued == {"a": 2}
    assert await rig.states(*jobs) == [(State.SCHEDULED, 2)] * 2


async def test_a_job_that_moves_on_while_it_is_doubted_is_left_alone(rig: Rig) -> None:
    job = make_old(rig)
    await rig.push(job)
    agent = rig.agents["a"]

    async def missing(jobs: Mapping[str, Collection[str]]) -> set[str]:
        if rig.clock.doubts:
            again = make_old(rig, id=job.id, attempt=2)
            await rig.record("a", Accepted(again, rig.clock.time()))
        return {job_id for ids in jobs.values() for job_id in ids}

    agent.missing = missing  # type: ignore[method-assign]
    assert (await rig.sweep()).rescued == {}
    assert await rig.states(job) == [(State.QUEUED, 2)]


async def test_it_stops_in_the_middle_of_a_look(rig: Rig) -> None:
    await rig.push(make_old(rig))
    asked = asyncio.Event()

    async def missing(jobs: Mapping[str, Collection[str]]) -> set[str]:
        asked.set()
        await asyncio.Event().wait()
        return set()

    rig.agents["a"].missing = missing  # type: ignore[method-assign]
    rig.clock.advance(AFTER)
    async with asyncio.timeout(PATIENCE), rig.rescuer():
        await asked.wait()


async def until_looked_at(rig: Rig) -> None:
    """Two looks at claims later."""
    for _ in range(2):
        rig.clock.looked.clear()
        await asyncio.sleep(0)  # the wait begins behind us in the loop
        rig.clock.advance(INTERVAL)
        async with asyncio.timeout(PATIENCE):
            await rig.clock.looked.wait()


async def test_a_job_whose_dispatcher_died_is_let_go(rig: Rig) -> None:
    job = make_old(rig)
    await rig.master.hold([job])
    assert await rig.master.claim_due(rig.clock.time(), 10, 3 * INTERVAL) == [job]
    async with rig.rescuer() as rescuer:
        assert isinstance(rescuer, Rescuer)
        await until_looked_at(rig)
        assert await rig.master.claim_due(rig.clock.time(), 10, 60) == []
        rig.clock.advance(INTERVAL)
        await until_looked_at(rig)
        assert await rig.master.claim_due(rig.clock.time(), 10, 60) == [job]
        assert rescuer.rescued == {}


async def test_what_is_on_an_agent_is_not_dispatched_twice(rig: Rig) -> None:
    """A recorder is behind for longer than a claim."""
    story = Story(rig.clock.time())
    await rig.master.hold([story.job])
    assert await rig.master.claim_due(rig.clock.time(), 10, 60) == [story.job]
    assert await rig.agents["b"].push([story.job]) == [None]
    rig.clock.advance(60)
    async with rig.rescuer():
        await until_looked_at(rig)
        assert await rig.master.claim_due(rig.clock.time(), 10, 60) == []
        # It has run, and the agent has it no more.
        await rig.agents["b"].append([story.finished()])
        rig.agents["b"].lose()
        await until_looked_at(rig)
        assert await rig.master.claim_due(rig.clock.time(), 10, 60) == []
        await rig.record("b")
        await until_looked_at(rig)
    assert await rig.states(story.job) == [(State.SUCCEEDED, 1)]


async def test_an_agent_that_is_away_does_not_keep_doubtful_jobs(rig: Rig) -> None:
    job = make_old(rig)
    await rig.master.hold([job])
    assert await rig.master.claim_due(rig.clock.time(), 10, 60) == [job]
    rig.agents["a"].go_down()
    rig.clock.advance(60)
    async with rig.rescuer():
        await until_looked_at(rig)
    assert await rig.master.claim_due(rig.clock.time(), 10, 60) == [job]


async def test_one_of_two_leads(rig: Rig) -> None:
    job = make_old(rig)
    await rig.push(job)
    rig.agents["a"].lose()
    rig.clock.advance(AFTER)
    async with rig.rescuer() as one, rig.rescuer(holder="you") as other:
        async with asyncio.timeout(PATIENCE):
            await rig.clock.swept.wait()
        assert isinstance(one, Rescuer)
        assert isinstance(other, Rescuer)
        assert one.sweeps + other.sweeps == 1
        assert one.rescued + other.rescued == {"a": 1}
