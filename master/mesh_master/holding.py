"""Storing jobs with their conditions.

One transaction stores a batch of jobs with all that belongs to them. Locks are taken in one
order by all: keys (in their order), then jobs (in the order of their ids), then dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

import msgspec
from sqlalchemy import Row, and_, delete, or_, select

from mesh.held import Held, KeyRule, Stored
from mesh.job import State, state_version
from mesh.sql import BulkUpdate, BulkUpsert, Database, Executor, InsertNew, one_of
from mesh.wire import Envelope, decode_frame, encode_frame
from mesh_master import merge
from mesh_master.tables import Tables
from mesh_master.tags import Tags

__all__ = ["Holding"]

_FOR_EVER = 253_370_764_800.0
"""The year 9999."""

_CONDITIONS = ("key", "workflow", "retry_of", "firm", "pending", "gate", "limits")
_AT_ONCE = 100
"""Keys in one statement."""

_REPLACED = (
    *("id", "lane", "priority", "payload", "meta", "due_at", "envelope", "result_ttl"),
    *("expires_at", "terms", "firm", "gate", "limits"),
)


class Holding:
    """The statements that store held jobs. Built once, run often."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        jobs, limits = tables.jobs.c, tables.limits.c
        self._jobs = BulkUpsert(database, tables.jobs, (*merge.JOB_COLUMNS, *_CONDITIONS), ["id"])
        self._keys = InsertNew(database, tables.keys, ("key", "job_id", "until"), "key")
        self._take_over = BulkUpdate(database, tables.keys, ("key", "job_id", "until"), "key")
        self._replace = BulkUpdate(
            database, tables.jobs, _REPLACED, "id", lambda new: self._has_not_left(jobs)
        )
        self._tags = Tags(database, tables)
        columns = [column.name for column in tables.dependencies.c]
        self._dependencies = BulkUpsert(
            database, tables.dependencies, columns, ["child_id", "parent_id"]
        )
        self._limits = BulkUpsert(
            database, tables.limits, [c.name for c in tables.limits.c], ["key"]
        )
        rules = ("key", "concurrency", "rate", "burst")
        self._rules = BulkUpdate(
            database,
            tables.limits,
            rules,
            "key",
            lambda new: or_(*(limits[name] != new[name] for name in rules[1:])),
        )

    @staticmethod
    def _has_not_left(jobs: Any) -> Any:
        """The job is held, no dispatcher has it in hand, and it was on no agent before."""
        return and_(jobs.envelope.is_not(None), jobs.claimed_until.is_(None), jobs.attempt == 1)

    async def store(self, run: Executor, jobs: Sequence[Held]) -> list[Stored]:
        """Store the jobs, in the transaction of ``run``; what became of each, in order."""
        stored: dict[int, Stored] = {}
        for turn in _turns(jobs):
            mine = {index: held for index, held in turn if held.job.key is None}
            keyed = {index: held for index, held in turn if held.job.key is not None}
            others = await self._take_keys(run, keyed)
            stored |= others
            mine |= {index: held for index, held in keyed.items() if index not in others}
            await self._insert(run, list(mine.values()))
            stored |= {
                index: Stored(held.job.id, held.job.name, _state_of(held))
                for index, held in mine.items()
            }
        return [stored[index] for index in range(len(jobs))]

    async def find_key(self, run: Executor, key: str) -> str | None:
        rows = await self._holders(run, [key], lock=False)
        now = self._database.now()
        return next((row.job_id for row in rows if _stands(row, now)), None)

    # keys ------------------------------------------------------------------------------------

    async def _take_keys(self, run: Executor, keyed: Mapping[int, Held]) -> dict[int, Stored]:
        """Make keys stand for the jobs. Returns what became of those for which that failed."""
        now = self._database.now()
        order = sorted(keyed.items(), key=lambda item: str(item[1].job.key))
        taken: dict[int, Stored] = {}
        for start in range(0, len(order), _AT_ONCE):
            part = {str(held.job.key): (i, held) for i, held in order[start : start + _AT_ONCE]}
            while part:
                part = await self._take_some(run, part, taken, now)
        return taken

    async def _take_some(
        self,
        run: Executor,
        part: Mapping[str, tuple[int, Held]],
        taken: dict[int, Stored],
        now: float,
    ) -> dict[str, tuple[int, Held]]:
        """``_take_keys`` for some keys. Returns those for which it is to be tried again."""
        rows = {key: (key, h.job.id, _until(h.rule, now)) for key, (_, h) in part.items()}
        new = await self._keys.run(run, list(rows.values()))
        contested = [key for key in part if key not in new]
        if not contested:
            return {}
        holders = await self._holders(run, contested, lock=True)
        over: list[tuple[Any, ...]] = []
        for row in holders:
            index, held = part[row.key]
            if not _stands(row, now):
                over.append(rows[row.key])
            elif row.job_id != held.job.id:  # else it was stored before, and comes again
                taken[index] = await self._meet(run, held, row)
        await self._take_over.run(run, over)
        # One that was there and is not stood for a job that has been forgotten meanwhile.
        found = {row.key for row in holders}
        return {key: part[key] for key in contested if key not in found}

    async def _holders(
        self, run: Executor, keys: Sequence[str], *, lock: bool
    ) -> Sequence[Row[Any]]:
        """For which jobs the keys stand, and how these are."""
        table, jobs = self._tables.keys, self._tables.jobs.c
        these = one_of(self._database, table.c.key, keys)
        if lock:
            locked = select(table.c.key).where(these).order_by(table.c.key)
            (await run.execute(self._database.locking(locked))).all()
        wanted = [jobs.id, jobs.name, jobs.state, jobs.enqueued_at, jobs.finished_at, jobs.envelope]
        query = select(table, *wanted).join_from(
            table, self._tables.jobs, table.c.job_id == jobs.id, isouter=True
        )
        found: Sequence[Row[Any]] = (await run.execute(query.where(these))).all()
        return found

    async def _meet(self, run: Executor, held: Held, row: Row[Any]) -> Stored:
        """A job whose key stands for another, which ``row`` tells of."""
        rule = held.rule or KeyRule()
        state = State.SCHEDULED if row.id is None else State(row.state)
        name = held.job.name if row.id is None else row.name
        refused = rule.on_conflict == "raise" or name != held.job.name
        replaced = False
        if rule.on_conflict in ("replace", "debounce") and not refused and row.envelope is not None:
            job = _replacement(held, row)
            replaced = await self._replace.run(run, [_replaced(held, job, row)]) == 1
            if replaced:
                await self._begin_anew(run, job)
        return Stored(row.job_id, name, state, existing=True, replaced=replaced, refused=refused)

    async def _begin_anew(self, run: Executor, job: Envelope) -> None:
        """Forget what hangs on a job's former self: its tags, and its place under its limits, if
        those had let it go and no agent took it."""
        for table in (self._tables.tags, self._tables.slots):
            await run.execute(delete(table).where(table.c.job_id == job.id))
        await self._tags.write(run, [job])
        await self._know_limits(run, [job])

    # rows ------------------------------------------------------------------------------------

    async def _insert(self, run: Executor, jobs: Sequence[Held]) -> None:
        rows = {held.job.id: _row(held) for held in jobs}
        await self._jobs.run(run, [rows[key] for key in sorted(rows)])
        await self._tags.write(run, [held.job for held in jobs])
        await self._dependencies.run(run, list(_dependency_rows(jobs)))
        await self._know_limits(run, [held.job for held in jobs if held.job.limits])

    async def _know_limits(self, run: Executor, jobs: Iterable[Envelope]) -> None:
        """Store limits that are new, and what has changed of those that are not: the latest
        word counts."""
        rules = {limit.key: limit for job in jobs for limit in job.limits or ()}
        if not rules:
            return
        now = self._database.now()
        each = [rules[key] for key in sorted(rules)]
        await self._limits.run(
            run,
            [
                {
                    "key": one.key,
                    "concurrency": one.concurrency,
                    "rate": one.rate,
                    "burst": one.burst,
                    "tokens": one.burst,
                    "counted_at": now,
                }
                for one in each
            ],
        )
        await self._rules.run(run, [(o.key, o.concurrency, o.rate, o.burst) for o in each])


