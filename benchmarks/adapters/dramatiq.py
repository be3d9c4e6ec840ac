# mypy: disable-error-code="import-not-found, untyped-decorator"
"""dramatiq on Redis.

Settings: one process of 8 threads, its default number; hiredis; no results and no Prometheus
middleware. More threads contend for the interpreter. dramatiq has no call for many messages.
Its producer is called from threads: 8 rather than 64, which is faster.
"""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve_threads

dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor(actor_name="quick", queue_name="bench")
def quick(n: int, text: str) -> None:
    BOARD.mark(n)


if __name__ == "__main__":
    serve_threads(lambda n: quick.send(n, TEXT), None)
