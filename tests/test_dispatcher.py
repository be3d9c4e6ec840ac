"""The dispatcher brings held jobs to agents, each to one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from mesh.errors import AgentError, MasterUnavailable, PublishOutcomeUnknown
from mesh.held import Held
from mesh.job import State, new_job_id
from mesh.ports import Agent, AgentSettings, Claimed, MasterSettings
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.conformance.agent import make_job
from mesh.testing.servers import PostgresServer
from mesh.wire import Envelope, Limit
from mesh_master.dispatcher import Dispatcher
from mesh_master.store import SqlMaster

PATIENCE = 30.0


class SteppedClock(ManualClock):
    """A manual clock that goes on only when the dispatcher pauses between two rounds."""

    def __init__(self) -> None:
        super().__init__()
        self._pausing = asyncio.Event()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        self._pausing.set()
        try:
            return await super().wait(event, seconds)
        finally:
            self._pausing.clear()

    async def step(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._pausing.wait()
        await asyncio.sleep(0)  # the pause begins behind us in the loop
        self.advance(0.5)


class WatchedAgent(MemoryAgent):
    """Remembers what was pushed, says so, and may answer wrongly."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        super().__init__(name, f"memory://{new_job_id()}", AgentSettings(clock=clock))
        self.got: list[str] = []
        self.pushes = 0
        self.pushed = asyncio.Event()
        self.answers: list[AgentError] = []

    async def push(
        self, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        assert held, "the master forgets what the ledger says is accepted"
        outcomes = await super().push(jobs, held=held)
        self.pushes += 1
        self.got += [job.id for job, o in zip(jobs, outcomes, strict=True) if o is None]
        self.pushed.set()
        return [self.answers.pop()] * len(jobs) if self.answers else outcomes

    async def has(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.got) < count:
                self.pushed.clear()
                await self.pushed.wait()


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def master(tmp_path: Path, clock: SteppedClock) -> AsyncIterator[SqlMaster]:
    master = SqlMaster(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings(clock=clock))
    await master.open()
    yield master
    await master.close()


def make_dispatcher(
    master: SqlMaster, clock: SteppedClock, *agents: Agent, batch: int = 10
) -> Dispatcher:
    return Dispatcher(master, lambda lane: agents, threshold=60.0, clock=clock, batch=batch)


async def test_jobs_go_to_an_agent_within_the_threshold(
    master: SqlMaster, clock: SteppedClock
) -> None:
    agent = WatchedAgent("a", clock)
    soon = [make_job(due_at=clock.time() + 30) for _ in range(25)]
    later = make_job(due_at=clock.time() + 90)
    await master.hold([*soon, later])
    async with make_dispatcher(master, clock, agent) as dispatcher:
        await agent.has(25)
        assert sorted(agent.got) == sorted(job.id for job in soon)
        # The agent keeps them until they are due.
        assert (await agent.depth())["default"].delayed == 25
        while len(agent.got) < 26:
            await clock.step()
    assert agent.got[25] == later.id
    assert clock.time() + 60 >= later.due_at
    assert isinstance(dispatcher, Dispatcher)
    assert dispatcher.dispatched == 26


async def test_lanes_left_out_stay_on_the_master(master: SqlMaster, clock: SteppedClock) -> None:
    agent = WatchedAgent("a", clock)
    limit = Limit("c", concurrency=2)
    mail = [make_job(lane="mail"), make_job(lane="mail", limits=[limit])]
    others = [make_job(), make_job(limits=[limit])]
    await master.submit([Held(job) for job in [*mail, *others]])
    dispatcher = make_dispatcher(master, clock, agent)
    dispatcher.leaving_out = frozenset({"mail"})
    async with dispatcher:
        await agent.has(2)
        for _ in range(10):
            await clock.step()
        assert sorted(agent.got) == sorted(job.id for job in others)
        for job in (await master.get_jobs([job.id for job in mail])).values():
            assert job.state is State.SCHEDULED
        dispatcher.leaving_out = frozenset()
        while len(agent.got) < 4:
            await clock.step()


async def test_the_next_agent_takes_what_one_cannot(master: SqlMaster, clock: SteppedClock) -> None:
    down, up = WatchedAgent("down", clock), WatchedAgent("up", clock)
    down.go_down()
    jobs = [make_job() for _ in range(35)]
    await master.hold(jobs)
    async with make_dispatcher(master, clock, down, up):
        await up.has(35)
    assert sorted(up.got) == sorted(job.id for job in jobs)


async def test_the_agent_that_was_chosen(master: SqlMaster, clock: SteppedClock) -> None:
    one, two = WatchedAgent("one", clock), WatchedAgent("two", clock)
    pinned = [make_job(agent="two", due_at=clock.time()) for _ in range(6)]
    nowhere = make_job(agent="three", due_at=clock.time())
    await master.hold([*pinned, nowhere])
    async with make_dispatcher(master, clock, one, two):
        await two.has(6)
    assert (sorted(two.got), one.got) == (sorted(job.id for job in pinned), [])
    assert (await master.get_jobs([nowhere.id]))[nowhere.id].state is State.SCHEDULED


async def test_a_job_for_an_agent_that_was_removed_fails(
    master: SqlMaster, clock: SteppedClock
) -> None:
    agent = WatchedAgent("one", clock)
    await master.register_agents({"one": "memory://one", "two": "memory://two"})
    job = make_job(agent="two", enqueued_at=clock.time())
    await master.hold([job])

    async def state() -> tuple[State, str | None]:
        info = (await master.get_jobs([job.id]))[job.id]
        return info.state, info.error_type

    async with make_dispatcher(master, clock, agent):
        clock.advance(1000)
        for _ in range(10):
            await clock.step()
        # It is only not this coordinator's.
        assert await state() == (State.SCHEDULED, None)
        await master.remove_agent("two")
        while (await state())[0] is State.SCHEDULED:
            await clock.step()
    assert await state() == (State.FAILED, "AgentRemoved")
    assert agent.got == []
    ((_, again),) = (await master.retry([job.id])).items()
    assert [job.id for job in await master.claim_due(clock.time() + 1e9, 10, 60)] == [again]


async def test_an_agent_may_come_later(master: SqlMaster, clock: SteppedClock) -> None:
    agent = WatchedAgent("two", clock)
    agents: list[Agent] = []
    job = make_job(agent="two", enqueued_at=clock.time())
    await master.hold([job])
    async with Dispatcher(master, lambda lane: agents, threshold=60.0, clock=clock):
        for _ in range(10):
            await clock.step()
        agents.append(agent)
        while not agent.got:
            await clock.step()
    assert agent.got == [job.id]


async def test_a_lane_without_an_agent_holds_up_no_other(
    master: SqlMaster, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    down, up = WatchedAgent("down", clock), WatchedAgent("up", clock)
    down.go_down()
    stuck = [make_job("stuck", due_at=clock.time() - 100) for _ in range(30)]
    nowhere = [make_job("nowhere", due_at=clock.time() - 100) for _ in range(30)]
    free = [make_job("free", due_at=clock.time()) for _ in range(5)]
    await master.hold([*stuck, *nowhere, *free])
    lanes: dict[str, list[Agent]] = {"stuck": [down], "nowhere": [], "free": [up]}
    dispatcher = Dispatcher(master, lanes.__getitem__, threshold=1.0, clock=clock, batch=10)
    async with dispatcher:
        await up.has(5)
        assert sorted(up.got) == sorted(job.id for job in free)
        # Three batches of its jobs were claimed before; the agent was asked once.
        assert down.pushes == 1
        down.go_down(False)
        while len(down.got) < 30:
            await clock.step()
    assert caplog.text.count("'nowhere'") == 1
    # Given back when it stopped: another may claim at once.
    assert len(await master.claim_due(clock.time(), 100, 60.0)) == 30


async def test_an_unknown_outcome_keeps_the_claim(master: SqlMaster, clock: SteppedClock) -> None:
    agent = WatchedAgent("a", clock)
    agent.answers = [PublishOutcomeUnknown("lost the answer")]
    await master.hold([job := make_job()])
    async with make_dispatcher(master, clock, agent):
        await agent.has(1)
        for _ in range(150):
            await clock.step()
        # Whether it is there the rescuer will ask.
        assert await master.doubtful(clock.time(), 10) != []
    assert agent.got == [job.id]


async def test_what_was_claimed_is_pushed_though_the_next_claim_fails(
    master: SqlMaster, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> Claimed:
        raise MasterUnavailable("no answer in time")

    monkeypatch.setattr(master, "claim_gated", fails)
    agent = WatchedAgent("a", clock)
    await master.submit([Held(make_job(limits=[Limit("c", concurrency=1)]))])
    await master.hold([make_job()])
    async with make_dispatcher(master, clock, agent):
        await agent.has(1)


async def test_a_master_outage_is_sat_out(
    master: SqlMaster, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    agent = WatchedAgent("a", clock)
    await master.hold([make_job()])
    await master.close()
    async with make_dispatcher(master, clock, agent):
        while "trying again" not in caplog.text:
            await clock.step()
        await master.open()
        while not agent.got:
            await clock.step()


async def test_many_dispatchers_never_dispatch_twice(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    settings = MasterSettings(auto_migrate=True)
    masters = [SqlMaster(url, settings) for _ in range(3)]
    # At the same time: each wants to migrate.
    await asyncio.gather(*[master.open() for master in masters])
    agents = [[WatchedAgent(f"a-{n}", ManualClock()) for n in range(2)] for _ in masters]
    jobs = [make_job(lane=f"l{n % 3}") for n in range(1000)]
    await masters[0].hold(jobs)

    def make(master: SqlMaster, mine: Sequence[Agent]) -> Dispatcher:
        return Dispatcher(master, lambda lane: mine, threshold=1.0, batch=20, interval=0.05)

    dispatchers = [make(master, mine) for master, mine in zip(masters, agents, strict=True)]
    every = [agent for mine in agents for agent in mine]
    await asyncio.gather(*[d.start() for d in dispatchers])
    async with asyncio.timeout(PATIENCE):
        while sum(len(a.got) for a in every) < len(jobs):
            for agent in every:
                agent.pushed.clear()
            waits = [asyncio.ensure_future(a.pushed.wait()) for a in every]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
    await asyncio.gather(*[d.stop() for d in dispatchers])
    got = Counter(job_id for agent in every for job_id in agent.got)
    assert got == Counter(job.id for job in jobs)
    assert sum(d.dispatched for d in dispatchers) == len(jobs)
    assert sum(1 for mine in agents if any(a.got for a in mine)) > 1
    assert await masters[0].count_jobs() == {State.SCHEDULED: 1000}
    await asyncio.gather(*[master.close() for master in masters])


async def test_a_commit_elsewhere_wakes_dispatchers(postgres: PostgresServer) -> None:
    """The clock stands still: who only looks from time to time would never look again."""
    url = postgres.create_database()
    here, there = (SqlMaster(url, MasterSettings(auto_migrate=True)) for _ in range(2))
    await here.open()
    await there.open()
    clock = SteppedClock()
    agent = WatchedAgent("a", clock)
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with make_dispatcher(here, clock, agent):
        while here.signals.pause(0) < 1:  # noqa: ASYNC110 - it does not listen yet
            await asyncio.sleep(0.01)
        for count in range(1, 4):
            await there.submit([Held(make_job(due_at=clock.time()))])
            await agent.has(count)
        async with AsyncSession(engine) as session, session.begin():
            await there.submit([Held(make_job(due_at=clock.time()))], session)
        await agent.has(4)
    await engine.dispose()
    await asyncio.gather(here.close(), there.close())
