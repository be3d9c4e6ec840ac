"""Where a job goes, what happens when that place is down, and asking what became of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mesh import (
    AgentError,
    AgentUnavailable,
    ConfigError,
    InvalidArguments,
    InvalidResult,
    JobCancelled,
    JobFailed,
    JobNotFound,
    MasterError,
    MasterUnavailable,
    Mesh,
    MeshError,
    PartlyStored,
    PublishOutcomeUnknown,
    ResultTimeout,
    State,
)
from mesh.clock import Clock
from mesh.events import start_seq
from mesh.job import new_job_id
from mesh.ports import Lease
from mesh.testing import ManualClock, MemoryAgent
from mesh.wire import Accepted, Envelope, ErrorInfo, Event, Finished, Record, Started

NEVER = 3600.0


class Cluster(Mesh):
    """Agents in memory, of which each serves what ``lanes`` says, and a master of SQLite."""

    def __init__(
        self, path: Path | None, lanes: dict[str, list[str] | None], **settings: Any
    ) -> None:
        agents = {
            name: {"url": f"memory://{new_job_id()}", "lanes": served}
            for name, served in lanes.items()
        }
        master = None if path is None else f"sqlite:///{path / 'master.db'}"
        super().__init__(master=master, agents=agents, **settings)
        self.lease: Lease | None = None

    async def memory(self, name: str) -> MemoryAgent:
        agent = await self.agent(name)
        assert isinstance(agent, MemoryAgent)
        return agent

    async def where(self) -> Counter[str]:
        """How many jobs each place has."""
        places: Counter[str] = Counter()
        for name in self.config.agents:
            agent = await self.memory(name)
            down = agent._store.down
            agent.go_down(False)
            places[name] = sum(depth.total for depth in (await agent.depth()).values())
            agent.go_down(down)
        if self.config.master is not None:
            places["master"] = (await (await self.master()).count_jobs()).get(State.SCHEDULED, 0)
        return +places

    async def record(self, *records: Record) -> None:
        """What a recorder would."""
        master = await self.master()
        self.lease = self.lease or await master.acquire("recorder:a", "test", NEVER)
        assert self.lease is not None
        await master.record("a", records, self.lease)

    async def start(self, job_id: str) -> None:
        now = self.now()
        await self.record(Started(job_id, 1, now, "work", "default", 3, now, "w1", now, 0))

    async def finish(
        self,
        job_id: str,
        state: State = State.SUCCEEDED,
        result: bytes | None = b"42",
        error: ErrorInfo | None = None,
    ) -> None:
        now = self.now()
        job = Envelope(job_id, "work", b"{}", "default", 3, now)
        await self.record(
            Accepted(job, now),
            Finished(job_id, 2, now, "work", "default", 3, now, "w1", now, 0, state, result, error),
        )


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Cluster]]:
    clusters: list[Cluster] = []

    def make(
        *, master: bool = True, clock: Clock | None = None, **lanes: list[str] | None
    ) -> Cluster:
        cluster = Cluster(tmp_path if master else None, lanes, clock=clock)
        clusters.append(cluster)

        @cluster.job
        async def work(x: int = 0) -> int:
            return x

        return cluster

    yield make
    for cluster in clusters:
        await cluster.close()


def work(cluster: Cluster) -> Any:
    return cluster.get_handler("work")


# routing -----------------------------------------------------------------------------------------


async def test_due_now_or_soon_goes_to_an_agent(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    assert await (await work(cluster).enqueue()).status() is State.QUEUED
    await work(cluster).options(delay=50).enqueue()
    assert await cluster.where() == {"a": 2}


async def test_due_later_is_held_on_the_master(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handle = await work(cluster).options(delay=70).enqueue()
    assert await cluster.where() == {"master": 1}
    assert await handle.status() is State.SCHEDULED
    assert (await handle.info()).payload == b'{"x":0}'


async def test_without_a_master_agents_hold_what_is_due_later(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(master=False, a=None)
    await work(cluster).options(delay=NEVER).enqueue()
    assert await cluster.where() == {"a": 1}


async def test_agents_take_turns(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None, b=None, c=None)
    for _ in range(9):
        await work(cluster).enqueue()
    assert await cluster.where() == {"a": 3, "b": 3, "c": 3}


async def test_a_lane_goes_to_the_agents_that_serve_it(make: Callable[..., Cluster]) -> None:
    cluster = make(a=["mail"], b=["mail", "default"], c=[])
    for _ in range(4):
        await work(cluster).enqueue()
        await work(cluster).options(lane="mail").enqueue()
    places = await cluster.where()
    assert places == {"a": 2, "b": 6}


async def test_a_job_may_name_its_agent(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None, b=None)
    for _ in range(4):
        await work(cluster).options(agent="b").enqueue()
    await work(cluster).options(agent="b").enqueue_many([(1,), (2,)])
    assert await cluster.where() == {"b": 6}


async def test_a_lane_that_no_agent_serves_is_held(make: Callable[..., Cluster]) -> None:
    cluster = make(a=["mail"])
    await work(cluster).enqueue()
    assert await cluster.where() == {"master": 1}


async def test_a_lane_that_no_agent_serves_and_no_master(make: Callable[..., Cluster]) -> None:
    cluster = make(master=False, a=["mail"])
    with pytest.raises(AgentUnavailable, match="not stored: no agent serves lane 'default'"):
        await work(cluster).enqueue()
    assert await cluster.where() == {}


async def test_concurrent_calls_share_writes(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=None)
    writes: list[int] = []
    push = MemoryAgent.push

    async def slow_push(self: MemoryAgent, jobs: Sequence[Envelope]) -> list[AgentError | None]:
        writes.append(len(jobs))
        await asyncio.sleep(0)
        return await push(self, jobs)

    monkeypatch.setattr(MemoryAgent, "push", slow_push)
    handles = await asyncio.gather(*(work(cluster).enqueue(x) for x in range(500)))
    assert len({handle.id for handle in handles}) == 500
    assert sum(writes) == 500
    assert len(writes) <= 4
    assert await cluster.where() == {"a": 500}


# outages -----------------------------------------------------------------------------------------


async def test_the_next_agent_takes_over(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None, b=None)
    (await cluster.memory("a")).go_down()
    for _ in range(6):
        await work(cluster).enqueue()
    assert await cluster.where() == {"b": 6}


async def test_an_agent_that_failed_is_tried_last_for_a_while(tmp_path: Path) -> None:
    clock = ManualClock()
    cluster = Cluster(None, {"a": None, "b": None}, clock=clock)
    handler = cluster.job(name="work")(lambda: None)
    a = await cluster.memory("a")
    tries: list[str] = []
    reach = a._reach
    a._reach = lambda: tries.append("a") or reach()  # type: ignore[method-assign, func-returns-value]
    a.go_down()
    for _ in range(6):
        await handler.enqueue()
    assert len(tries) == 1
    a.go_down(False)
    clock.advance(2)
    for _ in range(6):
        await handler.enqueue()
    assert await cluster.where() == {"a": 3, "b": 9}


async def test_no_agent_and_then_the_master_holds(
    make: Callable[..., Cluster], caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make(a=None, b=["other"])
    a = await cluster.memory("a")
    a.go_down()
    handles = [await work(cluster).enqueue() for _ in range(3)]
    assert await cluster.where() == {"master": 3}
    assert {await handle.status() for handle in handles} == {State.SCHEDULED}
    a.go_down(False)
    await work(cluster).enqueue()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        f"jobs are held on the master: agent a at {a.url} is down",
        "agents take jobs again",
    ]


async def test_nothing_takes_it(make: Callable[..., Cluster]) -> None:
    cluster = make(master=False, a=None, b=None)
    for name in ("a", "b"):
        (await cluster.memory(name)).go_down()
    with pytest.raises(AgentUnavailable, match=r"^not stored: agent . at .* is down; there is no"):
        await work(cluster).enqueue()
    with pytest.raises(AgentUnavailable, match="3 of 3 jobs were not stored: not stored: agent"):
        await work(cluster).enqueue_many([(1,), (2,), (3,)])
    assert await cluster.where() == {}


async def test_neither_agent_nor_master(tmp_path: Path) -> None:
    path = tmp_path / "no-such-folder" / "master.db"
    cluster = Mesh(master=f"sqlite:///{path}", agents={"a": f"memory://{new_job_id()}"})
    handler = cluster.job(name="work")(lambda: None)
    await handler.enqueue()
    with pytest.raises(AgentUnavailable, match="stored: due in more than 60 s, so the master's"):
        await handler.options(delay=NEVER).enqueue()
    agent: Any = await cluster.agent("a")
    agent.go_down()
    with pytest.raises(AgentUnavailable, match=r"^not stored: agent a at .* is down; .*master"):
        await handler.enqueue()
    agent.go_down(False)
    assert (await agent.depth())["default"].total == 1
    await cluster.close()


async def test_a_named_agent_that_is_down(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None, b=None)
    (await cluster.memory("b")).go_down()
    await work(cluster).options(agent="b").enqueue()
    assert await cluster.where() == {"master": 1}


async def test_an_agent_that_takes_long_to_open_holds_up_no_other(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=["x"], b=["y"])
    opening, may_open, open_ = asyncio.Event(), asyncio.Event(), MemoryAgent.open

    async def take_long(self: MemoryAgent) -> None:
        if self.name == "a":
            opening.set()
            await may_open.wait()
        await open_(self)

    monkeypatch.setattr(MemoryAgent, "open", take_long)
    waiting = asyncio.create_task(work(cluster).options(lane="x").enqueue())
    await opening.wait()
    job = await work(cluster).options(lane="y").enqueue()
    assert await job.status() is State.QUEUED
    may_open.set()
    await waiting
    assert await cluster.where() == {"a": 1, "b": 1}


async def test_an_agent_that_cannot_be_opened_is_passed_over(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=None, b=None)
    b_url = cluster.config.agent("b").url
    closed: list[str] = []

    async def open_(self: MemoryAgent) -> None:
        if self.url != b_url:
            raise AgentError("the account may not create streams")

    async def close(self: MemoryAgent) -> None:
        closed.append(self.name)

    monkeypatch.setattr(MemoryAgent, "open", open_)
    monkeypatch.setattr(MemoryAgent, "close", close)
    for _ in range(4):
        await work(cluster).enqueue()
    assert closed == ["a"], "what did not open was left open"
    monkeypatch.undo()
    assert await cluster.where() == {"b": 4}


def doubt(fails: Callable[[Envelope], AgentError | None]) -> Any:
    async def push(
        self: MemoryAgent, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        return [fails(job) for job in jobs]

    return push


async def test_an_unknown_outcome_names_the_job_and_goes_nowhere_else(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=None)
    await cluster.agent("a")
    seen: list[str] = []

    def unknown(job: Envelope) -> AgentError:
        seen.append(job.id)
        return PublishOutcomeUnknown(f"job {job.id}: no answer", [job.id])

    monkeypatch.setattr(MemoryAgent, "push", doubt(unknown))
    with pytest.raises(PublishOutcomeUnknown) as error:
        await work(cluster).enqueue()
    assert error.value.job_ids == tuple(seen)
    monkeypatch.undo()
    assert await cluster.where() == {}


async def test_nobody_waits_again_for_an_agent_that_does_not_answer(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    cluster = make(a=None, clock=clock)
    await cluster.agent("a")
    asked: list[str] = []

    def in_vain(job: Envelope) -> AgentError:
        asked.append(job.id)
        clock.advance(cluster.config.push_timeout)
        return PublishOutcomeUnknown(f"job {job.id}: no answer", [job.id])

    monkeypatch.setattr(MemoryAgent, "push", doubt(in_vain))
    for pause in (1, 2, 4, 8, 15, 15):
        with pytest.raises(PublishOutcomeUnknown):
            await work(cluster).enqueue()
        clock.advance(pause * 0.9)
        before = len(asked)
        await work(cluster).enqueue()
        assert len(asked) == before
        clock.advance(pause * 0.2)
    monkeypatch.undo()
    assert await cluster.where() == {"master": 6}
    await asyncio.gather(*(work(cluster).enqueue() for _ in range(3)))
    assert await cluster.where() == {"master": 6, "a": 3}


async def test_without_another_place_an_agent_that_does_not_answer_is_named(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    cluster = make(master=False, a=None, clock=clock)
    await cluster.agent("a")

    def in_vain(job: Envelope) -> AgentError:
        clock.advance(cluster.config.push_timeout)
        return PublishOutcomeUnknown(f"job {job.id}: no answer", [job.id])

    monkeypatch.setattr(MemoryAgent, "push", doubt(in_vain))
    with pytest.raises(PublishOutcomeUnknown):
        await work(cluster).enqueue()
    with pytest.raises(AgentUnavailable, match=r"agent a did not answer in time .* in 1\.0 s"):
        await work(cluster).enqueue()


async def test_of_many_the_doubtful_ones_are_named(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(master=False, a=None)
    seen: list[str] = []

    def every_third(job: Envelope) -> AgentError | None:
        seen.append(job.id)
        kinds = [None, AgentUnavailable("no"), PublishOutcomeUnknown("who knows", [job.id])]
        return kinds[len(seen) % 3]

    monkeypatch.setattr(MemoryAgent, "push", doubt(every_third))
    with pytest.raises(PartlyStored, match="2 of 6 jobs are stored, 2 are not, of 2") as error:
        await work(cluster).enqueue_many([(x,) for x in range(6)])
    assert error.value.job_ids == (seen[1], seen[4])
    assert error.value.unknown == (1, 4)
    assert error.value.not_stored == (0, 3)
    assert error.value.tried == 6


async def test_any_number_of_calls_is_stored_as_they_come(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    taken = 0

    async def calls() -> AsyncIterator[tuple[int]]:
        nonlocal taken
        for x in range(10_000):
            taken += 1
            yield (x,)

    ids = []
    async for job in work(cluster).enqueue_each(calls()):
        ids.append(job.id)
        # No more calls are taken than are stored together.
        assert taken - len(ids) <= 4096
    assert len(set(ids)) == taken == 10_000
    assert await cluster.where() == {"a": 10_000}
    assert len(await work(cluster).enqueue_many((x,) for x in range(5000))) == 5000


async def test_a_wrong_call_among_any_number_says_what_is_stored(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(a=None)

    def calls() -> Iterator[Any]:
        yield from ((x,) for x in range(5000))
        yield {"y": 1}

    with pytest.raises(PartlyStored, match="the first 4096 calls are stored, no others: call 5000"):
        await work(cluster).enqueue_many(calls())
    assert await cluster.where() == {"a": 4096}
    with pytest.raises(InvalidArguments, match="call 5000"):
        await work(cluster).enqueue_many(list(calls()))
    assert await cluster.where() == {"a": 4096}


async def test_a_master_that_failed_half_way_leaves_each_caller_its_own_doubt(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=None)
    master = await cluster.master()

    async def hold(jobs: Sequence[Envelope]) -> None:
        raise MasterError("connection lost during commit")

    monkeypatch.setattr(master, "hold", hold)
    ids = [new_job_id() for _ in range(3)]
    outcomes = await asyncio.gather(
        *(work(cluster).options(id=i, delay=NEVER).enqueue() for i in ids), return_exceptions=True
    )
    assert [outcome.job_ids for outcome in outcomes] == [(i,) for i in ids]  # type: ignore[union-attr]


async def test_the_same_id_again_is_stored_once(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    for options in ({}, {"delay": NEVER}):
        bound = work(cluster).options(id=new_job_id(), **options)
        assert (await bound.enqueue()).id == (await bound.enqueue()).id
    assert await cluster.where() == {"a": 1, "master": 1}


async def test_a_scheme_that_nobody_serves_is_the_callers_error() -> None:
    app = Mesh(agents={"a": "carrier-pigeon://coop"})
    handler = app.job(name="work")(lambda: None)
    with pytest.raises(ConfigError, match="which no installed part serves"):
        await handler.enqueue()


# results -----------------------------------------------------------------------------------------


async def test_a_result(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    waiting = [asyncio.create_task(handle.result(timeout=20)) for _ in range(3)]
    await asyncio.sleep(0)
    await cluster.finish(handle.id)
    assert await asyncio.gather(*waiting) == [42, 42, 42]
    assert await handle.result() == 42
    assert await handle.status() is State.SUCCEEDED
    assert await (await cluster.get_job(handle.id.upper())).result() == 42


async def test_ends_that_are_no_success(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    error = ErrorInfo("ValueError", "bad", "Traceback: …")
    failed = await work(cluster).enqueue()
    await cluster.finish(failed.id, State.FAILED, None, error)
    with pytest.raises(JobFailed) as failure:
        await failed.result(5)
    assert str(failure.value) == f"job {failed.id} (work) failed at attempt 2: ValueError: bad"
    assert (failure.value.job_id, failure.value.state) == (failed.id, "failed")
    assert (failure.value.error_type, failure.value.traceback) == ("ValueError", "Traceback: …")

    expired = await work(cluster).enqueue()
    await cluster.finish(expired.id, State.EXPIRED, None)
    with pytest.raises(JobCancelled, match=r"\(work\) expired: no reason given") as end:
        await expired.result(5)
    assert end.value.state == "expired"


async def test_a_result_of_another_type_than_announced(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    await cluster.finish(handle.id, result=b'"text"')
    with pytest.raises(InvalidResult, match=r'with "text", which is not .*Expected `int`'):
        await handle.result(5)


async def test_no_result_in_time(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    with pytest.raises(ResultTimeout, match=f"job {handle.id} has not ended after 0.01 s"):
        await handle.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.01)
    await cluster.finish(handle.id)
    assert await handle.result(5) == 42


async def test_one_who_gives_up_leaves_the_others_waiting(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handles = [await work(cluster).enqueue() for _ in range(20)]
    waiting = [asyncio.create_task(handle.result(20)) for handle in handles for _ in range(2)]
    await asyncio.sleep(0.01)
    for task in waiting[::2]:
        task.cancel()
    for handle in handles:
        await cluster.finish(handle.id)
    assert await asyncio.gather(*waiting[1::2]) == [42] * 20


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("registered", [True, False])
async def test_who_waits_when_the_app_is_closed_is_told(
    make: Callable[..., Cluster], registered: bool
) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    waiting = asyncio.create_task(handle.result())
    if registered:
        await cluster.master()
    await turns(3)
    await cluster.close()
    async with asyncio.timeout(5):
        with pytest.raises(MeshError, match="the app was closed meanwhile"):
            await waiting
    await cluster.finish(handle.id)
    assert await handle.result(5) == 42, "it connects anew"


async def test_an_unexpected_failure_reaches_who_waits(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()

    async def get_jobs(job_ids: Sequence[str]) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(await cluster.master(), "get_jobs", get_jobs)
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await handle.result()


async def test_a_master_that_is_away_for_a_while(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    await cluster.finish(handle.id)
    master = await cluster.master()
    get_jobs, outages = master.get_jobs, [1, 2, 3]

    async def sometimes(job_ids: Sequence[str]) -> Any:
        if outages:
            raise MasterUnavailable(f"outage {outages.pop()}")
        return await get_jobs(job_ids)

    monkeypatch.setattr(master, "get_jobs", sometimes)
    assert await handle.result(10) == 42


async def test_asking_without_a_master(make: Callable[..., Cluster]) -> None:
    cluster = make(master=False, a=None)
    handle = await work(cluster).enqueue()
    for ask in (handle.result(), handle.status(), handle.info(), cluster.get_job(handle.id)):
        with pytest.raises(ConfigError, match="it can enqueue, but not ask"):
            await ask


async def test_unknown_jobs(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    job_id = new_job_id()
    with pytest.raises(JobNotFound, match=f"job {job_id} is not in the master"):
        await cluster.get_job(job_id)
    with pytest.raises(ConfigError, match="is not a UUID"):
        await cluster.get_job("42")


async def test_a_job_of_a_handler_that_this_app_lacks(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    await cluster.finish(handle.id, result=b'{"any": "thing"}')
    del cluster.handlers["work"]
    assert await (await cluster.get_job(handle.id)).result() == {"any": "thing"}


async def test_events(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    handle = await work(cluster).enqueue()
    first = start_seq(1)
    await cluster.start(handle.id)
    await cluster.record(
        *(Event(handle.id, first + n, cluster.now(), "log", b"%d" % n) for n in (1, 2))
    )
    stream = handle.events()
    assert [(await anext(stream)).seq for _ in range(4)] == [0, first, first + 1, first + 2]
    rest = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await cluster.record(Event(handle.id, first + 5, cluster.now(), "chunk", b'"x"'))
    event = await rest
    assert (event.seq, event.kind, event.data) == (first + 5, "chunk", b'"x"')
    await cluster.finish(handle.id)  # at its second attempt
    async with asyncio.timeout(10):
        rest_of = ["lifecycle", "lifecycle", "result", "lifecycle"]
        assert [event.kind async for event in stream] == rest_of
        again = [event.kind async for event in handle.events(after=first + 2)]
        assert again == ["chunk", *rest_of]


# connections -------------------------------------------------------------------------------------


async def test_a_master_that_cannot_be_opened_leaves_nothing_open(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "other.db"
    async with Mesh(f"sqlite:///{path}", cluster="one") as one:
        await one.master()
    async with Mesh(f"sqlite:///{path}", cluster="two") as two:
        for _ in range(3):
            with pytest.raises(ConfigError, match="belongs to the cluster 'one'"):
                await two.master()
    gc.collect()
    assert [str(w.message) for w in recwarn] == []


async def test_closing_finishes_what_was_begun(make: Callable[..., Cluster]) -> None:
    cluster = make(a=None)
    calls = [asyncio.create_task(work(cluster).enqueue(x)) for x in range(10)]
    await turns(2)
    await cluster.close()
    await asyncio.gather(*calls)
    assert await cluster.where() == {"a": 10}


SCRIPT = """
import asyncio, gc, sys
from mesh import Mesh
app = Mesh(agents={"a": sys.argv[1]}, master=sys.argv[2])
@app.job
def work(x: int) -> int: ...
async def main():
    print(await (await work.enqueue(1)).status())
for _ in range(2):
    asyncio.run(main())
    gc.collect()
"""


@pytest.mark.parametrize("kind", ["sqlite", "nats"])
def test_a_program_ends_without_closing_the_app(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    database = f"sqlite:///{tmp_path / 'mesh.db'}"
    agent = database if kind == "sqlite" else request.getfixturevalue("nats_server").url
    command = [sys.executable, "-c", SCRIPT, agent, database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "queued\nqueued\n", "")
