"""Workflows, as callers see them, on whole clusters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import (
    ConfigError,
    Context,
    InvalidArguments,
    JobCancelled,
    Mesh,
    State,
    Workflow,
    chain,
    group,
)
from mesh.retry import NO_RETRY

from .cluster_rig import PATIENCE, Rig


def make_app(rig: Rig) -> tuple[Mesh, list[str]]:
    app, ran = rig.app(transient_threshold=1), []

    @app.job
    async def make(n: int) -> dict[str, int]:
        ran.append(f"make {n}")
        return {"n": n}

    @app.job
    async def double(made: dict[str, int], times: int = 2) -> dict[str, int]:
        ran.append(f"double {made['n']}")
        return {"n": made["n"] * times}

    @app.job
    async def total(parts: list[dict[str, int]], extra: int = 0) -> int:
        return sum(part["n"] for part in parts) + extra

    @app.job
    async def note(text: str) -> str:
        ran.append(text)
        return text

    @app.job(retry=NO_RETRY)
    async def fail(why: str) -> None:
        raise ValueError(why)

    @app.job
    async def parents(ctx: Context) -> list[str]:
        return [f"{p.name} {p.state} {p.result!r}" for p in ctx.parents]

    return app, ran


async def test_a_chain_feeds_each_result_to_the_next(rig: Rig) -> None:
    app, ran = make_app(rig)
    h = app.handlers
    async with rig.running(app):
        flow = await chain(
            h["make"].draft(3), h["double"].draft(), h["double"].draft(times=5)
        ).enqueue()
        assert await flow.result(PATIENCE) == {"n": 30}
        assert list(flow.jobs) == ["make", "double", "double-2"]
        last = await flow.jobs["double-2"].info()
        assert (last.payload, last.workflow) == (b'{"made":{"n":6},"times":5}', flow.id)
    assert ran == ["make 3", "double 3", "double 6"]


async def test_a_group_and_what_gathers_it(rig: Rig) -> None:
    app, _ = make_app(rig)
    h = app.handlers
    async with rig.running(app):
        parts = group(*(h["make"].draft(n) for n in range(10)))
        flow = await parts.then(h["total"].draft(extra=1)).enqueue()
        assert await flow.result(PATIENCE) == 46
        fan = group(h["double"].draft(), h["double"].draft(3))
        flow = await chain(h["make"].draft(7), fan, h["total"].draft()).enqueue()
        assert await flow.result(PATIENCE) == 7 * 2 + 7 * 3
        both = await group(h["make"].draft(1), h["make"].draft(2)).enqueue()
        assert await both.result(PATIENCE) == [{"n": 1}, {"n": 2}]


async def test_a_graph_with_names(rig: Rig) -> None:
    app, ran = make_app(rig)
    h = app.handlers
    flow = Workflow()
    a = flow.add(h["make"].draft(1), name="a")
    b = flow.add(h["fail"].draft("no disk"), name="b")
    both = flow.add(h["total"].draft(), name="both", after=[a, b], feed="parts")
    flow.add(h["note"].draft("cleaned"), name="clean", after=b, on="failure")
    flow.add(h["note"].draft("never"), name="never", after=both)
    flow.add(h["parents"].draft(), name="end", after=[a, b], on="finished")
    async with rig.running(app):
        running = await flow.enqueue()
        assert await running.jobs["clean"].result(PATIENCE) == "cleaned"
        seen = await running.jobs["end"].result(PATIENCE)
        assert seen == ["a succeeded {'n': 1}", "b failed None"]
        for name in ("both", "never"):
            with pytest.raises(JobCancelled, match="it was to run after the success of job"):
                await running.jobs[name].result(PATIENCE)
    assert "never" not in ran


async def test_after_an_ordinary_job(rig: Rig) -> None:
    app, ran = make_app(rig)
    h = app.handlers
    async with rig.running(app):
        first = await h["note"].enqueue("first")
        second = await h["note"].options(after=first).enqueue("second")
        third = await h["note"].options(after=[first.id, second], on="finished").enqueue("third")
        assert await third.result(PATIENCE) == "third"
    assert ran == ["first", "second", "third"]


async def test_cancelling_all_of_it(rig: Rig) -> None:
    app, _ = make_app(rig)
    h, begun, ended = app.handlers, asyncio.Event(), asyncio.Event()

    @app.job
    async def hang(n: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with rig.running(app):
        flow = await chain(hang.draft(1), h["note"].draft("a").alone(), h["note"].draft()).enqueue()
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
            assert await flow.cancel("wrong numbers") == 3
            await ended.wait()
        for job in flow:
            with pytest.raises(JobCancelled, match="wrong numbers"):
                await job.result(PATIENCE)
        assert await flow.states() == {State.CANCELLED: 3}
        same = await app.workflow(flow.id)
        assert {job.id for job in same} == {job.id for job in flow}
        with pytest.raises(ConfigError, match="was looked up"):
            await same.result()
        assert await same.cancel() == 0


async def test_doing_again_what_did_not_succeed(rig: Rig) -> None:
    app, ran = make_app(rig)
    h, broken = app.handlers, True

    @app.job(retry=NO_RETRY)
    async def shaky(made: dict[str, int]) -> dict[str, int]:
        if broken:
            raise OSError("no disk")
        return {"n": made["n"] + 1}

    async with rig.running(app):
        flow = await chain(h["make"].draft(1), shaky.draft(), h["double"].draft()).enqueue()
        with pytest.raises(JobCancelled, match="no disk"):
            await flow.result(PATIENCE)
        broken = False
        again = {job.name: job for job in await flow.retry()}
        assert again.keys() == {"shaky", "double"}
        assert await again["double"].result(PATIENCE) == {"n": 4}
        assert await flow.retry() == []
    assert ran == ["make 1", "double 2"]


async def test_a_workflow_is_stored_whole_or_not_at_all(rig: Rig) -> None:
    app, _ = make_app(rig)
    h = app.handlers
    with pytest.raises(InvalidArguments, match="takes 0 positional arguments"):
        await chain(h["make"].draft(1), h["note"].draft("two", "many")).enqueue()
    with pytest.raises(InvalidArguments, match="missing"):
        await chain(h["make"].draft(), h["double"].draft()).enqueue()
    assert await (await app.master()).count_jobs() == {}
    flow = await chain(h["note"].draft("a"), h["note"].draft("b").alone()).enqueue()
    assert await (await app.master()).count_jobs() == {State.SCHEDULED: 1, State.WAITING: 1}
    assert (await flow.jobs["note-2"].info()).payload == b'{"text":"b"}'
    await app.close()


@pytest.mark.parametrize("count", [10_000])
async def test_many_children_complete(rig: Rig, count: int) -> None:
    app, _ = make_app(rig)
    h = app.handlers
    async with rig.running(app):
        fan = group(*(h["double"].draft(times=n) for n in range(count)))
        flow = await chain(h["make"].draft(1), fan, h["total"].draft()).enqueue()
        assert await flow.result(3 * PATIENCE) == sum(range(count))


def test_what_makes_no_sense_is_refused(rig: Rig) -> None:
    app, _ = make_app(rig)
    make, other = app.handlers["make"], make_app(rig)[0].handlers["make"]
    flow, elsewhere = Workflow(), Workflow()
    node = elsewhere.add(make.draft(1))
    wrong: list[tuple[Any, str]] = [
        (lambda: chain(), "at least one step"),
        (lambda: group(make), "a step is handler.draft"),  # type: ignore[arg-type]
        (lambda: flow.add(make.draft(1), after=node), "'make' is not of this workflow"),
        (lambda: flow.add(make.draft(1), feed="n"), "there is nothing that it runs after"),
        (lambda: elsewhere.add(make.draft(1), name="make"), "two jobs .* are named 'make'"),
        (lambda: flow.add(make.options(key="k").draft(1)), "cannot have key"),
        (lambda: asyncio.run(flow.enqueue()), "has no jobs"),
        (lambda: asyncio.run(group(make.draft(1), other.draft(1)).enqueue()), "all be of one app"),
    ]
    for build, message in wrong:
        with pytest.raises(ConfigError, match=message):
            build()
