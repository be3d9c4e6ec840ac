"""Reading an agent's ledger, and answering what became of redelivered jobs.

The reader owns an ephemeral consumer without acknowledgements, which it makes again, behind the
last entry it received, whenever the server or the connection lost it. States: *detached* (no
consumer) ⇄ *attached* (a pull request may be open). The stream is purged up to what ``ack`` is
given, so it holds what was not acknowledged and nothing else, and a new reader starts at its
first entry. It relies on being the only reader that acknowledges, by the recorder's lease; and
while it answers it looks after ``strays``, which one process is to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mesh.errors import AgentError, AgentUnavailable, CorruptMessage, WireError
from mesh.job import new_job_id
from mesh.ports import LedgerBatch, Lookup
from mesh.wire import Record, decode_records
from mesh_agents.nats.connection import status_of
from mesh_agents.nats.frames import Origin
from mesh_agents.nats.recall import ASK_TIMEOUT, decode_question, encode_answer
from mesh_agents.nats.strays import SWEEP_EVERY, Strays
from mesh_agents.nats.streams import Streams

__all__ = ["NatsLedger"]

log = logging.getLogger("mesh")

BATCH = 2048
BATCH_BYTES = 16 * 1024 * 1024
EXPIRES, HEARTBEAT = 30, 5
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the stream. ``era`` tells a stream from one made again in its place."""

    era: str
    sequence: int


