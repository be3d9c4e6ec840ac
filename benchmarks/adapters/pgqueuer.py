# mypy: disable-error-code="import-not-found, untyped-decorator"
"""pgqueuer on PostgreSQL.

Settings: uvloop, the asyncpg driver, and ``PgQueuer.run`` in a program, as in its own benchmark
(tools/benchmark.py in its repository); a pool for the producer, so that 64 callers do not queue
behind one connection; ``pgq install`` with the default durability (``durable``); a worker with
batch size 100 (default 10: a third of the speed; 500 and 1,000 were no faster). Bulk: ``enqueue``
with lists.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve

BATCH = 100


async def work() -> None:
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @pgq.entrypoint("quick")
    async def quick(job: Job) -> None:
        BOARD.mark(int(job.payload.partition(b" ")[0]))

    await pgq.run(batch_size=BATCH)


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    async with asyncpg.create_pool(URL, min_size=16, max_size=16) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))

        def one(n: int) -> Any:
            return queries.enqueue("quick", f"{n} {TEXT}".encode())

        async def many(jobs: list[int]) -> None:
            payloads: list[bytes | None] = [f"{n} {TEXT}".encode() for n in jobs]
            await queries.enqueue(["quick"] * len(jobs), payloads, [0] * len(jobs))

        yield one, many


if __name__ == "__main__":
    uvloop.run(work()) if sys.argv[1:] == ["work"] else serve(connect, run=uvloop.run)
