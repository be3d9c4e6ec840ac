# mypy: disable-error-code="import-not-found, untyped-decorator"
"""saq, on Redis or PostgreSQL.

Settings: concurrency 100 (default 10), ``ttl`` -1, that is no result is kept, uvloop, hiredis or
psycopg's compiled driver. saq has no call for many jobs. On PostgreSQL at most 50 connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from saq import Queue

from benchmarks.adapters.producer import BOARD, CONCURRENCY, TEXT, URL, serve

uvloop.install()
# Operations at once: as many as there are callers.
MORE: dict[str, Any] = (
    {"max_size": 50} if URL.startswith("postgres") else {"max_concurrent_ops": CONCURRENCY}
)
queue = Queue.from_url(URL, name="bench", **MORE)


async def quick(ctx: dict[Any, Any], *, n: int, text: str) -> None:
    BOARD.mark(n)


settings = {"queue": queue, "functions": [quick], "concurrency": CONCURRENCY}


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    await queue.connect()
    yield lambda n: queue.enqueue("quick", n=n, text=TEXT, ttl=-1), None
    await queue.disconnect()


if __name__ == "__main__":
    serve(connect, run=uvloop.run)
