"""What every producer does, whatever the system: it answers the driver's commands.

A command is a line of JSON on standard input, such as
``{"do": "single", "first": 0, "count": 1000}``; the answer a line on standard output with the
moments (ns, monotonic) between which the jobs were handed over. ``single`` makes one call a job,
from 64 callers at once (tasks, or threads for systems that have no asyncio interface); ``bulk``
uses the system's call for many jobs; ``latency`` hands over one job at a time, waits until its
handler has started, pauses, and answers with the moment before each call.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.board import Board

__all__ = ["BOARD", "CALLERS", "CHUNK", "CONCURRENCY", "HANDLER", "TEXT", "URL", "serve"]
__all__ += ["serve_threads"]

CALLERS = 64
CHUNK = 1000
"""Jobs in one bulk call."""
TEXT = "x" * 100
"""The 100-character argument of every job."""

URL = os.environ.get("BENCH_URL", "")
HANDLER = os.environ.get("BENCH_HANDLER", "quick")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "100"))
BOARD = Board(os.environ["BENCH_BOARD"])

One = Callable[[int], Awaitable[Any]]
Many = Callable[[list[int]], Awaitable[Any]]


def serve(
    connect: Callable[[], Any], *, run: Callable[[Any], Any] = asyncio.run, chunk: int = CHUNK
) -> None:
    """Answer commands with asyncio. ``connect()`` is an async context manager that gives
    ``(one, many)``: coroutine functions of a job's number, and of a list of them."""
    run(_serve(connect, chunk))


async def _serve(connect: Callable[[], Any], chunk: int) -> None:
    async with connect() as (one, many), _commands() as commands:
        _answer({"ready": True})
        async for command in commands:
            first, count = command["first"], command["count"]
            jobs = iter(range(first, first + count))
            if command["do"] == "latency":
                _answer({"sent": await _one_at_a_time(one, jobs, command["pause"])})
                continue
            begin = time.monotonic_ns()
            if command["do"] == "bulk":
                for start in range(first, first + count, chunk):
                    await many(list(range(start, min(start + chunk, first + count))))
            else:
                await asyncio.gather(*(_caller(one, jobs) for _ in range(CALLERS)))
            _answer({"begin": begin, "end": time.monotonic_ns()})


async def _caller(one: One, jobs: Iterator[int]) -> None:
    for job in jobs:
        await one(job)


async def _one_at_a_time(one: One, jobs: Iterator[int], pause: float) -> list[int]:
    sent = []
    for job in jobs:
        sent.append(time.monotonic_ns())
        await one(job)
        # Another process marks it: there is no signal to wait for.
        while not BOARD.runs(job):  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
        # Irregular, so that it keeps no step with a worker that polls.
        await asyncio.sleep(random.uniform(0.5, 1.5) * pause)
    return sent


@asynccontextmanager
async def _commands() -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async def lines() -> AsyncIterator[dict[str, Any]]:
        while line := await asyncio.to_thread(sys.stdin.readline):
            yield json.loads(line)

    yield lines()


def serve_threads(
    one: Callable[[int], Any], many: Callable[[list[int]], Any] | None, callers: int = CALLERS
) -> None:
    """The same for a system without asyncio, from ``callers`` threads."""
    _answer({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        first, count = command["first"], command["count"]
        if command["do"] == "latency":
            sent = []
            for job in range(first, first + count):
                sent.append(time.monotonic_ns())
                one(job)
                while not BOARD.runs(job):
                    time.sleep(0.0005)
                time.sleep(random.uniform(0.5, 1.5) * command["pause"])
            _answer({"sent": sent})
            continue
        begin = time.monotonic_ns()
        if command["do"] == "bulk" and many is not None:
            for start in range(first, first + count, CHUNK):
                many(list(range(start, min(start + CHUNK, first + count))))
        else:
            _call_from_threads(one, iter(range(first, first + count)), callers)
        _answer({"begin": begin, "end": time.monotonic_ns()})


def _call_from_threads(one: Callable[[int], Any], jobs: Iterator[int], callers: int) -> None:
    failures: list[BaseException] = []

    def call() -> None:
        try:
            for job in jobs:
                one(job)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
