"""Counting without going through the history.

Triggers (see the migration that made them, 0009) keep two tables up to date in every transaction
that changes a job: ``totals``, how many jobs there are by state, handler and lane, and ``series``,
what happened by the minute. So they are as exact as the jobs themselves, whatever is repeated or
breaks off. On a server each connection counts in rows of its own (``shard``), and nobody waits for
another's transaction; ``roll_up`` brings those together in shard 0, sums them up by lane, and makes
hours of minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    FromClause,
    Row,
    Select,
    Table,
    and_,
    cast,
    delete,
    func,
    or_,
    select,
    text,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from mesh.errors import ConfigError
from mesh.filter import JobFilter
from mesh.job import State
from mesh.ports import Bucket, FailureGroup
from mesh.sql import BulkUpsert, Change, Database, begins_with
from mesh.sql.bulk import Excluded
from mesh_master.tables import COUNTED, Tables

__all__ = ["Statistics", "groups", "spans", "totals", "whose"]

MINUTE, HOUR = 60, 3600
_MOST_SPANS = 5000
_BY_THE_MINUTE = 48 * 3600.0
"""Seconds for which minutes are kept apart."""
_SETTLED = 300.0
"""Seconds after which a minute's rows are brought together: most has been heard of it."""
_EXAMPLES = 5
_LOOKS_AT_ONCE = 25
_RECENT = 48 * 3600.0
"""Seconds: little of a history ended since."""


def totals(database: Database, tables: Tables, where: JobFilter) -> Select[Any] | None:
    """Each ``state``, and how many ``jobs`` are in it, if totals can tell."""
    if where.order == "finished" or not where.is_counted:
        return None
    columns = tables.totals.c
    jobs = func.sum(columns.jobs)
    query: Select[Any] = select(columns.state)
    query = query.add_columns(cast(jobs, BigInteger).label("jobs"))
    query = query.where(*whose(database, tables.totals.c, where.name, where.lane, where.app))
    if where.states:
        query = query.where(columns.state.in_(sorted(set(where.states))))
    return query.group_by(columns.state).having(jobs > 0)


