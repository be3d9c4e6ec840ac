"""Dependencies, middleware, children and encryption on whole clusters."""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import CannotDecrypt, Context, JobFailed, JobHandle, Mesh, Retry, State, chain, group
from mesh.codecs import Fernet
from mesh.middleware import within_trace

from .cluster_rig import PATIENCE, Rig

SECRET = "sesame"
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture
def handlers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, imported anew for this cluster, here and in processes of handlers."""
    for name, value in rig.where.items():
        if isinstance(value, dict):
            value = ",".join(f"{key}={url}" for key, url in value.items())
        monkeypatch.setenv(f"MESH_{name.upper()}", value)
    monkeypatch.setenv("MESH_AUTO_MIGRATE", "true")
    monkeypatch.setenv("AROUND_KEYS", Fernet.new_key())
    name = f"{__package__}.around_handlers"
    sys.modules.pop(name, None)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


async def said_by(job: JobHandle[Any]) -> list[str]:
    """What the handler and what is around it said: a list of one text each."""
    return [json.loads(e.data)[0] async for e in job.events() if e.kind == "chunk"]


@pytest.mark.parametrize("kind", ["on_loop", "in_thread", "in_process", "in_process_async"])
async def test_all_of_it_in_every_kind_of_handler(rig: Rig, handlers: Any, kind: str) -> None:
    app: Mesh = handlers.app
    async with rig.running(app):
        with within_trace(TRACE):
            job = await app.handlers[kind].enqueue("text")
        pid, child_id, trace = await job.result(timeout=PATIENCE)
        assert (int(pid) != os.getpid()) is kind.startswith("in_process")
        assert "a" * 32 in trace
        child = await app.get_job(child_id)
        assert (await child.result(timeout=PATIENCE)).startswith(
            f"text plain async in 00-{'a' * 32}"
        )
        assert child.seen is not None
        assert child.seen.parent == job.id
        said = await said_by(job)
    hook = f"hook in {pid}"
    in_order = {
        "on_loop": [hook, "open plain", "open async", "close async", "close plain"],
        "in_process": ["open async", hook, "open plain", "close plain", "close async"],
    }
    expected = in_order["on_loop" if kind in ("on_loop", "in_process_async") else "in_process"]
    assert said == expected


async def test_the_worker_is_told_of_a_process_that_died(rig: Rig, handlers: Any) -> None:
    async with rig.running(handlers.app):
        job = await handlers.die.enqueue()
        with pytest.raises(JobFailed, match="exited with status 7"):
            await job.result(timeout=PATIENCE)
        said = await said_by(job)
    assert said[1:] == ["open plain"]  # and nobody closed it
    (told,) = handlers.TOLD
    assert (told.job_id, told.state, told.exception) == (job.id, State.FAILED, None)
    assert told.error.type == "ProcessDied"


async def test_master_and_agent_never_see_what_is_encrypted(rig: Rig) -> None:
    app = rig.app(codec=Fernet(Fernet.new_key()), transient_threshold=1)

    @app.job
    async def tell(ctx: Context, secret: str) -> str:
        await ctx.progress(1, 2, secret)
        ctx.chunk(secret)
        return f"{secret} told"

    reader = rig.app()  # without the codec
    async with rig.running(app):
        jobs = [
            await tell.enqueue(SECRET),
            *await tell.enqueue_many([(SECRET,)]),
            await tell.options(key="k").enqueue(SECRET),
            await tell.options(delay=2).enqueue(SECRET),
        ]
        for job in jobs:
            assert await job.result(timeout=PATIENCE) == f"{SECRET} told"
        again = await jobs[0].retry({"secret": SECRET})
        assert await again.result(timeout=PATIENCE) == f"{SECRET} told"
        (once_more,) = await app.retry(payload={"secret": SECRET}, key="k", state="succeeded")
        assert await once_more.result(timeout=PATIENCE) == f"{SECRET} told"
        for job in (*jobs, again, once_more):
            events = {e.kind: json.loads(e.data) async for e in job.events()}
            assert (events["chunk"], events["result"]) == (SECRET, f"{SECRET} told")
            info = await job.info()
            assert info.state is State.SUCCEEDED
            raw = [info.payload, info.result]
            raw += [event.data for event in await (await reader.master()).events(job.id, -1)]
            for document in raw:
                assert document is not None
                assert SECRET not in document.decode()
                assert list(json.loads(document)) == ["$encrypted"]
        with pytest.raises(CannotDecrypt, match="this app has no codec"):
            await (await reader.get_job(jobs[0].id)).result(timeout=PATIENCE)
        await reader.close()


async def test_encrypted_results_go_from_job_to_job(rig: Rig) -> None:
    app = rig.app(codec=Fernet(Fernet.new_key()))

    @app.job
    async def make(n: int) -> dict[str, int]:
        return {"n": n}

    @app.job
    async def double(made: dict[str, int], times: int = 2) -> int:
        return made["n"] * times

    @app.job
    async def total(ctx: Context, parts: list[int], extra: int = 0) -> list[int]:
        return [sum(parts) + extra, *(parent.result_as(int) for parent in ctx.parents)]

    async with rig.running(app):
        flow = group(
            chain(make.draft(1), double.draft()), chain(make.draft(2), double.draft(times=5))
        ).then(total.draft(extra=100))
        assert await (await flow.enqueue()).result(timeout=PATIENCE) == [112, 2, 10]


async def test_a_worker_without_the_key_fails_jobs_once_and_says_why(rig: Rig) -> None:
    old, new = Fernet.new_key(), Fernet.new_key()
    producer, worker = rig.app(codec=Fernet(old)), rig.app(codec=Fernet(new))

    async def tell(secret: str = "nothing") -> str:
        return secret

    producer.job(tell)
    worker.job(retry=Retry(5, delay=0))(tell)
    async with rig.running(worker):
        job = await producer.handlers["tell"].enqueue(SECRET)
        with pytest.raises(JobFailed, match="CannotDecrypt: it was encrypted with a key") as caught:
            await job.result(timeout=PATIENCE)
        assert caught.value.error_type == "CannotDecrypt"
        assert (await job.info()).attempt == 1
    turning = rig.app(codec=Fernet(new, old))
    turning.job(tell)
    async with rig.running(turning):
        again = await job.retry()
        assert (await again.info()).retry_of == job.id
        handle = await turning.get_job(again.id)
        assert await handle.result(timeout=PATIENCE) == SECRET
        await producer.close()


async def test_a_worker_without_a_codec_does_not_run_with_defaults_instead(rig: Rig) -> None:
    producer, worker = rig.app(codec=Fernet(Fernet.new_key())), rig.app()
    ran: list[str] = []

    async def tell(secret: str = "nothing") -> None:
        ran.append(secret)

    producer.job(tell)
    worker.job(tell)
    async with rig.running(worker):
        job = await producer.handlers["tell"].enqueue(SECRET)
        with pytest.raises(JobFailed, match="it is encrypted, and this app has no codec"):
            await job.result(timeout=PATIENCE)
        await producer.close()
    assert ran == []


async def test_schedules_made_at_run_time_are_encrypted(rig: Rig) -> None:
    app = rig.app(codec=Fernet(Fernet.new_key()))

    @app.job
    async def tell(secret: str) -> str:
        return secret

    async with rig.running(app):
        made = await app.schedules.create(tell, "every day", SECRET, name="told")
        assert SECRET not in made.definition.payload
        job = await app.schedules.run_now("told")
        assert await job.result(timeout=PATIENCE) == SECRET
        changed = await app.schedules.update("told", f"open {SECRET}")
        assert SECRET not in changed.definition.payload
        job = await app.schedules.run_now("told")
        assert await job.result(timeout=PATIENCE) == f"open {SECRET}"
