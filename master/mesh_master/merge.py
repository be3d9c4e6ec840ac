"""From ledger records to rows. Pure: no I/O, no clock.

A job's records are applied one after another to what the master has of the job, its **head**,
so that it makes no difference how the ledger was cut into batches; and each job ends as one row
to write, so that a fast job costs one insert. Records that were applied before change nothing.

The job's row tells of its latest attempt. An attempt gets a row of its own when the job's row
will not tell of it, in four cases:

- it failed and another will come;
- a later record counts it as lost: its worker never reported;
- it was running, and the row goes to another attempt or another worker: lost as well;
- it ended after the job had ended otherwise: its worker had lost the lease, and came too late.

Events that come after the end of their attempt, by a worker that had lost it, are left out: so an
attempt's events stand in the master before its end does, and nothing comes in behind a reader.

Of two rows of one attempt a real outcome takes the place of ``lost``, else the first stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mesh.events import attempt_of, end_seq
from mesh.fingerprint import fingerprint
from mesh.job import TERMINAL, State, is_job_id, state_version
from mesh.ports import EVERY_JOB, MANY_JOBS, changed_topics
from mesh.wire import (
    Accepted,
    Aside,
    Defined,
    Envelope,
    ErrorInfo,
    Event,
    Finished,
    Heartbeat,
    Record,
    Retrying,
    Started,
)
from mesh_master.terms import terms_of

__all__ = [
    "DESCRIPTION_COLUMNS",
    "JOB_COLUMNS",
    "LOST",
    "STATE_COLUMNS",
    "Head",
    "Plan",
    "as_json",
    "as_text",
    "as_type",
    "changed",
    "description",
    "fingerprint_of",
    "held_row",
    "ids",
    "of_jobs",
    "parts",
    "plan",
]

log = logging.getLogger("mesh")

LOST = "lost"
_MOST_TYPE = 200
_MANY = 200
"""Records that are not looked at one by one to see whom they concern."""

Row = dict[str, Any]
Run = Started | Retrying | Finished

# The columns of a job that go to whoever has the greatest version, together.
STATE_COLUMNS = (
    "state",
    "attempt",
    "version",
    "due_at",
    "started_at",
    "finished_at",
    "agent",
    "worker",
    "result",
    "error_type",
    "error_message",
    "error_traceback",
    "fingerprint",
    "envelope",
)
DESCRIPTION_COLUMNS = ("payload", "meta", "parent", "result_ttl", "expires_at", "terms")
IDENTITY_COLUMNS = ("id", "name", "lane", "priority", "enqueued_at", *DESCRIPTION_COLUMNS)
JOB_COLUMNS = IDENTITY_COLUMNS + STATE_COLUMNS
_EMPTY: Row = dict.fromkeys(JOB_COLUMNS)
_STATELESS: Row = dict.fromkeys(STATE_COLUMNS)


@dataclass(slots=True)
class Head:
    """What the master has of a job, as far as it bears on the next record."""

    state: State
    attempt: int
    version: int
    worker: str | None = None
    started_at: float | None = None
    described: bool = False
    """The payload is there."""


@dataclass(slots=True)
class Plan:
    """Rows to write, each list in the order of its keys and with no key twice."""

    jobs: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    workers: list[Row] = field(default_factory=list)
    handlers: list[Row] = field(default_factory=list)


def ids(records: Iterable[Record], trusted: Container[str] = ()) -> list[str]:
    """The jobs whose heads ``plan`` needs, each once: those of all but events of jobs that are
    ``trusted`` to take them."""
    found = {
        _job_id(r): None
        for r in records
        if not (isinstance(r, Heartbeat | Defined) or (isinstance(r, Event) and r.id in trusted))
    }
    return [job_id for job_id in found if is_job_id(job_id)]


def changed(records: Sequence[Record]) -> set[str]:
    """The topics of those who wait for what the records tell of jobs."""
    if len(records) > _MANY:
        return {EVERY_JOB, MANY_JOBS}
    found = {_job_id(r) for r in records if not isinstance(r, Heartbeat | Defined)}
    return changed_topics(found) if found else set()


def of_jobs(
    records: Iterable[Record], job_ids: Set[str], stores: Callable[[str], bool]
) -> list[Record]:
    """The records that are of these jobs' states, and those that are of no job's; of events
    those of a kind that ``stores`` allows."""

    def is_meant(record: Record) -> bool:
        if not isinstance(record, Aside):
            return _job_id(record) in job_ids
        return not isinstance(record, Event) or stores(record.kind)

    return [record for record in records if is_meant(record)]


def parts(records: Sequence[Record], count: int) -> list[Sequence[Record]]:
    """The records in up to 16 parts, such that all records of a job, a worker or a handler are in
    one, in order."""
    found: list[list[Record]] = [[] for _ in range(count)]
    # The last digits of an id are random.
    place = {digit: found[index % count] for index, digit in enumerate("0123456789abcdef")}
    for record in records:
        place.get(_key(record)[-1:], found[0]).append(record)
    return [part for part in found if part]


def plan(
    agent: str,
    records: Sequence[Record],
    heads: Mapping[str, Head],
    keep: Callable[[str], float | None] = lambda kind: None,
) -> Plan:
    """What to write for an agent's records, given the heads of the jobs that the master has.
    ``keep`` says until when an event of a kind is kept; ``None``: as long as its job.

    ``heads`` is left as it is. Records whose job id is none are logged and left out.
    """
    merger = _Merger(agent, heads, keep)
    for record in records:
        merger.apply(record)
    return merger.result()


def held_row(job: Envelope, encoded: bytes) -> Row:
    """The row of a job that the master holds until it is due."""
    return {
        **dict.fromkeys(JOB_COLUMNS),
        **_identity(job),
        **description(job),
        "state": State.SCHEDULED,
        "attempt": job.attempt,
        "version": state_version(State.SCHEDULED, job.attempt),
        "due_at": job.due_at or job.enqueued_at,
        "envelope": encoded,
    }


class _Merger:
    def __init__(
        self, agent: str, heads: Mapping[str, Head], keep: Callable[[str], float | None]
    ) -> None:
        self._agent = agent
        self._keep = keep
        self._heads = heads
        self._new_heads: dict[str, Head] = {}
        self._jobs: dict[str, Row] = {}
        self._attempts: dict[tuple[str, int], Row] = {}
        self._events: dict[tuple[str, int], Row] = {}
        self._workers: dict[str, Heartbeat] = {}
        self._handlers: dict[str, Defined] = {}

    def apply(self, record: Record) -> None:
        if isinstance(record, Heartbeat):
            known = self._workers.get(record.worker)
            if known is None or known.at < record.at:
                self._workers[record.worker] = record
            return
        if isinstance(record, Defined):
            said = self._handlers.get(record.name)
            if said is None or said.at < record.at:
                self._handlers[record.name] = record
            return
        if not self._knows(_job_id(record)):
            log.error(
                "agent %s: the ledger has a %s of the job id %r, which is no UUID: left out",
                self._agent,
                type(record).__name__,
                _job_id(record),
            )
        elif isinstance(record, Event):
            if self._takes(record):
                self._events.setdefault((record.id, record.seq), _event_row(record, self._keep))
        elif isinstance(record, Accepted):
            self._accepted(record)
        else:
            self._run(record)

    def _knows(self, job_id: str) -> bool:
        # The check of an id is dear; one that has a row or a head has passed it.
        return job_id in self._jobs or job_id in self._heads or is_job_id(job_id)

    def _head(self, job_id: str) -> Head | None:
        return self._new_heads.get(job_id) or self._heads.get(job_id)

    def _takes(self, event: Event) -> bool:
        """Not what comes after the end of its attempt: a worker said it that had lost the job,
        and readers have gone on."""
        head, attempt = self._head(event.id), attempt_of(event.seq)
        if head is None:
            return True
        if head.state in TERMINAL or attempt < head.attempt:
            return False
        return attempt > head.attempt or head.state is not State.RETRYING

    def _accepted(self, record: Accepted) -> None:
        job, head = record.job, self._head(record.job.id)
        version = state_version(State.QUEUED, job.attempt)
        wins = head is None or version > head.version
        if head is not None and not wins and head.described:
            return
        row = self._row(job, State.QUEUED, version)
        for column, value in description(job).items():
            if row[column] is None:
                row[column] = value
        if wins:
            self._move(row, State.QUEUED, job.attempt, version, due_at=job.due_at or None)
            head = None
        self._new_heads[job.id] = (
            Head(State.QUEUED, job.attempt, version, described=True)
            if head is None
            else _replace(head, described=True)
        )

    def _run(self, record: Run) -> None:
        head = self._head(record.id)
        state = _state_after(record)
        version = state_version(state, record.attempt)
        wins = head is None or version > head.version
        is_heads = head is not None and _same_run(head, record)

        self._note_lost(record, head)
        if isinstance(record, Retrying) or (
            isinstance(record, Finished) and not wins and not is_heads
        ):
            self._note(record.id, _attempt_row(record, state))
        if not wins:
            return
        if head is not None and head.state is State.RUNNING and not is_heads:
            self._note(record.id, _lost_row(record.id, head.attempt, head))

        if head is not None and state in TERMINAL:
            to_come = head.attempt + (head.state is State.RETRYING)
            if to_come > record.attempt:
                # Readers are beyond it: the job's end is told where they will see it.
                mark = Event(record.id, end_seq(to_come), record.at, "lifecycle", b"{}")
                self._events[mark.id, mark.seq] = _event_row(mark, _for_ever)

        error = getattr(record, "error", None) or ErrorInfo("", "")
        result = record.result if isinstance(record, Finished) else None
        self._move(
            self._row(record, state, version),
            state,
            record.attempt,
            version,
            due_at=record.due_at if isinstance(record, Retrying) else None,
            started_at=record.started_at or None,
            finished_at=record.at if isinstance(record, Finished) else None,
            worker=as_text(record.worker),
            result=as_json(result),
            error_type=as_type(error.type) or None,
            error_message=as_text(error.message) or None,
            error_traceback=as_text(error.traceback) or None,
            fingerprint=fingerprint_of(record),
        )
        self._new_heads[record.id] = Head(
            state,
            record.attempt,
            version,
            record.worker,
            record.started_at or None,
            described=head is not None and head.described,
        )

    def _note_lost(self, record: Run, head: Head | None) -> None:
        for attempt in range(max(1, record.attempt - record.lost), record.attempt):
            ran = head is not None and head.state is State.RUNNING and head.attempt == attempt
            self._note(record.id, _lost_row(record.id, attempt, head if ran else None))

    def _note(self, job_id: str, row: Row) -> None:
        key = (job_id, row["attempt"])
        known = self._attempts.get(key)
        if known is None or (known["outcome"] == LOST and row["outcome"] != LOST):
            self._attempts[key] = row

    def _row(self, job: Envelope | Run, state: State, version: int) -> Row:
        """The row to write for a job; a new one stands for the record that asks for it."""
        row = self._jobs.get(job.id)
        if row is None:
            row = self._jobs[job.id] = _EMPTY | _identity(job)
            row["state"] = state
            row["attempt"] = job.attempt
            row["version"] = version
            row["agent"] = self._agent
        return row

    def _move(
        self, row: Row, state: State, attempt: int, version: int, due_at: float | None, **more: Any
    ) -> None:
        due_at = due_at or row["due_at"]
        row |= _STATELESS
        row |= more
        row["state"] = state
        row["attempt"] = attempt
        row["version"] = version
        row["agent"] = self._agent
        row["due_at"] = due_at

    def result(self) -> Plan:
        return Plan(
            jobs=[self._jobs[key] for key in sorted(self._jobs)],
            attempts=[self._attempts[key] for key in sorted(self._attempts)],
            events=[self._events[key] for key in sorted(self._events)],
            workers=[_worker_row(self._workers[key]) for key in sorted(self._workers)],
            handlers=[_handler_row(self._handlers[key]) for key in sorted(self._handlers)],
        )


def _key(record: Record) -> str:
    """What tells whose record it is from those of others."""
    if isinstance(record, Heartbeat):
        return record.worker
    return record.name if isinstance(record, Defined) else _job_id(record)


def _job_id(record: Accepted | Run | Event) -> str:
    return record.job.id if isinstance(record, Accepted) else record.id


def _state_after(record: Run) -> State:
    if isinstance(record, Started):
        return State.RUNNING
    return State.RETRYING if isinstance(record, Retrying) else record.state


def _same_run(head: Head, record: Run) -> bool:
    return head.attempt == record.attempt and head.worker == record.worker


def _replace(head: Head, described: bool) -> Head:
    return Head(head.state, head.attempt, head.version, head.worker, head.started_at, described)


def _identity(job: Envelope | Run) -> Row:
    return {
        "id": job.id,
        "name": as_text(job.name),
        "lane": as_text(job.lane),
        "priority": job.priority,
        "enqueued_at": job.enqueued_at,
    }


def description(job: Envelope) -> Row:
    """The columns that only the job itself can fill, not its worker."""
    meta = None if job.meta is None else as_json(msgspec.json.encode(job.meta))
    return {
        "payload": as_json(job.payload),
        "meta": meta,
        "parent": job.parent,
        "result_ttl": job.result_ttl,
        "expires_at": job.expires_at or None,
        "terms": terms_of(job),
    }


def _attempt_row(record: Retrying | Finished, state: State) -> Row:
    error = record.error or ErrorInfo("", "")
    return {
        "job_id": record.id,
        "attempt": record.attempt,
        "outcome": state,
        "worker": as_text(record.worker),
        "started_at": record.started_at or None,
        "finished_at": record.at,
        "error_type": as_type(error.type) or None,
        "error_message": as_text(error.message) or None,
        "error_traceback": as_text(error.traceback) or None,
        "due_at": record.due_at if isinstance(record, Retrying) else None,
    }


def _lost_row(job_id: str, attempt: int, head: Head | None) -> Row:
    return {
        "job_id": job_id,
        "attempt": attempt,
        "outcome": LOST,
        "worker": head.worker if head else None,
        "started_at": head.started_at if head else None,
        "finished_at": None,
        "error_type": None,
        "error_message": None,
        "error_traceback": None,
        "due_at": None,
    }


def _for_ever(kind: str) -> None:
    return None


def _event_row(event: Event, keep: Callable[[str], float | None]) -> Row:
    return {
        "job_id": event.id,
        "seq": event.seq,
        "at": event.at,
        "kind": as_text(event.kind),
        "data": as_json(event.data),
        "until": keep(event.kind),
    }


def _worker_row(beat: Heartbeat) -> Row:
    row = {name: getattr(beat, name) for name in Heartbeat.__struct_fields__}
    return row | {"lanes": msgspec.json.encode(beat.lanes).decode()}


def _handler_row(record: Defined) -> Row:
    return {
        "name": as_text(record.name),
        "lane": as_text(record.lane),
        "app": as_text(record.app),
        "definition": as_json(record.definition),
        "first_seen": record.at,
        "changed_at": record.at,
        "seen_at": record.at,
    }


def as_text(value: str) -> str:
    """What a text column takes."""
    # PostgreSQL keeps no NUL in text; one in a traceback must not stop the ledger.
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value


def as_type(value: str) -> str:
    """An error's type, as short as an index takes it."""
    return as_text(value[:_MOST_TYPE])


def fingerprint_of(record: Run) -> str | None:
    """The fingerprint of a job that failed."""
    if not isinstance(record, Finished) or record.state is not State.FAILED:
        return None
    error = record.error or ErrorInfo("", "")
    return fingerprint(record.name, as_type(error.type), as_text(error.message))


def as_json(data: bytes | None) -> str | None:
    """JSON as a text column takes it."""
    return None if data is None else as_text(data.decode(errors="replace"))
