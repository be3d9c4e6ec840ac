# mypy: disable-error-code="import-not-found, untyped-decorator"
"""taskiq with NATS JetStream.

Settings: ``PullBasedJetStreamBroker`` with ``pull_consume_batch`` 100 (default 1; 500 was no faster
here) on a work-queue stream; ``--max-async-tasks 100``, the default (1,000 was no faster); uvloop,
which taskiq's worker uses when it is installed; ``--no-parse`` (pydantic does not check arguments);
no result backend; quiet logs. taskiq has no call for many jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from nats.js.api import RetentionPolicy, StreamConfig
from taskiq_nats import PullBasedJetStreamBroker

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve

broker = PullBasedJetStreamBroker(
    [URL],
    pull_consume_batch=100,
    pull_consume_timeout=1,
    stream_config=StreamConfig(retention=RetentionPolicy.WORK_QUEUE),
)


@broker.task(task_name="quick")
async def quick(n: int, text: str) -> None:
    BOARD.mark(n)


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    await broker.startup()
    yield lambda n: quick.kiq(n, TEXT), None
    await broker.shutdown()


if __name__ == "__main__":
    serve(connect, run=uvloop.run)
