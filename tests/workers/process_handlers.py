"""Handlers that run in processes of their own, where this module is imported anew."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from mesh import Cancel, Context, Failure, Job, Mesh, Retry, Snooze

app = Mesh(agents={"m": "memory://unused"})
log = logging.getLogger("shop")


@app.job(process=True)
def pid() -> int:
    return os.getpid()


@app.job(process=True)
async def pid_async() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@app.job(process=True)
def die(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))
    threading.Event().wait()


@app.job(process=True)
def say(ctx: Context[Any], count: int) -> list[Any]:
    for number in range(count):
        ctx.progress(number, count)
    ctx.log.warning("half", part=1)
    log.warning("a line of its own")
    ctx.chunk("text")
    return [ctx.job_id, ctx.attempt, ctx.max_attempts, ctx.lane, dict(ctx.meta)]


@app.job(process=True)
def hang(ctx: Context[Any]) -> None:
    """Says its pid, and that of a process that it has started."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    ctx.chunk([os.getpid(), other.pid])
    while True:
        time.sleep(600)


@app.job(process=True)
def wait_for_file(ctx: Context[Any], path: str) -> int:
    ctx.chunk([os.getpid()])
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


@app.job(process=True)
def raises(what: str) -> Any:
    if what == "Cancel":
        raise Cancel("not wanted")
    if what == "Snooze":
        raise Snooze(30)
    if what == "Failure":
        return Failure("declined", retry=False)
    if what == "SystemExit":
        sys.exit(3)
    raise ValueError("a bug")


@app.job(process=True, retry=Retry(when=lambda error: "again" in str(error)))
def picky(message: str) -> None:
    raise ValueError(message)


@app.job(process=True)
def large(length: int) -> str:
    return "x" * length


class Double(Job[int], name="numbers.double"):
    n: int


@app.handler(process=True)
async def double(request: Double, ctx: Context[Any]) -> int | Failure:
    if ctx.name != "numbers.double":
        return Failure("another job's context")
    return 2 * request.n


def undecorated() -> None: ...
