"""``mesh.recurring.Schedules`` on the master's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, and_, delete, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.job import State, state_version
from mesh.recurring import Declaration, Definition, ScheduleInfo, SlotOutcome
from mesh.sql import BulkUpsert, Database, InsertNew, one_of, repeated
from mesh.wire import Envelope, encode_frame
from mesh_master import merge
from mesh_master.tables import Tables
from mesh_master.tags import Tags

__all__ = ["SqlSchedules"]

_JOB_COLUMNS = (*merge.JOB_COLUMNS, "schedule", "slot", "schedule_revision")
_REPEATED = ("app", "existing", "orphaned", "seen_at")
"""Columns of a declaration that each repetition sets."""
_KEPT = 24 * 3600.0
"""Seconds for which a declaration is remembered."""


class SqlSchedules:
    """The rows of schedules, and of their jobs."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._tags = Tags(database, tables)
        self._new_jobs = InsertNew(database, tables.jobs, _JOB_COLUMNS, "id")
        self._declare = self._declaring(*_REPEATED)
        self._declare_anew = self._declaring(*_REPEATED, "declared_at")

    def _declaring(self, *changing: str) -> BulkUpsert:
        """The statement that notes declarations; of those known, the columns that change."""
        return BulkUpsert(
            self._database,
            self._tables.declarations,
            [column.name for column in self._tables.declarations.c],
            ["name", "hash"],
            lambda new: {name: new[name] for name in changing},
        )

    def now(self) -> float:
        return self._database.now()

    # schedules -------------------------------------------------------------------------------

    @repeated
    async def insert(self, schedule: ScheduleInfo) -> bool:
        row = {
            name: getattr(schedule, name)
            for name in ScheduleInfo.__dataclass_fields__
            if name != "definition"
        }
        row["definition"] = schedule.definition.encode()
        new = InsertNew(self._database, self._tables.schedules, row, "name")
        async with self._database.write() as connection:
            return bool(await new.run(connection, [tuple(row.values())]))

    @repeated
    async def update(
        self, name: str, revision: int, *, quietly: bool = False, **changes: Any
    ) -> bool:
        if "definition" in changes:
            changes["definition"] = changes["definition"].encode()
        if not quietly:
            changes |= {"revision": revision + 1, "updated_at": self.now(), "pending": True}
        async with self._database.write() as connection:
            done = await connection.execute(
                update(self._tables.schedules).where(self._is(name, revision)).values(**changes)
            )
            return done.rowcount == 1

    @repeated
    async def remove(self, name: str, revision: int) -> bool:
        async with self._database.write() as connection:
            gone = delete(self._tables.schedules).where(self._is(name, revision))
            return (await connection.execute(gone)).rowcount == 1

    def _is(self, name: str, revision: int) -> Any:
        columns = self._tables.schedules.c
        return and_(columns.name == name, columns.revision == revision)

    async def get(self, name: str) -> ScheduleInfo | None:
        found = await self._read(self._all().where(self._tables.schedules.c.name == name))
        return _schedule(found[0]) if found else None

    async def all(self) -> list[ScheduleInfo]:
        rows = await self._read(self._all().order_by(self._tables.schedules.c.name))
        return [_schedule(row) for row in rows]

    async def due(self, until: float, limit: int) -> list[ScheduleInfo]:
        columns = self._tables.schedules.c
        is_due = and_(columns.state == "active", columns.next_slot <= until)
        query = self._all().where(or_(is_due, columns.pending))
        rows = await self._read(query.order_by(columns.next_slot).limit(limit))
        return [_schedule(row) for row in rows]

    def _all(self) -> Select[Any]:
        return select(self._tables.schedules)

    async def _read(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async with self._database.read() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
            return rows

    # jobs ------------------------------------------------------------------------------------

    @repeated
    async def make(
        self,
        schedule: ScheduleInfo,
        next_slot: float | None,
        jobs: Sequence[Envelope],
        states: Sequence[State],
    ) -> bool:
        now, columns = self.now(), self._tables.schedules.c
        was_at = columns.next_slot == schedule.next_slot
        move = update(self._tables.schedules).where(
            self._is(schedule.name, schedule.revision), columns.state == "active", was_at
        )
        slots = [job.slot for job in jobs if job.slot is not None]
        last = max(slots, default=schedule.last_slot)
        async with self._database.write() as connection:
            moved = await connection.execute(move.values(next_slot=next_slot, last_slot=last))
            if moved.rowcount != 1:
                return False
            rows = [
                _job_row(job, state, schedule.revision, now)
                for job, state in zip(jobs, states, strict=True)
            ]
            await self._insert(connection, rows)
            await self._tags.write(connection, jobs)
            return True

    @repeated
    async def add(self, job: Envelope) -> None:
        async with self._database.write() as connection:
            await self._insert(connection, [_job_row(job, State.SCHEDULED, None, self.now())])
            await self._tags.write(connection, [job])

    async def _insert(self, connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
        rows.sort(key=lambda row: str(row["id"]))
        tuples = [tuple(row[name] for name in _JOB_COLUMNS) for row in rows]
        await self._new_jobs.run(connection, tuples)

    async def open_jobs(self, name: str) -> list[SlotOutcome]:
        jobs = self._tables.jobs.c
        query = self._jobs_of(name).where(jobs.finished_at.is_(None)).order_by(jobs.slot)
        return [_outcome(row) for row in await self._read(query)]

    async def outcomes(
        self, name: str, limit: int, after: float = 0.0, *, skipped: bool = True
    ) -> list[SlotOutcome]:
        jobs = self._tables.jobs.c
        query = self._jobs_of(name).where(jobs.finished_at.is_not(None), jobs.slot > after)
        if not skipped:
            query = query.where(jobs.state != State.SKIPPED)
        return [
            _outcome(row) for row in await self._read(query.order_by(jobs.slot.desc()).limit(limit))
        ]

    def _jobs_of(self, name: str) -> Select[Any]:
        jobs = self._tables.jobs.c
        wanted = ["id", "slot", "state", "schedule_revision", "lane", "priority", "agent"]
        wanted += ["claimed_until", "finished_at"]
        return select(*[jobs[column] for column in wanted]).where(jobs.schedule == name)

    @repeated
    async def release(self, job_id: str) -> None:
        jobs = self._tables.jobs
        async with self._database.write() as connection:
            await connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == State.WAITING)
                .values(
                    state=State.SCHEDULED,
                    version=state_version(State.SCHEDULED, 1),
                    due_at=self.now(),
                )
            )

    @repeated
    async def withdraw(self, job_ids: Sequence[str], reason: str) -> int:
        jobs = self._tables.jobs
        these = and_(one_of(self._database, jobs.c.id, job_ids), jobs.c.finished_at.is_(None))
        held = and_(
            jobs.c.state.in_([State.SCHEDULED, State.WAITING]), jobs.c.claimed_until.is_(None)
        )
        end = {
            "state": State.CANCELLED,
            "version": state_version(State.CANCELLED, 1),
            "finished_at": self.now(),
            "slot": null(),
            "envelope": null(),
            "claimed_until": null(),
            "error_type": "Withdrawn",
            "error_message": reason,
        }
        taken_back = jobs.c.state == State.QUEUED
        async with self._database.write() as connection:
            gone = await connection.execute(delete(jobs).where(these, held))
            ended = await connection.execute(update(jobs).where(these, taken_back).values(**end))
            return gone.rowcount + ended.rowcount

    # declarations ----------------------------------------------------------------------------

    @repeated
    async def declare(self, declarations: Sequence[Declaration], *, starting: bool) -> None:
        now = self.now()
        rows = [
            {
                "name": each.name,
                "hash": each.hash,
                "app": each.app,
                "definition": None if each.definition is None else each.definition.encode(),
                "existing": each.existing,
                "orphaned": each.orphaned,
                "first_seen": now,
                "declared_at": now,
                "seen_at": now,
            }
            for each in sorted(declarations, key=lambda d: (d.name, d.hash))
        ]
        write = self._declare_anew if starting else self._declare
        old = self._tables.declarations.c.seen_at < now - _KEPT
        async with self._database.write() as connection:
            if starting:
                await connection.execute(delete(self._tables.declarations).where(old))
            await write.run(connection, rows)

    async def declarations(self) -> list[Declaration]:
        columns = self._tables.declarations.c
        query = select(self._tables.declarations).where(columns.seen_at >= self.now() - _KEPT)
        return [
            Declaration(
                row.name,
                row.app,
                None if row.definition is None else Definition.decode(row.definition),
                row.existing,
                row.orphaned,
                row.first_seen,
                row.declared_at,
                row.seen_at,
            )
            for row in await self._read(query)
        ]


def _schedule(row: Row[Any]) -> ScheduleInfo:
    values = {**row._mapping, "definition": Definition.decode(row.definition)}
    return ScheduleInfo(**{name: values[name] for name in ScheduleInfo.__dataclass_fields__})


def _outcome(row: Row[Any]) -> SlotOutcome:
    return SlotOutcome(
        row.id,
        row.slot,
        State(row.state),
        row.schedule_revision or 0,
        row.lane,
        row.priority,
        row.agent,
        row.claimed_until is not None,
        row.finished_at,
    )


def _job_row(job: Envelope, state: State, revision: int | None, now: float) -> dict[str, Any]:
    row = merge.held_row(job, encode_frame([job]))
    row |= {"schedule": job.schedule, "slot": job.slot, "schedule_revision": revision}
    if state is State.WAITING:
        # Not due before the one that it waits for has ended.
        row |= {"state": state, "version": state_version(state, 1), "due_at": None}
    elif state is State.SKIPPED:
        row |= {
            "state": state,
            "version": state_version(state, 1),
            "envelope": None,
            "finished_at": now,
            "error_type": "Overlap",
            "error_message": "an earlier job of the schedule had not ended",
        }
    return row
