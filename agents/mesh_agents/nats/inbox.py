"""Where a lane's messages come in, and since when what comes was sent.

A lease counts from the moment at which the server sends the message, which it does not say. A
connection that hung, or a process that was stopped, gets messages late whose leases have ended:
others may have run them. So the server is asked something again and again, and its answers come
in here among the messages, in the order in which it sent them: what comes after an answer was
sent after the question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mesh.errors import AgentUnavailable
from mesh_agents.nats.connection import Connection

__all__ = ["Inbox"]

_ANSWER = "answer-"


class Inbox:
    """A subscription over one connection to the server: it ends with that, ``close`` it then."""

    def __init__(
        self,
        connection: Connection,
        question: str,
        every: float,
        callback: Callable[[Inbox, Msg], Awaitable[None]],
    ) -> None:
        """``question`` is a subject that the server answers on, to be asked all ``every``
        seconds. ``callback`` gets what else comes in, one after the other."""
        self._connection = connection
        self._question = question
        self._every = every
        self._callback = callback
        self._subscription: Subscription | None = None
        self._asking: asyncio.Task[None] | None = None
        self._prefix = ""
        self.since = 0.0
        """What comes in now was sent after that, by the monotonic clock."""
        self.is_over = False
        """The connection was lost."""

    async def open(self) -> None:
        """Subscribe. Once; raises ``AgentUnavailable``."""
        self.since = time.monotonic()
        subject = self._connection.client.new_inbox()
        self._subscription = await self._connection.subscribe(f"{subject}.*", self._on_message)
        self._prefix = f"{subject}."
        self._asking = asyncio.create_task(self._ask(), name="mesh-nats-inbox")

    def subject(self, token: str) -> str:
        """One of those on which messages come in here."""
        return self._prefix + token

    async def close(self) -> None:
        """Never raises."""
        if self._asking is not None:
            self._asking.cancel()
        if self._subscription is not None:
            await self._connection.unsubscribe(self._subscription)

    async def _ask(self) -> None:
        while not self.is_over:
            await asyncio.sleep(self._every)
            with suppress(AgentUnavailable):
                reply = self.subject(f"{_ANSWER}{time.monotonic_ns()}")
                await self._connection.send(self._question, reply=reply)

    async def _on_message(self, message: Msg) -> None:
        token = message.subject.removeprefix(self._prefix)
        if token.startswith(_ANSWER):
            self.since = int(token.removeprefix(_ANSWER)) / 1e9
        else:
            await self._callback(self, message)
