"""Finding and holding again the jobs that their agents have lost: the statements of the rescuer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec
from sqlalchemy import Row, Select, bindparam, func, literal, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.fingerprint import fingerprint
from mesh.job import TERMINAL_VERSION, State
from mesh.outcome import Snooze
from mesh.ports import Suspect, Suspects
from mesh.sql import BulkUpdate, Change, Database, one_of
from mesh.wire import Envelope, ErrorInfo, Limit, encode_frame
from mesh_master import merge
from mesh_master.recording import Recording
from mesh_master.tables import Tables
from mesh_master.terms import read_terms

__all__ = ["AGENT_LOST", "Rescuing", "suspects_in"]

AGENT_LOST = "AgentLost"
"""The error type of an attempt that a job's agent has lost."""

_UNKNOWN = ErrorInfo(
    AGENT_LOST,
    "its agent lost it before its arguments had come to the master; enqueue it again",
)
_STATES = (State.QUEUED, State.RUNNING, State.RETRYING)
_meta = msgspec.json.Decoder(dict[str, str])
_names = msgspec.json.Decoder(list[str])


class Rescuing:
    """``Master.suspects`` and ``Master.rescue``."""

    def __init__(self, database: Database, tables: Tables, recording: Recording) -> None:
        self._database = database
        self._tables = tables
        self._recording = recording
        self._failures = BulkUpdate(
            database,
            tables.jobs,
            ("id", "finished_at", "fingerprint"),
            "id",
            also={
                "state": literal(State.FAILED.value),
                "version": literal(TERMINAL_VERSION),
                "error_type": bindparam("kind"),
                "error_message": bindparam("message"),
                "error_traceback": null(),
                "envelope": null(),
            },
        )

    async def suspects(
        self, connection: AsyncConnection, before: float, limit: int, page: Any
    ) -> Suspects:
        first, last_id = page or (0, None)
        found: list[Suspect] = []
        for place, state in enumerate(_STATES[first:], first):
            query = suspects_in(self._tables, state, before, limit - len(found), last_id)
            rows = await connection.execute(query)
            found += [_suspect(row) for row in rows]
            if len(found) >= limit:
                return Suspects(found, (place, found[-1].id))
            last_id = None
        return Suspects(found, None)

    async def doubtful(
        self, connection: AsyncConnection, until: float, limit: int
    ) -> list[Suspect]:
        jobs = self._tables.jobs.c
        wanted = [jobs.id, jobs.lane, jobs.attempt]
        query = select(*wanted).where(
            jobs.envelope.is_not(None),  # so that the index of held jobs is used
            jobs.gate.is_(None),
            jobs.due_at <= until,
            jobs.state == State.SCHEDULED,
            jobs.claimed_until <= self._database.now(),
        )
        rows = await connection.execute(query.order_by(jobs.due_at).limit(limit))
        return [Suspect(row.id, row.lane, None, State.SCHEDULED, row.attempt) for row in rows]

    async def rescue(self, connection: AsyncConnection, lost: Sequence[Suspect]) -> list[str]:
        """As ``Master.rescue`` says, within a transaction."""
        unclaimed = [suspect.id for suspect in lost if suspect.state is State.SCHEDULED]
        held = [suspect for suspect in lost if suspect.state is not State.SCHEDULED]
        return await self._unclaim(connection, unclaimed) + await self._hold(connection, held)

    async def _unclaim(self, connection: AsyncConnection, job_ids: Sequence[str]) -> list[str]:
        if not job_ids:
            return []
        jobs = self._tables.jobs
        ended = select(jobs.c.id).where(
            one_of(self._database, jobs.c.id, job_ids),
            jobs.c.state == State.SCHEDULED,
            jobs.c.claimed_until <= self._database.now(),
        )
        these = self._database.locking(ended.order_by(jobs.c.id))
        free = update(jobs).values(claimed_until=null())
        changed = await Change(self._database, free, these, jobs.c.id).run(connection)
        return [row.id for row in changed]

    async def _hold(self, connection: AsyncConnection, lost: Sequence[Suspect]) -> list[str]:
        rows = await self._still_as_seen(connection, lost)
        if not rows:
            return []
        ran, lost_ones = await self._past_attempts(connection, [row.id for row in rows])
        limits = await self._limits(connection, {key for row in rows for key in _keys(row)})
        held: list[Envelope] = []
        for row in rows:
            if row.payload is not None:
                each = [limits[key] for key in _keys(row) if key in limits]
                held.append(_again(row, ran[row.id], lost_ones.get(row.id, set()), each))
        jobs = [merge.held_row(job, encode_frame([job])) for job in held]
        await self._recording.jobs.run(connection, jobs)
        now = self._database.now()
        await self._recording.attempts.run(connection, [_lost_row(row, now) for row in rows])
        await self._fail(connection, [row for row in rows if row.payload is None], _UNKNOWN)
        await self._count(connection, Counter(row.agent for row in rows), now)
        return [row.id for row in rows]

    async def _still_as_seen(
        self, connection: AsyncConnection, lost: Sequence[Suspect]
    ) -> list[Row[Any]]:
        """The rows, locked, in the order of the ids."""
        jobs, seen = self._tables.jobs, {suspect.id: suspect for suspect in lost}
        query = select(jobs).where(one_of(self._database, jobs.c.id, list(seen)))
        rows = await connection.execute(self._database.locking(query.order_by(jobs.c.id)))
        return [row for row in rows if _suspect(row) == seen[row.id]]

    async def _past_attempts(
        self, connection: AsyncConnection, job_ids: Sequence[str]
    ) -> tuple[Counter[str], dict[str, set[int]]]:
        """How many attempts of each job count against its policy, and which of those are lost,
        of those that have rows of their own."""
        attempts = self._tables.attempts
        query = select(attempts).where(one_of(self._database, attempts.c.job_id, job_ids))
        ran: Counter[str] = Counter()
        lost: defaultdict[str, set[int]] = defaultdict(set)
        for row in await connection.execute(query):
            # One that was lost on its agent without a worker had not begun.
            if row.error_type == Snooze.word or (row.error_type == AGENT_LOST and not row.worker):
                continue
            ran[row.job_id] += 1
            if row.outcome == merge.LOST:
                lost[row.job_id].add(row.attempt)
        return ran, lost

    async def _limits(self, connection: AsyncConnection, keys: Collection[str]) -> dict[str, Limit]:
        if not keys:
            return {}
        table = self._tables.limits
        query = select(table).where(one_of(self._database, table.c.key, keys))
        rows = await connection.execute(query)
        return {r.key: Limit(r.key, r.concurrency, r.rate, r.burst) for r in rows}

    async def _count(
        self, connection: AsyncConnection, lost: Mapping[str, int], now: float
    ) -> None:
        agents = self._tables.agents
        for name, jobs in sorted(lost.items()):
            await connection.execute(
                update(agents)
                .where(agents.c.name == name)
                .values(lost=func.coalesce(agents.c.lost, 0) + jobs, lost_at=now)
            )

    async def give_up(
        self, connection: AsyncConnection, job_ids: Sequence[str], error: ErrorInfo
    ) -> list[str]:
        """As ``Master.give_up`` says, within a transaction."""
        jobs = self._tables.jobs.c
        wanted = [jobs.id, jobs.name]
        query = select(*wanted).where(
            one_of(self._database, jobs.id, job_ids), jobs.state == State.SCHEDULED
        )
        held = await connection.execute(self._database.locking(query.order_by(jobs.id)))
        return await self._fail(connection, held.all(), error)

    async def _fail(
        self, connection: AsyncConnection, rows: Sequence[Row[Any]], error: ErrorInfo
    ) -> list[str]:
        now, message = self._database.now(), merge.as_text(error.message)
        ends = [(r.id, now, fingerprint(r.name, error.type, message)) for r in rows]
        await self._failures.run(connection, ends, kind=error.type, message=message)
        return [row.id for row in rows]


