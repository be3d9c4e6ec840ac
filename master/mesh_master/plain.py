"""Plain stories: what can be written without looking at what the master has.

Nearly every job is accepted, begins and ends, at the first attempt, and its records come in that
order. What they make of its row is known beforehand:

- *new*: accepted in this batch. A row that is not there yet; it tells all that the batch says.
- *moved*: begun or ended in this batch, accepted before. A row that is there, which no other
  worker and no other attempt has touched.

Both are written on trust. Where it proves wrong (the row was there; it was not, or had gone on),
``store`` looks at what there is, and ``merge`` decides. So do the jobs of all other stories:
they are *odd*. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.job import TERMINAL_VERSION, State, is_job_id, state_version
from mesh.wire import Accepted, Envelope, ErrorInfo, Event, Finished, Record, Retrying, Started
from mesh_master.merge import (
    JOB_COLUMNS,
    as_json,
    as_text,
    as_type,
    description,
    fingerprint_of,
)

__all__ = ["MOVE_COLUMNS", "NEW_COLUMNS", "Plain", "sort_out"]

NEW_COLUMNS = JOB_COLUMNS

MOVE_COLUMNS = (
    *("id", "state", "version", "started_at", "finished_at", "worker"),
    *("result", "error_type", "error_message", "error_traceback", "fingerprint"),
)
"""What differs from job to job of what moves with the state. The attempt is the first, the agent
the recorder's; ``due_at`` stays, and what the master held the job with is cleared."""

_QUEUED = state_version(State.QUEUED, 1)
_RUNNING = state_version(State.RUNNING, 1)

Row = tuple[Any, ...]


@dataclass(slots=True)
class Plain:
    """Rows by job id, in the order of the ids."""

    new: dict[str, Row] = field(default_factory=dict)
    moved: dict[str, Row] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    tagged: list[Envelope] = field(default_factory=list)
    """Accepted jobs that have meta, odd ones too."""
    others: bool = False
    """There are records that are not of a job's state: events, heartbeats."""
    events: bool = False
    """There are events."""


def sort_out(agent: str, records: Sequence[Record]) -> Plain:
    """Tell plain stories from odd ones."""
    accepted: dict[str, Envelope] = {}
    begun: dict[str, Started] = {}
    ended: dict[str, Finished] = {}
    plain = Plain()
    odd = plain.odd
    for record in records:
        if isinstance(record, Finished):
            if record.attempt != 1 or record.lost or record.id in ended:
                odd.add(record.id)
            ended[record.id] = record
        elif isinstance(record, Accepted):
            job = record.job
            if job.attempt != 1 or job.id in accepted:
                odd.add(job.id)
            accepted[job.id] = job
            if job.meta:
                plain.tagged.append(job)
        elif isinstance(record, Started):
            if record.attempt != 1 or record.lost or record.id in begun:
                odd.add(record.id)
            begun[record.id] = record
        elif isinstance(record, Retrying):
            odd.add(record.id)
        else:
            plain.others = True
            plain.events = plain.events or isinstance(record, Event)
    for job_id, start in begun.items():
        end = ended.get(job_id)
        if end is not None and end.worker != start.worker:
            odd.add(job_id)
    odd.update(i for i in {**accepted, **begun, **ended} if not is_job_id(i))
    for job_id in sorted(accepted.keys() - odd):
        run = ended.get(job_id) or begun.get(job_id)
        moved = None if run is None else _moved(run)
        plain.new[job_id] = _new(accepted[job_id], agent, moved)
    for job_id in sorted((begun.keys() | ended.keys()) - accepted.keys() - odd):
        plain.moved[job_id] = _moved(ended.get(job_id) or begun[job_id])
    return plain


def _new(job: Envelope, agent: str, moved: Row | None) -> Row:
    """The row of an accepted job, in the order of ``NEW_COLUMNS``."""
    if moved is None:
        moved = (job.id, State.QUEUED, _QUEUED, None, None, None, None, *_NO_ERROR)
    _, state, version, started_at, finished_at, worker, *outcome = moved
    described = description(job)
    if moved[2] == TERMINAL_VERSION:
        described["terms"] = None  # what has ended is not dispatched again
    return (
        job.id,
        as_text(job.name),
        as_text(job.lane),
        job.priority,
        job.enqueued_at,
        *described.values(),
        state,
        1,
        version,
        job.due_at or None,
        started_at,
        finished_at,
        agent,
        worker,
        *outcome,
        None,
    )


def _moved(record: Started | Finished) -> Row:
    """What a record makes of its job's row, in the order of ``MOVE_COLUMNS``."""
    started_at, worker = record.started_at or None, as_text(record.worker)
    if isinstance(record, Started):
        return (record.id, State.RUNNING, _RUNNING, started_at, None, worker, None, *_NO_ERROR)
    error = record.error
    return (
        record.id,
        record.state,
        TERMINAL_VERSION,
        started_at,
        record.at,
        worker,
        as_json(record.result),
        *(_NO_ERROR[1:] if error is None else _error(error)),
        fingerprint_of(record),
    )


_NO_ERROR = (None,) * 4


def _error(error: ErrorInfo) -> tuple[str | None, ...]:
    parts = (as_type(error.type), as_text(error.message), as_text(error.traceback))
    return tuple(part or None for part in parts)
