"""The agent's board: a stream that keeps the latest message of each subject.

What is taken down is a message without a body, which the server drops after ``_KEPT`` seconds.

The reader has an ephemeral consumer to which the server pushes, with heartbeats. States:
*detached* (no consumer) → *catching up* (what stands is coming in) → *following*. Whenever a
message is missing, the server is silent or the connection is lost it is *detached*, and the next
``read`` begins with a new consumer and the whole board: so whatever was missed is seen by what is
missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mesh.errors import AgentError, AgentUnavailable
from mesh.job import new_job_id
from mesh.notices import check_notices
from mesh_agents.nats.connection import status_of
from mesh_agents.nats.frames import Message, Origin
from mesh_agents.nats.streams import Streams

__all__ = ["NatsBoard", "notice_messages"]

HEARTBEAT = 5
_KEPT = 3600
_IDLE = 60
"""Seconds after which the server drops the consumer of a reader that is gone."""
_SECOND = 1_000_000_000


def notice_messages(root: str, notices: Mapping[str, bytes | None]) -> list[Message]:
    """The messages to store. ``root`` is the board's subject."""
    check_notices(notices)
    return [
        Message(f"{root}.{key.replace('/', '.')}", value)
        if value is not None
        else Message(f"{root}.{key.replace('/', '.')}", b"", {"Nats-TTL": str(_KEPT)})
        for key, value in notices.items()
    ]


class NatsBoard:
    """``mesh.ports.Board`` over a stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._connection = streams.connection
        self._root = streams.names.board
        self._inbox: Subscription | None = None
        self._epoch = 0
        self._name = ""
        """The consumer's; empty: detached."""
        self._expected = 1
        self._heard = 0.0
        self._is_whole = False
        """All that stood when the consumer was made has come in."""
        self._coming: dict[str, bytes | None] = {}
        self._keys: set[str] = set()
        """What stands, as the caller knows it."""
        self._is_first = True
        self._wake = asyncio.Event()
        self.closed = False
        self._connection.lost.add(self._detach)

    async def read(self, wait: float) -> dict[str, bytes | None]:
        try:
            return await self._read(wait)
        except AgentUnavailable:
            raise
        except AgentError as error:
            raise AgentUnavailable(str(error)) from error

    async def _read(self, wait: float) -> dict[str, bytes | None]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            self._wake.clear()
            self._connection.client  # noqa: B018 - raises while away
            if self._name and loop.time() - self._heard > 2.5 * HEARTBEAT:
                self._detach()
            if not self._name:
                await self._attach()
            if self._is_whole and (self._coming or self._is_first):
                return self._take()
            left = deadline - loop.time()
            if left <= 0 and self._is_whole:
                return {}
            try:
                # The board as a whole is waited for in any case: it is on its way.
                async with asyncio.timeout(min(max(left, 0.1), HEARTBEAT)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _take(self) -> dict[str, bytes | None]:
        changes, self._coming = self._coming, {}
        if self._is_first:
            self._is_first = False
            for key in [key for key, value in changes.items() if value is None]:
                del changes[key]
        for key, value in changes.items():
            (self._keys.discard if value is None else self._keys.add)(key)
        return changes

    async def _attach(self) -> None:
        if self._inbox is None or self._epoch != self._connection.epoch:
            self._epoch = self._connection.epoch
            subject = self._connection.client.new_inbox()
            self._inbox = await self._connection.subscribe(subject, self._on_message)
        try:
            await self._create(self._inbox.subject)
        except AgentUnavailable:
            self._detach()
            raise
        except AgentError:
            self._detach()
            await self._streams.ensure()
            await self._create(self._inbox.subject)

    async def _create(self, inbox: str) -> None:
        stream, name = self._streams.names.stream("BOARD"), f"board-{new_job_id()}"
        # Before the answer: messages may overtake it.
        self._name, self._expected, self._is_whole, self._coming = name, 1, False, {}
        self._heard = asyncio.get_running_loop().time()
        config = {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "all",
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "idle_heartbeat": HEARTBEAT * _SECOND,
            "inactive_threshold": _IDLE * _SECOND,
        }
        answer = await self._streams.api(
            f"CONSUMER.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": config, "action": "create"},
        )
        if self._expected == 1 and not answer.get("num_pending"):
            self._complete()

    async def _on_message(self, message: Msg) -> None:
        status = status_of(message)
        if status and status != "100":
            self._detach()
        elif status:
            self._heard = asyncio.get_running_loop().time()
            if self._expected > 1:
                self._complete()  # What it still waited for was replaced, and came as newer.
        elif message.reply:
            self._receive(message)

    def _receive(self, message: Msg) -> None:
        origin = Origin.parse(message.reply)
        if origin.consumer != self._name:
            return  # of a consumer that was given up
        if origin.number != self._expected:
            self._detach()
            return
        self._expected += 1
        self._heard = asyncio.get_running_loop().time()
        key = message.subject[len(self._root) + 1 :].replace(".", "/")
        self._coming[key] = message.data or None
        if self._is_whole:
            self._wake.set()
        elif origin.pending == 0:
            self._complete()

    def _complete(self) -> None:
        if not self._is_whole:
            self._is_whole = True
            standing = {key for key, value in self._coming.items() if value is not None}
            self._coming |= dict.fromkeys(self._keys - standing)
        self._wake.set()

    def _detach(self) -> None:
        self._name = ""
        self._is_whole = False
        self._wake.set()

    async def close(self) -> None:
        self.closed = True
        self._connection.lost.discard(self._detach)
        if self._inbox is not None:
            await self._connection.unsubscribe(self._inbox)
            self._inbox = None
        self._detach()