class NatsLedger:
    """``mesh.ports.Ledger`` over a stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._connection = streams.connection
        self._entries: deque[tuple[_Place, bytes]] = deque()
        self._buffered = 0
        """Bytes of the entries that were received and not read."""
        self._era = ""
        self._received = 0
        """The last sequence received; the next consumer starts behind it."""
        self._expected = 1
        """The consumer's number of the next entry; another one means that some were lost."""
        self._open = 0
        """Entries the open pull request may still bring."""
        self._heard = 0.0
        self._attached = False
        self._epoch = 0
        self._name = ""
        self._inbox: Subscription | None = None
        self._questions: Subscription | None = None
        self._lookup: Lookup | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._strays = Strays(streams)
        self._sweeping: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._acked = asyncio.Condition()
        self._acked_up_to = 0
        self.closed = False
        self._connection.lost.add(self._detach)

    # reading ---------------------------------------------------------------------------------

    async def read(self, limit: int, wait: float) -> LedgerBatch:
        try:
            return await self._read(limit, wait)
        except AgentUnavailable:
            raise
        except AgentError as error:
            raise AgentUnavailable(str(error)) from error

    async def _read(self, limit: int, wait: float) -> LedgerBatch:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            self._wake.clear()
            if self._entries and (batch := await self._decode(limit)) is not None:
                return batch
            self._connection.client  # noqa: B018 - raises while away
            if self._open and loop.time() - self._heard > 2 * HEARTBEAT:
                self._detach()
            if not self._attached:
                await self._attach()
            if not self._open:
                await self._pull()
            left = deadline - loop.time()
            if left <= 0 and not self._entries:
                return LedgerBatch((), _Place(self._era, 0))
            try:
                async with asyncio.timeout(min(max(left, 0), 2 * HEARTBEAT)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _decode(self, limit: int) -> LedgerBatch | None:
        """What has been received, about ``limit`` records of it; ``None`` if all is corrupt."""
        records: list[Record] = []
        place = _Place(self._era, 0)
        while self._entries and len(records) < limit:
            next_place, data = self._entries[0]
            try:
                records += decode_records(data)
            except WireError as error:
                if records:
                    break  # first hand out what is good: then nothing is lost by a failure here
                if not isinstance(error, CorruptMessage):
                    raise
                await self._streams.set_aside("ledger", data, error)
            place = next_place
            self._entries.popleft()
            self._buffered -= len(data)
        return LedgerBatch(records, place) if records else None

    async def _attach(self) -> None:
        epoch = self._connection.epoch
        if self._inbox is None or self._epoch != epoch:
            first = self._inbox is None
            subject = self._connection.client.new_inbox()
            self._inbox = await self._connection.subscribe(subject, self._on_message)
            self._epoch = epoch
            if not first and self._lookup is not None:
                self._questions = None
                await self.serve(self._lookup)
        try:
            info = await self._streams.info("LEDGER")
        except AgentUnavailable:
            raise
        except AgentError:
            await self._streams.ensure()
            info = await self._streams.info("LEDGER")
        if self._era != info["created"]:
            self._era = info["created"]
            self._received = self._acked_up_to = 0
        stream = self._streams.names.stream("LEDGER")
        self._name = f"reader-{new_job_id()}"
        self._expected = 1
        config = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._received + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 120 * _SECOND,
        }
        await self._streams.api(
            f"CONSUMER.CREATE.{stream}.{self._name}",
            {"stream_name": stream, "config": config, "action": "create"},
        )
        self._attached = True

    async def _pull(self) -> None:
        assert self._inbox is not None
        stream = self._streams.names.stream("LEDGER")
        self._open = BATCH
        self._heard = asyncio.get_running_loop().time()
        request = {
            "batch": BATCH,
            "max_bytes": BATCH_BYTES,
            "expires": EXPIRES * _SECOND,
            "idle_heartbeat": HEARTBEAT * _SECOND,
        }
        await self._connection.send(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{self._name}",
            msgspec.json.encode(request),
            reply=self._inbox.subject,
        )

    async def _on_message(self, message: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        status = status_of(message)
        if not status and message.reply:
            self._receive(message)
        elif status in ("404", "408") or (status == "409" and "MaxBytes" in str(message.headers)):
            self._open = 0
        elif status in ("409", "503"):
            self._detach()
        self._wake.set()
        if self._attached and not self._open:
            await self._read_ahead()

    async def _read_ahead(self) -> None:
        """Ask for more at once, so that the next read finds it here; within bounds."""
        if self._entries and self._buffered < BATCH_BYTES:
            with suppress(AgentUnavailable):
                await self._pull()

    def _receive(self, message: Msg) -> None:
        origin = Origin.parse(message.reply)
        if origin.consumer != self._name:
            return  # of a consumer that was given up
        if origin.number != self._expected:
            self._detach()
            return
        self._expected += 1
        self._open -= 1
        self._received = origin.sequence
        self._entries.append((_Place(self._era, origin.sequence), message.data))
        self._buffered += len(message.data)

    def _detach(self) -> None:
        self._attached = False
        self._open = 0
        self._name = ""
        self._wake.set()

    # acknowledging ---------------------------------------------------------------------------

    async def ack(self, batch: LedgerBatch) -> None:
        place: _Place = batch.receipt
        if not place.sequence or place.era != self._era:
            return
        stream = self._streams.names.stream("LEDGER")
        await self._streams.api(f"STREAM.PURGE.{stream}", {"seq": place.sequence + 1})
        async with self._acked:
            self._acked_up_to = max(self._acked_up_to, place.sequence)
            self._acked.notify_all()

    async def lag(self) -> int:
        return (await self._state())["messages"]

    async def end(self) -> int:
        return int((await self._state())["last_seq"])

    async def has_passed(self, place: int) -> bool:
        state = await self._state()
        return not state["messages"] or state["first_seq"] > place

    async def _state(self) -> dict[str, int]:
        state: dict[str, int] = (await self._streams.info("LEDGER"))["state"]
        return state

    # answering -------------------------------------------------------------------------------

    async def serve(self, lookup: Lookup) -> None:
        self._lookup = lookup
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep(), name="mesh-strays")
        if self._questions is not None:
            await self._connection.unsubscribe(self._questions)
        self._questions = await self._connection.subscribe(
            self._streams.names.ask, self._on_question
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            try:
                await self._strays.sweep()
            except AgentError as error:
                log.debug("agent %s: no sweep: %s", self._connection.agent, error)

    @property
    def awaited(self) -> bool:
        return bool(self._answering)

    async def _on_question(self, message: Msg) -> None:
        assert self._lookup is not None
        task = asyncio.create_task(self._answer(message, self._lookup), name="mesh-answer")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Msg, lookup: Lookup) -> None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                job_ids = decode_question(message.data)
                await self._caught_up()
                answer = encode_answer(await lookup(job_ids))
                await self._connection.send(message.reply, answer)
        except TimeoutError:
            log.debug("a question was left open: the ledger's reader is behind")
        except msgspec.MsgspecError as error:
            log.error("agent %s: a question is corrupt: %s", self._connection.agent, error)
        except Exception as error:
            # No answer is an answer: the asker assumes the worst.
            log.warning("agent %s: cannot answer: %s", self._connection.agent, error)

    async def _caught_up(self) -> None:
        """Wait until all that is in the ledger now has been acknowledged."""
        state = await self._state()
        if not state["messages"]:
            return
        async with self._acked:
            await self._acked.wait_for(lambda: self._acked_up_to >= state["last_seq"])

    async def close(self) -> None:
        self.closed = True
        self._connection.lost.discard(self._detach)
        for task in (*self._answering, self._sweeping):
            if task is not None:
                task.cancel()
        self._sweeping = None
        for subscription in (self._inbox, self._questions):
            if subscription is not None:
                await self._connection.unsubscribe(subscription)
        self._inbox = self._questions = None
        self._detach()
