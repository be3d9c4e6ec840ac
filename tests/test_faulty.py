"""Faults are those that the ports allow, and come again with their seed."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from mesh import ports
from mesh.errors import AgentUnavailable, MasterUnavailable, PublishOutcomeUnknown
from mesh.held import Held
from mesh.job import State, new_job_id
from mesh.ports import Agent, AgentSettings, Delivery, MasterSettings
from mesh.recurring import Schedules
from mesh.testing import MemoryAgent, faulty
from mesh.testing.conformance.agent import finish, make_job
from mesh.testing.conformance.master import Story
from mesh.testing.faulty import COSTLY, Fault, Plan, faulty_agent, faulty_master, unwrapped
from mesh.wire import Accepted, Record
from mesh_master.store import SqlMaster


def memory() -> MemoryAgent:
    return MemoryAgent("m", f"memory://{new_job_id()}", AgentSettings())


def always(*faults: Fault) -> Plan:
    """Each call that may meets one of them."""
    return Plan(1, rate=1.0, faults=faults, in_a_row=10**6, pause=0.001)


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[SqlMaster]:
    master = SqlMaster(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings())
    await master.open()
    yield master
    await master.close()


@pytest.mark.parametrize(
    ("port", "rules"),
    [
        (ports.Agent, faulty.AGENT),
        (ports.Consumer, faulty.CONSUMER),
        (ports.Ledger, faulty.LEDGER),
        (ports.Board, faulty.BOARD),
        (ports.Master, faulty.MASTER),
        (Schedules, faulty.SCHEDULES),
        (ports.Credentials, faulty.CREDENTIALS),
    ],
)
def test_every_call_of_every_port_has_its_faults(port: type, rules: Any) -> None:
    calls = {name for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction)}
    assert set(rules.calls) == calls


def test_every_part_is_wrapped() -> None:
    """What a port's calls and properties give, of the ports that raise, is wrapped."""
    raising = {"Consumer", "Ledger", "Board", "Schedules", "Credentials"}
    for port, rules in ((ports.Agent, faulty.AGENT), (ports.Master, faulty.MASTER)):
        parts = set()
        for name, member in vars(port).items():
            made = member.fget if isinstance(member, property) else member
            if name.startswith("_") or not inspect.isfunction(made):
                continue
            if getattr(get_type_hints(made)["return"], "__name__", "") in raising:
                parts.add(name)
        assert parts == set(rules.parts)


def test_a_seed_replays() -> None:
    def drawn(seed: int) -> list[Fault | None]:
        plan = Plan(seed)
        return [plan.draw("m.push", faulty.AGENT.calls["push"])[0] for _ in range(500)]

    assert drawn(3) == drawn(3) != drawn(4)
    # A costly one comes only to those who ask for it.
    assert set(drawn(3)) == {*frozenset(Fault) - COSTLY, None}


def test_calls_of_other_names_move_nothing() -> None:
    alone, among = Plan(3), Plan(3)
    allowed = faulty.AGENT.calls["push"]
    for _ in range(200):
        among.draw("m.depth", faulty.AGENT.calls["depth"])
        assert alone.draw("m.push", allowed)[0] == among.draw("m.push", allowed)[0]


def test_who_tries_again_gets_on() -> None:
    plan = Plan(1, rate=1.0, faults={Fault.FAIL, Fault.DOUBT}, in_a_row=3)
    drawn = [plan.draw("m.post", faulty.AGENT.calls["post"])[0] is None for _ in range(12)]
    assert drawn == [False, False, False, True] * 3
    assert len(plan.injected) == 9


async def test_what_failed_was_not_done() -> None:
    inner, job = memory(), make_job()
    agent = faulty_agent(inner, always(Fault.FAIL))
    assert [type(outcome) for outcome in await agent.push([job])] == [AgentUnavailable]
    with pytest.raises(AgentUnavailable, match=r"m\.append.*seed=1"):
        await agent.append([Accepted(job, 1.0)])
    assert not await inner.depth()
    assert await (await inner.ledger()).lag() == 0


async def test_what_is_in_doubt_was_done() -> None:
    inner, jobs = memory(), [make_job(), make_job()]
    outcomes = await faulty_agent(inner, always(Fault.DOUBT)).push(jobs)
    assert [o.job_ids for o in outcomes if isinstance(o, PublishOutcomeUnknown)] == [
        (jobs[0].id,),
        (jobs[1].id,),
    ]
    assert (await inner.depth())["default"].ready == 2


