"""The recorder brings ledgers into the master, whatever stops in between."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mesh.clock import Clock
from mesh.errors import AgentUnavailable, LeaseLost
from mesh.job import State, new_job_id
from mesh.ports import AgentSettings, Lease, LedgerBatch, MasterSettings
from mesh.testing import MemoryAgent
from mesh.testing.conformance.agent import finish, make_job, pull_all, push
from mesh.testing.memory import MemoryLedger
from mesh.testing.servers import PostgresServer
from mesh.wire import Accepted, Envelope, Record
from mesh_master.coordinator import Coordinator
from mesh_master.recorder import Recorder
from mesh_master.store import SqlMaster

TTL = 0.6
PATIENCE = 30.0


class WatchedMaster(SqlMaster):
    """Says when something was recorded, and remembers under which lease."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        settings = MasterSettings(auto_migrate=True, connect_timeout=2.0)
        super().__init__(url, settings)
        self.recorded = asyncio.Event()
        self.refused = asyncio.Event()
        self.refusals = 0
        self.tokens: list[int] = []

    async def record(self, agent: str, records: Sequence[Record], lease: Lease) -> None:
        try:
            await super().record(agent, records, lease)
        except LeaseLost:
            self.refused.set()
            self.refusals += 1
            raise
        self.tokens.append(lease.token)
        self.recorded.set()

    async def has(self, jobs: Sequence[Envelope], state: State) -> None:
        """Return when the master knows all jobs in that state."""
        wanted = dict.fromkeys([job.id for job in jobs], state)
        async with asyncio.timeout(PATIENCE):
            while True:
                self.recorded.clear()
                known = await self.known([job.id for job in jobs])
                if {job_id: k.state for job_id, k in known.items()} == wanted:
                    return
                await self.recorded.wait()


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[WatchedMaster]:
    master = WatchedMaster(f"sqlite:///{tmp_path / 'mesh.db'}")
    await master.open()
    yield master
    await master.close()


@pytest.fixture
def agent() -> MemoryAgent:
    return MemoryAgent("m-1", f"memory://{new_job_id()}", AgentSettings())


def make_recorder(master: SqlMaster, agent: MemoryAgent, holder: str = "one") -> Recorder:
    return Recorder(master, agent, holder=holder, ttl=TTL, wait=0.2)


async def run_all(agent: MemoryAgent, jobs: Sequence[Envelope]) -> None:
    consumer = await agent.consume("default", lease=60)
    held = await pull_all(consumer, len(jobs))
    await consumer.settle([finish(delivery) for delivery in held])


async def test_it_records_and_acknowledges(master: WatchedMaster, agent: MemoryAgent) -> None:
    jobs = [make_job() for _ in range(50)]
    await push(agent, *jobs)
    async with make_recorder(master, agent) as recorder:
        await master.has(jobs, State.QUEUED)
        await run_all(agent, jobs)
        await master.has(jobs, State.SUCCEEDED)
    assert isinstance(recorder, Recorder)
    assert (recorder.records, recorder.batches) == (100, 2)
    assert await (await agent.ledger()).lag() == 0
    # Released on stopping, so that another need not wait.
    assert await master.acquire("recorder:m-1", "another", 1.0) is not None


async def test_one_of_two_works_and_the_other_takes_over(
    master: WatchedMaster, agent: MemoryAgent
) -> None:
    one, two = make_recorder(master, agent, "one"), make_recorder(master, agent, "two")
    await one.start()
    async with asyncio.timeout(PATIENCE):
        await one.leading.wait()
    await two.start()
    jobs = [make_job() for _ in range(5)]
    await push(agent, *jobs)
    await master.has(jobs, State.QUEUED)
    assert not two.leading.is_set()
    # Gone without releasing its lease, as a killed process is.
    assert one._task is not None
    released, master_release = asyncio.Event(), master.release

    async def no_release(lease: Lease) -> None:
        released.set()

    master.release = no_release  # type: ignore[method-assign]
    await one.abort()
    master.release = master_release  # type: ignore[method-assign]
    async with asyncio.timeout(PATIENCE):
        await two.leading.wait()
    await run_all(agent, jobs)
    await master.has(jobs, State.SUCCEEDED)
    await two.stop()
    assert master.tokens[0] < master.tokens[-1]


async def test_a_recorder_that_was_replaced_steps_down_and_comes_again(
    master: WatchedMaster, agent: MemoryAgent
) -> None:
    recorder = make_recorder(master, agent)
    await recorder.start()
    async with asyncio.timeout(PATIENCE):
        await recorder.leading.wait()
    # As if this process had been suspended for long: another took the lease meanwhile.
    (lease,) = await _leases(master)
    await master.release(lease)
    usurper = await master.acquire(lease.name, "usurper", TTL)
    assert usurper is not None
    await push(agent, job := make_job())
    async with asyncio.timeout(PATIENCE):
        await master.refused.wait()
    assert await master.known([job.id]) == {}
    await master.has([job], State.QUEUED)
    assert master.tokens[-1] > usurper.token
    assert master.refusals == 1
    await recorder.stop()


async def test_an_agent_outage_is_sat_out(master: WatchedMaster, agent: MemoryAgent) -> None:
    agent.go_down()
    async with make_recorder(master, agent):
        agent.go_down(False)
        await push(agent, first := make_job())
        await master.has([first], State.QUEUED)
        agent.go_down()
        agent.go_down(False)
        await push(agent, second := make_job())
        await master.has([first, second], State.QUEUED)


