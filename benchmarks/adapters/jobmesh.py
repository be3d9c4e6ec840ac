"""jobmesh, as a user would write it: ``Mesh.from_env()``, ``mesh worker``, ``mesh master``.

Settings: all defaults but the lane's concurrency, which is 100 (50 for slow jobs).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from benchmarks.adapters.producer import BOARD, HANDLER, TEXT, serve
from mesh import Mesh

app = Mesh.from_env()


@app.job(lane="bench")
async def quick(n: int, text: str) -> None:
    BOARD.mark(n)


@app.job(lane="bench")
def thread(n: int, text: str) -> None:
    BOARD.mark(n)


@app.job(lane="bench")
async def slow(n: int, text: str) -> None:
    BOARD.mark(n)
    await asyncio.sleep(0.05)


@app.job(lane="bench")
async def long(n: int, text: str) -> None:
    """Job 0 takes ten minutes, the others nothing."""
    BOARD.mark(n)
    if n == 0:
        await asyncio.sleep(600)


@app.job(lane="parked")
async def parked(n: int, text: str) -> None:
    """For a backlog that no worker serves."""


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    handler: Any = app.get_handler(HANDLER)

    async def many(jobs: list[int]) -> None:
        await handler.enqueue_many([(n, TEXT) for n in jobs])

    async with app:
        yield lambda n: handler.enqueue(n, TEXT), many


if __name__ == "__main__":
    serve(connect, run=uvloop.run)
