"""Letting jobs go that waited for others to end.

A dependency is *open* until its parent's end was told to the child. Whoever closes it counts the
child's ``pending`` down in the same transaction, under the lock of the child's row: so each end
is told once, whoever tells it and how often, and no step looks at more than what it closes. A
child whose count is 0 is let go; one whose parent ended otherwise than asked is cancelled, and
has ended itself then.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from mesh.errors import WireError
from mesh.fingerprint import fingerprint
from mesh.job import TERMINAL_VERSION, State, made_job_id, state_version
from mesh.ports import Unblocked
from mesh.sql import BulkUpdate, Change, Database, Executor, one_of, repeated
from mesh.sql.bulk import Excluded
from mesh.wire import Envelope, Parent, decode_frame, encode_frame
from mesh_master.merge import as_json
from mesh_master.tables import Tables

__all__ = ["AT_ONCE", "ORPHANED", "Unblocking"]

log = logging.getLogger("mesh")

AT_ONCE = 500
"""Dependencies closed, or jobs ended, in one transaction."""

ORPHANED = 24 * 3600.0
"""Seconds for which a job may wait for one that the master has not heard of: its agent's ledger may
have to be recorded yet."""

_MOST_RESULTS = 512 * 1024
"""Bytes of its parents' results that may travel with a job."""

_GONE = ("id", "state", "finished_at", "error_type", "error_message", "fingerprint")
_READY = ("id", "state", "version", "pending", "due_at", "payload", "envelope")

_OVER: Mapping[str, Any] = {
    "version": literal(TERMINAL_VERSION),
    "envelope": null(),
    "pending": null(),
    "claimed_until": null(),
}
"""What is alike in all held jobs that end."""


