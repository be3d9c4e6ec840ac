"""Following jobs tells what is new, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.filter import JobFilter
from mesh.job import State
from mesh.ports import MasterSettings
from mesh.testing import ManualClock
from mesh.testing.conformance.master import Story, record
from mesh_master.store import SqlMaster
from mesh_master.tail import News, follow, follow_one

PATIENCE = 30.0


class LookingClock(ManualClock):
    """Says when a look is over."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.looked.release()
        await super().sleep(seconds)


class Following:
    """What is told, look by look."""

    def __init__(self, clock: LookingClock, news: AsyncIterator[News]) -> None:
        self._clock = clock
        self._news = news
        self._told: list[News] = []
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for one in self._news:
            self._told.append(one)

    async def first(self) -> list[tuple[str, str]]:
        """What has been told by the end of the first look: whose, and what."""
        async with asyncio.timeout(PATIENCE):
            await self._clock.looked.acquire()
        await asyncio.sleep(0)  # its pause begins behind us in the loop
        told, self._told[:] = [(one.job_id, one.kind) for one in self._told], []
        return told

    async def look(self) -> list[tuple[str, str]]:
        """What one more look tells."""
        self._clock.advance(0.5)
        return await self.first()

    async def end(self) -> list[tuple[str, str]]:
        """What one more look tells, which is the last."""
        self._clock.advance(0.5)
        async with asyncio.timeout(PATIENCE):
            await self._task
        return [(one.job_id, one.kind) for one in self._told]

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
def clock() -> LookingClock:
    return LookingClock()


@pytest.fixture
async def master(tmp_path: Path, clock: LookingClock) -> AsyncIterator[SqlMaster]:
    master = SqlMaster(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings(clock=clock))
    await master.open()
    yield master
    await master.close()


async def test_many_are_followed(master: SqlMaster, clock: LookingClock) -> None:
    old, new, fast = (Story(clock.time()) for _ in range(3))
    await record(master, old.accepted(), old.started(), old.event(0))
    following = Following(clock, follow(master, JobFilter(), clock))
    assert await following.first() == []
    await record(master, new.accepted(), old.event(1))
    assert sorted(await following.look()) == sorted([(old.id, "progress"), (new.id, "queued")])
    assert await following.look() == []
    await record(master, fast.accepted(), fast.event(0), fast.finished())
    await record(master, old.retrying())
    told = await following.look()
    assert [kind for job_id, kind in told if job_id == fast.id] == ["progress", "succeeded"]
    assert [kind for job_id, kind in told if job_id == old.id] == ["retrying"]
    await record(master, old.started(2, "w-2", at=5))
    assert await following.look() == [(old.id, "running")]
    await following.stop()


async def test_those_are_followed_that_were_asked_for(
    master: SqlMaster, clock: LookingClock
) -> None:
    ours, others = Story(clock.time(), lane="mail"), Story(clock.time())
    failed = JobFilter(lane="mail", states=[State.FAILED])
    following = Following(clock, follow(master, failed, clock))
    assert await following.first() == []
    await record(master, ours.accepted(), others.accepted(), ours.started())
    assert await following.look() == []
    await record(master, *[s.finished(state=State.FAILED) for s in (ours, others)])
    assert await following.look() == [(ours.id, "failed")]
    await following.stop()


async def test_one_is_followed_to_its_end(master: SqlMaster, clock: LookingClock) -> None:
    story = Story(clock.time())
    await record(master, story.accepted(), story.started(), story.event(0))
    job = (await master.get_jobs([story.id]))[story.id]
    following = Following(clock, follow_one(master, job, clock))
    assert await following.first() == [(story.id, "running"), (story.id, "progress")]
    await record(master, story.event(1, "log"), story.finished())
    assert await following.end() == [(story.id, "succeeded"), (story.id, "log")]


async def test_one_that_is_forgotten_is_followed_no_more(
    master: SqlMaster, clock: LookingClock
) -> None:
    story = Story(clock.time())
    await record(master, story.accepted(), story.started())
    job = (await master.get_jobs([story.id]))[story.id]
    following = Following(clock, follow_one(master, job, clock))
    assert await following.first() == [(story.id, "running")]
    await record(master, story.finished())
    assert await master.remove([story.id]) == {story.id}
    assert await following.end() == []
