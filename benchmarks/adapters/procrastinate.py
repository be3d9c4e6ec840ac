# mypy: disable-error-code="import-not-found, untyped-decorator"
"""procrastinate on PostgreSQL.

Settings: psycopg's compiled driver, concurrency 10 with a pool of as many connections (default 1;
20 and 50 were slower here), LISTEN/NOTIFY and finished jobs kept, as are its defaults, uvloop.
Bulk: ``batch_defer_async``.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from procrastinate import App, PsycopgConnector

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve

POOL = 10
app = App(connector=PsycopgConnector(conninfo=URL, min_size=POOL, max_size=POOL))


@app.task(name="quick", queue="bench")
async def quick(n: int, text: str) -> None:
    BOARD.mark(n)


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=POOL)


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    async def many(jobs: list[int]) -> None:
        await quick.batch_defer_async(*({"n": n, "text": TEXT} for n in jobs))

    async with app.open_async():
        yield lambda n: quick.defer_async(n=n, text=TEXT), many


if __name__ == "__main__":
    uvloop.run(work()) if sys.argv[1:] == ["work"] else serve(connect, run=uvloop.run)
