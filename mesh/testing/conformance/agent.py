"""The behavioural suite of the ``Agent`` port."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from mesh.errors import AgentError, AgentUnavailable, PublishOutcomeUnknown
from mesh.job import Priority, State, new_job_id
from mesh.ports import FAIR_TURN, Agent, Consumer, Delivery, Known, Ledger, Settlement
from mesh.testing.conformance.board import BoardConformance
from mesh.wire import Accepted, Envelope, Finished, Record, Retrying, Started, encode_frame

__all__ = ["AgentConformance", "AgentHarness", "make_job"]

# Longer than anything here takes; a suite that hangs is a suite that fails.
PATIENCE = 30.0


class AgentHarness(Protocol):
    """What the suite needs of an implementation. One harness, fresh and empty, per test."""

    lease: float
    """Seconds a lease lasts in the tests. Short where ``pass_time`` really waits."""

    async def connect(self) -> Agent:
        """One more connection to the same agent, opened. The harness closes it at the end."""
        ...

    def now(self) -> float:
        """The time by which the agent judges ``due_at``."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let so much of the agent's time go by: move a manual clock, or wait."""
        ...

    async def corrupt(self, lane: str, data: bytes) -> None:
        """Put bytes where the lane's jobs are, as a broken program would."""
        ...

    async def corrupt_ledger(self, data: bytes) -> None:
        """Put bytes into the ledger, as a broken program would. May do nothing where the
        ledger can be written by this project's code alone."""
        ...


def make_job(lane: str = "default", **changes: Any) -> Envelope:
    """An envelope with sensible fields."""
    fields: dict[str, Any] = {
        "id": new_job_id(),
        "name": "conformance",
        "payload": b'{"n":1}',
        "lane": lane,
        "priority": Priority.NORMAL,
        "enqueued_at": time.time(),
    }
    return Envelope(**(fields | changes))


def make_started(delivery: Delivery, at: float = 0.0) -> Started:
    return Started(**_run_fields(delivery, at))


def make_finished(delivery: Delivery, at: float = 0.0) -> Finished:
    return Finished(**_run_fields(delivery, at), state=State.SUCCEEDED, result=b"1")


def make_retrying(delivery: Delivery, due_at: float, at: float = 0.0) -> Retrying:
    from mesh.wire import ErrorInfo

    return Retrying(**_run_fields(delivery, at), error=ErrorInfo("E", "no"), due_at=due_at)


def _run_fields(delivery: Delivery, at: float) -> dict[str, Any]:
    job = delivery.job
    return {
        "id": job.id,
        "attempt": job.attempt + delivery.lost,
        "at": at,
        "name": job.name,
        "lane": job.lane,
        "priority": job.priority,
        "enqueued_at": job.enqueued_at,
        "worker": "w-1",
        "started_at": at,
        "lost": delivery.lost,
    }


def finish(delivery: Delivery) -> Settlement:
    return Settlement(delivery, make_finished(delivery))


async def pull_all(consumer: Consumer, count: int, limit: int = 100) -> list[Delivery]:
    """Pull until there are ``count``."""
    got: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(got) < count:
            got += await consumer.pull(min(limit, count - len(got)))
    return got


async def is_empty(consumer: Consumer, seconds: float = 0.3) -> bool:
    """Whether nothing can be pulled for a while."""
    try:
        async with asyncio.timeout(seconds):
            return not await consumer.pull(1)
    except TimeoutError:
        return True


async def push(agent: Agent, *jobs: Envelope) -> None:
    assert await agent.push(jobs) == [None] * len(jobs)


def named(outcomes: Sequence[AgentError | None]) -> list[tuple[str, ...]]:
    """The ids that each of the outcomes names, which are to be unknown."""
    return [o.job_ids if isinstance(o, PublishOutcomeUnknown) else ("known",) for o in outcomes]


async def read_all(ledger: Ledger, count: int) -> list[Record]:
    """Read, and acknowledge, until there are ``count`` records."""
    records: list[Record] = []
    async with asyncio.timeout(PATIENCE):
        while len(records) < count:
            batch = await ledger.read(10_000, 1.0)
            records += batch.records
            await ledger.ack(batch)
    return records


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.job.id for delivery in deliveries]


