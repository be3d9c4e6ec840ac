"""The agent's four streams: creating them, storing in them, asking the server about them.

``JOBS`` is a work queue: a message leaves it when it is acknowledged. The server's scheduled
messages live in it too, and those exclude ``discard: new``; so the stream has no limit of its
own that could make the server discard the oldest jobs, and what the account or the disk cannot
take is refused to the publisher. ``LEDGER`` is a log that the reader purges from its beginning.
``BOARD`` keeps the latest message of each subject (see ``board``), ``DEAD`` the newest messages
that nobody can read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from nats.aio.msg import Msg

from mesh.errors import AgentError, AgentUnavailable, PublishOutcomeUnknown
from mesh.service import Backoff
from mesh_agents.nats.connection import Connection, NoResponders
from mesh_agents.nats.frames import Message, Names

__all__ = ["DUPLICATE_WINDOW", "ApiError", "Streams"]

log = logging.getLogger("mesh")

DUPLICATE_WINDOW = 120.0
"""Seconds for which the server knows the ids of messages it stored."""
DEAD_BYTES = 64 * 1024 * 1024
MAX_ACK_PENDING = 100_000
OLDEST_SERVER = (2, 12)

_SECOND = 1_000_000_000
_NOT_FOUND = {10059, 10014}
_NO_MESSAGE = 10037
_EXISTS = 10058
_IN_PROCESS = 10158
"""Another message of the same id is being stored at this moment."""
_FULL = {10002, 10023, 10047, 10077}
"""A limit of the account, the server, its storage, the stream."""
_NO_STORE = 10049
"""The server cannot make a stream's files, as while those of its predecessor are being deleted."""
_NO_MAJORITY = 10008
"""In a NATS cluster: too few of its servers run, or they have not elected a leader yet."""