def suspects_in(
    tables: Tables, state: State, before: float, limit: int, after: str | None
) -> Select[Any]:
    """The suspects in that state whose ids are behind ``after``."""
    jobs = tables.jobs.c
    wanted = [
        jobs.id,
        jobs.lane,
        jobs.agent,
        jobs.state,
        jobs.attempt,
        jobs.worker,
        jobs.started_at,
    ]
    query = select(*wanted).where(
        jobs.state == state,
        *([] if after is None else [jobs.id > after]),
        jobs.agent.is_not(None),
        jobs.enqueued_at <= before,
        or_(jobs.due_at.is_(None), jobs.due_at <= before),
        or_(jobs.started_at.is_(None), jobs.started_at <= before),
    )
    return query.order_by(jobs.id).limit(limit)


def _suspect(row: Row[Any]) -> Suspect:
    state = State(row.state)
    return Suspect(row.id, row.lane, row.agent, state, row.attempt, row.worker, row.started_at)


def _keys(row: Row[Any]) -> list[str]:
    return [] if row.limits is None else _names.decode(row.limits)


def _number_there(row: Row[Any]) -> int:
    """The number of the job's attempt that was on the agent."""
    return int(row.attempt) + int(row.state == State.RETRYING)


def _again(row: Row[Any], ran: int, lost: Collection[int], limits: list[Limit]) -> Envelope:
    attempt = _number_there(row) + 1
    if row.state == State.RUNNING:
        ran, lost = ran + 1, {*lost, row.attempt}
    just_before = next(n for n in count() if attempt - 1 - n not in lost)
    return Envelope(
        id=row.id,
        name=row.name,
        payload=row.payload.encode(),
        lane=row.lane,
        priority=row.priority,
        enqueued_at=row.enqueued_at,
        attempt=attempt,
        meta=None if row.meta is None else _meta.decode(row.meta),
        schedule=row.schedule,
        slot=row.slot,
        expires_at=row.expires_at or 0.0,
        key=row.key,
        result_ttl=row.result_ttl,
        workflow=row.workflow,
        parent=row.parent,
        limits=limits or None,
        snoozes=attempt - 1 - ran,
        lost=just_before,
        **read_terms(row.terms).fields,
    )


def _lost_row(row: Row[Any], now: float) -> dict[str, Any]:
    attempt, ran = _number_there(row), row.state == State.RUNNING
    message = f"agent '{row.agent}' did not have the job any more"
    if row.payload is not None:
        message += f": it was dispatched again, as attempt {attempt + 1}"
    return {
        "job_id": row.id,
        "attempt": attempt,
        "outcome": merge.LOST,
        "worker": row.worker if ran else None,
        "started_at": row.started_at if ran else None,
        "finished_at": now,
        "error_type": AGENT_LOST,
        "error_message": message,
        "error_traceback": None,
        "due_at": None,
    }
