"""A floor, not a system: nats-py and JetStream with nothing around them.

What any system on nats-py pays at least for a job that a server has acknowledged. Callers share a
frame of up to 64 jobs, as ours do; a job is its number and its text, nothing is checked, encoded,
given an id or noted elsewhere. The worker has one long pull request out and forgets what it ran.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import uvloop
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve

FRAME = 64


async def setup() -> None:
    client = await nats.connect(URL)
    stream = client.jetstream()
    await stream.add_stream(name="BARE", subjects=["bare"], retention=RetentionPolicy.WORK_QUEUE)
    await stream.add_consumer("BARE", ConsumerConfig(durable_name="bare", max_ack_pending=100_000))
    await client.close()


async def work() -> None:
    client = await nats.connect(URL)

    async def take(message: Msg) -> None:
        if message.reply:
            for line in message.data.splitlines():
                BOARD.mark(int(line.partition(b" ")[0]))
            await client.publish(message.reply, b"+ACK")

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=take)
    body = json.dumps({"batch": 100_000}).encode()
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.BARE.bare", body, reply=inbox)
    await asyncio.Event().wait()


@asynccontextmanager
async def connect() -> AsyncIterator[Any]:
    client = await nats.connect(URL)
    pending: list[tuple[bytes, asyncio.Future[None]]] = []
    due = asyncio.Event()

    async def send(frames: list[list[bytes]]) -> None:
        await asyncio.gather(*(client.request("bare", b"\n".join(f), timeout=10) for f in frames))

    async def flush() -> None:
        while await due.wait():
            batch = pending[:FRAME]
            del pending[:FRAME]
            if not pending:
                due.clear()
            await send([[line for line, _ in batch]])
            for _, future in batch:
                future.set_result(None)

    def one(n: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pending.append((b"%d %b" % (n, TEXT.encode()), future))
        due.set()
        return future

    async def many(jobs: list[int]) -> None:
        lines = [b"%d %b" % (n, TEXT.encode()) for n in jobs]
        await send([lines[i : i + FRAME] for i in range(0, len(lines), FRAME)])

    flusher = asyncio.create_task(flush())
    yield one, many
    flusher.cancel()
    await client.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        uvloop.run(work() if sys.argv[1] == "work" else setup())
    else:
        serve(connect, run=uvloop.run)
