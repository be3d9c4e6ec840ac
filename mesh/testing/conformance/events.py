"""The behavioural suite of a master's events, as ``mesh.feed`` tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mesh import feed
from mesh.clock import SystemClock
from mesh.events import Lifecycle, attempt_of, end_seq, result_seq, start_seq
from mesh.filter import JobFilter
from mesh.job import State, new_job_id
from mesh.ports import EventInfo, Master
from mesh.testing.conformance.master import MasterHarness, Story, record
from mesh.wire import Record

__all__ = ["EventsConformance"]

PATIENCE = 30.0


def told(events: Sequence[EventInfo]) -> list[tuple[int, str]]:
    """Of each its attempt, and the moment of life or the kind."""
    return [
        (
            attempt_of(e.seq),
            Lifecycle.decode(e.data).event if e.kind == "lifecycle" else e.kind,
        )
        for e in events
    ]


async def by_pages(master: Master, job_id: str, limit: int) -> list[EventInfo]:
    events: list[EventInfo] = []
    while page := await feed.page(master, job_id, events[-1].seq if events else -1, limit):
        events += page
    return events


class EventsConformance:
    """Subclass, and give it a ``harness`` fixture."""

    async def test_a_life_is_told_in_order(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, story.accepted())
        assert told(await feed.page(master, story.id)) == [(0, "enqueued")]
        await record(master, story.started(), story.event(0), story.retrying())
        await record(master, story.started(2, "w-2", at=15), story.event(1, attempt=2))
        await record(master, story.finished(2, "w-2", at=16))
        events = await feed.page(master, story.id)
        assert told(events) == [
            *((0, "enqueued"), (1, "started"), (1, "progress"), (1, "retrying")),
            *((2, "started"), (2, "progress"), (2, "result"), (2, "succeeded")),
        ]
        assert [e.seq for e in events] == [
            *(0, start_seq(1), start_seq(1) + 1, end_seq(1)),
            *(start_seq(2), start_seq(2) + 2, result_seq(2), end_seq(2)),
        ]
        assert [e.at - story.begin for e in events] == [0, 1, 0, 2, 15, 1, 16, 16]
        assert events[-2].data == b'{"by":"w-2"}'
        retrying = Lifecycle.decode(events[3].data)
        assert (retrying.worker, retrying.due_at) == ("w-1", story.begin + 12)
        assert retrying.error is not None
        assert (retrying.error.type, retrying.error.message) == ("ValueError", "attempt 1")
        for limit in (1, 2, 3, 8):
            assert await by_pages(master, story.id, limit) == events
        assert await feed.page(master, new_job_id()) == []

    async def test_what_an_attempt_says_too_late_is_left_out(self, harness: MasterHarness) -> None:
        """Whether it comes in one batch with what is in time, or later."""
        master = await harness.connect()
        apart, at_once = Story(), Story()
        for story in (apart, at_once):
            records: list[Record] = [
                *(story.accepted(), story.started(), story.event(0), story.retrying()),
                *(story.event(1), story.started(2, "w-2", at=15), story.event(2)),
                *(story.event(0, attempt=2), story.finished(2, "w-2", at=20)),
                *(story.event(3, attempt=2), story.event(4)),
            ]
            for step in [records] if story is at_once else [[one] for one in records]:
                await record(master, *step)
            assert told(await feed.page(master, story.id))[2:-2] == [
                *((1, "progress"), (1, "retrying"), (2, "started"), (2, "progress"))
            ]

    async def test_a_lost_attempt_is_told_of(self, harness: MasterHarness) -> None:
        """And what it says after all changes nothing, but for who reads later, and for the end."""
        master = await harness.connect()
        story = Story()
        await record(master, story.accepted(), story.started(), story.event(0))
        await record(master, story.started(2, "w-2", at=40, lost=1), story.event(0, attempt=2))
        before = await feed.page(master, story.id)
        assert told(before)[2:] == [
            *((1, "progress"), (1, "lost"), (2, "started"), (2, "progress"))
        ]
        assert before[3].at == story.begin + 40
        await record(master, story.event(1), story.finished(1, "w-1", at=2))
        await record(master, story.event(1, attempt=2), story.finished(2, "w-2", at=41))
        after = await feed.page(master, story.id)
        # The first end counts: told where no reader is beyond it.
        assert told(after)[len(before) :] == [(2, "result"), (2, "succeeded")]
        assert after[: len(before)] == before
        assert Lifecycle.decode(after[-1].data).attempt == 1
        assert after[-2].data == b'{"by":"w-1"}'
        assert await by_pages(master, story.id, 1) == after

    async def test_ends_of_all_kinds_are_told(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        for state in (State.FAILED, State.CANCELLED, State.EXPIRED):
            story = Story()
            await record(master, story.accepted(), story.finished(state=state))
            *_, end = await feed.page(master, story.id)
            assert told([end]) == [(1, state.value)]
            error = Lifecycle.decode(end.data).error
            assert error is not None
            assert error.type == "OSError"

    async def test_what_is_said_before_the_start_is_known_waits(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, story.event(0))
        assert await feed.page(master, story.id) == []
        await record(master, story.accepted(), story.event(1))
        assert told(await feed.page(master, story.id)) == [(0, "enqueued")]
        await record(master, story.finished())
        assert told(await feed.page(master, story.id))[1:4] == [
            *((1, "started"), (1, "progress"), (1, "progress"))
        ]

    async def test_a_reader_follows_to_the_end(self, harness: MasterHarness) -> None:
        master, other = await harness.connect(), await harness.connect()
        story = Story()
        seen: list[EventInfo] = []
        changed = asyncio.Condition()

        async def read() -> None:
            async for event in feed.follow(other, SystemClock(), story.id):
                async with changed:
                    seen.append(event)
                    changed.notify_all()

        async def until(count: int) -> None:
            async with asyncio.timeout(PATIENCE), changed:
                await changed.wait_for(lambda: len(seen) >= count)

        reading = asyncio.create_task(read())
        await record(master, story.accepted(), story.started())
        await until(2)
        await record(master, *[story.event(n) for n in range(2500)])
        await until(2502)
        await record(master, story.finished())
        async with asyncio.timeout(PATIENCE):
            await reading
        assert seen == await by_pages(master, story.id, 1000)
        assert len(seen) == 2504

    async def test_a_forgotten_job_is_followed_no_more(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story(harness.now() - 1000)
        await record(master, story.accepted(), story.started())
        events = feed.follow(master, SystemClock(), story.id)
        async with asyncio.timeout(PATIENCE):
            assert told([await anext(events) for _ in range(2)])[-1] == (1, "started")
            await record(master, story.finished())
            await master.remove([story.id])
            assert [event async for event in events] == []

    async def test_many_are_watched(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        now = SystemClock().time()
        old, ours, others = Story(now), Story(now, lane="mail"), Story(now)
        await record(master, old.accepted(), old.started(), old.event(0))
        mail = feed.watch(master, SystemClock(), JobFilter(lane="mail"))
        every = feed.watch(master, SystemClock(), JobFilter())
        async with asyncio.timeout(PATIENCE):
            first, second = asyncio.ensure_future(anext(mail)), asyncio.ensure_future(anext(every))
            # Until they have had their first look, whatever comes may count as old.
            while not (first.done() and second.done()):
                await record(master, Story(now, lane="mail").accepted())
                await asyncio.wait([first, second], timeout=0.05)
            await record(master, old.event(1), others.accepted(), ours.accepted(), ours.started())
            await record(master, ours.event(0), ours.finished(state=State.FAILED))
            seen = []
            async for one in mail:
                if one.job.id == ours.id:
                    seen.append(one.event)
                    if one.event.seq == end_seq(1):
                        break
            assert seen == await feed.page(master, ours.id)
            kinds = []
            async for one in every:
                if one.job.id in (old.id, others.id):
                    kinds.append((one.job.id, one.event.kind))
                    if len(kinds) == 2:
                        break
            assert sorted(kinds) == sorted([(old.id, "progress"), (others.id, "lifecycle")])
        await mail.aclose()
        await every.aclose()

    async def test_kinds_are_kept_as_told(self, harness: MasterHarness) -> None:
        master = await harness.connect(persist_events=("log",), event_ttl=1.0)
        story = Story(harness.now())
        await record(master, story.accepted(), story.started())
        await record(master, story.event(0, "log"), story.event(1, "chunk"), story.event(2))
        kinds = [e.kind for e in await feed.page(master, story.id)]
        assert kinds == ["lifecycle", "lifecycle", "log", "chunk", "progress"]
        assert await master.sweep(0.0, 10) == 0
        await harness.pass_time(1.1)
        assert [await master.sweep(0.0, 1) for _ in range(3)] == [1, 1, 0]
        kinds = [e.kind for e in await feed.page(master, story.id)]
        assert kinds == ["lifecycle", "lifecycle", "log"]

    async def test_kinds_may_not_be_stored_at_all(self, harness: MasterHarness) -> None:
        master = await harness.connect(persist_events=("progress",), event_ttl=0.0)
        story = Story()
        await record(master, story.accepted(), story.started(), story.event(0, "chunk"))
        await record(master, story.event(1), story.event(2, "log"))
        kinds = [e.kind for e in await feed.page(master, story.id)]
        assert kinds == ["lifecycle", "lifecycle", "progress"]