def _turns(jobs: Sequence[Held]) -> list[list[tuple[int, Held]]]:
    """The jobs with their places, such that no two of a turn have the same key: the second then
    meets the first."""
    turns: list[list[tuple[int, Held]]] = []
    seen: dict[str, int] = {}
    for index, held in enumerate(jobs):
        turn = 0
        if held.job.key is not None:
            turn = seen.get(held.job.key, 0)
            seen[held.job.key] = turn + 1
        while len(turns) <= turn:
            turns.append([])
        turns[turn].append((index, held))
    return turns


def _until(rule: KeyRule | None, now: float) -> float | None:
    """Until when a key that is taken now stands for its job; ``None``: as long as that is open."""
    if rule is None or rule.period is None:
        return None
    return _FOR_EVER if rule.period == inf else now + rule.period


def _stands(row: Row[Any], now: float) -> bool:
    """Whether the key still stands for its job."""
    if row.until is not None:
        return bool(row.until > now)
    return row.id is not None and row.finished_at is None


def _state_of(held: Held) -> State:
    return State.WAITING if held.after else State.SCHEDULED


def _row(held: Held) -> dict[str, Any]:
    job = held.job
    row, gate = merge.held_row(job, encode_frame([job])), _gate(job)
    row |= {
        "key": job.key,
        "workflow": job.workflow,
        "retry_of": held.retry_of,
        "firm": held.firm or None,
        "pending": len({after.job_id for after in held.after}) or None,
        "gate": gate,
        "limits": gate,
    }
    if held.after:
        row |= {
            "state": State.WAITING,
            "version": state_version(State.WAITING, job.attempt),
            # Not due before all of its parents have ended.
            "due_at": None,
        }
    return row


