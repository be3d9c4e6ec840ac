# mypy: disable-error-code="import-not-found, untyped-decorator"
"""celery on Redis.

Settings: a prefetch multiplier of 128, as its guide "Optimizing" says for many short tasks; results
ignored; no rate limits; no gossip, mingle or heartbeat; hiredis; the ``solo`` pool, one task at a
time in the worker's own process, the fastest here for no-ops (prefork with one child, and 8
threads, reached 70 to 85 % of it). celery has no call for many tasks (a group sends them one by
one) and no asyncio interface: its producer calls from 8 threads, faster here than 64.
"""

from __future__ import annotations

from celery import Celery

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve_threads

app = Celery("bench", broker=URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    broker_pool_limit=64,
    broker_connection_retry_on_startup=True,
)


@app.task(name="quick")
def quick(n: int, text: str) -> None:
    BOARD.mark(n)


if __name__ == "__main__":
    serve_threads(lambda n: quick.delay(n, TEXT), None, callers=8)
