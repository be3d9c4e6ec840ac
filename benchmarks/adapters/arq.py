# mypy: disable-error-code="import-not-found, untyped-decorator"
"""arq on Redis.

Settings: ``max_jobs`` 100 (default 10), ``poll_delay`` 10 ms (default 500 ms: it finds new jobs by
polling), ``keep_result`` 0 (no results), no log lines for each job (its default: two), uvloop,
hiredis. arq has no call for many jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from arq import create_pool, func
from arq.connections import RedisSettings

from benchmarks.adapters.producer import BOARD, CONCURRENCY, TEXT, URL, serve

uvloop.install()
REDIS = RedisSettings.from_dsn(URL)
LOGGING = {"version": 1, "loggers": {"arq": {"level": "WARNING"}}}
"""For ``arq --custom-log-dict``."""


async def quick(ctx: dict[Any, Any], n: int, text: str) -> None:
    BOARD.mark(n)


class WorkerSettings:
    """For ``arq``."""

    functions = (func(quick, name="quick", keep_result=0),)
    redis_settings = REDIS
    max_jobs = CONCURRENCY
    poll_delay = 0.01
    keep_result = 0
    log_results = False


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    pool = await create_pool(REDIS)
    yield lambda n: pool.enqueue_job("quick", n, TEXT), None
    await pool.aclose()


if __name__ == "__main__":
    serve(connect, run=uvloop.run)