async def test_what_was_not_acknowledged_is_recorded_again(
    master: WatchedMaster, agent: MemoryAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent fails between the master's commit and the acknowledgement."""
    jobs = [make_job() for _ in range(20)]
    await push(agent, *jobs)
    await run_all(agent, jobs)
    make_ledger, failed = agent.ledger, asyncio.Event()

    async def ledger_that_fails_once() -> object:
        ledger = await make_ledger()
        if not failed.is_set():
            ack = ledger.ack

            async def fail(batch: LedgerBatch) -> None:
                failed.set()
                agent.go_down()
                try:
                    await ack(batch)
                finally:
                    agent.go_down(False)

            ledger.ack = fail  # type: ignore[method-assign]
        return ledger

    monkeypatch.setattr(agent, "ledger", ledger_that_fails_once)
    recorder = make_recorder(master, agent)
    async with recorder:
        await master.has(jobs, State.SUCCEEDED)
        master.recorded.clear()
        async with asyncio.timeout(PATIENCE):
            await master.recorded.wait()
        await push(agent, last := make_job())
        await master.has([last], State.QUEUED)
    assert len(master.tokens) >= 3
    assert await master.count_jobs() == {State.SUCCEEDED: 20, State.QUEUED: 1}
    assert await (await make_ledger()).lag() == 0


async def test_start_and_stop_in_any_order(master: WatchedMaster, agent: MemoryAgent) -> None:
    recorder = make_recorder(master, agent)
    await recorder.stop()
    for _ in range(3):
        await asyncio.gather(recorder.start(), recorder.start())
        await push(agent, job := make_job())
        await master.has([job], State.QUEUED)
        await asyncio.gather(recorder.stop(), recorder.stop())
    await recorder.start()
    await recorder.stop()


async def test_a_read_that_fails_as_it_is_given_up_is_no_error(
    master: WatchedMaster, agent: MemoryAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, told = asyncio.Event(), list[str]()

    async def read(*_: Any) -> LedgerBatch:
        reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise AgentUnavailable("no answer in time")

    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["message"]))
    monkeypatch.setattr(MemoryLedger, "read", read)
    recorder = make_recorder(master, agent)
    await recorder.start()
    await asyncio.wait_for(reading.wait(), PATIENCE)
    await recorder.stop()
    gc.collect()
    assert told == []


async def test_a_database_outage_stops_no_agent(agent: MemoryAgent) -> None:
    """A real PostgreSQL, stopped and started under a running coordinator."""
    with PostgresServer() as server:
        master = WatchedMaster(server.create_database())
        coordinator = Coordinator(master, {"m-1": agent}, transient_threshold=1.0)
        async with coordinator:
            jobs = [make_job() for _ in range(10)]
            await push(agent, *jobs)
            await master.has(jobs, State.QUEUED)
            for how in (server.stop, server.kill):
                await asyncio.to_thread(how)
                more = [make_job() for _ in range(10)]
                await push(agent, *more)
                await run_all(
                    agent, [job for job in [*jobs, *more] if job in more or how == server.stop]
                )
                await asyncio.to_thread(server.start)
                jobs += more
                await master.has(jobs, State.SUCCEEDED)
        assert await (await agent.ledger()).lag() == 0


async def test_the_coordinator_waits_for_a_master_that_is_not_there_yet(
    agent: MemoryAgent,
) -> None:
    with PostgresServer() as server:
        master = WatchedMaster(server.create_database())
        server.stop()
        coordinator = Coordinator(master, {"m-1": agent})
        await coordinator.start()
        await push(agent, job := make_job())
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(PATIENCE):
            await master.recorded.wait()
        await master.has([job], State.QUEUED)
        assert [a.name for a in await master.agents()] == ["m-1"]
        await coordinator.stop()


async def _leases(master: SqlMaster) -> list[Lease]:
    async with master.database.read() as connection:
        rows = await connection.execute(master.tables.leases.select())
        return [Lease(row.name, row.holder, row.token, TTL) for row in rows]


async def test_what_was_not_told_stays_in_the_ledger(
    master: WatchedMaster, agent: MemoryAgent
) -> None:
    """Sinks get each record at least once, whoever dies in between."""
    jobs = [make_job() for _ in range(5)]
    asked, told = asyncio.Event(), list[str]()

    async def hold(records: Sequence[Record], over: asyncio.Event) -> bool:
        asked.set()
        await over.wait()
        return False

    async def note(records: Sequence[Record], over: asyncio.Event) -> bool:
        told.extend(record.job.id for record in records if isinstance(record, Accepted))
        asked.set()
        return True

    await push(agent, *jobs)
    async with Recorder(master, agent, holder="one", ttl=TTL, wait=0.2, tell=hold):
        await asyncio.wait_for(asked.wait(), PATIENCE)
    await master.has(jobs, State.QUEUED)
    asked.clear()
    async with Recorder(master, agent, holder="two", ttl=TTL, wait=0.2, tell=note):
        await asyncio.wait_for(asked.wait(), PATIENCE)
    assert sorted(told) == sorted(job.id for job in jobs)
    assert await (await agent.ledger()).lag() == 0
