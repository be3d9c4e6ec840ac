"""What handlers say, while it waits: made less, bounded, and never more than once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from worker_rig import PATIENCE, Rig

from mesh import AgentUnavailable, Context, EventsWait
from mesh.events import attempt_of, start_seq
from mesh.job import State
from mesh.testing.memory import MemoryAgent
from mesh.wire import Event, Record
from mesh_workers import outlets as module
from mesh_workers.outlets import Outlet, Outlets, Size


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five are much, ten are most."""
    monkeypatch.setattr(module, "_MUCH", Size(5, 10**6))
    monkeypatch.setattr(module, "_MOST", Size(10, 10**6))
    monkeypatch.setattr(module, "_TWICE", Size(20, 10**6))


def open_outlet(persisted: Sequence[str] = ("progress",), event_size: int = 1000) -> Outlet:
    return Outlets(persisted, event_size).open("job", 2, None)


def data(events: Sequence[Event]) -> list[tuple[str, Any]]:
    return [(event.kind, json.loads(event.data)) for event in events]


async def test_what_waits_is_made_less_before_it_is_numbered() -> None:
    outlet = open_outlet()
    for number in range(3):
        outlet.say("progress", b"%d" % number, 1.0)
        outlet.say("chunk", b'"a%d"' % number, 2.0, joins=True)
        outlet.say("chunk", b'"b"', 3.0, joins=True)
    outlet.say("chunk", b'"c"', 4.0)
    outlet.say("progress", b"9", 5.0)
    events = outlet.outlets.take()
    assert data(events) == [
        ("chunk", "a0b"),
        ("chunk", "a1b"),
        ("chunk", "a2b"),
        ("chunk", "c"),
        ("progress", 9),
    ]
    assert [event.seq for event in events] == [start_seq(2) + n for n in range(1, 6)]
    outlet.say("progress", b"10", 6.0)
    (last,) = outlet.outlets.take()
    assert (last.seq, attempt_of(last.seq)) == (start_seq(2) + 6, 2)
    assert outlet.outlets.take() == []


async def test_text_is_joined_up_to_a_size_and_within_a_job() -> None:
    one = open_outlet(event_size=10)
    other = one.outlets.open("other", 1, None)
    for _ in range(4):
        one.say("chunk", b'"abc"', 1.0, joins=True)
        other.say("chunk", b'"x"', 1.0, joins=True)
    assert data(one.outlets.take()) == [
        *(("chunk", "abcabc"), ("chunk", "xxx")),
        *(("chunk", "abcabc"), ("chunk", "x")),
    ]


@pytest.mark.usefixtures("small")
async def test_the_oldest_that_are_not_persisted_are_dropped() -> None:
    outlet = open_outlet()
    others = outlet.outlets.open("other", 1, None)
    others.say("log", b'"dropped too"', 1.0)
    outlet.outlets.agent_is_away = True
    outlet.say("progress", b'"kept"', 1.0)
    for number in range(25):
        await outlet.say("chunk", b"%d" % number, 2.0)
    events = outlet.outlets.take()
    told = [d["data"]["dropped"] for kind, d in data(events) if kind == "log"]
    assert sorted(told) == [1, 15]
    assert data(events)[2:] == [("progress", "kept"), *(("chunk", n) for n in range(15, 25))]
    assert outlet.outlets.dropped == 16


@pytest.mark.usefixtures("small")
async def test_what_is_persisted_is_waited_for_and_then_refused() -> None:
    outlet = open_outlet(("chunk",))
    outlet.outlets.agent_is_away = True
    for number in range(10):
        await outlet.say("chunk", b"%d" % number, 1.0)
    waiting = asyncio.ensure_future(_wait(outlet.say("chunk", b"10", 1.0)))
    await asyncio.sleep(0)
    assert not waiting.done()
    for number in range(11, 21):
        outlet.say("chunk", b"%d" % number, 1.0)
    with pytest.raises(EventsWait, match=r"job job: 21 events wait .* await ctx.chunk"):
        outlet.say("chunk", b"21", 1.0)
    assert data(outlet.outlets.take()) == [("chunk", number) for number in range(21)]
    await asyncio.wait_for(waiting, PATIENCE)


async def _wait(room: Any) -> None:
    await room


@pytest.mark.usefixtures("small")
async def test_a_thread_waits_in_the_call_and_is_let_go_at_its_attempts_end() -> None:
    outlet = open_outlet()
    said = list[int]()

    def talk() -> None:
        for number in range(12):
            outlet.say("log", b"%d" % number, 1.0)
            said.append(number)

    thread = asyncio.ensure_future(asyncio.to_thread(talk))
    some = asyncio.Event()
    outlet.outlets.some = some.set
    async with asyncio.timeout(PATIENCE):
        while len(said) < 5:  # noqa: ASYNC110 - it is a thread
            await asyncio.sleep(0.001)
        await some.wait()
        taken = outlet.outlets.take()
        while len(taken) < 10:
            some.clear()
            await some.wait()
            taken += outlet.outlets.take()
        outlet.close()
        await thread
    # All goes on as if it were heard, and is not.
    assert said == list(range(12))
    assert data(taken + outlet.outlets.take())[:10] == [("log", number) for number in range(10)]


class Away:
    """Lets an agent take no events, until it is back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried, self.back = asyncio.Event(), False
        append = MemoryAgent.append
        away = self

        async def unavailable(agent: MemoryAgent, records: Sequence[Record]) -> None:
            if not away.back and any(isinstance(r, Event) for r in records):
                away.tried.set()
                raise AgentUnavailable("away")
            await append(agent, records)

        monkeypatch.setattr(MemoryAgent, "append", unavailable)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("in_thread", [False, True])
async def test_nothing_persisted_is_lost_while_the_agent_is_away(
    monkeypatch: pytest.MonkeyPatch, in_thread: bool
) -> None:
    rig, away = Rig(persist_events=("chunk",)), Away(monkeypatch)
    far = threading.Event()

    def threaded(ctx: Context[Any]) -> None:
        for number in range(100):
            ctx.chunk([number])
            if number == 8:
                far.set()

    async def in_loop(ctx: Context[Any]) -> None:
        for number in range(100):
            await ctx.chunk([number])
            if number == 8:
                far.set()

    handler: Any = rig.app.job(threaded if in_thread else in_loop)
    job = await handler.enqueue()
    async with rig.worker():
        await asyncio.wait_for(away.tried.wait(), PATIENCE)
        await asyncio.to_thread(far.wait, PATIENCE)
        away.back = True
        (end,) = await rig.ended(job.id)
    assert end.state is State.SUCCEEDED
    events = [r for r in rig.told(job.id) if isinstance(r, Event)]
    assert data(events) == [("chunk", [number]) for number in range(100)]
    assert [e.seq - start_seq(1) for e in events] == list(range(1, 101))
    await rig.close()