class Unblocking:
    """What lets jobs go: ``run``, in transactions of its own, and the statements, built once."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._unreadable: set[str] = set()
        """Jobs of which that was said."""
        dependencies = tables.dependencies.c
        self._close = BulkUpdate(
            database,
            tables.dependencies,
            ("child_id", "parent_id"),
            "child_id",
            lambda new: dependencies.parent_id == new["parent_id"],
            {"is_open": literal(False)},
        )

        # Of rows that are locked, and so wait still. To say so would lead a planner that knows of
        # few such rows to go through all of them for each.
        def mine(new: Excluded) -> ColumnElement[bool]:
            return tables.jobs.c.id == new["id"]

        self._count = BulkUpdate(database, tables.jobs, ("id", "pending"), "id", mine)
        self._ready = BulkUpdate(database, tables.jobs, _READY, "id", mine)
        self._gone = BulkUpdate(database, tables.jobs, _GONE, "id", mine, _OVER)

    async def run(self, ended: Collection[str] | None) -> Unblocked:
        """``Master.unblock``, in as many transactions as it takes."""
        jobs = 0
        if ended is None:
            jobs += await self._expire_some()
            jobs += await self._tell_all(None)
        else:
            each = iter(ended)
            while part := list(islice(each, AT_ONCE)):
                jobs += await self._tell_all(part)
        freed, waits, gated = await self._free(ended)
        return Unblocked(jobs + freed, waits, gated)

    @repeated
    async def _expire_some(self) -> int:
        async with self._database.write() as connection:
            return len(await self.expire(connection))

    async def _tell_all(self, ended: Collection[str] | None) -> int:
        """Close the dependencies on these jobs, or on any that have ended. Returns how many."""
        count, left = 0, None if ended is None else set(ended)
        while left is None or left:
            told, gone = await self._tell_some(left)
            count += told
            if left is not None:
                # Those that ended by it may have children themselves.
                left = {*gone, *(left if told == AT_ONCE else ())}
            elif not told:
                break
        return count

    @repeated
    async def _tell_some(self, ended: Collection[str] | None) -> tuple[int, Collection[str]]:
        async with self._database.write() as connection:
            return await self.tell(connection, ended)

    @repeated
    async def _free(self, ended: Collection[str] | None) -> tuple[int, bool, bool]:
        async with self._database.write() as connection:
            freed = await self.free_slots(connection, ended)
            return freed, *await self.outlook(connection)

    async def tell(self, run: Executor, ended: Collection[str] | None) -> tuple[int, list[str]]:
        """Tell some children the end of their parents: of ``ended``, or of any that have ended.
        Returns how many dependencies that closed, and the children that ended by it."""
        closed: Sequence[Row[Any]] = (await run.execute(self._closable(ended))).all()
        if not closed:
            return 0, []
        children = await self._waiting(run, sorted({row.child_id for row in closed}))
        held = self._read(children)
        unread = {row.id for row in children} - held.keys()
        closed = [row for row in closed if row.child_id not in unread]
        children = [row for row in children if row.id not in unread]
        await self._close.run(run, sorted((row.child_id, row.parent_id) for row in closed))
        told = Counter(row.child_id for row in closed)
        refusals = {r.child_id: _refusal(r) for r in closed if not _is_as_asked(r)}
        left = {row.id: row.pending - told[row.id] for row in children}
        still = [(i, n) for i, n in left.items() if n > 0 and i not in refusals]
        await self._count.run(run, still)
        gone = {i: refusals[i] for i in left if i in refusals}
        gone |= await self._let_go(run, [held[i] for i in left if left[i] <= 0 and i not in gone])
        await self._end(run, gone, held)
        return len(closed), list(gone)

    async def _waiting(self, run: Executor, job_ids: Sequence[str]) -> list[Row[Any]]:
        """Those of the jobs that wait still, locked."""
        jobs = self._tables.jobs.c
        these = select(jobs.id, jobs.state, jobs.pending, jobs.envelope).where(
            one_of(self._database, jobs.id, job_ids)
        )
        rows = (await run.execute(self._database.locking(these.order_by(jobs.id)))).all()
        return [row for row in rows if row.state == State.WAITING]

    def _read(self, rows: Sequence[Row[Any]]) -> dict[str, Envelope]:
        """The jobs of the rows, but for those that this version cannot read: these wait for a
        coordinator that can."""
        jobs: dict[str, Envelope] = {}
        for row in rows:
            try:
                (jobs[row.id],) = decode_frame(row.envelope)
            except WireError as error:
                if row.id not in self._unreadable:
                    self._unreadable.add(row.id)
                    log.error("waiting job %s is left alone: %s", row.id, error)
        return jobs

    def _closable(self, ended: Collection[str] | None) -> Select[Any]:
        dependencies, jobs = self._tables.dependencies, self._tables.jobs.c
        columns = dependencies.c
        wanted = [columns.child_id, columns.parent_id, columns.outcome]
        query = (
            select(*wanted, jobs.state, jobs.name, jobs.error_type, jobs.error_message)
            .join_from(dependencies, self._tables.jobs, jobs.id == columns.parent_id)
            .where(columns.is_open, jobs.finished_at.is_not(None))
            .limit(AT_ONCE)
        )
        if ended is not None:
            query = query.where(one_of(self._database, columns.parent_id, list(ended)))
        return self._database.claiming(query, of=dependencies)

    async def _let_go(
        self, run: Executor, children: Sequence[Envelope]
    ) -> dict[str, tuple[State, str, str]]:
        """Let children go whose parents have all ended as asked. Returns those that cannot run."""
        if not children:
            return {}
        now = self._database.now()
        parents = await self._parents(run, [child.id for child in children])
        ready: list[tuple[Any, ...]] = []
        failed: dict[str, tuple[State, str, str]] = {}
        for child in children:
            try:
                job = _with_parents(child, parents.get(child.id, []))
            except ValueError as error:
                failed[child.id] = (State.FAILED, "ParentResults", str(error))
                continue
            due_at = max(job.due_at, now)
            version = state_version(State.SCHEDULED, job.attempt)
            envelope = encode_frame([job])
            payload = as_json(job.payload)
            ready.append((child.id, State.SCHEDULED, version, 0, due_at, payload, envelope))
        await self._ready.run(run, ready)
        return failed

    async def _parents(
        self, run: Executor, children: Sequence[str]
    ) -> dict[str, list[tuple[Row[Any], bytes | None]]]:
        """Each child's parents in order, with their results as far as those may travel."""
        dependencies, jobs = self._tables.dependencies, self._tables.jobs
        columns = dependencies.c
        of_children = one_of(self._database, columns.child_id, children)
        size = func.coalesce(func.length(jobs.c.result), 0).label("size")
        query = (
            select(*columns, jobs.c.state, jobs.c.name.label("handler"), size)
            .join_from(dependencies, jobs, jobs.c.id == columns.parent_id)
            .where(of_children)
            .order_by(columns.child_id, columns.position)
        )
        found: dict[str, list[Row[Any]]] = {}
        for row in (await run.execute(query)).all():
            found.setdefault(row.child_id, []).append(row)
        small = [
            row.parent_id
            for rows in found.values()
            if sum(row.size for row in rows) <= _MOST_RESULTS
            for row in rows
        ]
        results = select(jobs.c.id, jobs.c.result).where(
            one_of(self._database, jobs.c.id, sorted(set(small))), jobs.c.result.is_not(None)
        )
        texts = {row.id: row.result.encode() for row in (await run.execute(results)).all()}
        return {
            child: [(row, texts.get(row.parent_id)) for row in rows]
            for child, rows in found.items()
        }

    async def _end(
        self,
        run: Executor,
        gone: Mapping[str, tuple[State, str, str]],
        jobs: Mapping[str, Envelope],
    ) -> None:
        now = self._database.now()
        rows = [
            (
                *(job_id, state, now, kind, text),
                fingerprint(jobs[job_id].name, kind, text) if state is State.FAILED else None,
            )
            for job_id, (state, kind, text) in sorted(gone.items())
        ]
        await self._gone.run(run, rows)
        await self._forget(run, list(gone))

    async def _forget(self, run: Executor, children: Sequence[str]) -> None:
        """What has ended waits for nobody."""
        if not children:
            return
        table = self._tables.dependencies
        keys = (table.c.child_id, table.c.parent_id)
        left = select(*keys).where(
            one_of(self._database, table.c.child_id, children), table.c.is_open
        )
        # Not those that others have in hand: they close them, and wait for the child's row, which
        # is locked here.
        rows = (await run.execute(self._database.claiming(left))).all()
        await self._close.run(run, sorted((row.child_id, row.parent_id) for row in rows))

    async def expire(self, run: Executor) -> list[str]:
        """End some held jobs that were not to start any more. Returns their ids."""
        now, jobs = self._database.now(), self._tables.jobs
        # One that a dispatcher has ever had in hand may have begun on an agent: the word of that
        # may be still to come. Its worker, or the next dispatcher's, knows when it is too late.
        free = jobs.c.claimed_until.is_(None)
        late = and_(jobs.c.envelope.is_not(None), jobs.c.expires_at <= now, free)
        query = select(jobs.c.id).where(late).order_by(jobs.c.expires_at).limit(AT_ONCE)
        late_ids = list((await run.execute(self._database.claiming(query))).scalars())
        if late_ids:
            await run.execute(
                update(jobs)
                .where(one_of(self._database, jobs.c.id, late_ids))
                .values(
                    state=State.EXPIRED,
                    finished_at=now,
                    error_type="Expired",
                    error_message="it had not started when its time to start was over",
                    **_OVER,
                )
            )
            await self._forget(run, late_ids)
        return late_ids

    async def give_up(self, run: Executor, limit: int) -> list[str]:
        """End up to ``limit`` jobs that wait for one that nobody has heard of, ``ORPHANED`` seconds
        after its id was made: it was never stored. Returns their ids."""
        dependencies, jobs = self._tables.dependencies, self._tables.jobs.c
        columns = dependencies.c
        long_ago = made_job_id(self._database.now() - ORPHANED, "0" * 20)
        unknown = (
            select(columns.child_id, columns.parent_id)
            .where(
                columns.is_open,
                columns.parent_id < long_ago,
                ~exists().where(jobs.id == columns.parent_id),
            )
            .limit(limit)
        )
        rows = (await run.execute(self._database.claiming(unknown, of=dependencies))).all()
        parents = {row.child_id: row.parent_id for row in rows}
        held = self._read(await self._waiting(run, sorted(parents)))
        hours = f"{ORPHANED / 3600:.0f} hours"
        gone = {
            child: (
                State.CANCELLED,
                "ParentUnknown",
                f"it was to run after job {parents[child]}, which nobody has heard of in {hours}: "
                "it was not stored",
            )
            for child in held
        }
        await self._end(run, gone, held)
        return list(gone)

    async def free_slots(self, run: Executor, ended: Collection[str] | None) -> int:
        """Let others have the place under their limits of jobs that need it no more."""
        slots, jobs = self._tables.slots, self._tables.jobs.c
        begun = and_(slots.c.until_started, jobs.state.not_in([State.SCHEDULED, State.QUEUED]))
        over = exists().where(jobs.id == slots.c.job_id, or_(jobs.finished_at.is_not(None), begun))
        keys = (slots.c.job_id, slots.c.key)
        some = select(*keys).where(over)
        if ended is not None:
            some = some.where(one_of(self._database, slots.c.job_id, list(ended)))
        # Others may be at it, in another order.
        free = self._database.claiming(some)
        return len(await Change(self._database, delete(slots), free, slots.c.job_id).run(run))

    async def outlook(self, run: Executor) -> tuple[bool, bool]:
        """Whether some job waits for another's end, and whether some is held under a limit."""
        jobs = self._tables.jobs.c
        gated = exists().where(jobs.gate.is_not(None), jobs.envelope.is_not(None))
        waits = or_(
            exists().where(self._tables.dependencies.c.is_open), exists(select(self._tables.slots))
        )
        said = [case((waits, 1), else_=0).label("waits"), case((gated, 1), else_=0).label("gated")]
        row = (await run.execute(select(*said))).one()
        return bool(row.waits), bool(row.gated)


