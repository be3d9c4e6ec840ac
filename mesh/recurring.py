"""What the master keeps of schedules, and the port to it.

A **schedule** has a name, a definition (what to make, when) and a cursor, ``next_slot``: the
first slot for which no job was made. Whoever makes jobs moves the cursor in the same
transaction, and no two jobs may have the same schedule and slot; so it does no harm if two
processes believe that they are the scheduler.

``revision`` grows with each change, pause and resumption. Jobs that were made ahead under an
older one, and have not started, are withdrawn.

A **declaration** says that a process has a schedule in its code. Processes repeat theirs while
they live; the scheduler alone decides what follows from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
from msgspec import Struct

from mesh.clock import to_datetime
from mesh.job import Priority, State, made_job_id
from mesh.retry import Retry
from mesh.wire import Envelope

if TYPE_CHECKING:
    from mesh.schedule import Schedule

__all__ = [
    "Declaration",
    "Definition",
    "Existing",
    "Missed",
    "Orphaned",
    "Overlap",
    "ScheduleInfo",
    "ScheduleState",
    "Schedules",
    "SlotOutcome",
    "slot_job_id",
]

Missed = Literal["skip", "catch_up", "ignore"]
"""What becomes of slots that passed while nobody made jobs: the latest runs once; each runs, in
order, the latest ``catch_up_limit`` of them; none runs."""
Overlap = Literal["allow", "skip", "queue"]
"""What becomes of a slot while an earlier job of the schedule has not ended: it runs beside it;
it is recorded as ``skipped``; one waits for the end, further ones are ``skipped``."""
ScheduleState = Literal["active", "paused", "disabled", "deleted"]
"""``paused`` by a person, ``disabled`` by the system, with a reason. ``deleted``: to be removed
once what was made ahead is withdrawn."""
Existing = Literal["update_from_code", "keep_database"]
Orphaned = Literal["disable", "ignore", "delete"]


class Definition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a schedule makes, and when. Kept as JSON."""

    handler: str
    expression: str
    """The canonical text, with the time zone that it names, if it names one."""
    payload: str
    """JSON."""
    lane: str
    priority: int = int(Priority.NORMAL)
    timeout: float | None = None
    expires: float | None = None
    """Seconds after a job is due."""
    deadline: float | None = None
    """Seconds after a job is due."""
    retry: Retry | None = None
    meta: dict[str, str] | None = None
    result_ttl: float | None = None
    missed: Missed = "skip"
    catch_up_limit: int = 100
    overlap: Overlap = "allow"
    disable_after_failures: int | None = None
    cluster_zone: bool = False
    """The expression names no zone, and is read in the cluster's. That one is not written down
    here: so all processes that have a schedule declare the same, whatever they know of the cluster.
    Where this is false, an expression that names none (as older versions wrote it) is in UTC."""

    def schedule_in(self, zone: str) -> Schedule:
        """The schedule where ``zone`` is the cluster's. Raises ``InvalidSchedule`` if a newer
        jobmesh wrote what this one cannot read."""
        return _parse(self.expression, zone if self.cluster_zone else None)

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> Definition:
        return _decoder.decode(text)

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.encode().encode()).hexdigest()[:32]

    def next_slot(self, after: float, zone: str) -> float | None:
        """The first slot after that moment, both in seconds since the epoch, where ``zone`` is the
        cluster's."""
        slot = self.schedule_in(zone).next_after(to_datetime(after))
        return None if slot is None else slot.timestamp()

    def job(
        self,
        name: str,
        job_id: str,
        *,
        now: float,
        slot: float | None = None,
    ) -> Envelope:
        """A job of the schedule ``name``; for a slot, due then, give or take the jitter."""
        delay = timedelta()
        if slot is not None:
            # The same in any zone.
            delay = self.schedule_in("UTC").delay(to_datetime(slot), name)
        due_at = 0.0 if slot is None else slot + delay.total_seconds()
        # A slot that was missed and is caught up with has as much time as any other.
        start = max(due_at, now)
        return Envelope(
            id=job_id,
            name=self.handler,
            payload=self.payload.encode(),
            lane=self.lane,
            priority=self.priority,
            enqueued_at=now,
            due_at=due_at,
            timeout=self.timeout,
            retry=self.retry,
            meta=self.meta,
            result_ttl=self.result_ttl,
            schedule=name,
            slot=slot,
            expires_at=start + self.expires if self.expires else 0.0,
            deadline=start + self.deadline if self.deadline else 0.0,
        )


_decoder = msgspec.json.Decoder(Definition)


@lru_cache(maxsize=10_000)
def _parse(expression: str, zone: str | None) -> Schedule:
    # Not above: programs that only enqueue start faster without the language.
    from mesh.schedule import parse

    return parse(expression, zone)


