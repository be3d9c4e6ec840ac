"""``app.jobs``, ``app.retry`` and ``app.remove``, and the same of one job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mesh import Mesh, State
from mesh.errors import (
    ClusterArchived,
    ConfigError,
    InvalidArguments,
    JobNotEnded,
    JobNotFound,
    JobRetried,
    PayloadTooLarge,
)
from mesh.filter import JobFilter
from mesh.history import parse_where
from mesh.job import new_job_id
from mesh.settings import Mode
from mesh.testing.conformance.master import Story, record


class Shop(Mesh):
    """A handler, an agent that nobody works on, and a history."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            master=f"sqlite:///{folder / 'master.db'}",
            agents={"m": f"memory://{new_job_id()}"},
            payload_limit=2000,
        )

        @self.job
        async def work(n: int) -> int:
            return n

        self.work = work

    async def ended(self, count: int = 1, age: float = 60.0, **of: Any) -> list[Story]:
        state = of.pop("state", State.FAILED)
        now = self.now()
        of = {"name": "work", "payload": b'{"n":1}'} | of
        stories = [Story(now - age - 2, **of) for _ in range(count)]
        master = await self.master()
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.finished(state=state) for s in stories])
        return stories


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path) as app:
        yield app


# looking -----------------------------------------------------------------------------------------


async def test_jobs_are_found_over_many_pages(app: Shop) -> None:
    stories = await app.ended(1200)
    other = (await app.ended(state=State.SUCCEEDED, meta={"tenant": "7"}))[0]
    found = [job async for job in app.jobs(state="failed")]
    assert {job.id for job in found} == {story.id for story in stories}
    assert len(found) == 1200
    first = found[0]
    assert first.seen is not None
    assert (first.name, first.seen.error_type) == ("work", "OSError")
    assert [job.id async for job in app.jobs(meta={"tenant": "7"})] == [other.id]
    assert len([job async for job in app.jobs(limit=700)]) == 700
    assert await app.count(name="wo*") == {State.FAILED: 1200, State.SUCCEEDED: 1}
    job = await app.get_job(other.id)
    assert job.seen is not None
    assert job.seen.meta == {"tenant": "7"}


async def test_times_are_moments_or_ages(app: Shop) -> None:
    old, new = (await app.ended(age=7200))[0], (await app.ended(age=60))[0]
    since = timedelta(hours=1)
    assert [job.id async for job in app.jobs(state=["failed"], since=since)] == [new.id]
    assert [job.id async for job in app.jobs(state=["failed"], until=since)] == [old.id]
    moment = datetime.fromtimestamp(app.now() - 3600, UTC)
    assert [job.id async for job in app.jobs(since=moment)] == [new.id]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"stat": "failed"}, r"unknown option 'stat'; did you mean 'state'"),
        ({"state": "faild"}, "unknown state 'faild'; did you mean 'failed'"),
        ({"since": 3600}, "since=3600: must be a datetime with a time zone, or a timedelta"),
        ({"until": datetime(2026, 1, 1)}, "until=...: 2026-01-01T00:00:00 has no time zone"),
        ({"order": "finish"}, "order='finish'; did you mean 'finished'"),
        ({"parent": "7"}, "'7' is not a UUID"),
        ({"state": "running", "order": "finished"}, "running has not"),
    ],
)
def test_what_is_asked_wrongly_is_told(where: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_where(where, 1e9)


def test_what_is_not_given_means_any() -> None:
    assert parse_where({"name": None, "state": None}, 1e9) == JobFilter()


# again -------------------------------------------------------------------------------------------


async def test_a_job_is_done_again(app: Shop) -> None:
    (story,) = await app.ended()
    job = await app.get_job(story.id)
    again = await job.retry()
    assert (again.name, await again.status()) == ("work", State.SCHEDULED)
    info = await again.info()
    assert (info.retry_of, info.payload) == (story.id, b'{"n":1}')
    assert (await job.info()).retried_as == again.id
    with pytest.raises(JobRetried, match=f"as job {again.id}: retry that one") as caught:
        await job.retry()
    assert caught.value.retried_as == again.id


async def test_what_went_well_may_be_done_again_with_other_arguments(app: Shop) -> None:
    (story,) = await app.ended(state=State.SUCCEEDED)
    job = await app.get_job(story.id)
    with pytest.raises(InvalidArguments, match="handler 'work', arguments"):
        await job.retry(payload={"n": "x"})
    with pytest.raises(InvalidArguments, match="must map"):
        await job.retry(payload=[1])  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match="'n' cannot be encoded"):
        await job.retry(payload={"n": object()})
    with pytest.raises(PayloadTooLarge, match="limit is 2000"):
        await job.retry(payload={"n": "x" * 3000})
    again = await job.retry(payload={"n": 2})
    assert (await again.info()).payload == b'{"n":2}'


