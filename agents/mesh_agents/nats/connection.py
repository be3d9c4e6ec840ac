"""The connection to nats-server, and requests over it with a deadline each.

States: *closed* → *connected* ⇄ *away* → *closed*. While away, nats-py reconnects for ever; where
it gives up (the server refused us), a task of ours begins again with a new client. Nothing is
sent while away: nats-py would keep it and send it later, when nobody waits for it any more.
``epoch`` changes with each new client, which knows none of the subscriptions made before.

What is sent can end in three ways: a reply; ``AgentUnavailable``: it certainly had no effect;
``PublishOutcomeUnknown``: it was sent, and nothing came back before the deadline or before the
connection was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mesh.errors import AgentError, AgentUnavailable, MeshError, PublishOutcomeUnknown
from mesh.service import Backoff
from mesh_agents.nats.frames import Message
from mesh_agents.nats.options import Options

__all__ = ["Connection", "NoResponders", "status_of"]

log = logging.getLogger("mesh")

RECONNECT_PAUSE = 0.5
PING_INTERVAL = 20


class NoResponders(AgentUnavailable):
    """Nobody listens on the subject: the stream or consumer is missing, or has no leader."""


class Connection:
    """See the module."""

    def __init__(self, agent: str, options: Options, connect_timeout: float) -> None:
        self.agent = agent
        self.options = options
        self.epoch = 0
        self.lost: set[Callable[[], None]] = set()
        """Called when the connection is lost, closed included."""
        self._timeout = connect_timeout
        self._client: Client | None = None
        self._inbox = ""
        self._tokens = 0
        self._waiting: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        self._reopening: asyncio.Task[None] | None = None
        self._opened = asyncio.Lock()
        self.wanted = False
        """``open`` has been called, and ``close`` has not."""
        self._said = ""

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def server_version(self) -> tuple[int, int]:
        version = self.client.connected_server_version
        return version.major, version.minor

    @property
    def client(self) -> Client:
        """The connected client. Raises ``AgentUnavailable`` while there is none."""
        if self._client is None or not self._client.is_connected:
            why = "is not open; call open()" if not self.wanted else "has lost its connection"
            raise AgentUnavailable(f"agent {self.agent} at {self.options.shown} {why}")
        return self._client

    # opening and closing ---------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, unless connected. Raises ``AgentUnavailable`` within the time-out."""
        async with self._opened:
            self.wanted = True
            if self._client is not None and (self._reopening or not self._client.is_closed):
                self.client  # noqa: B018 - raises while away, and the way back is on
                return
            try:
                await self._connect()
            except AgentUnavailable:
                self.wanted = False
                raise

    async def close(self) -> None:
        async with self._opened:
            self.wanted = False
            if self._reopening is not None:
                self._reopening.cancel()
                await asyncio.wait([self._reopening])
            await self._discard()
            self._on_lost("was closed")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        client = Client()
        refused: asyncio.Future[None] = loop.create_future()
        errors: list[str] = []

        async def on_error(error: Exception) -> None:
            if not connecting.done():
                # The reset of a refused connection can overtake the server's words about it.
                hung_up = isinstance(error, ConnectionResetError)
                said = "the server hung up, as on a wrong user or password" if hung_up else ""
                errors.append(said or str(error) or type(error).__name__)
                if len(errors) >= len(self.options.servers) and not refused.done():
                    refused.set_result(None)
            else:
                self._on_error(error)

        async def on_closed() -> None:
            if self.wanted and self._client is client and self._reopening is None:
                self._reopening = loop.create_task(self._reopen(), name="mesh-nats-reopen")

        async def on_disconnected() -> None:
            if self._client is client:
                self._on_lost("lost its connection")

        async def on_reconnected() -> None:
            self._said = ""
            log.warning("agent %s: connected again to %s", self.agent, self.options.shown)

        connecting = loop.create_task(
            client.connect(
                servers=self.options.servers,
                name=f"jobmesh/{self.agent}",
                error_cb=on_error,
                closed_cb=on_closed,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                connect_timeout=self._timeout,  # type: ignore[arg-type]
                reconnect_time_wait=RECONNECT_PAUSE,  # type: ignore[arg-type]
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL,
                **self.options.credentials(),
            )
        )
        waiting: set[asyncio.Future[None]] = {connecting, refused}
        try:
            # nats-py alone would try for ever, its first connection too.
            await asyncio.wait(waiting, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            is_done = connecting.done() and not connecting.cancelled()
            failure = connecting.exception() if is_done else None
            if is_done and failure is None:
                # The driver goes on in plain text if the server does not insist on TLS.
                if not self.options.tls or client._server_info.get("tls_required"):
                    await self._begin(client)
                    return
                errors.append("the URL asks for TLS and the server offers no TLS")
        finally:
            if self._client is not client:
                connecting.cancel()
                await asyncio.wait([connecting])
                await _close(client)
        reason = errors[-1] if errors else str(failure or f"no answer in {self._timeout} s")
        raise AgentUnavailable(
            f"agent {self.agent}: cannot connect to {self.options.shown}: {reason}; check that "
            "nats-server runs there, and the user, password or credentials"
        )

    async def _begin(self, client: Client) -> None:
        inbox = client.new_inbox()
        try:
            await client.subscribe(f"{inbox}.*", cb=self._on_reply)
        except nats.errors.Error as error:
            raise self._not_sent("its inbox", error) from error
        self._client, self._inbox = client, inbox
        self.epoch += 1

    async def _reopen(self) -> None:
        """nats-py gave up: begin again until it works."""
        try:
            await Backoff(asyncio.Event(), RECONNECT_PAUSE).retry(
                f"agent {self.agent}", self._connect, MeshError
            )
        finally:
            self._reopening = None

    async def _discard(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    # requests --------------------------------------------------------------------------------

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        """Raises ``AgentUnavailable``. Survives reconnects, not a change of ``epoch``."""
        try:
            return await self.client.subscribe(subject, cb=callback)
        except nats.errors.Error as error:
            raise self._not_sent(subject, error) from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Never raises."""
        try:
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("agent %s: unsubscribing: %s", self.agent, error)

    async def send(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        """Publish and wait for nothing. Raises ``AgentUnavailable`` if it was not sent."""
        try:
            await self.client.publish(subject, data, reply=reply)
        except nats.errors.Error as error:
            raise self._not_sent(subject, error) from error

    async def request(self, subject: str, data: bytes, timeout: float) -> Msg:
        """One request; raises as the module says."""
        (reply,) = await self.request_all([Message(subject, data)], timeout)
        if isinstance(reply, AgentError):
            raise reply
        return reply

    async def request_all(
        self, messages: Sequence[Message], timeout: float
    ) -> list[Msg | AgentError]:
        """Send all at once; the reply or the error of each, in order, by one deadline."""
        loop = asyncio.get_running_loop()
        calls: list[tuple[str, asyncio.Future[Msg]] | AgentError] = []
        deadline = loop.time() + timeout
        try:
            for message in messages:
                self._tokens += 1
                token = str(self._tokens)
                future: asyncio.Future[Msg] = loop.create_future()
                self._waiting[token] = (message.subject, future)
                calls.append((token, future))
                try:
                    await self.client.publish(
                        message.subject,
                        message.data,
                        reply=f"{self._inbox}.{token}",
                        headers=message.headers,
                    )
                except (nats.errors.Error, AgentUnavailable) as error:
                    calls[-1] = self._not_sent(message.subject, error)
                    del self._waiting[token]
            futures = [call[1] for call in calls if not isinstance(call, AgentError)]
            if futures:
                await asyncio.wait(futures, timeout=max(0.0, deadline - loop.time()))
            return [self._outcome(m, call) for m, call in zip(messages, calls, strict=True)]
        finally:
            for call in calls:
                if not isinstance(call, AgentError):
                    self._waiting.pop(call[0], None)

    def _outcome(
        self, message: Message, call: tuple[str, asyncio.Future[Msg]] | AgentError
    ) -> Msg | AgentError:
        if isinstance(call, AgentError):
            return call
        future = call[1]
        if not future.done():
            return PublishOutcomeUnknown(
                f"agent {self.agent} at {self.options.shown} did not answer in time "
                f"on {message.subject}"
            )
        error = future.exception()
        if isinstance(error, AgentError):
            return error
        reply = future.result()
        if status_of(reply) == "503":
            return NoResponders(
                f"agent {self.agent} at {self.options.shown}: nobody listens on "
                f"{message.subject}; check that JetStream is enabled there and has a leader"
            )
        return reply

    def _not_sent(self, subject: str, error: Exception) -> AgentUnavailable:
        if isinstance(error, AgentUnavailable):
            return error
        reason = str(error)
        if isinstance(error, nats.errors.MaxPayloadError):
            reason += f"; raise the server's max_payload above {self.client.max_payload} bytes"
        return AgentUnavailable(
            f"agent {self.agent} at {self.options.shown}: not sent to {subject}: {reason}"
        )

    # events ----------------------------------------------------------------------------------

    async def _on_reply(self, message: Msg) -> None:
        _, future = self._waiting.pop(message.subject.rpartition(".")[2], (None, None))
        if future is not None and not future.done():
            future.set_result(message)

    def _on_lost(self, how: str) -> None:
        if how != "was closed":
            log.warning("agent %s: lost its connection to %s", self.agent, self.options.shown)
        for subject, future in self._waiting.values():
            if not future.done():
                error = PublishOutcomeUnknown(
                    f"agent {self.agent} at {self.options.shown} {how} before it answered "
                    f"on {subject}"
                )
                _fail(future, error)
        for callback in list(self.lost):
            callback()

    def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self._said:
            self._said = text
            log.warning("agent %s at %s: %s", self.agent, self.options.shown, text)
        if "permissions violation for publish" not in text.lower():
            return
        # The server says it to the connection, not to the request: find whose it is.
        for subject, future in self._waiting.values():
            if f'"{subject.lower()}"' in text.lower() and not future.done():
                refusal = AgentUnavailable(
                    f"agent {self.agent} at {self.options.shown}: the account may not publish "
                    f"to {subject}; grant it that permission"
                )
                _fail(future, refusal)


def status_of(message: Msg) -> str:
    """The status of a message that is one, such as ``404``; else the empty string."""
    headers: dict[str, Any] | None = message.headers
    return headers.get("Status", "") if headers and not message.data else ""


def _fail(future: asyncio.Future[Msg], error: AgentError) -> None:
    future.set_exception(error)
    future.exception()  # its waiter may be gone


async def _close(client: Client) -> None:
    # In a task of its own: where nats-py gives up a reconnection it cancels the future that this
    # waits for as well, and so it would look as if whoever closes had been cancelled.
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait([closing])
    if closing.cancelled():
        log.debug("closing a connection: its reconnection was given up")
    elif (error := closing.exception()) is not None:
        # Whatever it is: nobody needs the connection any more. On one that has been lost nats-py
        # and asyncio raise what they come to, such as AttributeError and TypeError.
        log.debug("closing a connection: %r", error)
