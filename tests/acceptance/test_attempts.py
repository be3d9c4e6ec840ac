"""What becomes of attempts, on a whole cluster: as callers and the history see it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from mesh import JobCancelled, JobFailed, JobHandle, State
from mesh.job import new_job_id
from mesh.roles import RoleOptions, make_role
from mesh.service import Group

PATIENCE = 60.0

SHOP = """
import asyncio, os, signal
from mesh import Cancel, Context, Fail, Failure, Job, Mesh, Retry, Snooze

app = Mesh(master={master!r}, agents={agents!r}, cluster={cluster!r}, auto_migrate=True)
SOON = Retry(3, delay=0.01, backoff="linear", jitter=0, give_up_on=(KeyError,))

@app.job(retry=SOON)
async def charge(order: str, ctx: Context) -> str | Failure:
    if order == "busy" and ctx.attempt < 3:
        raise Retry.after(0.01)
    if order == "closed" and ctx.attempt < 6:
        raise Snooze(0.01, "the shop is closed")
    if order == "unknown":
        raise Fail("no such order")
    if order == "withdrawn":
        raise Cancel("she changed her mind")
    if order == "declined":
        return Failure("the card was declined", retry=False)
    if order == "broken":
        raise ValueError("a bug")
    if order == "hopeless":
        raise KeyError(order)
    return "paid"

class Squares(Job[list[int]], name="squares"):
    upto: int

@app.handler(process=True)
def squares(request: Squares, ctx: Context) -> list[int]:
    ctx.progress(request.upto, request.upto)
    return [n * n for n in range(request.upto)]

@app.job(process=True, retry=SOON)
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

@app.job
async def endless() -> None:
    await asyncio.Event().wait()
"""


@pytest.fixture
async def shop(
    where: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ModuleType]:
    """The application's module, on a cluster that runs."""
    master, agents = where
    unique = new_job_id()[-12:]
    text = SHOP.format(master=master, agents=agents, cluster=f"attempts-{unique}")
    (tmp_path / f"shop_{unique}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    shop = importlib.import_module(f"shop_{unique}")
    roles = [make_role(role, shop.app, RoleOptions()) for role in ("coordinator", "worker")]
    async with shop.app, Group("cluster", roles):
        yield shop


async def failure(job: JobHandle[object]) -> tuple[str, str]:
    """The type and the message of what the job failed with."""
    with pytest.raises(JobFailed) as error:
        await job.result(PATIENCE)
    info = await job.info()
    assert info.error_type == error.value.error_type
    assert info.error_message is not None
    return error.value.error_type, info.error_message


async def test_what_handlers_say(shop: ModuleType) -> None:
    orders = ["ready", "busy", "closed", "unknown", "withdrawn", "declined", "broken", "hopeless"]
    jobs = await shop.charge.enqueue_many([(order,) for order in orders])
    ready, busy, closed, unknown, withdrawn, declined, broken, hopeless = jobs
    for job in (ready, busy, closed):
        assert await job.result(PATIENCE) == "paid"
    assert await failure(unknown) == ("Fail", "no such order")
    assert await failure(declined) == ("Failure", "the card was declined")
    assert await failure(broken) == ("ValueError", "a bug")
    assert await failure(hopeless) == ("KeyError", "'hopeless'")
    with pytest.raises(JobCancelled, match="she changed her mind"):
        await withdrawn.result(PATIENCE)
    assert [(await job.info()).attempt for job in jobs] == [1, 3, 6, 1, 1, 1, 3, 1]
    assert await withdrawn.status() is State.CANCELLED

    history = await (await shop.app.master()).attempts(closed.id)
    assert [attempt.error_type for attempt in history[:5]] == ["Snooze"] * 5
    assert {attempt.error_message for attempt in history[:5]} == {"the shop is closed"}


async def test_limits_in_time(shop: ModuleType) -> None:
    # It cannot have started by then: it is due at that moment, not before.
    soon = datetime.now(UTC) + timedelta(seconds=1)
    late = shop.charge.options(at=soon, expires=1e-6)
    jobs = await late.enqueue_many([("late",)] * 20)
    ended = await shop.endless.options(deadline=0.5).enqueue()
    told, _ = await failure(ended)
    assert told == "DeadlineExceeded"
    states = set()
    for job in jobs:
        with pytest.raises(JobCancelled, match="it had not started by"):
            await job.result(PATIENCE)
        states.add(await job.status())
    assert states == {State.EXPIRED}


async def test_processes(shop: ModuleType) -> None:
    crash = await shop.crash.enqueue()
    squares = [await shop.app.enqueue(shop.Squares(upto=n)) for n in range(5)]
    assert await asyncio.gather(*(job.result(PATIENCE) for job in squares)) == [
        [n * n for n in range(upto)] for upto in range(5)
    ]
    told, message = await failure(crash)
    assert told == "ProcessDied"
    assert "was killed by SIGSEGV" in message
    assert (await crash.info()).attempt == 3
    events = [event.kind async for event in squares[4].events()]
    assert events == ["lifecycle", "lifecycle", "progress", "result", "lifecycle"]