def slot_job_id(name: str, slot: float, revision: int) -> str:
    """The id of a slot's job: a UUIDv7 of the slot's moment, the same whoever makes it."""
    digest = hashlib.sha256(f"{name}\0{slot!r}\0{revision}".encode()).hexdigest()
    return made_job_id(slot, digest)


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as the master knows it. Moments are seconds since the epoch."""

    name: str
    definition: Definition
    app: str
    """The ``prefix`` of the app that has it."""
    source: Literal["code", "api"]
    state: ScheduleState
    revision: int
    created_at: float
    updated_at: float
    next_slot: float | None
    """The first slot for which no job was made yet; ``None`` if there is none to come."""
    last_slot: float | None = None
    """The latest slot for which a job was made, perhaps ahead of its time."""
    reason: str | None = None
    """Why it is disabled."""
    code_hash: str | None = None
    """Of the definition in the code that was applied, or kept off, last."""
    synced_at: float | None = None
    """When that was."""
    failures_after: float = 0.0
    """Failures of slots up to this one count no more: it was resumed, or changed."""
    zone: str | None = None
    """The cluster's zone by which ``next_slot`` was found."""
    pending: bool = False
    """Jobs of an older revision may have to be withdrawn."""


@dataclass(frozen=True, slots=True)
class SlotOutcome:
    """A slot's job."""

    job_id: str
    slot: float | None
    state: State
    revision: int
    lane: str
    priority: int
    agent: str | None
    claimed: bool
    """A dispatcher has, or had, it in hand: an agent may have it."""
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A process has this schedule in its code. ``definition`` is ``None`` in the one that says
    that the app lives."""

    name: str
    app: str
    definition: Definition | None
    existing: Existing
    orphaned: Orphaned
    first_seen: float = 0.0
    """When any process first declared just this definition."""
    declared_at: float = 0.0
    """When a process last started with it."""
    seen_at: float = 0.0

    @property
    def hash(self) -> str:
        return self.app if self.definition is None else self.definition.hash


class Schedules(Protocol):
    """A master's schedules. Raises ``MasterError`` as the rest of the master does."""

    def now(self) -> float:
        """The time by which slots are judged: the master's."""
        ...

    async def insert(self, schedule: ScheduleInfo) -> bool:
        """Store a new one. ``False``: there is one of that name."""
        ...

    async def update(self, name: str, revision: int, **changes: Any) -> bool:
        """Set fields of ``ScheduleInfo``; the revision grows unless only ``next_slot``,
        ``state``, ``pending`` or the notes on synchronization change by ``quietly=True``.
        ``False``: it is gone, or no longer at that revision."""
        ...

    async def remove(self, name: str, revision: int) -> bool:
        """Remove the schedule; its jobs stay in the history."""
        ...

    async def get(self, name: str) -> ScheduleInfo | None: ...

    async def all(self) -> list[ScheduleInfo]:
        """All, by name, those that are to be removed included."""
        ...

    async def due(self, until: float, limit: int) -> list[ScheduleInfo]:
        """Active ones whose next slot is not after that moment, and those with ``pending``."""
        ...

    async def make(
        self,
        schedule: ScheduleInfo,
        next_slot: float | None,
        jobs: Sequence[Envelope],
        states: Sequence[State],
    ) -> bool:
        """Hold jobs of the schedule's slots (``scheduled``), put them to wait for an earlier one
        (``waiting``), or note that they do not run (``skipped``), and move the cursor, all at
        once. ``False``, and nothing done: somebody else moved it, or changed the schedule.

        A slot that has a job gets no other.
        """
        ...

    async def add(self, job: Envelope) -> None:
        """Hold a job of a schedule that is of no slot."""
        ...

    async def open_jobs(self, name: str) -> list[SlotOutcome]:
        """Jobs of the schedule that have not ended, the earliest slot first."""
        ...

    async def outcomes(
        self, name: str, limit: int, after: float = 0.0, *, skipped: bool = True
    ) -> list[SlotOutcome]:
        """Jobs of slots later than ``after`` that have ended, the latest slot first; ``skipped``:
        those too that were not allowed to run."""
        ...

    async def release(self, job_id: str) -> None:
        """A waiting job may go to an agent."""
        ...

    async def withdraw(self, job_ids: Sequence[str], reason: str) -> int:
        """End jobs that no agent has (any more) and that have not started: those that never left
        the master go without a trace, others are ``cancelled``. Their slots may be made anew.
        Returns how many; those that a dispatcher has in hand by now are left alone."""
        ...

    async def declare(self, declarations: Sequence[Declaration], *, starting: bool) -> None:
        """Note that a process has these in its code, now; ``starting``: it has just begun."""
        ...

    async def declarations(self) -> list[Declaration]:
        """All of the last day."""
        ...