async def test_what_is_repeated_is_done_once() -> None:
    inner, plan = memory(), always(Fault.REPEAT)
    agent = faulty_agent(inner, plan)
    assert await agent.push([make_job()]) == [None]
    consumer = await agent.consume("default", lease=30)
    (delivery,) = await consumer.pull(10)
    await consumer.settle([finish(delivery)])
    records = (await (await inner.ledger()).read(10, 0)).records
    # Settling twice is harmless: the first is stale to the second, which is told again.
    assert Counter(type(record) for record in records)[Accepted] == 1
    assert not any(depth.total for depth in (await inner.depth()).values())
    assert {one.call for one in plan.injected} == {"m.push", "m.consume.settle"}


async def test_deliveries_come_in_another_order_within_a_priority() -> None:
    inner, low, high = memory(), [make_job() for _ in range(9)], [make_job(priority=5)]
    agent = faulty_agent(inner, always(Fault.REORDER))
    await inner.push([*low, *high])
    pulled: list[Delivery] = await (await agent.consume("default", lease=30)).pull(10)
    ids = [delivery.job.id for delivery in pulled]
    assert ids[0] == high[0].id
    assert ids[1:] != [job.id for job in low]
    assert sorted(ids[1:]) == sorted(job.id for job in low)


async def test_a_call_is_overtaken() -> None:
    class Noting(MemoryAgent):
        def __init__(self) -> None:
            super().__init__("m", f"memory://{new_job_id()}", AgentSettings())
            self.order: list[int] = []

        async def push(self, jobs: Any, **options: Any) -> Any:
            self.order += [job.priority for job in jobs]
            return await super().push(jobs, **options)

    inner = Noting()
    first = Plan(0, rate=1.0, faults={Fault.REORDER}, pause=30.0)
    agent = faulty_agent(inner, first)
    held = asyncio.create_task(agent.push([make_job(priority=1)]))
    await asyncio.sleep(0)
    first.rate = 0.0
    await agent.push([make_job(priority=2)])
    await held
    assert inner.order == [2, 1]


async def test_a_lost_answer_costs_a_lease() -> None:
    inner = memory()
    await inner.push([make_job()])
    consumer = await faulty_agent(inner, always(Fault.LOSE)).consume("default", lease=30)
    with pytest.raises(AgentUnavailable):
        await consumer.pull(1)
    assert (await inner.depth())["default"].leased == 1


async def test_a_board_tells_again() -> None:
    inner = memory()
    board = await faulty_agent(inner, always(Fault.REPEAT)).board()
    await inner.post({"a": b"1", "b": b"2"})
    assert await board.read(0) == {"a": b"1", "b": b"2"}
    await inner.post({"a": None})
    assert await board.read(0) == {"a": None, "b": b"2"}


async def test_a_master_and_what_belongs_to_it_fail(master: SqlMaster) -> None:
    failing = faulty_master(master, always(Fault.FAIL))
    for call in (
        failing.count_jobs(),
        failing.schedules.all(),
        failing.credentials.keys(),
        failing.board(),
    ):
        with pytest.raises(MasterUnavailable, match="on purpose"):
            await call
    assert failing.signals is master.signals
    assert failing.schedules.now() > 0
    assert unwrapped(failing) is master


async def test_a_master_in_doubt_and_repeated_keeps_one_of_each(master: SqlMaster) -> None:
    doubtful = faulty_master(master, always(Fault.DOUBT))
    repeated = faulty_master(master, always(Fault.REPEAT))
    held = Held(make_job())
    with pytest.raises(MasterUnavailable):
        await doubtful.submit([held])
    (stored,) = await repeated.submit([held])
    assert not stored.existing
    assert await master.count_jobs() == {State.SCHEDULED: 1}


async def test_records_come_in_another_order_between_jobs(master: SqlMaster) -> None:
    stories = [Story() for _ in range(20)]
    told: list[Record] = [story.accepted() for story in stories]
    told += [story.finished() for story in stories]
    lease = await master.acquire("recorder:m", "one", 30)
    assert lease is not None
    await faulty_master(master, always(Fault.REORDER)).record("m", told, lease)
    assert await master.count_jobs() == {State.SUCCEEDED: 20}


def test_it_is_an_agent() -> None:
    agent: Agent = faulty_agent(memory(), Plan(1))
    assert (agent.name, agent.capabilities.durable) == ("m", False)
    assert "m" in repr(agent)