class AgentConformance(BoardConformance):
    """Subclass, and give it a ``harness`` fixture."""

    # push ------------------------------------------------------------------------------------

    async def test_pushed_jobs_arrive_as_they_were(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        job = make_job(meta={"a": "b"}, timeout=3.5, payload=b'{"x":"\xc3\xa9"}')
        await push(agent, job)
        consumer = await agent.consume("default", lease=harness.lease)
        (delivery,) = await pull_all(consumer, 1)
        assert delivery.job == job
        assert (delivery.lost, delivery.redelivered) == (0, False)

    async def test_push_is_durable_before_it_returns(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        jobs = [make_job() for _ in range(100)]
        await push(agent, *jobs)
        await agent.close()
        other = await harness.connect()
        consumer = await other.consume("default", lease=harness.lease)
        assert sorted(ids(await pull_all(consumer, 100))) == sorted(j.id for j in jobs)

    async def test_push_twice_stores_once(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        jobs = [make_job() for _ in range(10)]
        single = make_job()
        for _ in range(2):
            await push(agent, *jobs)
            await push(agent, single)
        consumer = await agent.consume("default", lease=harness.lease)
        got = await pull_all(consumer, 11)
        assert sorted(ids(got)) == sorted(j.id for j in [*jobs, single])
        assert await is_empty(consumer)

    async def test_push_of_a_settled_job_stores_nothing(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        job = make_job()
        await push(agent, job)
        consumer = await agent.consume("default", lease=harness.lease)
        (delivery,) = await pull_all(consumer, 1)
        await consumer.settle([finish(delivery)])
        await push(agent, job)
        assert await is_empty(consumer)

    async def test_one_push_serves_many_lanes_and_priorities(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        jobs = [make_job(lane, priority=p) for lane in ("a", "b") for p in Priority]
        await push(agent, *jobs)
        for lane in ("a", "b"):
            consumer = await agent.consume(lane, lease=harness.lease)
            got = await pull_all(consumer, 5)
            assert {d.job.id for d in got} == {j.id for j in jobs if j.lane == lane}

    async def test_push_of_nothing(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        assert await agent.push([]) == []

    async def test_large_payloads(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        payload = b'{"x":"' + b"y" * 130_000 + b'"}'
        await push(agent, *[make_job(payload=payload) for _ in range(20)])
        consumer = await agent.consume("default", lease=harness.lease)
        assert all(d.job.payload == payload for d in await pull_all(consumer, 20))

    async def test_pull_keeps_to_its_limit(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        for _ in range(5):
            await push(agent, *[make_job() for _ in range(3)])
        consumer = await agent.consume("default", lease=30)
        seen: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while len(seen) < 15:
                held = await consumer.pull(2)
                assert 1 <= len(held) <= 2
                seen += ids(held)
        assert len(set(seen)) == 15

    # order -----------------------------------------------------------------------------------

    async def test_higher_priorities_first(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        for priority in Priority:
            await push(agent, make_job(priority=priority))
        consumer = await agent.consume("default", lease=harness.lease)
        got = [(await pull_all(consumer, 1))[0].job.priority for _ in Priority]
        assert got == sorted(Priority, reverse=True)

    async def test_the_lowest_priority_gets_a_share(self, harness: AgentHarness) -> None:
        """However much of the highest keeps coming."""
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        await push(agent, low := make_job(priority=Priority.LOWEST))
        seen: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while low.id not in seen:
                await push(agent, *[make_job(priority=Priority.HIGHEST) for _ in range(2)])
                got = await consumer.pull(1)
                await consumer.settle([finish(delivery) for delivery in got])
                seen += ids(got)
        assert 1 < len(seen) <= 2 * FAIR_TURN

    async def test_oldest_first_within_a_priority(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        jobs = [make_job() for _ in range(20)]
        for job in jobs:
            await push(agent, job)
        consumer = await agent.consume("default", lease=harness.lease)
        assert ids(await pull_all(consumer, 20, limit=1)) == [j.id for j in jobs]

    async def test_lanes_are_isolated(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, make_job("a"))
        b = await agent.consume("b", lease=harness.lease)
        assert await is_empty(b)

    # delay -----------------------------------------------------------------------------------

    async def test_a_delayed_job_waits(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        later = make_job(due_at=harness.now() + 3)
        await push(agent, later, soon := make_job())
        consumer = await agent.consume("default", lease=30)
        assert ids(await pull_all(consumer, 1)) == [soon.id]
        assert await is_empty(consumer)
        await harness.pass_time(3)
        assert ids(await pull_all(consumer, 1)) == [later.id]

    async def test_a_schedules_job_can_be_withdrawn(self, harness: AgentHarness) -> None:
        """Until it is due, and no other job goes with it."""
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        due = harness.now() + 2
        gone, kept = (make_job(due_at=due, schedule="s", slot=due) for _ in range(2))
        await push(agent, gone, kept, other := make_job(due_at=due))
        wanted = [gone.id, new_job_id()]
        assert await agent.withdraw("default", gone.priority, wanted) == {gone.id}
        assert await agent.withdraw("default", gone.priority, wanted) == set()
        await harness.pass_time(2.1)
        held = await pull_all(consumer, 2)
        assert sorted(ids(held)) == sorted([kept.id, other.id])
        assert await agent.withdraw("default", kept.priority, [kept.id]) == set()
        assert await is_empty(consumer)

    async def test_a_waiting_pull_gets_a_delayed_job(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        pull = asyncio.create_task(pull_all(consumer, 1))
        await push(agent, job := make_job(due_at=harness.now() + 2))
        assert not (await asyncio.wait([pull], timeout=0.2))[0]
        await harness.pass_time(2)
        assert ids(await pull) == [job.id]

    # waiting ---------------------------------------------------------------------------------

    async def test_a_waiting_pull_wakes_on_push(self, harness: AgentHarness) -> None:
        agent, other = await harness.connect(), await harness.connect()
        consumer = await agent.consume("default", lease=harness.lease)
        pull = asyncio.create_task(pull_all(consumer, 1))
        await asyncio.wait([pull], timeout=0.1)
        await push(other, job := make_job())
        assert ids(await pull) == [job.id]

    async def test_close_ends_a_waiting_pull(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=harness.lease)
        pull = asyncio.create_task(consumer.pull(1))
        await asyncio.wait([pull], timeout=0.1)
        await consumer.close()
        async with asyncio.timeout(PATIENCE):
            assert await pull == []

    async def test_rest_ends_a_waiting_pull_and_takes_nothing(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        await push(agent, make_job())
        (held,) = await pull_all(consumer, 1)
        pull = asyncio.create_task(consumer.pull(1))
        await asyncio.wait([pull], timeout=0.1)
        async with asyncio.timeout(PATIENCE):
            await consumer.rest()
            assert await pull == []
        # A job that comes now is another's; and what was held can be settled.
        await push(agent, second := make_job())
        other = await agent.consume("default", lease=30)
        (taken,) = await pull_all(other, 1)
        assert taken.job.id == second.id
        assert not taken.redelivered
        await consumer.settle([finish(held)])
        await push(agent, third := make_job())
        assert ids(await pull_all(consumer, 1)) == [third.id]

    async def test_a_cancelled_pull_loses_no_job(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=harness.lease)
        for _ in range(5):
            pull = asyncio.create_task(consumer.pull(1))
            await asyncio.sleep(0)
            pull.cancel()
            await asyncio.wait([pull])
        await push(agent, *(jobs := [make_job() for _ in range(5)]))
        pull = asyncio.create_task(consumer.pull(1))
        await asyncio.sleep(0)
        pull.cancel()
        await asyncio.wait([pull])
        await harness.pass_time(harness.lease * 1.5)
        assert sorted(ids(await pull_all(consumer, 5))) == sorted(j.id for j in jobs)

    # leases ----------------------------------------------------------------------------------

    async def test_two_consumers_never_hold_the_same_job(self, harness: AgentHarness) -> None:
        agents = [await harness.connect() for _ in range(4)]
        await push(agents[0], *[make_job() for _ in range(400)])
        consumers = [await agent.consume("default", lease=60) for agent in agents]
        seen: list[str] = []

        async def work(consumer: Consumer) -> None:
            while len(seen) < 400:
                got = await consumer.pull(7)
                seen.extend(ids(got))
                await consumer.settle([finish(d) for d in got])
            # Others still wait for more. A pull that is cut short may keep what it had got from
            # all of them for as long as the lease.
            for each in consumers:
                await each.rest()

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for consumer in consumers:
                group.create_task(work(consumer))
        assert len(seen) == len(set(seen)) == 400

    async def test_an_expired_lease_is_delivered_again(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, job := make_job())
        consumer = await agent.consume("default", lease=harness.lease)
        (first,) = await pull_all(consumer, 1)
        await agent.append([make_started(first)])
        other = await (await harness.connect()).consume("default", lease=harness.lease)
        assert await is_empty(other, 0.1)
        ledger = await agent.ledger()
        await self._record(ledger, {job.id: Known(1, State.RUNNING)})
        for expected in (1, 1):
            await harness.pass_time(harness.lease * 1.2)
            (again,) = await pull_all(other, 1)
            assert again.job.id == job.id
            assert again.redelivered
            assert again.lost == expected

    async def test_an_expired_lease_of_an_unstarted_job_is_no_attempt(
        self, harness: AgentHarness
    ) -> None:
        agent = await harness.connect()
        await push(agent, *(jobs := [make_job() for _ in range(8)]))
        consumer = await agent.consume("default", lease=harness.lease)
        assert len(await pull_all(consumer, 8)) == 8
        ledger = await agent.ledger()
        await self._record(ledger, {j.id: Known(1, State.QUEUED) for j in jobs})
        await harness.pass_time(harness.lease * 1.2)
        other = await (await harness.connect()).consume("default", lease=harness.lease)
        again = await pull_all(other, 8)
        assert sorted(ids(again)) == sorted(j.id for j in jobs)
        assert {d.job.attempt + d.lost for d in again} == {1}

    async def test_a_crash_repeats_what_was_in_flight_only(self, harness: AgentHarness) -> None:
        """Of one push, some jobs are finished, one is running, the rest is unstarted."""
        agent = await harness.connect()
        await push(agent, *[make_job() for _ in range(10)])
        consumer = await agent.consume("default", lease=harness.lease)
        held = await pull_all(consumer, 10)
        done, running, unstarted = held[:4], held[4], held[5:]
        await agent.append([make_started(running)])
        await consumer.settle([finish(d) for d in done])
        ledger = await agent.ledger()
        await self._record(
            ledger,
            {d.job.id: Known(1, State.SUCCEEDED) for d in done}
            | {running.job.id: Known(1, State.RUNNING)}
            | {d.job.id: Known(1, State.QUEUED) for d in unstarted},
        )
        await harness.pass_time(harness.lease * 1.2)
        other = await (await harness.connect()).consume("default", lease=harness.lease)
        again = await pull_all(other, 6)
        attempts = {d.job.id: d.job.attempt + d.lost for d in again}
        assert attempts == {running.job.id: 2} | {d.job.id: 1 for d in unstarted}
        assert await is_empty(other)

    async def test_extend_keeps_a_lease(self, harness: AgentHarness) -> None:
        agent, other = await harness.connect(), await harness.connect()
        await push(agent, *[make_job() for _ in range(3)])
        consumer = await agent.consume("default", lease=harness.lease)
        held = await pull_all(consumer, 3)
        rival = await other.consume("default", lease=harness.lease)
        for _ in range(4):
            await harness.pass_time(harness.lease * 0.5)
            # From another connection: the lease keeper has its own.
            assert await other.extend([d.receipt for d in held], harness.lease) == set()
        assert await is_empty(rival, 0.1)
        await consumer.settle([finish(d) for d in held])
        await harness.pass_time(harness.lease * 1.2)
        assert await is_empty(rival, 0.1)

    async def test_extend_names_lost_leases(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        if not agent.capabilities.reports_lost_leases:
            import pytest

            pytest.skip("this agent cannot tell (capability reports_lost_leases)")
        await push(agent, make_job())
        consumer = await agent.consume("default", lease=harness.lease)
        (first,) = await pull_all(consumer, 1)
        await harness.pass_time(harness.lease * 1.2)
        (second,) = await pull_all(consumer, 1)
        receipts = [first.receipt, second.receipt]
        assert await agent.extend(receipts, harness.lease) == {first.receipt}

    # settling --------------------------------------------------------------------------------

    async def test_settled_jobs_are_gone(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, *[make_job() for _ in range(5)])
        consumer = await agent.consume("default", lease=harness.lease)
        held = await pull_all(consumer, 5)
        await consumer.settle([finish(d) for d in held])
        await consumer.settle([finish(d) for d in held])
        await harness.pass_time(harness.lease * 1.2)
        assert await is_empty(consumer)
        depth = await agent.depth()
        assert sum(d.total for d in depth.values()) == 0

    async def test_a_retry_comes_again_when_due(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, make_job())
        consumer = await agent.consume("default", lease=30)
        (delivery,) = await pull_all(consumer, 1)
        due = harness.now() + 2
        again = _changed(delivery.job, attempt=2, due_at=due)
        await consumer.settle([Settlement(delivery, make_retrying(delivery, due), again)])
        assert await is_empty(consumer)
        await harness.pass_time(2)
        (second,) = await pull_all(consumer, 1)
        assert (second.job.attempt, second.lost, second.redelivered) == (2, 0, False)
        assert second.job.payload == delivery.job.payload

    async def test_an_immediate_retry(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, *[make_job() for _ in range(3)])
        consumer = await agent.consume("default", lease=harness.lease)
        for attempt in (1, 2, 3):
            held = await pull_all(consumer, 3)
            assert {d.job.attempt for d in held} == {attempt}
            await consumer.settle(
                [
                    Settlement(d, make_retrying(d, 0), _changed(d.job, attempt=attempt + 1))
                    for d in held
                ]
            )

    async def test_given_back_jobs_come_at_once_and_count_nothing(
        self, harness: AgentHarness
    ) -> None:
        agent, other = await harness.connect(), await harness.connect()
        await push(agent, *(jobs := [make_job() for _ in range(20)]))
        consumer = await agent.consume("default", lease=30)
        held = await pull_all(consumer, 20)
        await consumer.settle([Settlement(d, again=d.job) for d in held[10:]])
        rival = await other.consume("default", lease=30)
        got = await pull_all(rival, 10)
        assert sorted(ids(got)) == sorted(ids(held[10:]))
        assert {(d.job.attempt, d.lost) for d in got} == {(1, 0)}
        # Again and again: a deduplication of messages must not swallow it.
        await rival.settle([Settlement(d, again=d.job) for d in got])
        got = await pull_all(consumer, 10)
        await consumer.settle([finish(d) for d in [*held[:10], *got]])
        assert len({*ids(held[:10]), *ids(got)}) == len(jobs)
        assert await is_empty(rival)

    async def test_a_small_limit_leaves_the_rest_to_others(self, harness: AgentHarness) -> None:
        """Jobs pushed together are shared out, however the agent stores them."""
        agent, other = await harness.connect(), await harness.connect()
        await push(agent, *[make_job() for _ in range(64)])
        one = await agent.consume("default", lease=30)
        two = await other.consume("default", lease=30)
        first = await pull_all(one, 1, limit=1)
        rest = await pull_all(two, 63)
        assert len({*ids(first), *ids(rest)}) == 64

    async def test_a_stale_settlement_changes_nothing_but_history(
        self, harness: AgentHarness
    ) -> None:
        agent = await harness.connect()
        await push(agent, job := make_job())
        consumer = await agent.consume("default", lease=harness.lease)
        (first,) = await pull_all(consumer, 1)
        await agent.append([make_started(first)])
        ledger = await agent.ledger()
        records = await self._record(ledger, {job.id: Known(1, State.RUNNING)})
        await harness.pass_time(harness.lease * 1.2)
        (second,) = await pull_all(consumer, 1)
        await consumer.settle([finish(second)])
        await consumer.settle([Settlement(first, make_finished(first))])
        await harness.pass_time(harness.lease * 1.2)
        assert await is_empty(consumer)
        records += await read_all(ledger, 4 - len(records))
        finished = [r.attempt for r in records if isinstance(r, Finished)]
        assert finished == [2, 1]

    # ledger ----------------------------------------------------------------------------------

    async def test_the_ledger_tells_what_happened_in_order(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, *(jobs := [make_job() for _ in range(3)]))
        consumer = await agent.consume("default", lease=harness.lease)
        held = await pull_all(consumer, 3)
        await agent.append([make_started(d) for d in held])
        await consumer.settle([finish(d) for d in held])
        ledger = await agent.ledger()
        records = await read_all(ledger, 9)
        for job in jobs:
            kinds = [
                type(r)
                for r in records
                if (r.job.id if isinstance(r, Accepted) else getattr(r, "id", "")) == job.id
            ]
            assert kinds == [Accepted, Started, Finished]
        assert await ledger.lag() == 0

    async def test_the_ledger_replays_what_was_not_acknowledged(
        self, harness: AgentHarness
    ) -> None:
        agent = await harness.connect()
        for _ in range(3):
            await push(agent, make_job())
        reader = await agent.ledger()
        first: list[Record] = []
        async with asyncio.timeout(PATIENCE):
            while len(first) < 3:
                first += (await reader.read(100, 1.0)).records
        await reader.close()
        other = await (await harness.connect()).ledger()
        second = await read_all(other, 3)
        assert second == first
        third = await (await harness.connect()).ledger()
        read = asyncio.create_task(third.read(100, 0.5))
        await asyncio.wait([read], timeout=0.2)
        await harness.pass_time(0.5)
        assert list((await read).records) == []

    async def test_a_reader_goes_on_without_acknowledging(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        reader = await agent.ledger()
        await push(agent, one := make_job())
        first = await reader.read(100, 5.0)
        await push(agent, two := make_job())
        second = await reader.read(100, 5.0)
        assert [r.job.id for r in first.records if isinstance(r, Accepted)] == [one.id]
        assert [r.job.id for r in second.records if isinstance(r, Accepted)] == [two.id]
        await reader.ack(first)
        assert await reader.lag() == 1
        await reader.ack(second)
        await reader.ack(second)
        assert await reader.lag() == 0

    async def test_a_waiting_ledger_read_wakes(self, harness: AgentHarness) -> None:
        agent, other = await harness.connect(), await harness.connect()
        ledger = await agent.ledger()
        read = asyncio.create_task(ledger.read(100, 20.0))
        await asyncio.wait([read], timeout=0.2)
        await push(other, job := make_job())
        async with asyncio.timeout(PATIENCE):
            (record,) = (await read).records
        assert isinstance(record, Accepted)
        assert record.job == job

    # trouble ---------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff\xfe not a frame",
            encode_frame([make_job("no lane")]),
            encode_frame([make_job(due_at=math.inf)]),
        ],
        ids=["not a frame", "of another lane", "due at no moment"],
    )
    async def test_corrupt_bytes_are_set_aside(self, harness: AgentHarness, data: bytes) -> None:
        agent = await harness.connect()
        await harness.corrupt("default", data)
        await push(agent, job := make_job())
        consumer = await agent.consume("default", lease=harness.lease)
        assert ids(await pull_all(consumer, 1)) == [job.id]
        await harness.pass_time(harness.lease * 1.2)

    async def test_corrupt_ledger_entries_are_set_aside(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await harness.corrupt_ledger(b"\xff\xfe not records")
        await push(agent, job := make_job())
        ledger = await agent.ledger()
        (record,) = await read_all(ledger, 1)
        assert isinstance(record, Accepted)
        assert record.job.id == job.id
        assert await ledger.lag() == 0

    async def test_a_closed_agent_says_so(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await agent.close()
        await agent.close()
        if agent.capabilities.durable:
            (outcome,) = await agent.push([make_job()])
            assert isinstance(outcome, AgentUnavailable)
        await agent.open()
        await push(agent, make_job())

    async def test_check_finds_nothing_wrong(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        checks = await agent.check()
        assert checks
        # Servers for tests need not survive a loss of power.
        assert [c for c in checks if not c.ok and "power" not in c.subject] == []

    # what is here ----------------------------------------------------------------------------

    async def test_what_is_missing_is_named(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        ready, delayed, leased = make_job("a"), make_job(due_at=harness.now() + 60), make_job("b")
        waiting, gone, never = make_job("b", due_at=harness.now() + 60), make_job("c"), make_job()
        await push(agent, ready, delayed, leased, waiting, gone)
        here, settled = await agent.consume("b", lease=60), await agent.consume("c", lease=60)
        await pull_all(here, 1)
        await settled.settle([finish(d) for d in await pull_all(settled, 1)])
        assert await agent.missing({}) == set()
        asked = {
            "a": [ready.id],
            "b": {leased.id, waiting.id},
            "c": [gone.id],
            "default": [delayed.id, never.id],
            "unheard-of": [],
        }
        assert await agent.missing(asked) == {gone.id, never.id}

    async def test_a_retry_is_not_missing(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        job = make_job()
        await push(agent, job)
        consumer = await agent.consume("default", lease=60)
        (delivery,) = await pull_all(consumer, 1)
        due_at = harness.now() + 60
        again = _changed(job, attempt=2, due_at=due_at)
        await consumer.settle([Settlement(delivery, make_retrying(delivery, due_at), again)])
        assert await agent.missing({"default": [job.id]}) == set()

    async def test_a_job_that_moves_about_is_never_missing(self, harness: AgentHarness) -> None:
        agent, other = await harness.connect(), await harness.connect()
        jobs = [make_job() for _ in range(30)]
        await push(agent, *jobs)
        consumer = await other.consume("default", lease=60)
        stop = asyncio.Event()

        async def give_back() -> None:
            while not stop.is_set():
                taken = await consumer.pull(7)
                await consumer.settle([Settlement(d, again=d.job) for d in taken])
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(give_back())
            for _ in range(20):
                assert await agent.missing({"default": [job.id for job in jobs]}) == set()
            stop.set()

    async def test_whether_a_ledger_was_read_any_connection_knows(
        self, harness: AgentHarness
    ) -> None:
        agent, other = await harness.connect(), await harness.connect()
        asking, reading = await other.ledger(), await agent.ledger()
        assert await asking.has_passed(await asking.end())
        await push(agent, make_job(), make_job())
        place = await asking.end()
        assert not await asking.has_passed(place)
        batch = await reading.read(1000, 1.0)
        assert not await asking.has_passed(place)
        await push(agent, make_job())
        await reading.ack(batch)
        assert await asking.has_passed(place)
        assert not await asking.has_passed(await asking.end())
        await asking.close()
        await reading.close()

    # load ------------------------------------------------------------------------------------

    async def test_depth_counts_jobs(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        await push(agent, *[make_job("a") for _ in range(130)], make_job("b"))
        await push(agent, make_job("b", due_at=harness.now() + 30))
        depth = await agent.depth()
        assert {lane: d.total for lane, d in depth.items()} == {"a": 130, "b": 2}
        assert depth["b"].delayed == 1
        # Not some driver's kind of number: they go out as JSON.
        numbers = [n for d in depth.values() for n in (d.ready, d.leased, d.delayed)]
        assert {type(number) for number in numbers} == {int}

    async def test_a_backlog_of_ten_thousand(self, harness: AgentHarness) -> None:
        agent = await harness.connect()
        jobs = [make_job() for _ in range(10_000)]
        for start in range(0, len(jobs), 1000):
            await push(agent, *jobs[start : start + 1000])
        consumer = await agent.consume("default", lease=60)
        seen: list[str] = []
        async with asyncio.timeout(4 * PATIENCE):
            while len(seen) < len(jobs):
                held = await consumer.pull(500)
                await consumer.settle([finish(d) for d in held])
                seen += ids(held)
        assert sorted(seen) == sorted(j.id for j in jobs)
        assert sum(d.total for d in (await agent.depth()).values()) == 0
        records = await read_all(await agent.ledger(), 20_000)
        assert len(records) == 20_000

    # -----------------------------------------------------------------------------------------

    async def _record(self, ledger: Ledger, answers: dict[str, Known]) -> list[Record]:
        """Play the recorder: all that is in the ledger now is recorded, with ``answers`` as the
        result. Returns the records."""
        records: list[Record] = []
        async with asyncio.timeout(PATIENCE):
            while await ledger.lag():
                batch = await ledger.read(10_000, 1.0)
                records += batch.records
                await ledger.ack(batch)

        async def lookup(job_ids: Sequence[str]) -> dict[str, Known]:
            return {i: answers[i] for i in job_ids if i in answers}

        await ledger.serve(lookup)
        return records


def _changed(job: Envelope, **changes: Any) -> Envelope:
    import msgspec

    return msgspec.structs.replace(job, **changes)
