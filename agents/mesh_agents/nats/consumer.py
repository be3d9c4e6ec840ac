"""Pulling a lane's jobs from JetStream, highest priority first.

Each priority of a lane has a durable consumer on the server and a ``_Level`` here:

- *unknown*: nothing is asked for. It may have jobs.
- *probing*: a request that does not wait has been sent; messages come, or the word that there
  are none.
- *watching*: it was empty, and a request stays open (``EXPIRES`` seconds, with heartbeats):
  whatever appears is sent here.

``pull`` walks down the levels (one in ``FAIR_TURN`` walks up) and hands out the first frame it
finds. It goes below a level only if that one is *watching*, so a lower priority never overtakes,
and a level is asked only while a ``pull`` waits. What arrives all the same with nobody waiting
stays in the level's buffer, leased, for ``_hold`` seconds at most, and is then put back for
others.

Any sign of trouble (connection lost, heartbeat missing, status 409) leads back to *unknown*. A
consumer that the server has lost is created again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec
from nats.aio.msg import Msg

from mesh.clock import Clock
from mesh.errors import AgentError, AgentUnavailable, CorruptMessage, UnsupportedVersion
from mesh.job import Priority
from mesh.ports import FAIR_TURN, Delivery, Settlement
from mesh.wire import Envelope, Record, decode_jobs
from mesh_agents.nats.connection import NoResponders, status_of
from mesh_agents.nats.frames import (
    FRAME_JOBS,
    GIVEN,
    MESSAGE_ID,
    PRIOR,
    Message,
    chunks,
    ledger_entries,
    pack,
)
from mesh_agents.nats.held import Held, ack_subject
from mesh_agents.nats.inbox import Inbox
from mesh_agents.nats.recall import ask, is_over, lost_attempts
from mesh_agents.nats.streams import Streams

__all__ = ["NatsConsumer"]

log = logging.getLogger("mesh")

EXPIRES, HEARTBEAT = 60.0, 6.0
MAX_BATCH = 32
HOLD = 0.5
NAK_DELAY = 30
MAX_HELD = 4096
MOST_LATE = 2
_SECOND = 1_000_000_000


class _State(Enum):
    UNKNOWN = auto()
    PROBING = auto()
    WATCHING = auto()


@dataclass(eq=False)
class _Level:
    """One priority of the lane."""

    priority: int
    state: _State = _State.UNKNOWN
    buffer: deque[Held] = field(default_factory=deque)
    credit: int = 0
    """How many messages the request may still bring."""
    request: str = ""
    """The inbox of the latest request; a status to another one is an old one's."""
    heard: float = 0.0
    """When the server last said something on the request, by the monotonic clock."""
    frame_jobs: int = FRAME_JOBS
    """The jobs in the latest frame, to guess how many frames make ``limit`` jobs."""

    @property
    def patience(self) -> float:
        """Seconds of silence after which the request is given up."""
        return 5.0 if self.state is _State.PROBING else 2.0 * HEARTBEAT

    def forget(self) -> None:
        self.state = _State.UNKNOWN
        self.request = ""
        self.credit = 0


