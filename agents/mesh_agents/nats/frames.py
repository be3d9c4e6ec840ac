"""How jobs become messages. Pure: names, grouping, message ids, headers.

A JetStream message carries a **frame**: up to ``FRAME_JOBS`` jobs of one lane, one priority and
one ``due_at``. Its subject ends with the number of its jobs, so that the server's count of
messages by subject tells the depth in jobs. Nothing here depends on the time, so that the same
jobs give the same frames with the same message ids whenever they are sent again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mesh.clock import to_datetime
from mesh.job import Priority, check_name
from mesh.wire import Envelope, Record, encode_frame, encode_records

__all__ = [
    "FAN_OUT",
    "FRAME_BYTES",
    "FRAME_JOBS",
    "GIVEN",
    "MESSAGE_ID",
    "PRIOR",
    "Frame",
    "Message",
    "Names",
    "Origin",
    "chunks",
    "ledger_entries",
    "level",
    "pack",
]

FRAME_JOBS = 64
FRAME_BYTES = 512 * 1024
"""Jobs and records are packed up to this estimate, half of the server's default
``max_payload``. One that is larger alone travels alone."""
FAN_OUT = 8

PRIOR = "Mesh-Prior"
"""Header of a frame that was put back: how many deliveries of its jobs ended unsettled before.
Frames that a client pushed don't have it."""
GIVEN = "Mesh-Given"
"""Header of a pushed frame whose job has an id that the caller chose, or was moved: it may be a
copy."""
MESSAGE_ID = "Nats-Msg-Id"


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be published."""

    subject: str
    data: bytes = b""
    headers: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """Streams, subjects and consumers of one agent. ``+`` cannot stand in a name of the
    cluster's or the agent's, so no two agents share a stream."""

    cluster: str
    agent: str

    @property
    def root(self) -> str:
        return f"mesh.{self.cluster}.{self.agent}"

    @property
    def ledger(self) -> str:
        return f"{self.root}.ledger"

    @property
    def ask(self) -> str:
        return f"{self.root}.ask"

    @property
    def board(self) -> str:
        return f"{self.root}.board"

    def dead(self, kind: str) -> str:
        return f"{self.root}.dead.{kind}"

    def stream(self, kind: str) -> str:
        """``kind`` is ``JOBS``, ``LEDGER``, ``BOARD`` or ``DEAD``."""
        return f"MESH+{self.cluster}+{self.agent}+{kind}"

    def jobs(self, lane: str, priority: int, count: int | str) -> str:
        return f"{self.root}.jobs.{lane}.{priority}.{count}"

    def later(self, jobs_subject: str, message_id: str) -> str:
        """Where a frame waits that is to appear on ``jobs_subject``. A second message on the
        same subject would replace the first, hence something of the frame's own."""
        unique = hashlib.sha256(message_id.encode()).hexdigest()[:32]
        return f"{self.root}.later.{jobs_subject[len(self.root) + 6 :]}.{unique}"

    def consumer(self, lane: str, priority: int) -> str:
        return f"{lane}-{priority}"


@dataclass(frozen=True, slots=True)
class Frame:
    """Jobs that travel together. ``message_id`` deduplicates the frame as a whole."""

    jobs: tuple[Envelope, ...]
    message_id: str

    def message(self, names: Names, now: float, prior: int | None = None) -> Message:
        """The message to publish: at once, or held by the server until ``due_at``."""
        job = self.jobs[0]
        subject = names.jobs(check_name("lane", job.lane), level(job.priority), len(self.jobs))
        headers = {MESSAGE_ID: self.message_id}
        if prior is not None:
            headers[PRIOR] = str(prior)
        elif job.given_id:
            headers[GIVEN] = "1"
        if job.due_at > now:
            headers["Nats-Schedule"] = schedule_header(job.due_at)
            headers["Nats-Schedule-Target"] = subject
            subject = names.later(subject, self.message_id)
        return Message(subject, encode_frame(self.jobs), headers)


class Origin(NamedTuple):
    """Where a delivery comes from, as its acknowledgement subject tells."""

    consumer: str
    delivered: int
    """The number of this delivery of the message, from 1."""
    sequence: int
    """The message's place in the stream."""
    number: int
    """The consumer's count of its deliveries."""
    pending: int
    """How many messages the consumer had still to deliver."""

    @classmethod
    def parse(cls, ack_subject: str) -> Origin:
        """From ``$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>...``, or the
        longer form with a domain and an account hash in front of the stream."""
        tokens = ack_subject.split(".")
        first = 3 if len(tokens) == 9 else 5
        consumer, delivered, sequence, number, _, pending = tokens[first : first + 6]
        return cls(consumer, int(delivered), int(sequence), int(number), int(pending))


def schedule_header(due_at: float) -> str:
    """The moment for ``Nats-Schedule``, rounded up to a millisecond: a job is never early."""
    milliseconds = math.ceil(due_at * 1000)
    second = to_datetime(milliseconds // 1000)
    return f"@at {second:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def pack(jobs: Iterable[tuple[Envelope, str]]) -> list[Frame]:
    """Group jobs into frames, in order. Each comes with its part of the message id, which must
    differ between any two storings of a job that both are meant.

    A job whose id the caller chose, or that was moved, travels alone: pushed again in other company
    it must be recognized. So does a schedule's: it may be withdrawn.
    """
    groups: dict[tuple[str, int, float], list[tuple[Envelope, str]]] = {}
    frames: list[Frame] = []
    for item in jobs:
        job, part = item
        if job.given_id or job.schedule is not None:
            frames.append(Frame((job,), part))
            continue
        key = (job.lane, job.priority, job.due_at)
        group = groups.get(key)
        if group is None:
            group = groups[key] = []
        group.append(item)
    for group in groups.values():
        frames += _cut(group)
    return frames


def _cut(group: Sequence[tuple[Envelope, str]]) -> Iterator[Frame]:
    start = size = 0
    for index, (job, _) in enumerate(group):
        own = _size(job)
        size += own
        if index > start and (index - start == FRAME_JOBS or size > FRAME_BYTES):
            yield _frame(group[start:index])
            start, size = index, own
    yield _frame(group[start:])


def chunks(jobs: Sequence[Envelope], sequence: int) -> list[Frame]:
    """Split a frame that has more jobs than a worker can take into up to ``FAN_OUT`` frames.

    Always the same way, so that doing it twice (after a crash) stores nothing twice.
    """
    size = math.ceil(len(jobs) / FAN_OUT)
    return [
        Frame(tuple(jobs[start : start + size]), f"{sequence}/{jobs[start].id}")
        for start in range(0, len(jobs), size)
    ]


def ledger_entries(records: Sequence[Record]) -> list[bytes]:
    """Records as ledger entries, split where one would grow too large."""
    data = encode_records(records)
    if len(data) <= FRAME_BYTES or len(records) == 1:
        return [data]
    half = len(records) // 2
    return ledger_entries(records[:half]) + ledger_entries(records[half:])


def _frame(group: Sequence[tuple[Envelope, str]]) -> Frame:
    parts = [part for _, part in group]
    message_id = parts[0]
    if len(parts) > 1:
        message_id = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Frame(tuple(job for job, _ in group), message_id)


def level(priority: int) -> int:
    """The priority, or the nearest that there is."""
    return min(max(priority, Priority.LOWEST), Priority.HIGHEST)


def _size(job: Envelope) -> int:
    meta = sum(len(k) + len(v) for k, v in job.meta.items()) * 4 if job.meta else 0
    return len(job.payload) + 4 * (len(job.name) + len(job.lane)) + meta + 256