def _is_as_asked(row: Row[Any]) -> bool:
    if row.outcome == "finished":
        return True
    return bool((row.state == State.SUCCEEDED) == (row.outcome == "success"))


def _refusal(row: Row[Any]) -> tuple[State, str, str]:
    why = f": {row.error_type}: {row.error_message}" if row.error_type else ""
    message = f"it was to run after the {row.outcome} of job {row.parent_id} ({row.name})"
    return State.CANCELLED, "ParentEnded", f"{message}, which {row.state}{why}"


def _with_parents(job: Envelope, rows: Sequence[tuple[Row[Any], bytes | None]]) -> Envelope:
    """The job with what its parents resulted in. Raises ``ValueError`` if that is too much."""
    parents = [
        Parent(row.parent_id, row.name or row.handler, State(row.state), result)
        for row, result in rows
    ]
    fed: dict[str, Any] = {}
    for row, result in rows:
        if row.feeds is None:
            continue
        if result is None and row.size:
            size = sum(each.size for each, _ in rows)
            raise ValueError(
                f"the results of its {len(rows)} parents take {size} bytes, and {_MOST_RESULTS} "
                "may travel with a job: let them store what they make and return references"
            )
        value = msgspec.Raw(result or b"null")
        if row.feeds.endswith("[]"):
            fed.setdefault(row.feeds[:-2], []).append(value)
        else:
            fed[row.feeds] = value
    payload = job.payload
    if fed:
        arguments = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        payload = msgspec.json.encode({**fed, **arguments})
    return msgspec.structs.replace(job, parents=parents, payload=payload)
