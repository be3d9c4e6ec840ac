"""One lifecycle: start and stop in any order, any number of times, concurrently."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from random import Random

import pytest

from mesh.errors import MeshError
from mesh.service import Backoff, Group, Service
from mesh.testing import ManualClock


class Boom(Exception):
    pass


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Probe(Service):
    """A service whose steps a test takes one by one; keeps a diary."""

    def __init__(self, name: str = "probe", diary: list[str] | None = None) -> None:
        super().__init__(name)
        self.diary = [] if diary is None else diary
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.end = asyncio.Event()
        self.fail_early: Exception | None = None
        self.fail_late: Exception | None = None
        self.running = 0

    async def run(self, ready: Callable[[], None]) -> None:
        self.running += 1
        assert self.running == 1, "run is running twice"
        self.diary.append(f"{self.name} starts")
        try:
            await self._first(self.may_start, self.stopping)
            if self.fail_early:
                raise self.fail_early
            if not self.stopping.is_set():
                ready()
                await self._first(self.end, self.stopping)
            await self.may_end.wait()
            if self.fail_late:
                raise self.fail_late
        finally:
            self.running -= 1
            self.diary.append(f"{self.name} ended")

    @staticmethod
    async def _first(*events: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


@pytest.fixture(autouse=True)
def _no_unhandled(caplog: pytest.LogCaptureFixture) -> object:
    """asyncio logs exceptions that nobody retrieved: there are none."""
    yield
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []


async def test_start_and_stop_are_idempotent() -> None:
    probe = Probe()
    await probe.stop()
    await probe.wait()
    await probe.start()
    await probe.start()
    assert probe.running == 1
    await probe.stop()
    await probe.stop()
    await probe.wait()
    assert probe.diary == ["probe starts", "probe ended"]


async def test_it_starts_again() -> None:
    probe = Probe()
    for _ in range(3):
        async with probe:
            assert probe.running == 1
        assert probe.running == 0


async def test_concurrent_starts_and_stops() -> None:
    probe = Probe()
    probe.may_start.clear()
    starts = [asyncio.create_task(probe.start()) for _ in range(3)]
    await turns()
    assert not any(start.done() for start in starts)
    probe.may_start.set()
    await asyncio.gather(*starts)
    await asyncio.gather(*(probe.stop() for _ in range(3)))
    assert probe.diary == ["probe starts", "probe ended"]


async def test_a_start_while_it_stops_starts_it_anew() -> None:
    probe = Probe()
    await probe.start()
    probe.may_end.clear()
    stop = asyncio.create_task(probe.stop())
    await turns()
    starts = [asyncio.create_task(probe.start()) for _ in range(2)]
    await turns()
    assert not any(start.done() for start in starts)
    probe.may_end.set()
    await asyncio.gather(stop, *starts)
    assert probe.running == 1
    assert not probe.stopping.is_set()
    await probe.stop()
    assert probe.diary == ["probe starts", "probe ended"] * 2


async def test_a_failure_before_it_is_ready() -> None:
    probe = Probe()
    probe.fail_early = Boom("no")
    with pytest.raises(Boom):
        await probe.start()
    with pytest.raises(Boom):
        await probe.wait()
    await probe.stop()
    probe.fail_early = None
    async with probe:
        pass


async def test_a_failure_after_it_was_ready(caplog: pytest.LogCaptureFixture) -> None:
    probe = Probe()
    probe.fail_late = Boom("late")
    await probe.start()
    probe.end.set()
    with pytest.raises(Boom):
        await probe.wait()
    await probe.stop()
    assert [record.getMessage() for record in caplog.records] == ["probe ended: late"]


@pytest.mark.parametrize("from_within", [True, False])
async def test_a_cancellation_that_comes_from_within_is_said(
    from_within: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = asyncio.Event()

    class Leaks(Service):
        async def run(self, ready: Callable[[], None]) -> None:
            ready()
            await go_on.wait()
            raise asyncio.CancelledError  # as of a library that does not keep it to itself

    service = Leaks("leaks")
    await service.start()
    if from_within:
        go_on.set()
    else:
        assert service._task is not None
        service._task.cancel()  # as an event loop does that ends
    await service.wait()
    said = [record.getMessage() for record in caplog.records]
    assert (
        said
        == ["leaks ended: a cancellation came from within, that nobody asked for"][:from_within]
    )


async def test_nobody_needs_to_ask(caplog: pytest.LogCaptureFixture) -> None:
    """See the fixture: a failure that nobody waits for makes no noise beyond its log line."""
    early, late = Probe("early"), Probe("late")
    early.fail_early = late.fail_late = Boom("no")
    starting = asyncio.create_task(early.start())
    await asyncio.sleep(0)
    starting.cancel()
    await late.start()
    late.end.set()
    await turns(10)
    assert (early.running, late.running) == (0, 0)


async def test_stop_while_it_starts() -> None:
    probe = Probe()
    probe.may_start.clear()
    start = asyncio.create_task(probe.start())
    await turns()
    await probe.stop()
    await start
    assert probe.running == 0


async def test_abort_while_it_starts() -> None:
    probe = Probe()
    probe.may_start.clear()
    start = asyncio.create_task(probe.start())
    await turns()
    await probe.abort()
    with pytest.raises(MeshError, match="probe was stopped before it was ready"):
        await start
    assert probe.running == 0


async def test_abort_ends_what_does_not_stop() -> None:
    probe = Probe()
    await probe.start()
    probe.may_end.clear()
    stop, wait = asyncio.create_task(probe.stop()), asyncio.create_task(probe.wait())
    await turns()
    assert not stop.done()
    await probe.abort()
    await stop
    await wait  # not cancelled itself: it only waited
    assert probe.running == 0
    await probe.abort()


async def test_who_waits_may_be_cancelled_alone() -> None:
    probe = Probe()
    async with probe:
        wait = asyncio.create_task(probe.wait())
        await turns()
        wait.cancel()
        await asyncio.wait([wait])
        assert wait.cancelled()
        assert probe.running == 1


@pytest.mark.parametrize("seed", range(30))
async def test_stress(seed: int) -> None:
    """Any interleaving of calls ends where the last of them asked it to be."""
    random, probe = Random(seed), Probe()
    calls: list[asyncio.Task[None]] = []
    for _ in range(40):
        call = random.choice([probe.start, probe.stop, probe.start, probe.stop, probe.abort])
        calls.append(asyncio.create_task(call()))
        await turns(random.randrange(4))
        if random.random() < 0.1:
            random.choice(calls).cancel()
    async with asyncio.timeout(10):
        await asyncio.wait(calls)
        await probe.start()
        assert probe.running == 1
        await probe.stop()
        assert probe.running == 0
    for call_made in calls:
        if not call_made.cancelled() and (error := call_made.exception()):
            assert isinstance(error, MeshError)


# groups ------------------------------------------------------------------------------------------


def make_group() -> tuple[Group, Probe, Probe, Probe]:
    diary: list[str] = []
    a, b, c = Probe("a", diary), Probe("b", diary), Probe("c", diary)
    return Group("all", [a, b, c]), a, b, c


async def test_members_start_in_order_and_stop_in_reverse() -> None:
    group, a, *_ = make_group()
    await group.start()
    assert a.diary == ["a starts", "b starts", "c starts"]
    await group.stop()
    assert a.diary[3:] == ["c ended", "b ended", "a ended"]
    await group.wait()


async def test_members_that_need_none_of_the_others_stop_at_once() -> None:
    members = [Probe("a"), Probe("b")]
    for member in members:
        member.may_end.clear()
    group = Group("group", members, at_once=True)
    await group.start()
    stopping = asyncio.create_task(group.stop())
    await turns()
    assert all(member.stopping.is_set() for member in members)
    for member in members:
        member.may_end.set()
    await stopping


async def test_a_member_waits_for_the_one_before_it() -> None:
    group, a, _, _ = make_group()
    a.may_start.clear()
    start = asyncio.create_task(group.start())
    await turns(10)
    assert a.diary == ["a starts"]
    a.may_start.set()
    await start
    await group.stop()


async def test_a_group_ends_with_its_members_exception() -> None:
    group, a, b, c = make_group()
    await group.start()
    b.fail_late = Boom("b")
    b.end.set()
    with pytest.raises(Boom):
        await group.wait()
    assert (a.running, b.running, c.running) == (0, 0, 0)
    assert a.diary[3:] == ["b ended", "c ended", "a ended"]


async def test_a_member_that_ends_well_ends_the_group() -> None:
    group, a, b, c = make_group()
    await group.start()
    c.end.set()
    await group.wait()
    assert (a.running, b.running, c.running) == (0, 0, 0)


async def test_two_members_fail_at_once() -> None:
    group, a, b, _ = make_group()
    await group.start()
    a.fail_late = b.fail_late = Boom("both")
    a.end.set()
    b.end.set()
    with pytest.raises(Boom):
        await group.wait()


async def test_a_member_that_cannot_start_stops_those_before_it() -> None:
    group, a, b, _ = make_group()
    b.fail_early = Boom("b")
    with pytest.raises(Boom):
        await group.start()
    await group.stop()
    assert a.diary == ["a starts", "b starts", "b ended", "a ended"]
    assert a.running == 0


async def test_stop_while_a_member_starts() -> None:
    group, a, b, _ = make_group()
    b.may_start.clear()
    start = asyncio.create_task(group.start())
    await turns(10)
    async with asyncio.timeout(5):
        await group.stop()
        await start
    assert a.diary == ["a starts", "b starts", "b ended", "a ended"]


async def test_abort_of_a_group() -> None:
    group, a, b, c = make_group()
    await group.start()
    for probe in (a, b, c):
        probe.may_end.clear()
    stop = asyncio.create_task(group.stop())
    await turns(10)
    assert not stop.done()
    async with asyncio.timeout(5):
        await group.abort()
        await stop
        await group.wait()
    assert (a.running, b.running, c.running) == (0, 0, 0)


async def test_a_group_starts_again() -> None:
    group, a, b, c = make_group()
    for _ in range(3):
        async with group:
            assert (a.running, b.running, c.running) == (1, 1, 1)
        assert (a.running, b.running, c.running) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_stress_of_a_group(seed: int) -> None:
    random = Random(seed)
    group, *members = make_group()
    calls: list[asyncio.Task[None]] = []
    for _ in range(25):
        call = random.choice([group.start, group.stop, group.start, group.stop, group.abort])
        calls.append(asyncio.create_task(call()))
        await turns(random.randrange(8))
    async with asyncio.timeout(10):
        await asyncio.wait(calls)
        await group.stop()
        await group.start()
        assert [member.running for member in members] == [1, 1, 1]
        await group.stop()
        assert [member.running for member in members] == [0, 0, 0]


# backoff -----------------------------------------------------------------------------------------


class FastClock(ManualClock):
    """Sleeps take no time, and are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        assert seconds is not None
        self.pauses.append(seconds)
        await asyncio.sleep(0)
        return event.is_set()


