"""An agent on NATS JetStream.

What is durable here is what JetStream acknowledged, as durable as the server makes it (see
``sync_interval`` in its configuration). One connection serves an agent object; its consumers and
ledger readers are told when it is lost and go on when it is back.

Two things it cannot do that SQL agents can. The server recognizes a repeated push by message
ids, for two minutes; a job whose id the caller chose, or that was moved, is looked up with the
recorder besides, before it runs. And it does not say who holds a message: see ``held``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from itertools import islice

from mesh.errors import AgentError, AgentUnavailable, PublishOutcomeUnknown
from mesh.job import check_name
from mesh.ports import AgentCapabilities, AgentSettings, Check, LaneDepth
from mesh.wire import Accepted, Envelope, Record
from mesh_agents.nats.board import NatsBoard, notice_messages
from mesh_agents.nats.connection import Connection
from mesh_agents.nats.consumer import NatsConsumer
from mesh_agents.nats.frames import Frame, Message, Names, ledger_entries, level, pack
from mesh_agents.nats.held import ack_subject, extended
from mesh_agents.nats.ledger import NatsLedger
from mesh_agents.nats.options import Options
from mesh_agents.nats.power import check_power_loss
from mesh_agents.nats.room import Room
from mesh_agents.nats.search import not_in_lane
from mesh_agents.nats.streams import DUPLICATE_WINDOW, Streams, differences

__all__ = ["NatsAgent"]

MAX_UNSURE = 10_000


class NatsAgent:
    """``mesh.ports.Agent`` over JetStream. Raises ``ConfigError`` for a wrong URL."""

    capabilities = AgentCapabilities(
        exact_lost_count=False,
        reports_lost_leases=False,
        why_not={
            "exact_lost_count": "JetStream counts deliveries of a frame, not starts of its jobs: "
            "the recorder is asked",
            "reports_lost_leases": "JetStream does not say that a lease has ended: each process "
            "keeps account of its own",
        },
    )

    def __init__(self, name: str, url: str, settings: AgentSettings) -> None:
        names = Names(check_name("cluster", settings.cluster), check_name("agent", name))
        options = Options.parse(url, settings.options)
        self._name = name
        self._clock = settings.clock
        self._timeout = settings.connect_timeout
        self._connection = Connection(name, options, settings.connect_timeout)
        self._streams = Streams(self._connection, names, settings.push_timeout)
        self._names = names
        self._room = Room(self._streams)
        self._consumers: list[NatsConsumer] = []
        self._readers: list[NatsLedger | NatsBoard] = []
        self._unsure: OrderedDict[str, tuple[float, Frame]] = OrderedDict()
        """Frames whose storing is in doubt, by the part of each of their jobs, and since when.
        Such a job is sent again within the same frame, which the server recognizes."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return self._connection.options.shown

    @property
    def dead_letters(self) -> int:
        """How many unreadable messages this object has set aside."""
        return self._streams.dead_letters

    async def open(self) -> None:
        was_open = self._connection.wanted
        await self._connection.open()
        try:
            await self._streams.ensure()
        except BaseException:
            if not was_open:  # Else others use it.
                await self._connection.close()
            raise

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()
        for reader in self._readers:
            await reader.close()
        self._consumers, self._readers = [], []
        await self._connection.close()

    # jobs ------------------------------------------------------------------------------------

    async def push(
        self, jobs: Sequence[Envelope], *, held: bool = False
    ) -> list[AgentError | None]:
        if not jobs:
            return []
        now = self._clock.time()
        self._forget_old_doubts(now)
        parts = [f"{job.id}:{job.attempt}" for job in jobs]
        wanted, result = dict(zip(parts, jobs, strict=True)), dict[str, AgentError | None]()
        if refusal := await self._room.refusal():
            # One that is pushed again may be stored already: that must be found out.
            result = {part: refusal for part in parts if part not in self._unsure}
            wanted = {part: job for part, job in wanted.items() if part not in result}
            if not wanted:
                return [refusal] * len(jobs)
        frames = self._frames(wanted)
        outcomes = await self._store(frames, now, held)
        for frame, outcome in zip(frames, outcomes, strict=True):
            result |= self._note(frame, outcome, now)
        return [result.get(part) for part in parts] if result else [None] * len(jobs)

    async def _store(
        self, frames: Sequence[Frame], now: float, held: bool
    ) -> list[AgentError | None]:
        """Store frames and say so in the ledger; the outcome of each."""
        messages = [frame.message(self._names, now) for frame in frames]
        records = [ledger_entries([Accepted(job, now) for job in frame.jobs]) for frame in frames]
        told = [[Message(self._names.ledger, entry) for entry in entries] for entries in records]
        if not held:
            # At once, which is twice as fast: the two streams may have leaders of their own, so
            # that one is stored and the other is not, but then the caller is told.
            pairs = zip(messages, told, strict=True)
            return await self._store_groups([[message, *entries] for message, entries in pairs])
        outcomes = await self._store_groups([[message] for message in messages])
        stored = [told[index] for index, outcome in enumerate(outcomes) if outcome is None]
        said = iter(await self._store_groups(stored))
        return [outcome or _worse(None, next(said)) for outcome in outcomes]

    async def _store_groups(self, groups: Sequence[Sequence[Message]]) -> list[AgentError | None]:
        """One outcome for each group of messages."""
        outcomes = iter(await self._streams.store_all([m for group in groups for m in group]))
        return [reduce(_worse, islice(outcomes, len(group))) for group in groups]

    def _forget_old_doubts(self, now: float) -> None:
        while self._unsure:
            part, (since, _) = next(iter(self._unsure.items()))
            if since > now - DUPLICATE_WINDOW / 2 and len(self._unsure) <= MAX_UNSURE:
                break
            del self._unsure[part]

    def _frames(self, jobs: Mapping[str, Envelope]) -> list[Frame]:
        """The frames to send: those in doubt that hold some of the jobs, and new ones."""
        if not self._unsure:
            return pack(zip(jobs.values(), jobs, strict=True))
        doubtful = {part: self._unsure[part][1] for part in jobs if part in self._unsure}
        frames = {frame.message_id: frame for frame in doubtful.values()}
        new = [(job, part) for part, job in jobs.items() if part not in doubtful]
        return [*frames.values(), *pack(new)]

    def _note(
        self, frame: Frame, outcome: AgentError | None, now: float
    ) -> dict[str, AgentError | None]:
        """The outcome of each job of a frame; remembers it if that is unknown."""
        if outcome is None and not self._unsure:
            return {}
        noted: dict[str, AgentError | None] = {}
        for job in frame.jobs:
            part = f"{job.id}:{job.attempt}"
            if isinstance(outcome, PublishOutcomeUnknown):
                self._unsure.setdefault(part, (now, frame))
                # Of each its own: the caller of one must not ask for another's.
                noted[part] = PublishOutcomeUnknown(
                    f"{outcome}; stored or not: ask for job {job.id}, or push it again within "
                    f"{DUPLICATE_WINDOW / 2:.0f} s, which stores nothing twice",
                    [job.id],
                )
            else:
                self._unsure.pop(part, None)
                noted[part] = outcome
        return noted

    async def withdraw(self, lane: str, priority: int, job_ids: Sequence[str]) -> set[str]:
        jobs = self._names.jobs(check_name("lane", lane), level(priority), 1)

        async def purge(job_id: str) -> bool:
            subject = self._names.later(jobs, f"{job_id}:1")
            # Each waits on a subject of its own: see pack() and Names.later().
            return (await self._streams.purge("JOBS", subject)) > 0

        gone = await asyncio.gather(*(purge(job_id) for job_id in job_ids))
        return {job_id for job_id, is_gone in zip(job_ids, gone, strict=True) if is_gone}

    async def missing(self, jobs: Mapping[str, Collection[str]]) -> set[str]:
        gone: set[str] = set()
        for lane, job_ids in jobs.items():
            gone |= await not_in_lane(self._streams, check_name("lane", lane), job_ids)
        return gone

    async def consume(self, lane: str, *, lease: float) -> NatsConsumer:
        consumer = NatsConsumer(self._streams, check_name("lane", lane), lease, self._clock)
        await consumer.open()
        self._consumers = [c for c in self._consumers if not c.closed] + [consumer]
        return consumer

    async def extend(self, receipts: Sequence[str], lease: float) -> set[str]:
        """Start the leases again; they last what ``consume`` was told. Lost ones go unnoticed
        here, as the server does not tell."""
        for subject in dict.fromkeys(ack_subject(receipt)[0] for receipt in receipts):
            await self._connection.send(subject, b"+WPI")
            extended(subject)
        return set()

    # the ledger ------------------------------------------------------------------------------

    async def append(self, records: Sequence[Record]) -> None:
        if records:
            entries = ledger_entries(records)
            await self._streams.store([Message(self._names.ledger, e) for e in entries])

    async def ledger(self) -> NatsLedger:
        reader = NatsLedger(self._streams)
        await self._streams.info("LEDGER")
        self._readers = [r for r in self._readers if not r.closed] + [reader]
        return reader

    # the board -------------------------------------------------------------------------------

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        await self._streams.store(notice_messages(self._names.board, notices))

    async def board(self) -> NatsBoard:
        reader = NatsBoard(self._streams)
        self._readers = [r for r in self._readers if not r.closed] + [reader]
        return reader

    # inspection ------------------------------------------------------------------------------

    async def depth(self) -> Mapping[str, LaneDepth]:
        """Totals are exact in jobs. The server counts what is leased in frames; that is turned
        into jobs by the mean size of the frames of its lane and priority."""
        root = self._names.root
        stored = await self._streams.subjects("JOBS", f"{root}.jobs.>")
        held = await self._streams.subjects("JOBS", f"{root}.later.>")
        pending = await self._streams.pending()
        levels: dict[tuple[str, str], tuple[int, int]] = {}
        for subject, frames in stored.items():
            lane, priority, jobs = subject[len(root) + 6 :].split(".")
            total, count = levels.get((lane, priority), (0, 0))
            levels[lane, priority] = total + frames * int(jobs), count + frames
        depth: dict[str, LaneDepth] = {}
        for (lane, priority), (total, count) in levels.items():
            frames = min(count, pending.get(self._names.consumer(lane, int(priority)), 0))
            leased = round(total * frames / count)
            old = depth.get(lane, LaneDepth())
            depth[lane] = LaneDepth(old.ready + total - leased, old.leased + leased)
        for subject, count in held.items():
            lane, _, jobs, _ = subject[len(root) + 7 :].split(".")
            old = depth.get(lane, LaneDepth())
            depth[lane] = LaneDepth(old.ready, old.leased, old.delayed + count * int(jobs))
        return depth

    async def check(self) -> list[Check]:
        subject = f"agent {self._name}"
        try:
            await self._connection.open()
        except AgentError as error:
            return [Check(subject, False, str(error), "start nats-server, or correct the URL")]
        version = ".".join(map(str, self._connection.server_version))
        checks = [Check(subject, True, f"{self.url} is nats-server {version}")]
        for kind, wanted in self._streams.wanted().items():
            checks.append(await self._check_stream(kind, wanted))
        return checks + await self._check_power_loss()

    async def _check_power_loss(self) -> list[Check]:
        try:
            replicas = (await self._streams.info("JOBS"))["config"]["num_replicas"]
        except AgentError:
            return []  # said above
        subject, monitors = f"agent {self._name}: loss of power", self._connection.options.monitors
        return await check_power_loss(subject, monitors, replicas, self._timeout)

    async def _check_stream(self, kind: str, wanted: Mapping[str, object]) -> Check:
        stream = self._names.stream(kind)
        subject = f"agent {self._name}: stream {stream}"
        try:
            info = await self._streams.info(kind)
        except AgentError as error:
            return Check(subject, False, str(error), "enable JetStream; grant $JS.API.>")
        differing = differences(wanted, info["config"])
        if differing:
            settings = ", ".join(f"{key}={wanted[key]!r}" for key in differing)
            return Check(subject, False, "configured otherwise", f"set {settings}")
        count, replicas = info["state"]["messages"], info["config"]["num_replicas"]
        return Check(subject, True, f"{count} messages, {replicas} replica(s)")


def _worse(one: AgentError | None, other: AgentError | None) -> AgentError | None:
    """The outcome of two messages that stand for the same jobs: nothing is certain if only
    one of them was stored."""
    if type(one) is type(other) or isinstance(one, PublishOutcomeUnknown):
        return one
    if isinstance(other, PublishOutcomeUnknown):
        return other
    if isinstance(one, AgentUnavailable) and isinstance(other, AgentUnavailable):
        return one
    return PublishOutcomeUnknown(str(one or other))
