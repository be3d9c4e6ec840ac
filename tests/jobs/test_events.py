"""Events on whole clusters: what handlers say is what readers see."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from mesh import Context, JobHandle, Retry
from mesh.codecs import Fernet
from mesh.events import Lifecycle, attempt_of
from mesh.ports import EventInfo
from mesh_workers.keeper import LeaseKeeper
from mesh_workers.lane import Lane

from .cluster_rig import PATIENCE, Rig

EACH = 10_000
"""Events of an attempt."""


def said(events: list[EventInfo], kind: str) -> list[Any]:
    return [json.loads(event.data) for event in events if event.kind == kind]


def life(events: list[EventInfo]) -> list[tuple[str, int]]:
    moments = [Lifecycle.decode(event.data) for event in events if event.kind == "lifecycle"]
    return [(one.event, one.attempt) for one in moments]


async def all_events(job: JobHandle[Any]) -> list[EventInfo]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in job.events()]


@pytest.mark.timeout(240)
async def test_who_comes_and_goes_sees_each_event_once_and_in_order(rig: Rig) -> None:
    """20,000 events of two attempts, of kinds that are persisted and that are not."""
    app = rig.app(persist_events=("chunk",))
    random = Random(20_000)

    @app.job(retry=Retry(2, delay=0.05))
    async def talk(ctx: Context[Any]) -> str:
        for number in range(EACH):
            if number % 2:
                await ctx.chunk([ctx.attempt, number])
            else:
                await ctx.metric("number", number)
        if ctx.attempt == 1:
            raise ValueError("again")
        return "done"

    seen: list[EventInfo] = []

    async def read_on(count: int) -> bool:
        """Read so many more; whether the job has ended."""
        async with aclosing(job.events(seen[-1].seq if seen else -1)) as events:  # type: ignore[type-var]
            async for event in events:
                seen.append(event)
                count -= 1
                if not count:
                    return False
        return True

    async with rig.running(app):
        job = await talk.enqueue()
        async with asyncio.timeout(200):
            for _ in range(200):
                assert not await read_on(random.randint(1, 199))
            while not await read_on(5000):
                pass
        whole = await all_events(job)
    assert [e.seq for e in seen] == sorted({e.seq for e in seen})
    assert seen == whole
    assert said(seen, "chunk") == [[a, n] for a in (1, 2) for n in range(1, EACH, 2)]
    assert [m["value"] for m in said(seen, "metric")] == [*range(0, EACH, 2)] * 2
    assert life(seen) == [
        *(("enqueued", 1), ("started", 1), ("retrying", 1), ("started", 2), ("succeeded", 2))
    ]
    assert said(seen, "result") == ["done"]


async def test_text_is_whole_however_it_is_cut(rig: Rig) -> None:
    app = rig.app(event_size=1000)
    words = [f"wörd-{number} " for number in range(5000)]

    @app.job
    async def speak(ctx: Context[Any]) -> None:
        for word in words:
            await ctx.chunk(word)
        await ctx.chunk("long " * 1000)

    async with rig.running(app):
        events = await all_events(await speak.enqueue())
    chunks = [event for event in events if event.kind == "chunk"]
    assert "".join(json.loads(event.data) for event in chunks) == "".join(words) + "long " * 1000
    assert len(chunks) < len(words)
    assert max(len(event.data) for event in chunks) <= 1000


@pytest.mark.parametrize("first_end", ["zombie", "successor"])
async def test_a_zombie_is_heard_until_another_has_begun(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, first_end: str
) -> None:
    """A worker that lost its lease goes on with the job: readers see one order, and one end."""
    monkeypatch.setattr(LeaseKeeper, "hold", lambda *_: None)  # nothing is extended
    # One worker plays both: it would not run again what it is running.
    monkeypatch.setattr(Lane, "_is_here", lambda *_: False)
    app = rig.app(lease=1.0)
    second_runs, go_on = asyncio.Event(), {1: asyncio.Event(), 2: asyncio.Event()}
    over = {1: asyncio.Event(), 2: asyncio.Event()}

    @app.job
    async def work(ctx: Context[Any]) -> int:
        await ctx.chunk([ctx.attempt, "begins"])
        if ctx.attempt == 2:
            second_runs.set()
        await go_on[ctx.attempt].wait()
        await ctx.chunk([ctx.attempt, "ends"])
        over[ctx.attempt].set()
        return ctx.attempt

    seen: list[EventInfo] = []

    async def read(job: JobHandle[Any]) -> None:
        seen.extend([event async for event in job.events()])

    order = [1, 2] if first_end == "zombie" else [2, 1]
    async with rig.running(app):
        job = await work.enqueue()
        reading = asyncio.create_task(read(job))
        async with asyncio.timeout(PATIENCE):
            await second_runs.wait()
            while (await job.info()).attempt != 2:  # noqa: ASYNC110 - its start is under way
                await asyncio.sleep(0.01)
            go_on[order[0]].set()
            assert await job.result() == order[0]
            go_on[order[1]].set()
            await over[order[1]].wait()
            await reading
    async with rig.running(app, worker=False):
        # What the last to end has said has come to the master by now, or never will.
        whole = await all_events(job)
    assert seen == whole
    chunks = [[1, "begins"], [2, "begins"]] + ([[2, "ends"]] if order[0] == 2 else [])
    assert said(seen, "chunk") == chunks
    assert life(seen) == [
        *(("enqueued", 1), ("started", 1), ("lost", 1), ("started", 2)),
        ("succeeded", order[0]),
    ]
    assert said(seen, "result") == [order[0]]


async def test_a_thread_that_goes_on_is_heard_no_more(rig: Rig) -> None:
    app = rig.app()
    over, heard = threading.Event(), threading.Event()

    @app.job(retry=Retry(2, delay=0.01), timeout=0.5)
    def go_on(ctx: Context[Any]) -> None:
        ctx.chunk(f"attempt {ctx.attempt}")
        if ctx.attempt == 1:
            over.wait(PATIENCE)
            ctx.chunk("too late")
            ctx.progress(1, 1)
            heard.set()
        else:
            over.set()
            heard.wait(PATIENCE)
            ctx.chunk("the end")

    async with rig.running(app):
        events = await all_events(await go_on.enqueue())
    assert said(events, "chunk") == ["attempt 1", "attempt 2the end"] or said(events, "chunk") == [
        *("attempt 1", "attempt 2", "the end")
    ]
    assert said(events, "progress") == []
    assert [attempt_of(e.seq) for e in events] == sorted(attempt_of(e.seq) for e in events)


async def test_what_is_encrypted_stays_so(rig: Rig) -> None:
    codec = Fernet(Fernet.new_key())
    app = rig.app(codec=codec)

    @app.job
    async def whisper(ctx: Context[Any]) -> str:
        await ctx.log.info("a secret", of="mine")
        for word in ("to", "ld"):
            await ctx.chunk(word)
        return "hidden"

    async with rig.running(app):
        job = await whisper.enqueue()
        events = await all_events(job)
        stored = await (await app.master()).events(job.id)
    assert all(event.data.startswith(b'{"$encrypted":') for event in stored)
    assert "".join(said(events, "chunk")) == "told"
    assert said(events, "result") == ["hidden"]
    assert said(events, "log")[0]["data"] == {"of": "mine"}


async def test_what_is_logged_may_become_events(rig: Rig) -> None:
    app = rig.app(log_events="info")
    library = logging.getLogger("some.library")

    @app.job
    async def in_a_loop(ctx: Context[Any]) -> None:
        library.warning("from %s", "the loop")
        await ctx.log.warning("once")
        ctx.logger.warning("mine")

    @app.job
    def in_a_thread() -> None:
        try:
            raise KeyError("lost")
        except KeyError:
            library.exception("from a thread")

    async with rig.running(app):
        one, two = await in_a_loop.enqueue(), await in_a_thread.enqueue()
        of_loop, of_thread = said(await all_events(one), "log"), said(await all_events(two), "log")
        library.warning("of no job")
    assert of_loop == [
        {"level": "warning", "message": "from the loop", "logger": "some.library"},
        {"level": "warning", "message": "once"},
        {"level": "warning", "message": "mine", "logger": "mesh.job.in_a_loop"},
    ]
    ((entry),) = of_thread
    assert (entry["level"], entry["message"]) == ("error", "from a thread")
    assert "KeyError: 'lost'" in entry["data"]["traceback"]


async def test_many_jobs_are_watched(rig: Rig) -> None:
    app = rig.app()

    @app.job
    async def count(to: int, ctx: Context[Any]) -> int:
        for number in range(to):
            await ctx.chunk([number])
        return to

    seen: dict[str, list[EventInfo]] = {}
    looking, ended = asyncio.Event(), asyncio.Condition()

    def is_over(job_id: str) -> bool:
        return seen.get(job_id, [])[-1:] != [] and life(seen[job_id])[-1][0] == "succeeded"

    async def watch() -> None:
        async for told in app.watch(name="count"):
            looking.set()
            async with ended:
                seen.setdefault(told.job.id, []).append(told.event)
                ended.notify_all()

    async with rig.running(app):
        watching = asyncio.create_task(watch())
        async with asyncio.timeout(PATIENCE):
            # What is there at its first look counts as old.
            while not looking.is_set():
                await (await count.enqueue(0)).result()
            jobs = [await count.enqueue(n) for n in range(10)]
            async with ended:
                await ended.wait_for(lambda: all(is_over(job.id) for job in jobs))
        watching.cancel()
        await asyncio.wait([watching])
        for job in jobs:
            assert seen[job.id] == await all_events(job)
