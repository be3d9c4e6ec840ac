"""Moving jobs off an agent: whatever stops it half-way, each job is somewhere, and runs once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from mesh.emptying import LEASE, Mover
from mesh.errors import AgentError, AgentUnavailable, PublishOutcomeUnknown
from mesh.job import State, new_job_id
from mesh.ports import Agent, AgentSettings, Consumer, Delivery, MasterSettings
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.conformance import make_job
from mesh.testing.conformance.agent import finish, pull_all, push
from mesh.testing.servers import NatsServer
from mesh.wire import Envelope, Finished, Record, Started
from mesh_agents.nats.agent import NatsAgent
from mesh_master.store import SqlMaster


class Place:
    """Two agents and a master."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.master = SqlMaster(f"sqlite:///{folder}/mesh.db", MasterSettings(clock=self.clock))
        self.one, self.two = self.agent("one"), self.agent("two")
        self.targets: list[Agent] = [self.two]
        self.mover = Mover(self.master, lambda _: self.targets)

    def agent(self, name: str) -> MemoryAgent:
        return MemoryAgent(name, f"memory://{new_job_id()}", AgentSettings(clock=self.clock))

    async def record(self, agent: Agent) -> None:
        """Bring all of an agent's ledger into the master."""
        ledger = await agent.ledger()
        records: list[Record] = []
        while found := (await ledger.read(1000, 0.0)).records:
            records += found
        lease = await self.master.acquire(f"recorder:{agent.name}", "me", 60.0)
        assert lease is not None
        await self.master.record(agent.name, records, lease)

    async def empty(self) -> int:
        """The mover, given the second that it waits for more."""
        emptying = asyncio.create_task(self.mover.empty(self.one))
        return await emptying

    async def consumer(self, agent: Agent) -> Consumer:
        return await agent.consume("default", lease=LEASE)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    await place.master.open()
    yield place
    await place.master.close()


def moved(job: Envelope) -> tuple[str, int, int]:
    return job.id, job.attempt, job.snoozes


async def test_jobs_go_to_another_agent(place: Place) -> None:
    jobs = [make_job() for _ in range(600)]
    await push(place.one, *jobs, make_job("other"))
    await place.record(place.one)
    assert await place.empty() == 601
    assert await place.one.depth() == {}
    got = await pull_all(await place.consumer(place.two), 600, 600)
    assert sorted(moved(d.job) for d in got) == sorted((job.id, 2, 1) for job in jobs)
    await place.record(place.two)
    info = (await place.master.get_jobs([jobs[0].id]))[jobs[0].id]
    assert (info.state, info.agent, info.attempt) == (State.QUEUED, "two", 2)
    assert await place.master.attempts(jobs[0].id) == []


async def test_what_nobody_takes_goes_back_to_the_master(place: Place) -> None:
    job = make_job()
    await push(place.one, job)
    place.two.go_down()
    assert await place.empty() == 1
    assert await place.one.depth() == {}
    # The ledger of the first agent is recorded only now: it tells of the past.
    await place.record(place.one)
    assert (await place.master.get_jobs([job.id]))[job.id].state is State.SCHEDULED
    (held,) = await place.master.claim_due(place.clock.time(), 10, 60)
    assert moved(held) == (job.id, 2, 1)
    assert (held.payload, held.lane) == (job.payload, job.lane)


async def test_a_crash_before_the_settling_repeats_nothing(place: Place) -> None:
    await push(place.one, job := make_job())
    await place.record(place.one)
    consumer = await place.consumer(place.one)
    deliveries = await pull_all(consumer, 1)
    assert len(await place.mover.move(deliveries)) == 1
    # Here the mover dies. The job runs where it is now, and its ledger is recorded.
    other = await place.consumer(place.two)
    (delivery,) = await pull_all(other, 1)
    await other.settle([finish(delivery)])
    await place.record(place.two)
    place.clock.advance(LEASE)
    assert await place.empty() == 1
    assert await place.one.depth() == await place.two.depth() == {}
    assert (await place.master.get_jobs([job.id]))[job.id].state is State.SUCCEEDED


async def test_a_crash_before_anything_is_recorded_repeats_nothing(place: Place) -> None:
    await push(place.one, make_job())
    deliveries = await pull_all(await place.consumer(place.one), 1)
    await place.mover.move(deliveries)
    place.clock.advance(LEASE)
    assert await place.empty() == 1
    assert (await place.two.depth())["default"].total == 1


async def test_nats_knows_again_what_is_moved_in_other_company(
    place: Place, nats_server: NatsServer
) -> None:
    nats = NatsAgent("two", nats_server.url, AgentSettings(cluster=f"moving-{new_job_id()}"))
    await nats.open()
    place.targets = [nats]
    await push(place.one, *(make_job() for _ in range(3)))
    deliveries = await pull_all(await place.consumer(place.one), 3)
    await place.mover.move(deliveries)
    await place.mover.move(deliveries[1:])
    assert (await nats.depth())["default"].total == 3
    await nats.close()


class Unsure(MemoryAgent):
    """Stores what is pushed, and does not say so the first time."""

    told = False

    async def push(
        self, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        assert held, "what has moved is dropped where it came from"
        outcomes = await super().push(jobs, held=held)
        if self.told:
            return outcomes
        self.told = True
        return [PublishOutcomeUnknown("who knows") for _ in jobs]


async def test_what_may_be_elsewhere_stays_until_that_is_certain(place: Place) -> None:
    url = f"memory://{new_job_id()}"
    unsure = Unsure("two", url, AgentSettings(clock=place.clock))
    place.targets = [unsure]
    await push(place.one, make_job())
    assert await place.empty() == 0
    assert (await place.one.depth())["default"].leased == 1
    place.clock.advance(LEASE)
    assert await place.empty() == 1
    assert await place.one.depth() == {}
    assert (await unsure.depth())["default"].total == 1


async def test_a_lost_attempt_counts_where_the_job_goes(place: Place) -> None:
    await push(place.one, make_job())
    consumer = await place.consumer(place.one)
    (delivery,) = await pull_all(consumer, 1)
    await place.one.append([_started(delivery)])
    place.clock.advance(LEASE)  # its worker died
    assert await place.empty() == 1
    (there,) = await pull_all(await place.consumer(place.two), 1)
    # One attempt was lost, one number is the move's own.
    assert (there.job.attempt, there.job.snoozes) == (3, 1)


async def test_an_agent_that_fails_half_way_loses_nothing(place: Place) -> None:
    await push(place.one, *[make_job() for _ in range(10)])
    place.one.go_down()
    with pytest.raises(AgentUnavailable):
        await place.empty()
    place.one.go_down(False)
    assert await place.empty() == 10


def _started(delivery: Delivery) -> Started:
    record = finish(delivery).record
    assert isinstance(record, Finished)
    fields = ("id", "attempt", "at", "name", "lane", "priority", "enqueued_at", "worker")
    return Started(**{f: getattr(record, f) for f in fields}, started_at=0.0, lost=0)
