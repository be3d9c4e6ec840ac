"""The behavioural suite of what a ``Master`` counts."""

from __future__ import annotations

import asyncio
from dataclasses import astuple, replace
from typing import Any

import pytest

from mesh.errors import ConfigError
from mesh.filter import JobFilter
from mesh.job import State
from mesh.ports import RUN_TIMES, Bucket, Master
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.master import MasterHarness, Story, record
from mesh.wire import ErrorInfo, Finished

__all__ = ["StatisticsConformance"]

MINUTE, HOUR = 60.0, 3600.0
FOR_LONG = 1e9


def failed(story: Story, message: str, at: float = 2, kind: str = "OSError") -> Finished:
    end = story.finished(state=State.FAILED, at=at)
    return Finished(
        **{f: getattr(end, f) for f in end.__struct_fields__ if f != "error"},
        error=ErrorInfo(kind, message),
    )


def place(seconds: float) -> int:
    return sum(seconds >= bound for bound in RUN_TIMES)


async def whole(master: Master, since: float, until: float, **more: Any) -> list[Bucket]:
    """A series by the minute, of spans in which something happened."""
    series = await master.series(since, until, MINUTE, **more)
    return [b for b in series if b != Bucket(b.at, b.key)]


class StatisticsConformance:
    """Subclass beside ``MasterConformance``: it uses the same ``harness`` fixture."""

    async def test_things_count_in_the_minute_in_which_they_happened(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        begin = harness.now() // HOUR * HOUR
        stories = [Story(begin + 50 + n) for n in range(4)]
        await record(master, *[s.accepted() for s in stories])
        await record(master, stories[0].started(at=5), stories[1].started(at=3))
        await record(master, stories[0].finished(at=6), stories[1].retrying(at=4))
        await record(master, stories[1].finished(attempt=2, at=200, state=State.FAILED))
        await record(master, stories[2].finished(at=70, state=State.CANCELLED))
        first, second, third, *_, last = await master.series(begin, begin + 5 * MINUTE, MINUTE)
        assert [first.at, second.at, last.at] == [begin, begin + 60, begin + 240]
        assert (first.key, first.enqueued, first.started) == (None, 4, 2)
        assert (first.succeeded, first.retried) == (1, 1)
        # The wait of the attempt that was retried is not known any more.
        assert (first.waits, first.waited) == (1, 5.0)
        assert second == Bucket(begin + 60, None)
        assert (third.cancelled, third.started, third.waits, third.waited) == (1, 1, 1, 69.0)
        # Due ten seconds after the first attempt's end.
        assert (last.failed, last.started, last.waited) == (1, 1, 185.0)
        for bucket, runs in ((first, 2), (third, 1), (last, 1)):
            assert bucket.seconds == runs
            assert sum(bucket.histogram) == bucket.histogram[place(1.0)] == runs

    async def test_what_comes_again_counts_once(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        begin = harness.now() // HOUR * HOUR
        stories = [Story(begin + 10) for _ in range(5)]
        records = [r for s in stories for r in (s.accepted(), s.started(), s.finished())]
        await record(master, *records)
        before = await whole(master, begin, begin + MINUTE)
        assert [(b.enqueued, b.started, b.succeeded) for b in before] == [(5, 5, 5)]
        await record(master, *records)
        late = [s.finished(worker="w-9", at=30, state=State.FAILED) for s in stories]
        await record(master, *late[:1])
        (after,) = await whole(master, begin, begin + MINUTE)
        assert (after.enqueued, after.succeeded, after.failed) == (5, 5, 0)
        # A zombie's attempt ran, whatever became of it.
        assert after.started == 6
        assert await master.count_jobs() == {State.SUCCEEDED: 5}

    async def test_a_series_is_of_some_or_by_some(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        begin = harness.now() // HOUR * HOUR
        kinds = [("a.b", "x"), ("a.c", "x"), ("b", "x"), ("b", "y")]
        await record(
            master,
            *[Story(begin + n, name=kinds[n][0], lane=kinds[n][1]).accepted() for n in range(4)],
        )
        until = begin + 2 * MINUTE
        for of, count in (({}, 4), ({"name": "b"}, 2), ({"name": "a.*"}, 2), ({"lane": "x"}, 3)):
            (bucket,) = await whole(master, begin, until, **of)
            assert bucket.enqueued == count
        by_name = await master.series(begin, until, MINUTE, by="name")
        assert [(b.key, b.at - begin, b.enqueued) for b in by_name] == [
            (key, at, count if at == 0 else 0)
            for key, count in (("a.b", 1), ("a.c", 1), ("b", 2))
            for at in (0, 60)
        ]
        by_lane = await master.series(begin, until, 2 * MINUTE, by="lane", name="b")
        assert [(b.key, b.enqueued) for b in by_lane] == [("x", 1), ("y", 1)]
        assert await master.series(begin - HOUR, begin, MINUTE, by="lane") == []
        assert await master.series(begin - HOUR, begin, HOUR) == [Bucket(begin - HOUR, None)]

    async def test_spans_begin_at_multiples_of_the_step(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        begin = harness.now() // HOUR * HOUR
        await record(master, *[Story(begin + n * 60).accepted() for n in range(60)])
        series = await master.series(begin + 61, begin + HOUR - 1, 900)
        assert [(b.at - begin, b.enqueued) for b in series] == [
            (0, 15), (900, 15), (1800, 15), (2700, 15)
        ]  # fmt: skip
        for step in (0, 30, 90.5, -60):
            with pytest.raises(ConfigError, match="by the minute"):
                await master.series(begin, begin + HOUR, step)
        with pytest.raises(ConfigError, match="up to 5000"):
            await master.series(0, begin, HOUR)
        assert await master.series(begin, begin, MINUTE) == []

    async def test_what_is_rolled_up_tells_the_same(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        now = harness.now() // HOUR * HOUR
        recent, old = now - HOUR, now - 72 * HOUR
        await record(master, *[Story(old + n * 60).accepted() for n in range(60)])
        await record(master, *[Story(recent + n * 60).accepted() for n in range(60)])
        before = await whole(master, recent, now)
        assert len(await whole(master, old, old + HOUR)) == 60
        # In as many steps as it takes, and from two sides at once.
        other = await harness.connect()
        while any(await asyncio.gather(master.roll_up(FOR_LONG, 7), other.roll_up(FOR_LONG, 7))):
            pass
        assert await whole(master, recent, now) == before
        (hour,) = await whole(master, old, old + HOUR)
        assert (hour.at, hour.enqueued) == (old, 60)
        assert (await master.count_jobs()) == {State.QUEUED: 120}
        while await master.roll_up(48 * HOUR, 7):
            pass
        assert await whole(master, old, old + HOUR) == []
        assert await whole(master, recent, now) == before

    async def test_jobs_that_are_forgotten_happened(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        begin = harness.now() // HOUR * HOUR
        story, other = Story(begin), Story(begin)
        await record(master, story.accepted(), story.finished(), other.accepted())
        before = await whole(master, begin, begin + MINUTE)
        assert await master.remove([story.id]) == {story.id}
        assert await whole(master, begin, begin + MINUTE) == before
        assert await master.count_jobs() == {State.QUEUED: 1}

    async def test_counts_by_what_is_counted_and_by_the_rest_agree(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        stories = [Story(name=f"n.{n % 3}", lane="xy"[n % 2]) for n in range(12)]
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.finished(state=State.FAILED) for s in stories[:5]])
        await master.hold([make_job(name="n.1", lane="x", due_at=harness.now() + 60)])
        await master.cancel([stories[7].id], "no")
        for where in (
            JobFilter(),
            JobFilter(states=[State.FAILED, State.QUEUED]),
            JobFilter(name="n.1"),
            JobFilter(name="n.*", lane="x", states=[State.SCHEDULED]),
            JobFilter(app="n.", lane="y"),
            JobFilter(order="finished"),
        ):
            by_row = await master.count_jobs(replace(where, since=0.0))
            assert await master.count_jobs(where) == by_row, where

    # failures --------------------------------------------------------------------------------

    async def test_failures_that_look_alike_are_one_group(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        begin = 1_800_000_000.0
        one = [Story(begin, name="mail") for _ in range(7)]
        two, three = Story(begin, name="mail"), Story(begin, name="bill")
        for n, story in enumerate(one):
            await record(master, story.accepted(), failed(story, f"user {n} of 'x{n}'", at=2 + n))
        await record(master, two.accepted(), failed(two, "user unknown", at=20))
        await record(master, three.accepted(), failed(three, "user 9 of 'x'", at=30))
        retried = Story(begin, name="mail")
        await record(master, retried.accepted(), retried.retrying())
        groups = await master.failures()
        assert [(g.name, g.error_type, g.message, g.count) for g in groups] == [
            ("mail", "OSError", "user 6 of 'x6'", 7),
            ("bill", "OSError", "user 9 of 'x'", 1),
            ("mail", "OSError", "user unknown", 1),
        ]
        first = groups[0]
        assert (first.first_at, first.last_at) == (begin + 2, begin + 8)
        assert first.job_ids == tuple(s.id for s in reversed(one[2:]))
        where = JobFilter(fingerprint=first.fingerprint)
        assert {job.id for job in await master.list_jobs(where)} == {s.id for s in one}
        assert await master.count_jobs(where) == {State.FAILED: 7}
        assert {j.fingerprint for j in await master.list_jobs(where)} == {first.fingerprint}
        await master.retry([one[0].id])
        assert [g.retried for g in await master.failures()] == [1, 0, 0]
        assert [g.count for g in await master.failures(begin + 7)] == [2, 1, 1]
        assert len(await master.failures(limit=2)) == 2
        assert await master.failures(begin + 31) == []

    async def test_a_failure_without_an_error_is_one_too(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        end = story.finished(state=State.FAILED)
        bare = Finished(**{f: getattr(end, f) for f in end.__struct_fields__ if f != "error"})
        await record(master, story.accepted(), bare)
        (group,) = await master.failures()
        assert astuple(group)[1:5] == (story.job.name, None, None, 1)