class NatsConsumer:
    """``mesh.ports.Consumer`` over JetStream."""

    def __init__(self, streams: Streams, lane: str, lease: float, clock: Clock) -> None:
        self._streams = streams
        self._connection = streams.connection
        self._names = streams.names
        self._lane = lane
        self._lease = lease
        self._clock = clock
        self._hold = min(HOLD, lease / 4)
        stream, first = self._names.stream("JOBS"), self._names.consumer(lane, max(Priority))
        self._question = f"$JS.API.CONSUMER.INFO.{stream}.{first}"
        self._levels = {int(p): _Level(int(p)) for p in sorted(Priority, reverse=True)}
        self._held: dict[str, Held] = {}
        """Handed out, by acknowledgement subject."""
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._limit = 0
        """What the waiting ``pull`` asks for; 0 while none waits."""
        self._inbox: Inbox | None = None
        self._requests = 0
        self._missing = False
        self._trouble = ""
        self._sweeper: asyncio.Task[None] | None = None
        self.closed = False
        self._rests = 0
        self._pulled = 0
        self._connection.lost.add(self._on_lost)

    async def open(self) -> None:
        """Create the lane's consumers. Raises ``AgentError``."""
        ensure = self._streams.ensure_consumer
        await asyncio.gather(*(ensure(self._lane, p, self._lease) for p in self._levels))

    # pulling ---------------------------------------------------------------------------------

    async def pull(self, limit: int) -> list[Delivery]:
        rests = self._rests
        async with self._lock:
            self._limit = limit
            self._pulled += 1
            try:
                while not self.closed and self._rests == rests:
                    self._wake.clear()
                    await self._attach()
                    if deliveries := await self._take(limit):
                        return deliveries
                    await self._wait()
                if not self.closed:
                    await self._leave()
                return []
            except AgentUnavailable:
                raise
            except AgentError as error:
                raise AgentUnavailable(str(error)) from error
            finally:
                self._limit = 0

    async def _attach(self) -> None:
        """Be subscribed, with consumers on the server. Raises ``AgentUnavailable``."""
        if self._inbox is not None and self._inbox.is_over:
            await self._inbox.close()
            self._inbox = None
        if self._inbox is None:
            inbox = Inbox(self._connection, self._question, self._lease / 8, self._on_message)
            await inbox.open()
            self._inbox = inbox
        if self._trouble:
            trouble, self._trouble = self._trouble, ""
            raise AgentUnavailable(f"agent {self._connection.agent}: {trouble}")
        while self._missing:
            # Cleared first: should they go missing again meanwhile, that must not be forgotten.
            self._missing = False
            try:
                await self._streams.ensure()
                await self.open()
            except BaseException:
                self._missing = True
                raise

    async def _take(self, limit: int) -> list[Delivery]:
        """Hand out from the highest priority that has something; ask the next level if none is
        known to have."""
        taken: list[Delivery] = []
        levels = list(self._levels.values())
        if self._pulled % FAIR_TURN == 0:
            levels.reverse()
        for level in levels:
            while level.buffer and len(taken) < limit:
                held = level.buffer[0]
                if held.lost:
                    level.buffer.popleft()
                    continue
                plain = held.prior == 0 and not held.may_be_copy
                if taken and not (plain and held.count <= limit - len(taken)):
                    # Looking into this one takes time, for which the others need not wait.
                    return taken
                taken += await self._hand_out(level, held, limit)
            if level.state is not _State.WATCHING:
                if level.state is _State.UNKNOWN and not taken:
                    await self._request(level, probe=True)
                return taken
        return taken

    async def _request(self, level: _Level, *, probe: bool) -> None:
        if self._inbox is None:
            return  # closed, or to rest, while something else was waited for
        self._requests += 1
        batch = max(1, min(MAX_BATCH, self._limit // level.frame_jobs))
        level.state = _State.PROBING if probe else _State.WATCHING
        level.credit = batch
        level.request = self._inbox.subject(f"{level.priority}-{self._requests}")
        level.heard = time.monotonic()
        body: dict[str, int | bool] = {"batch": batch}
        if probe:
            body["no_wait"] = True
        else:
            body |= {
                "expires": int(EXPIRES * _SECOND),
                "idle_heartbeat": int(HEARTBEAT * _SECOND),
            }
        stream = self._names.stream("JOBS")
        consumer = self._names.consumer(self._lane, level.priority)
        await self._connection.send(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
            msgspec.json.encode(body),
            reply=level.request,
        )

    async def _wait(self) -> None:
        """Until something happened, or a request has been silent for too long."""
        now = time.monotonic()
        ends = [lv.heard + lv.patience for lv in self._levels.values() if lv.request]
        try:
            async with asyncio.timeout(max(0.0, min(ends, default=now) - now)):
                await self._wake.wait()
        except TimeoutError:
            now = time.monotonic()
            for level in self._levels.values():
                if level.request and now >= level.heard + level.patience:
                    if level.state is _State.PROBING:
                        self._trouble = f"no answer on lane {self._lane}"
                    level.forget()

    async def _on_message(self, inbox: Inbox, message: Msg) -> None:
        status = status_of(message)
        if not status and message.reply:
            level = self._levels[int(message.subject.split(".")[-2])]
            held = Held(message, self._lease, inbox.since)
            if self._is_wanted(held):
                level.buffer.append(held)
            level.heard = time.monotonic()
            level.frame_jobs = held.count
            level.credit -= 1
            if level.credit <= 0:
                level.forget()
            self._sweep_later()
        else:
            level = self._levels[int(message.subject.rpartition(".")[2].split("-")[0])]
            if message.subject == level.request:
                await self._on_status(level, status, str(message.headers))
        self._wake.set()

    def _is_wanted(self, held: Held) -> bool:
        """Not if others may have its jobs by now: it comes again when its lease ends. ``MOST_LATE``
        times at most, so that jobs run, if later, on a server that answers no questions too; the
        recorder is asked about them then."""
        if not held.may_be_late:
            return True
        if held.prior >= MOST_LATE:
            held.prolong()
            return True
        log.warning(
            "agent %s, lane %s: %d jobs may have come late by %.1f s and are left to their lease: "
            "the connection hung, or this process was stopped",
            self._connection.agent,
            self._lane,
            held.count,
            time.monotonic() - held.sent,
        )
        return False

    async def _on_status(self, level: _Level, status: str, text: str) -> None:
        level.heard = time.monotonic()
        if status == "100":
            return
        probed = level.state is _State.PROBING
        level.forget()
        if status in ("404", "408"):
            if probed and self._limit:
                try:
                    await self._request(level, probe=False)
                except AgentUnavailable as error:
                    log.debug("%s", error)
        elif status == "503" or "Deleted" in text:
            self._missing = True
        elif probed:
            self._trouble = f"lane {self._lane}: {text}"

    def _on_lost(self) -> None:
        if self._inbox is not None:
            self._inbox.is_over = True
        for level in self._levels.values():
            level.forget()
        self._wake.set()

    # handing out -----------------------------------------------------------------------------

    async def _hand_out(self, level: _Level, held: Held, limit: int) -> list[Delivery]:
        """The deliveries of a message, which leaves the buffer; none if there is nothing to run
        in it, or too much for ``limit``."""
        held.busy = True
        try:
            deliveries = await self._open(held, limit)
            level.buffer.remove(held)
        finally:
            held.busy = False
        if deliveries:
            held.hand_out(place for place, _ in deliveries)
            self._held[held.receipt] = held
            if len(self._held) > MAX_HELD:  # those that were never settled must not pile up
                self._held = {key: h for key, h in self._held.items() if not h.lost}
        return [delivery for _, delivery in deliveries]

    async def _open(self, held: Held, limit: int) -> list[tuple[int, Delivery]]:
        try:
            jobs = decode_jobs(held.message.data, self._lane)
        except CorruptMessage as error:
            await self._streams.set_aside("jobs", held.message.data, error)
            await self._connection.send(held.receipt, b"+TERM")
            return []
        except UnsupportedVersion as error:
            log.error("agent %s, lane %s: %s", self._connection.agent, self._lane, error)
            nak = b'-NAK {"delay": %d}' % (NAK_DELAY * _SECOND)
            await self._connection.send(held.receipt, nak)
            return []
        known = await ask(self._connection, self._names, held, jobs)
        run = [(place, job) for place, job in enumerate(jobs) if not is_over(held, job, known)]
        if not run:
            await self._connection.send(held.receipt, b"+ACK")
            return []
        if len(run) > limit:
            await self._split(held, [job for _, job in run])
            return []
        redelivered = held.prior > 0
        return [
            (
                place,
                Delivery(
                    job, f"{held.receipt}#{place}", lost_attempts(held, job, known), redelivered
                ),
            )
            for place, job in run
        ]

    async def _split(self, held: Held, jobs: Sequence[Envelope]) -> None:
        """Put a frame's jobs back as smaller ones, for others to share, before any starts."""
        now = self._clock.time()
        frames = chunks(jobs, held.origin.sequence)
        await self._streams.store([f.message(self._names, now, held.prior) for f in frames])
        await self._connection.send(held.receipt, b"+ACK")

    # giving back what nobody takes -----------------------------------------------------------

    def _sweep_later(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="mesh-nats-sweep")

    async def _sweep(self) -> None:
        while buffered := [h for lv in self._levels.values() for h in lv.buffer]:
            wait = min(h.arrived for h in buffered) + self._hold - time.monotonic()
            await asyncio.sleep(max(wait, self._hold / 10))
            await self._give_back(time.monotonic() - self._hold)

    async def _give_back(self, before: float) -> None:
        """Put buffered messages back on the lane that arrived before that moment."""
        for level in self._levels.values():
            old = [h for h in level.buffer if h.arrived <= before and not h.busy]
            for held in old:
                if held.busy or held not in level.buffer:
                    continue  # taken while the one before it was given back
                level.buffer.remove(held)
                # Without decoding: it may be of a version that others can read.
                headers = {MESSAGE_ID: f"{held.origin.sequence}/back", PRIOR: str(held.prior)}
                if held.may_be_copy:
                    headers[GIVEN] = "1"
                try:
                    copy = Message(held.message.subject, held.message.data, headers)
                    await self._streams.store([copy])
                    await self._connection.send(held.receipt, b"+ACK")
                except AgentError as error:
                    log.debug("not given back, its lease will run out: %s", error)

    # settling --------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        records: list[Record] = []
        again: list[tuple[Envelope, str]] = []
        settled: list[tuple[Held, int]] = []
        for settlement in settlements:
            subject, place = ack_subject(settlement.delivery.receipt)
            held = self._held.get(subject)
            if held is not None and held.lost:
                held = None
            mine = held is not None and place in held.left
            if settlement.again is not None:
                if held is None or not mine:
                    continue
                job = settlement.again
                again.append((job, f"{job.id}:{job.attempt}:{held.origin.sequence}"))
            if settlement.record is not None:
                records.append(settlement.record)
            if held is not None:
                settled.append((held, place))
        # Jobs before records: a job recorded as ``retrying`` is on the agent for certain.
        if again:
            now = self._clock.time()
            frames = pack(again)
            await self._streams.store([f.message(self._names, now, 0) for f in frames])
        if records:
            entries = ledger_entries(records)
            await self._streams.store([Message(self._names.ledger, e) for e in entries])
        for held, place in settled:
            held.left.discard(place)
        await self._acknowledge([held for held in {h for h, _ in settled} if not held.left])

    async def _acknowledge(self, done: Sequence[Held]) -> None:
        """Drop settled messages. The server handles a consumer's acknowledgements in order, so
        its answer to the last one stands for all."""
        last: dict[str, Held] = {}
        for held in done:
            if before := last.get(held.origin.consumer):
                await self._connection.send(before.receipt, b"+ACK")
            last[held.origin.consumer] = held
        calls = [Message(held.receipt, b"+ACK") for held in last.values()]
        replies = await self._connection.request_all(calls, self._streams.timeout)
        for reply in replies:
            if isinstance(reply, AgentError) and not isinstance(reply, NoResponders):
                raise reply
        for held in done:
            self._held.pop(held.receipt, None)

    async def rest(self) -> None:
        self._rests += 1
        self._on_lost()  # The requests that are open lose their inbox: they are none any more.
        if not self._lock.locked():  # Else the pull that is pending does so, as it ends.
            async with self._lock:
                await self._leave()

    async def close(self) -> None:
        self.closed = True
        self._connection.lost.discard(self._on_lost)
        self._on_lost()
        await self._leave()

    async def _leave(self) -> None:
        """Ask for nothing, and put back what came unasked."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        if self._inbox is not None:
            await self._inbox.close()
            self._inbox = None
        if self._connection.connected:
            await self._give_back(time.monotonic())