def _gate(job: Envelope) -> str | None:
    """The limits that let a job go, alike for jobs that only the same ones let go."""
    if not job.limits:
        return None
    return msgspec.json.encode(sorted(limit.key for limit in job.limits)).decode()


def _dependency_rows(jobs: Iterable[Held]) -> Iterable[dict[str, Any]]:
    for held in sorted(jobs, key=lambda held: held.job.id):
        after = {one.job_id: one for one in held.after}
        for position, (job_id, one) in enumerate(after.items()):
            yield {
                "child_id": held.job.id,
                "parent_id": job_id,
                "position": position,
                "outcome": one.outcome,
                "name": one.name,
                "feeds": one.feeds,
                "is_open": True,
            }


def _replacement(held: Held, row: Row[Any]) -> Envelope:
    """What the job of the row becomes."""
    job, rule = held.job, held.rule or KeyRule()
    due_at = job.due_at
    if rule.on_conflict == "debounce" and rule.max_wait is not None:
        due_at = min(due_at, row.enqueued_at + rule.max_wait)
    (old,) = decode_frame(row.envelope)
    return msgspec.structs.replace(
        job,
        id=row.job_id,
        enqueued_at=row.enqueued_at,
        due_at=due_at,
        workflow=old.workflow,
        parents=old.parents,
    )


def _replaced(held: Held, job: Envelope, row: Row[Any]) -> tuple[Any, ...]:
    """The row of that, in the order of ``_REPLACED``."""
    new = _row(Held(job, firm=held.firm))
    if State(row.state) is State.WAITING:
        new["due_at"] = None
    return tuple(new[name] for name in _REPLACED)
