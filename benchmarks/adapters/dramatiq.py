# mypy: disable-error-code="import-not-found, untyped-decorator"
"""dramatiq on Redis.

Settings: one process of 8 threads, its default number; ``dramatiq_queue_prefetch`` 1000 (an
environment variable its documentation names; default twice the threads, which drained at 60 % of
the speed here, and more threads no faster); hiredis; no results. dramatiq has no call for many
messages. It has no asyncio interface: its producer calls from 8 threads, faster here than 64.
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
    serve_threads(lambda n: quick.send(n, TEXT), None, callers=8)
