"""What a handler can see of its job."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from mesh import CannotDecrypt, Context, InvalidArguments, InvalidResult, Job, JobHandle, State
from mesh.codecs import Fernet
from mesh.codecs.base import seal
from mesh.context import DONE
from mesh.testing.conformance.agent import make_job
from mesh.wire import Envelope, Parent

from .conftest import MemoryMesh


def context_of(job: Envelope, app: MemoryMesh | None = None) -> Context[Any]:
    return Context(job, 2, 5, lambda kind, data, joins=False: DONE, app)


def test_a_job_with_everything() -> None:
    job = make_job(
        key="k", deadline=1_800_000_000.0, headers={"h": "1"}, workflow="w", parent="p", lane="mail"
    )
    ctx = context_of(job)
    assert (ctx.key, ctx.workflow, ctx.parent, ctx.headers) == ("k", "w", "p", {"h": "1"})
    assert ctx.deadline == datetime(2027, 1, 15, 8, 0, tzinfo=UTC)


def test_a_job_with_nothing() -> None:
    ctx = context_of(make_job())
    assert (ctx.key, ctx.workflow, ctx.parent, ctx.deadline) == (None,) * 4
    assert (ctx.headers, ctx.parents) == ({}, [])


def test_the_logger_is_bound(caplog: pytest.LogCaptureFixture) -> None:
    job = make_job()
    with caplog.at_level(logging.INFO):
        context_of(job).logger.info("half of %d", 10)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("mesh.job.conformance", "half of 10")
    fields = {key: vars(record)[key] for key in ("job_id", "job_name", "attempt", "lane")}
    assert fields == {"job_id": job.id, "job_name": job.name, "attempt": 2, "lane": job.lane}


PARENTS = [
    Parent("1", "one", State.SUCCEEDED, b'{"n":1}'),
    Parent("2", "two", State.FAILED),
]


def test_parents_have_results_as_json_and_typed() -> None:
    one, two = context_of(make_job(parents=PARENTS)).parents
    assert (one.id, one.name, one.state, one.result) == ("1", "one", State.SUCCEEDED, {"n": 1})
    assert one.result_as(dict[str, int]) == {"n": 1}
    assert (two.state, two.result) == (State.FAILED, None)
    with pytest.raises(InvalidResult, match=r"job 1 \(one\).* has another result than that"):
        one.result_as(list[int])
    with pytest.raises(InvalidResult, match=r"job 2 \(two\), which ended failed, has no result"):
        two.result_as(int)


def test_one_parents_result() -> None:
    ctx = context_of(make_job(parents=PARENTS))
    assert ctx.parent_result(dict[str, int], "one") == {"n": 1}
    with pytest.raises(LookupError, match=r"after 2 jobs but not one; it has: one, two"):
        ctx.parent_result(int)
    with pytest.raises(LookupError, match=r"name='tow'.* after 0 jobs of that name"):
        ctx.parent_result(int, "tow")
    assert context_of(make_job(parents=PARENTS[:1])).parent_result(dict) == {"n": 1}


def test_results_of_parents_are_decrypted() -> None:
    codec = Fernet(Fernet.new_key())
    sealed = make_job(parents=[Parent("1", "one", State.SUCCEEDED, seal(codec, b"[1]"))])
    assert context_of(sealed, MemoryMesh(codec=codec)).parent_result(list) == [1]
    with pytest.raises(CannotDecrypt):
        _ = context_of(sealed, MemoryMesh()).parents[0].result


class Ping(Job[int], name="ping"):
    n: int


async def test_children_remember_their_parent(app: MemoryMesh) -> None:
    @app.job
    async def work(n: int) -> None: ...

    ctx = context_of(make_job(), app)
    handles: list[JobHandle[Any]] = [
        await ctx.enqueue(work, 1),
        await ctx.enqueue(work.options(meta={"a": "b"}), n=2),
        await ctx.enqueue(Ping(3), timeout=5),
        await work.enqueue(4),
    ]
    jobs = {job.id: job for job in await app.taken()}
    children = [jobs[handle.id] for handle in handles]
    assert [job.parent for job in children] == [ctx.job_id] * 3 + [None]
    assert (children[1].meta, children[2].timeout) == ({"a": "b"}, 5)
    with pytest.raises(InvalidArguments, match="give a handler with its arguments"):
        await ctx.enqueue("work")  # type: ignore[call-overload]
