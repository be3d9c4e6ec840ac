"""A floor, not a system: asyncpg and PostgreSQL with nothing around them.

What any system on asyncpg pays at least for a job that is on disk: one INSERT into a table with
one index, with a NOTIFY in the same statement; a worker that listens and takes rows out with one
DELETE that skips what others locked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import uvloop

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve

PUSH = """
WITH stored AS (INSERT INTO bare (n, text) VALUES ($1, $2)) SELECT pg_notify('bare', '')
"""
CLAIM = """
DELETE FROM bare WHERE n IN (
    SELECT n FROM bare ORDER BY n LIMIT 100 FOR UPDATE SKIP LOCKED
) RETURNING n
"""


async def setup() -> None:
    connection = await asyncpg.connect(URL)
    await connection.execute("CREATE TABLE bare (n bigint PRIMARY KEY, text text)")
    await connection.close()


async def work() -> None:
    connection = await asyncpg.connect(URL)
    heard = asyncio.Event()
    listener = await asyncpg.connect(URL)
    await listener.add_listener("bare", lambda *_: heard.set())
    while True:
        heard.clear()
        for row in await connection.fetch(CLAIM):
            BOARD.mark(row["n"])
        await heard.wait()


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    connection, turn = await asyncpg.connect(URL), asyncio.Lock()

    async def one(n: int) -> None:
        async with turn:
            await connection.fetch(PUSH, n, TEXT)

    yield one, None
    await connection.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        uvloop.run(work() if sys.argv[1] == "work" else setup())
    else:
        serve(connect, run=uvloop.run)