def spans(
    database: Database,
    tables: Tables,
    since: float,
    until: float,
    step: int,
    name: str | None,
    lane: str | None,
    by: Literal["name", "lane"] | None,
) -> Select[Any]:
    """The sums of what was counted, by ``key`` and by the number of the span, ``place``."""
    columns = tables.series.c
    within = [columns["at"] >= since, columns["at"] < until]
    rows: FromClause = tables.series
    if name is None and by != "name":
        # What is settled was summed by lane; the rest is little.
        settled = select(tables.series).where(columns.span.in_([-MINUTE, -HOUR]), *within)
        fresh = select(tables.series).where(columns.shard != 0, *within)
        rows, within = union_all(settled, fresh).subquery("of_lanes"), []
    else:
        within.append(columns.span.in_([MINUTE, HOUR]))
    key = [] if by is None else [rows.c[by].label("key")]
    place = (cast(database.epoch(rows.c["at"]), BigInteger) // step).label("place")
    counted: Select[Any] = select(place).add_columns(*key, *[rows.c[column] for column in COUNTED])
    each = counted.where(*within, *whose(database, rows.c, name, lane)).subquery("each")
    by_these = [each.c.place, *([each.c.key] if key else [])]
    sums = [_sum(each.c[column]).label(column) for column in COUNTED]
    return select(*by_these, *sums).group_by(*by_these)


def _sum(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if isinstance(column.type, BigInteger):
        # Exact for any number that occurs; sums of these would be numerics, which are slow.
        return func.sum(cast(column, Double))
    return func.sum(column)


def groups(
    database: Database, tables: Tables, since: float, limit: int, app: str = ""
) -> Select[Any]:
    """The largest groups of failures."""
    jobs, size = tables.jobs.c, func.count().label("jobs")
    fingerprint: ColumnElement[Any] = jobs.fingerprint
    where = [jobs.finished_at >= since] if since > 0 else []
    if since > database.now() - _RECENT:
        # Rather those that ended since then than all that ever failed.
        fingerprint = func.coalesce(fingerprint, fingerprint)
        where.append(jobs.state == State.FAILED)
    query: Select[Any] = select(fingerprint.label("fingerprint"))
    return (
        query.add_columns(size, func.count(jobs.retried_as).label("retried"))
        .where(fingerprint.is_not(None), *where, *whose(database, jobs, None, None, app))
        .group_by(jobs.fingerprint)
        .order_by(size.desc(), text("1"))
        .limit(limit)
    )


def newest(tables: Tables, fingerprint: str, since: float) -> Select[Any]:
    """The last jobs of a group, and when the first of it ended."""
    jobs, of_group = tables.jobs.c, tables.jobs.c.fingerprint == fingerprint
    first = select(func.min(jobs.finished_at)).where(of_group, jobs.finished_at >= since)
    query: Select[Any] = select(jobs.fingerprint)
    query = query.add_columns(jobs.id, jobs.name, jobs.error_type, jobs.error_message)
    query = query.add_columns(jobs.finished_at, first.scalar_subquery().label("first_at"))
    query = query.where(of_group, jobs.finished_at >= since)
    return query.order_by(jobs.finished_at.desc(), jobs.id.desc()).limit(_EXAMPLES)


def whose(
    database: Database,
    columns: Mapping[str, ColumnElement[str]] | ReadOnlyColumnCollection[str, Any],
    name: str | None,
    lane: str | None,
    app: str = "",
) -> list[ColumnElement[bool]]:
    """Which rows are of that handler, lane and app."""
    conditions: list[ColumnElement[bool]] = []
    if name is not None:
        beginning = name.removesuffix("*")
        if beginning == name:
            conditions.append(columns["name"] == name)
        else:
            conditions.append(begins_with(database, columns["name"], beginning))
    if app and not (name or "").startswith(app):
        conditions.append(begins_with(database, columns["name"], app))
    if lane is not None:
        conditions.append(columns["lane"] == lane)
    return conditions


class Statistics:
    """What ``Master.series``, ``failures`` and ``roll_up`` do. Built once."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._totals = self._adding(tables.totals, ["jobs"])
        self._series = self._adding(tables.series, COUNTED)

    def _adding(self, table: Table, columns: Sequence[str]) -> BulkUpsert:
        def add(new: Excluded) -> Mapping[str, ColumnElement[Any]]:
            return {name: table.c[name] + new[name] for name in columns}

        key = [column.name for column in table.primary_key]
        return BulkUpsert(self._database, table, [c.name for c in table.c], key, add)

    async def series(
        self,
        connection: AsyncConnection,
        since: float,
        until: float,
        step: float,
        *,
        name: str | None,
        lane: str | None,
        by: Literal["name", "lane"] | None,
    ) -> list[Bucket]:
        places = _places(since, until, step)
        size, first = int(step), places.start
        query = spans(
            self._database,
            self._tables,
            first * size,
            places.stop * size,
            size,
            name,
            lane,
            by,
        )
        found: dict[str | None, dict[int, Sequence[Any]]] = {} if by else {None: {}}
        for place, *counted in await connection.execute(query):
            key = counted.pop(0) if by else None
            found.setdefault(key, {})[place] = counted
        return [
            _bucket(place * size, key, rows.get(place))
            for key, rows in sorted(found.items(), key=lambda item: item[0] or "")
            for place in places
        ]

    async def failures(
        self, connection: AsyncConnection, since: float, limit: int, app: str
    ) -> list[FailureGroup]:
        found: list[FailureGroup] = []
        largest = groups(self._database, self._tables, since, limit, app)
        rows = (await connection.execute(largest)).all()
        examples = await self._examples(connection, [row.fingerprint for row in rows], since)
        for group in rows:
            jobs = examples.get(group.fingerprint)
            if jobs:  # else they were forgotten meanwhile
                last = jobs[0]
                found.append(
                    FailureGroup(
                        group.fingerprint,
                        last.name,
                        last.error_type,
                        last.error_message,
                        group.jobs,
                        group.retried,
                        last.first_at,
                        last.finished_at,
                        tuple(job.id for job in jobs),
                    )
                )
        return sorted(found, key=lambda group: (-group.count, -group.last_at))

    async def _examples(
        self, connection: AsyncConnection, fingerprints: Sequence[str], since: float
    ) -> dict[str, list[Row[Any]]]:
        """The newest jobs of each."""
        found: dict[str, list[Row[Any]]] = {}
        for begin in range(0, len(fingerprints), _LOOKS_AT_ONCE):
            parts = [
                select(newest(self._tables, fingerprint, since).subquery(f"group_{number}"))
                for number, fingerprint in enumerate(fingerprints[begin : begin + _LOOKS_AT_ONCE])
            ]
            for row in await connection.execute(union_all(*parts)):
                found.setdefault(row.fingerprint, []).append(row)
        for jobs in found.values():
            jobs.sort(key=lambda job: (job.finished_at, job.id), reverse=True)
        return found

    # rolling up ------------------------------------------------------------------------------

    async def roll_up(self, connection: AsyncConnection, kept: float, limit: int) -> int:
        now, columns, total = self._database.now(), self._tables.series.c, self._tables.totals.c
        at = columns["at"]
        hours_from = (now - _BY_THE_MINUTE) // HOUR * HOUR
        gone_before = now - max(kept, _BY_THE_MINUTE)
        loose = or_(total.shard != 0, total.jobs == 0)
        is_fresh = and_(columns.shard != 0, at < now - _SETTLED)
        is_old = and_(columns.span.in_([MINUTE, -MINUTE]), columns.shard == 0, at < hours_from)
        is_over = and_(columns.span.in_([HOUR, -HOUR]), at < gone_before)
        taken = 0
        for table, write, these, become in (
            (self._tables.totals, self._totals, loose, _one_total),
            (self._tables.series, self._series, is_fresh, _settled),
            (self._tables.series, self._series, is_old, _of_the_hour),
            (self._tables.series, self._series, is_over, _nothing),
        ):
            if taken < limit:
                left = limit - taken
                rows = await self._take(connection, table, these, left)
                await self._add(connection, table, write, [new for r in rows for new in become(r)])
                taken += len(rows)
        return taken

    async def _take(
        self, connection: AsyncConnection, table: Table, these: ColumnElement[bool], limit: int
    ) -> list[dict[str, Any]]:
        keys = list(table.primary_key.columns)
        some = select(*keys).where(these).limit(limit)
        # Rows to which somebody is adding are left to the next time, so nobody waits for them.
        free = self._database.claiming(some)
        gone = await Change(self._database, delete(table), free, *table.c).run(connection)
        return [dict(row._mapping) for row in gone]

    async def _add(
        self,
        connection: AsyncConnection,
        table: Table,
        write: BulkUpsert,
        rows: Iterable[dict[str, Any]],
    ) -> None:
        keys = [column.name for column in table.primary_key.columns]
        counts = [column.name for column in table.c if not column.primary_key]
        sums: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            known = sums.setdefault(tuple(row[name] for name in keys), row)
            if known is not row:
                for name in counts:
                    known[name] += row[name]
        # In the order of their keys, as another may be at it.
        left = [sums[key] for key in sorted(sums)]
        await write.run(connection, [row for row in left if any(row[name] for name in counts)])


def _one_total(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "shard": 0}]


def _settled(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As it is, and a part of its lane's."""
    return [{**row, "shard": 0}, {**row, "shard": 0, "span": -row["span"], "name": ""}]


def _of_the_hour(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    span = HOUR if row["span"] > 0 else -HOUR
    return [{**row, "span": span, "at": row["at"] // HOUR * HOUR}]


def _nothing(_: Mapping[str, Any]) -> list[dict[str, Any]]:
    return []


def _places(since: float, until: float, step: float) -> range:
    """The numbers of the spans. Raises ``ConfigError``."""
    if step < MINUTE or step % MINUTE:
        raise ConfigError(
            f"a series in steps of {step:g} seconds: it is counted by the minute, so the step is "
            "to be 60 or a multiple of it"
        )
    places = range(int(since // step), ceil(until / step))
    if len(places) > _MOST_SPANS:
        enough = ceil((until - since) / _MOST_SPANS / MINUTE + 1) * MINUTE
        raise ConfigError(
            f"a series of {len(places)} spans of {step:g} seconds: up to {_MOST_SPANS} are given; "
            f"take steps of {enough} seconds, or less time"
        )
    return places


def _bucket(at: float, key: str | None, counted: Sequence[Any] | None) -> Bucket:
    """``counted`` is in the order of ``COUNTED``."""
    if counted is None:
        return Bucket(at, key)
    # One by one: there may be thousands of spans.
    enqueued, started, succeeded, failed, cancelled, skipped, expired, retried, *others = counted
    waits, *histogram, ran, waited = others
    return Bucket(
        at,
        key,
        enqueued,
        started,
        succeeded,
        failed,
        cancelled,
        skipped,
        expired,
        retried,
        ran / 1e6,
        tuple(histogram),
        waited / 1e6,
        waits,
    )
