"""The app under test. ``CHAOS_FOLDER`` is where its journals are, ``CHAOS_WHO`` the name of the
process, ``CHAOS_SKEW`` the seconds that its clock is ahead, ``CHAOS_VERSION`` of the code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mesh import Context, Mesh, Retry, Snooze
from mesh.clock import SystemClock
from mesh.config import Config

from .journal import Journal

__all__ = ["SLOTS_EVERY", "TOGETHER", "app", "journal"]

TOGETHER = 3
"""How many jobs of ``limited`` may be under way at once."""
SLOTS_EVERY = 2.0
"""Seconds between the slots of schedules."""

PATIENT = Retry(1000, delay=0.1, backoff="fixed", jitter=0)
"""No fault may use it up: attempts that are lost count."""


class Skewed(SystemClock):
    """Ahead of the machine's, or behind it."""

    def __init__(self, skew: float) -> None:
        self._skew = skew

    def time(self) -> float:
        return super().time() + self._skew


def tell_tasks(*_: object) -> None:
    """SIGUSR2: write down what each task waits for, as of a process that does not end."""
    for task in asyncio.all_tasks():
        sys.stderr.write(f"{task.get_name()}\n")
        waiting: Any = task.get_coro()
        while (frame := getattr(waiting, "cr_frame", None)) is not None:
            code = frame.f_code
            sys.stderr.write(f"  {code.co_qualname} {code.co_filename}:{frame.f_lineno}\n")
            waiting = waiting.cr_await
        sys.stderr.write(f"  {waiting!r}\n")
    sys.stderr.flush()


signal.signal(signal.SIGUSR2, tell_tasks)

app = Mesh(config=Config.from_env(), clock=Skewed(float(os.environ.get("CHAOS_SKEW", "0"))))
journal = Journal(Path(os.environ["CHAOS_FOLDER"]) / "journal" / f"{os.environ['CHAOS_WHO']}.jsonl")


@contextmanager
def written_down(ctx: Context, **more: Any) -> Iterator[None]:
    """That this attempt began, and how it ended."""
    about = {"job": ctx.job_id, "attempt": ctx.attempt, "who": os.environ["CHAOS_WHO"]}
    journal.write("start", name=ctx.name, parents=[p.id for p in ctx.parents], **about, **more)
    outcome = "died"
    try:
        yield
        outcome = "done"
    except asyncio.CancelledError:
        outcome = "stopped"
        raise
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        journal.write("end", outcome=outcome, **about)


@app.job(retry=PATIENT)
async def quick(ctx: Context, n: str) -> str:
    with written_down(ctx):
        return n


@app.job(retry=PATIENT, lane="slow")
async def slow(ctx: Context, n: str, seconds: float) -> str:
    with written_down(ctx):
        await asyncio.sleep(seconds)
        return n


@app.job(retry=PATIENT, lane="slow")
def threaded(ctx: Context, n: str, seconds: float) -> str:
    with written_down(ctx):
        time.sleep(seconds)
        return n


@app.job(retry=PATIENT, lane="slow", process=True)
def apart(ctx: Context, n: str, seconds: float) -> str:
    with written_down(ctx):
        time.sleep(seconds)
        return n


@app.job(retry=PATIENT)
async def flaky(ctx: Context, n: str, failures: int) -> str:
    """Fails so often, then snoozes once, then succeeds."""
    with written_down(ctx):
        if ctx.attempt <= failures:
            raise ConnectionError(f"attempt {ctx.attempt} of {n}")
        if ctx.attempt == failures + 1:
            raise Snooze(0.1)
        return n


@app.job(retry=Retry(3, delay=0.1, backoff="fixed"))
async def doomed(ctx: Context, n: str) -> str:
    with written_down(ctx):
        raise ValueError(n)


@app.job(retry=PATIENT, lane="limited", concurrency=TOGETHER)
async def limited(ctx: Context, n: str, seconds: float) -> str:
    with written_down(ctx):
        await asyncio.sleep(seconds)
        return n


@app.job(retry=PATIENT)
async def step(ctx: Context, fed: Any = None, n: str = "") -> str:
    with written_down(ctx):
        return n


@app.job(retry=PATIENT)
async def tick(ctx: Context) -> None:
    with written_down(ctx, slot=ctx.slot.timestamp() if ctx.slot else None):
        pass


app.schedule(
    tick, f"every {SLOTS_EVERY:.0f} seconds", name="each", missed="catch_up", catch_up_limit=1000
)
app.schedule(tick, f"every {SLOTS_EVERY:.0f} seconds", name="latest")

if int(os.environ.get("CHAOS_VERSION", "1")) > 1:

    @app.job(retry=PATIENT)
    async def newer(ctx: Context, n: str) -> str:
        """What workers of the first version do not know."""
        with written_down(ctx):
            return n
