"""Whoever reads a job's events, and whenever: the same ones, in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mesh import feed
from mesh.events import Lifecycle, attempt_of
from mesh.job import State
from mesh.ports import EventInfo, JobInfo, MasterSettings
from mesh.testing.conformance.master import Story, record
from mesh.wire import Record
from mesh_master.store import SqlMaster


@st.composite
def lives(draw: st.DrawFn) -> list[Record]:
    """What a ledger may tell of one job: attempts that end by themselves, and such as are lost,
    whose worker goes on and says things while the next attempt runs, and after that."""
    story, at = Story(), 1.0
    records: list[Record] = [story.accepted()]
    zombies: list[Iterator[Record]] = []
    lost = 0
    for attempt in range(1, draw(st.integers(1, 4)) + 1):
        worker = f"w-{attempt}"
        of_attempt: list[Record] = []
        said = draw(st.integers(0, 4))
        fate = draw(st.sampled_from(["retrying", "lost", "lost", "finished"]))
        # A worker need not tell of the start of what it ends at once, and which said nothing.
        silent = not said and fate != "lost" and draw(st.booleans())
        if not silent:
            of_attempt.append(story.started(attempt, worker, at, lost))
        of_attempt += [story.event(n, attempt=attempt) for n in range(said)]
        end = at + 1
        last: Record = story.finished(
            attempt,
            worker,
            end,
            lost,
            draw(st.sampled_from([State.SUCCEEDED, State.FAILED])),
        )
        if fate == "retrying":
            last = story.retrying(attempt, worker, end, lost)
        more: list[Record] = []
        if not silent:
            more = [story.event(said + n, attempt=attempt) for n in range(2)]
        for one in of_attempt:
            records.append(one)
            for zombie in zombies:
                if draw(st.booleans()):
                    records += [late for late in (next(zombie, None),) if late is not None]
        if fate == "lost":
            zombies.append(iter([*more, last, *more]))
            lost += 1
        else:
            records += [*more, last]
            lost = 0
            if draw(st.booleans()):
                records += more  # of a thread that goes on
        at = end + 10
        if fate == "finished":
            break
    for zombie in zombies:
        records += zombie
    return records


class Busy(SqlMaster):
    """A master at which more is recorded while somebody reads."""

    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens after each step of a read."""

    async def get_jobs(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        found = await super().get_jobs(job_ids)
        await self._go_on()
        return found

    async def events(self, job_id: str, after: int = -1, limit: int = 1000) -> list[EventInfo]:
        found = await super().events(job_id, after, limit)
        await self._go_on()
        return found

    async def _go_on(self) -> None:
        if self.meanwhile is not None:
            await self.meanwhile()


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def master(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Busy]:
    master = Busy(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings())
    runner.run(master.open())
    yield master
    runner.run(master.close())


def test_a_reader_who_comes_and_goes_misses_nothing(runner: asyncio.Runner, master: Busy) -> None:
    async def read_on(job_id: str, seen: list[EventInfo], limit: int) -> None:
        seen += await feed.page(master, job_id, seen[-1].seq if seen else -1, limit)

    async def live(records: Sequence[Record], random: Random) -> None:
        (story_id,) = {getattr(r, "id", None) or r.job.id for r in records}  # type: ignore[union-attr]
        readers: list[list[EventInfo]] = [[], [], []]
        left = list(records)

        async def go_on() -> None:
            count = random.randint(1, 4)
            await record(master, *left[:count])
            del left[:count]

        while left:
            await go_on()
            for seen in readers:
                if random.random() < 0.5:
                    master.meanwhile = random.choice([None, go_on])
                    await read_on(story_id, seen, random.choice([1, 2, 1000]))
                    master.meanwhile = None
        whole = await feed.page(master, story_id)
        # The ledger may come again, whole or in part.
        await record(master, *records[random.randrange(len(records)) :])
        assert await feed.page(master, story_id) == whole
        for seen in readers:
            while len(seen) < len(whole):
                before = len(seen)
                await read_on(story_id, seen, 3)
                assert len(seen) > before, "it came behind a reader"
            assert [(e.seq, e.kind) for e in seen] == [(e.seq, e.kind) for e in whole]
            for one in seen:
                assert one.kind != "lifecycle" or Lifecycle.decode(one.data).event
            # Of an attempt that was lost it may be known only later that it failed.
            assert [e for e in seen if e.kind != "lifecycle"] == [
                e for e in whole if e.kind != "lifecycle"
            ]
        job = (await master.get_jobs([story_id]))[story_id]
        if job.finished_at is not None:
            assert b'"%s"' % job.state.encode() in whole[-1].data
            assert attempt_of(whole[-1].seq) >= job.attempt

    @settings(max_examples=60, deadline=None, phases=[Phase.generate])
    @given(lives(), st.randoms(use_true_random=False))
    def check(records: list[Record], random: Random) -> None:
        runner.run(live(records, random))

    check()


def test_a_zombie_ends_the_job_while_its_second_attempt_is_read(
    runner: asyncio.Runner, master: Busy
) -> None:
    story = Story()

    async def zombie_ends() -> None:
        await record(master, story.finished(1, "w-1", 20.0))

    async def check() -> None:
        first, second = story.started(1, "w-1", 1.0), story.started(2, "w-2", 10.0, 1)
        await record(master, story.accepted(), first, second)
        master.meanwhile = zombie_ends
        seen = await feed.page(master, story.id)
        master.meanwhile = None
        assert "succeeded" not in [Lifecycle.decode(one.data).event for one in seen]
        seen += await feed.page(master, story.id, seen[-1].seq)
        assert seen == await feed.page(master, story.id)
        assert Lifecycle.decode(seen[-1].data).event == "succeeded"

    runner.run(check())