async def test_pauses_double_up_to_the_longest_and_begin_anew() -> None:
    clock = FastClock()
    backoff = Backoff(asyncio.Event(), 0.5, 3, clock)
    for _ in range(5):
        await backoff.wait()
    backoff.reset()
    await backoff.wait()
    assert clock.pauses == [0.5, 1, 2, 3, 3, 0.5]


async def test_a_pause_ends_when_the_service_is_stopped() -> None:
    clock, stopping = ManualClock(), asyncio.Event()
    backoff = Backoff(stopping, 1000, 1000, clock)
    waiting = asyncio.create_task(backoff.wait())
    await turns()
    assert not waiting.done()
    stopping.set()
    async with asyncio.timeout(5):
        await waiting


async def test_retry_says_each_thing_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    answers: list[str] = ["down", "down", "down", "refused", "refused", "ok"]

    async def attempt() -> str:
        if (answer := answers.pop(0)) != "ok":
            raise MeshError(answer)
        return answer

    clock = FastClock()
    backoff = Backoff(asyncio.Event(), 1, 8, clock)
    assert await backoff.retry("reading", attempt, MeshError) == "ok"
    assert clock.pauses == [1, 2, 4, 8, 8]
    assert [record.getMessage() for record in caplog.records] == [
        "reading: down; trying again",
        "reading: refused; trying again",
        "reading: back",
    ]
    answers[:] = ["down", "ok"]
    await backoff.retry("reading", attempt, MeshError)
    assert clock.pauses[5:] == [1]


async def test_retry_passes_on_what_it_is_not_for() -> None:
    async def attempt() -> None:
        raise Boom

    with pytest.raises(Boom):
        await Backoff(asyncio.Event()).retry("reading", attempt, MeshError)


async def test_retry_gives_up_when_the_service_is_stopped() -> None:
    stopping = asyncio.Event()

    async def attempt() -> str:
        stopping.set()
        raise MeshError("down")

    assert await Backoff(stopping, clock=FastClock()).retry("reading", attempt, MeshError) is None
