# mypy: disable-error-code="import-not-found, untyped-decorator"
"""celery on Redis.

Settings, from its guide "Optimizing" and its FAQ: ``ignore_result`` (no result backend), a
prefetch multiplier of 128 for short tasks, no rate limits, no gossip, mingle or heartbeat, prefork
(its default pool, and its fastest here) with one child for each worker process; hiredis. celery
has no call for many tasks (a group sends them one by one).
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
    serve_threads(lambda n: quick.delay(n, TEXT), None)