class ApiError(AgentError):
    """JetStream refused a request. ``code`` is its ``err_code``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_pub_ack = msgspec.json.Decoder(_PubAck).decode


class Streams:
    """See the module."""

    def __init__(self, connection: Connection, names: Names, timeout: float) -> None:
        self.connection = connection
        self.names = names
        self.dead_letters = 0
        """How many messages were set aside."""
        self.timeout = timeout
        """Seconds until a request counts as not answered."""
        self._ensuring = asyncio.Lock()

    # storing ---------------------------------------------------------------------------------

    async def store_all(self, messages: Sequence[Message]) -> list[AgentError | None]:
        """Publish all at once; one outcome each, in order. ``None``: stored, or known already.

        If the streams are gone they are created again, and the messages sent once more.
        """
        outcomes = await self._publish(messages)
        missing = [i for i, o in enumerate(outcomes) if isinstance(o, NoResponders)]
        if missing:
            try:
                await self.ensure()
            except AgentError as error:
                log.warning("the streams cannot be made again: %s", error)
                return outcomes
            again = await self._publish([messages[i] for i in missing])
            for index, outcome in zip(missing, again, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def store(self, messages: Sequence[Message]) -> None:
        """Like ``store_all``, and raises the first error."""
        for outcome in await self.store_all(messages):
            if outcome is not None:
                raise outcome

    async def set_aside(self, kind: str, data: bytes, why: Exception) -> None:
        """Keep bytes that nobody can read in ``DEAD``. Raises ``AgentError`` if that failed."""
        await self.store([Message(self.names.dead(kind), data)])
        self.dead_letters += 1
        log.error(
            "agent %s: set aside in stream %s: %s",
            self.connection.agent,
            self.names.stream("DEAD"),
            why,
        )

    async def _publish(self, messages: Sequence[Message]) -> list[AgentError | None]:
        replies = await self.connection.request_all(messages, self.timeout)
        return [self._outcome(m, r) for m, r in zip(messages, replies, strict=True)]

    def _outcome(self, message: Message, reply: Msg | AgentError) -> AgentError | None:
        if isinstance(reply, AgentError):
            return reply
        ack = _pub_ack(reply.data)
        if ack.error is None:
            return None
        text = f"{self.where} on {message.subject}: {ack.error.description}"
        if ack.error.err_code == _IN_PROCESS:
            return PublishOutcomeUnknown(f"{text}; try again")
        if ack.error.err_code in _FULL:
            text += (
                ": JetStream is at its storage limit: raise max_file_store of nats-server, "
                "max_storage of the account, or free the disk; ?max_bytes=... in the agent's URL "
                "refuses jobs before that"
            )
        return AgentUnavailable(f"{text}; nothing was stored")

    @property
    def where(self) -> str:
        """Names the agent in messages."""
        return f"agent {self.connection.agent} at {self.connection.options.shown}"

    # the API ---------------------------------------------------------------------------------

    async def api(self, subject: str, body: Any = None) -> dict[str, Any]:
        """A request to the JetStream API. Raises ``ApiError``, ``AgentUnavailable``."""
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            reply = await self.connection.request(f"$JS.API.{subject}", data, self.timeout)
        except PublishOutcomeUnknown as error:
            raise AgentUnavailable(str(error)) from error
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        if "error" in answer:
            refusal = answer["error"]
            description = refusal.get("description", "unknown")
            raise ApiError(
                f"{self.where}: $JS.API.{subject}: {description}", refusal.get("err_code", 0)
            )
        return answer

    async def info(self, kind: str, **body: Any) -> dict[str, Any]:
        """Configuration and state of a stream."""
        return await self.api(f"STREAM.INFO.{self.names.stream(kind)}", body or None)

    async def first_from(self, sequence: int, subject: str) -> dict[str, Any] | None:
        """The first message of jobs from there on that is on the subject, as the stream's leader
        has it. Raises ``ApiError``, ``AgentUnavailable``."""
        query = {"seq": sequence, "next_by_subj": subject}
        try:
            answer = await self.api(f"STREAM.MSG.GET.{self.names.stream('JOBS')}", query)
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        message: dict[str, Any] = answer["message"]
        return message

    async def purge(self, kind: str, subject: str) -> int:
        """Delete the messages of a subject. Returns how many there were. Raises ``ApiError``,
        ``AgentUnavailable``."""
        answer = await self.api(f"STREAM.PURGE.{self.names.stream(kind)}", {"filter": subject})
        return int(answer["purged"])

    async def ensure(self) -> None:
        """Create what is missing, bring up to date what differs. Concurrent calls share."""
        async with self._ensuring:
            if self.connection.server_version < OLDEST_SERVER:
                version = ".".join(map(str, self.connection.server_version))
                raise AgentError(
                    f"{self.where} is nats-server {version}; delayed jobs need "
                    f"{'.'.join(map(str, OLDEST_SERVER))} or newer: upgrade the server"
                )
            for kind, wanted in self.wanted().items():
                await self._ensure(kind, wanted)

    async def _ensure(self, kind: str, wanted: Mapping[str, Any]) -> None:
        name = self.names.stream(kind)
        try:
            found = (await self.info(kind))["config"]
        except ApiError as error:
            if error.code not in _NOT_FOUND:
                raise self._explain(kind, "read", error) from error
            try:
                await self._create(name, wanted)
            except (ApiError, AgentUnavailable) as refusal:
                raise self._explain(kind, "create", refusal) from refusal
            return
        except AgentUnavailable as error:
            raise self._explain(kind, "read", error) from error
        differing = differences(wanted, found)
        if differing:
            try:
                await self.api(f"STREAM.UPDATE.{name}", {**found, **wanted})
            except (ApiError, AgentUnavailable) as refusal:
                what = f"change {', '.join(differing)} of"
                raise self._explain(kind, what, refusal) from refusal
            log.warning("%s: stream %s: changed %s", self.where, name, ", ".join(differing))

    async def _create(self, name: str, wanted: Mapping[str, Any]) -> None:
        # The sequences of a stream that is made again begin behind all that the lost one had (up
        # to a million messages a second): who holds a message of that one, or has read entries,
        # acknowledges these alone, and not what is new in their place.
        new = {"name": name, "num_replicas": 1, "first_seq": time.time_ns() // 1000, **wanted}
        backoff = Backoff(asyncio.Event(), first=0.05)
        give_up = time.monotonic() + self.timeout
        while True:
            try:
                await self.api(f"STREAM.CREATE.{name}", new)
            except ApiError as error:
                if error.code == _EXISTS:  # another process was first
                    return
                if error.code != _NO_STORE or time.monotonic() > give_up:
                    raise
            else:
                return
            await backoff.wait()

    def _explain(self, kind: str, what: str, error: AgentError) -> AgentError:
        if not self.connection.connected:
            return error
        text = f"cannot {what} stream {self.names.stream(kind)}: {error}"
        if isinstance(error, ApiError) and error.code == _NO_MAJORITY:
            return AgentUnavailable(f"{text}. More than half of the cluster's servers must run")
        return AgentError(
            f"{text}. A cluster needs a majority of its servers; the account needs "
            "JetStream and the permission to publish to $JS.API.> and $JS.ACK.> and "
            f"{self.names.root}.>, and to subscribe to _INBOX.> and {self.names.ask}; or create "
            "the stream beforehand"
        )

    def wanted(self) -> dict[str, dict[str, Any]]:
        """The configuration of each stream, as far as jobmesh depends on it."""
        root = self.names.root
        unlimited = {"max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1}
        wanted: dict[str, dict[str, Any]] = {
            "JOBS": {
                "subjects": [f"{root}.jobs.*.*.*", f"{root}.later.*.*.*.*"],
                "retention": "workqueue",
                "storage": "file",
                "discard": "old",
                "duplicate_window": int(DUPLICATE_WINDOW * _SECOND),
                "allow_msg_schedules": True,
                **unlimited,
            },
            "LEDGER": {
                "subjects": [self.names.ledger],
                "retention": "limits",
                "storage": "file",
                "discard": "new",
                **unlimited,
            },
            "BOARD": {
                "subjects": [f"{self.names.board}.>"],
                "retention": "limits",
                "storage": "file",
                "discard": "old",
                "allow_msg_ttl": True,
                **unlimited,
                "max_msgs_per_subject": 1,
            },
            "DEAD": {
                "subjects": [self.names.dead("*")],
                "retention": "limits",
                "storage": "file",
                "discard": "old",
                "max_bytes": DEAD_BYTES,
            },
        }
        if self.connection.options.replicas is not None:
            for config in wanted.values():
                config["num_replicas"] = self.connection.options.replicas
        return wanted

    async def ensure_consumer(self, lane: str, priority: int, lease: float) -> None:
        """Create a lane's consumer for one priority, or set its lease (seconds)."""
        stream, name = self.names.stream("JOBS"), self.names.consumer(lane, priority)
        subject = self.names.jobs(lane, priority, "*")
        config = {
            "name": name,
            "durable_name": name,
            "filter_subject": subject,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": int(lease * _SECOND),
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "max_waiting": 8192,
        }
        await self.api(
            f"CONSUMER.CREATE.{stream}.{name}.{subject}",
            {"stream_name": stream, "config": config, "action": ""},
        )

    # counting --------------------------------------------------------------------------------

    async def subjects(self, kind: str, pattern: str) -> dict[str, int]:
        """How many messages there are by subject."""
        counts: dict[str, int] = {}
        while True:
            info = await self.info(kind, subjects_filter=pattern, offset=len(counts))
            page = info["state"].get("subjects") or {}
            counts |= page
            if not page or len(counts) >= info.get("total", 0):
                return counts

    async def pending(self) -> dict[str, int]:
        """How many messages are leased, by name of the consumer."""
        return {each["name"]: each["num_ack_pending"] for each in await self.consumers()}

    async def consumers(self) -> list[dict[str, Any]]:
        """Configuration and state of the consumers of jobs."""
        found: list[dict[str, Any]] = []
        while True:
            stream = self.names.stream("JOBS")
            answer = await self.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
            page = answer.get("consumers") or []
            found += page
            if not page or len(found) >= answer.get("total", 0):
                return found


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The names of the settings that are not as wanted. The server omits some defaults."""
    return [key for key, value in wanted.items() if found.get(key, value and None) != value]