async def test_what_cannot_be_done_again_says_why(app: Shop) -> None:
    waiting = await app.work.options(delay=3600).enqueue(1)
    with pytest.raises(JobNotEnded, match="is scheduled: only an ended job"):
        await waiting.retry()
    bare = Story(name="work")
    await record(await app.master(), bare.finished())
    job = await app.get_job(bare.id)
    with pytest.raises(InvalidArguments, match=r"retry\(payload=\{\.\.\.\}\)"):
        await job.retry()
    assert (await (await job.retry(payload={"n": 3})).info()).payload == b'{"n":3}'
    await job.remove()
    with pytest.raises(JobNotFound):
        await job.retry()


async def test_many_are_done_again(app: Shop) -> None:
    await app.ended(700)
    await app.ended(3, state=State.SUCCEEDED)
    await app.ended(2, name="other")
    again = await app.retry(name="work")
    assert len({job.id for job in again}) == 700
    assert await app.count(state="scheduled") == {State.SCHEDULED: 700}
    assert await app.retry(name="work") == []
    # Encrypted or of a handler that is not here: as it was.
    assert len(await app.retry(state="failed")) == 2
    assert len(await app.retry(state="succeeded")) == 3


async def test_many_with_other_arguments_are_checked_first(app: Shop) -> None:
    await app.ended(3)
    with pytest.raises(InvalidArguments, match="handler 'work'"):
        await app.retry(state="failed", payload={"m": 1})
    assert await app.count(retried=True) == {}
    again = await app.retry(state="failed", payload={"n": 9})
    assert {(await job.info()).payload for job in again} == {b'{"n":9}'}


async def test_an_archive_does_nothing_again(app: Shop) -> None:
    (story,) = await app.ended()
    master = await app.master()
    await master.change_settings(lambda s: replace(s, mode=Mode.ARCHIVE))
    with pytest.raises(ClusterArchived):
        await (await app.get_job(story.id)).retry()
    with pytest.raises(ClusterArchived):
        await app.retry(state="failed")
    assert await app.count(retried=True) == {}


async def test_encrypted_arguments_are_passed_on_as_they_are(app: Shop) -> None:
    payload = b'{"$encrypted":"gAAAAAB"}'
    (story,) = await app.ended(payload=payload)
    again = await (await app.get_job(story.id)).retry()
    assert (await again.info()).payload == payload


@pytest.mark.parametrize("what", ["retry", "remove"])
async def test_bulk_must_be_told_which(app: Shop, what: str) -> None:
    with pytest.raises(ConfigError, match="needs to know which jobs"):
        await getattr(app, what)()
    with pytest.raises(ConfigError, match="running has not ended; cancel it first"):
        await getattr(app, what)(state=["failed", "running"])
    with pytest.raises(ConfigError, match=rf"app.{what}\(\): unknown option 'lan'"):
        await getattr(app, what)(lan="x")


# forgetting --------------------------------------------------------------------------------------


async def test_jobs_are_removed(app: Shop) -> None:
    one, *_ = await app.ended(600, age=7200)
    await app.ended(5)
    waiting = await app.work.options(delay=3600).enqueue(1)
    await (await app.get_job(one.id)).remove()
    with pytest.raises(JobNotEnded, match="is scheduled, and stays: it has not ended"):
        await waiting.remove()
    assert await app.remove(name="work", until=timedelta(hours=1), order="finished") == 599
    assert await app.count() == {State.FAILED: 5, State.SCHEDULED: 1}


def test_code_without_a_loop(tmp_path: Path) -> None:
    app = Shop(tmp_path)
    (story,) = app.sync(app.ended())
    (job,) = list(app.sync.iterate(app.jobs(state="failed")))
    assert job.id == story.id
    again = app.sync(job.retry())
    assert app.sync(again.info()).retry_of == story.id
    assert app.sync(app.remove(state="failed")) == 1
    app.sync.close()


async def test_how_long_a_job_is_kept_is_an_option(app: Shop) -> None:
    @app.job(result_ttl=3600)
    async def short(n: int) -> int:
        return n

    kept = [await short.options(delay=900).enqueue(1)]
    kept.append(await short.options(delay=900, result_ttl=86_400).enqueue(1))
    kept.append(await app.work.options(delay=900).enqueue(1))
    assert [(await job.info()).result_ttl for job in kept] == [3600, 86_400, None]
    app.schedule(short, "every day", 1)
    app.schedule(short, "every day", 1, name="longer", result_ttl=7200)
    made = [
        definition.job("s", new_job_id(), now=0.0) for definition in app.schedules.declared.values()
    ]
    assert [job.result_ttl for job in made] == [3600, 7200]
    with pytest.raises(ConfigError, match=r"result_ttl=5: must be a number of seconds, 60 or more"):
        app.work.options(result_ttl=5)
