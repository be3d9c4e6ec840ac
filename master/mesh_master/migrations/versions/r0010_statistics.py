"""Counting as it happens: how many jobs there are, and what happened by the minute.

Both are sums over rows. What each row of ``jobs`` and of ``attempts`` adds to them depends on that
row alone, so a trigger takes away what the old row added and adds what the new one does: whoever
changes a row, how often, in whichever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Integer, bindparam, select, table, text
from sqlalchemy import column as col

from mesh.fingerprint import fingerprint
from mesh.sql import JobId, Moment, String, partial
from mesh_master.migrations.mssql_counting import MSSQL
from mesh_master.migrations.mysql_counting import MySQL

revision = "0010"
down_revision = "0009"

ENDS = ("succeeded", "failed", "cancelled", "skipped", "expired")
BOUNDS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000,
          30_000_000, 100_000_000, 300_000_000, 1_000_000_000)  # fmt: skip
"""Microseconds."""
RAN = tuple(f"ran_{place}" for place in range(len(BOUNDS) + 1))
HAPPENED = ("enqueued", "started", *ENDS, "retried")
COUNTS = (*HAPPENED, "waits", *RAN)
TIMES = ("ran", "waited")
COUNTED = (*COUNTS, *TIMES)
_COUNT = Integer().with_variant(BigInteger, "mssql")
KEY = ("span", "at", "name", "lane", "shard")


def upgrade(op: Operations, prefix: str, schema: str | None) -> None:
    jobs, totals, series = f"{prefix}jobs", f"{prefix}totals", f"{prefix}series"
    op.add_column(jobs, Column("fingerprint", String), schema=schema)
    op.create_table(
        totals,
        Column("state", String, primary_key=True),
        Column("name", String, primary_key=True),
        Column("lane", String, primary_key=True),
        Column("shard", Integer, primary_key=True, autoincrement=False),
        Column("jobs", BigInteger, nullable=False),
        schema=schema,
        sqlite_with_rowid=False,
    )
    op.create_table(
        series,
        Column("span", Integer, primary_key=True, autoincrement=False),
        Column("at", Moment, primary_key=True),
        Column("name", String, primary_key=True),
        Column("lane", String, primary_key=True),
        Column("shard", Integer, primary_key=True, autoincrement=False),
        *(
            Column(name, kind, nullable=False, server_default="0")
            for kind, names in ((_COUNT, COUNTS), (BigInteger, TIMES))
            for name in names
        ),
        schema=schema,
        sqlite_with_rowid=False,
    )
    op.create_index(
        f"{series}_shard",
        series,
        ["at"],
        schema=schema,
        **partial("shard <> 0"),
    )
    context = op.get_context()
    quote = context.dialect.identifier_preparer.quote
    start = "" if schema is None else f"{quote(schema)}."

    def known(name: str) -> str:
        return f"{start}{quote(f'{prefix}{name}')}"

    def local(name: str) -> str:
        return quote(f"{prefix}{name}")

    kinds: dict[str, Callable[[], _PostgreSQL | _SQLite | MySQL | MSSQL]] = {
        "postgresql": lambda: _PostgreSQL(known, local),
        "sqlite": lambda: _SQLite(known, local),
        "mysql": lambda: MySQL(known, RAN, BOUNDS),
        "mssql": lambda: MSSQL(known, HAPPENED, RAN, BOUNDS),
    }
    if not context.as_sql:
        _fill_fingerprints(op, jobs, schema)
    kinds[context.dialect.name]().run(op)
    for name, columns, operators in (
        ("name", ["name", "state", "lane", "id"], {"name": "text_pattern_ops"}),
        ("lane", ["lane", "state", "id"], {}),
        ("enqueued", ["enqueued_at"], {}),
    ):
        op.drop_index(f"{jobs}_{name}", jobs, schema=schema)
        op.create_index(f"{jobs}_{name}", jobs, columns, schema=schema, postgresql_ops=operators)
    op.create_index(
        f"{jobs}_unstarted",
        jobs,
        ["lane", "state", "enqueued_at", "due_at"],
        schema=schema,
        **partial("finished_at IS NULL AND state <> 'running'"),
    )
    op.create_index(
        f"{jobs}_fingerprint",
        jobs,
        ["fingerprint", "finished_at", "id", "retried_as"],
        schema=schema,
        **partial("fingerprint IS NOT NULL"),
    )


def _fill_fingerprints(op: Operations, name: str, schema: str | None) -> None:
    """Of the jobs that have failed: a script that is run by hand leaves them without."""
    columns = [col("id", JobId), *(col(c, String) for c in ("name", "error_type", "error_message"))]
    jobs = table(name, *columns, col("state", String), col("fingerprint", String), schema=schema)
    connection = op.get_bind()
    failed = connection.execute(select(*columns).where(jobs.c.state == "failed")).all()
    rows = [{"of": id_, "it": fingerprint(name, *error)} for id_, name, *error in failed]
    fill = jobs.update().where(jobs.c.id == bindparam("of")).values(fingerprint=bindparam("it"))
    if rows:
        connection.execute(fill, rows)


class _Triggers:
    def run(self, op: Operations) -> None:
        for statement in (*self.fill(), *self.triggers()):
            op.execute(text(statement.replace(":", r"\:")))

    def fill(self) -> Iterator[str]:
        """What counts the rows that there are."""
        raise NotImplementedError

    def triggers(self) -> Iterator[str]:
        raise NotImplementedError


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join((*KEY, *names))


def _adding(names: tuple[str, ...], known: str) -> str:
    """The end of an INSERT that adds to a row that is there."""
    added = ", ".join(f"{name} = {known}.{name} + excluded.{name}" for name in names)
    return f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {added}"


def _fill_lanes(series: str) -> str:
    """The rows that are of whole lanes."""
    sums = ", ".join(f"sum({name})" for name in COUNTED)
    return (
        f"INSERT INTO {series} ({_columns(COUNTED)}) "
        f"SELECT -span, at, '', lane, 0, {sums} FROM {series} GROUP BY span, at, lane"
    )


class _PostgreSQL(_Triggers):
    """Triggers for each statement: what it changed is counted at once. A connection counts in
    rows of its own, so that nobody waits for another's transaction; ``Master.roll_up`` brings
    them together."""

    def __init__(self, known: Callable[[str], str], local: Callable[[str], str]) -> None:
        """``known`` is the whole name of something of ours, ``local`` that within its schema."""
        self._known, self._local = known, local

    def fill(self) -> Iterator[str]:
        jobs, attempts = self._known("jobs"), self._known("attempts")
        yield self._count_totals([("1", jobs)], "0")
        facts = [*_job_facts("1", jobs), *_attempt_facts("1", attempts, jobs)]
        yield self._count_series(
            facts,
            "CASE WHEN at < now() - interval '2 days' THEN 3600 ELSE 60 END",
            "CASE WHEN at < now() - interval '2 days' "
            "THEN date_trunc('hour', at, 'UTC') ELSE at END",
            "0",
        )
        yield _fill_lanes(self._known("series"))

    def triggers(self) -> Iterator[str]:
        new, old = ("1", "new_rows"), ("-1", "old_rows")
        # What happened stays so when the job is forgotten.
        for event, changed, facts in (
            ("INSERT", [new], _job_facts(*new)),
            ("UPDATE", [old, new], [*_job_facts(*old), *_job_facts(*new)]),
            ("DELETE", [old], []),
        ):
            body = [self._count_totals(changed)]
            if facts:
                body.append(self._count_series(facts))
            yield from self._trigger("jobs", event, body)
        jobs = self._known("jobs")
        for event, facts in (
            ("INSERT", _attempt_facts(*new, jobs)),
            ("UPDATE", [*_attempt_facts(*old, jobs), *_attempt_facts(*new, jobs)]),
        ):
            yield from self._trigger("attempts", event, [self._count_series(facts)])

    def _trigger(self, name: str, event: str, body: list[str]) -> Iterator[str]:
        rows = {
            "INSERT": "NEW TABLE AS new_rows",
            "UPDATE": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
            "DELETE": "OLD TABLE AS old_rows",
        }[event]
        what = f"{name}_counted_{event.lower()}"
        function, trigger = self._known(what), self._local(what)
        statements = " ".join(f"{statement};" for statement in body)
        # Looking up a batch's jobs goes by the index, however short the table was once.
        settings = "SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off"
        yield (
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql "
            f"{settings if name == 'attempts' else ''} "
            f"AS $$ BEGIN {statements} RETURN NULL; END $$"
        )
        yield (
            f"CREATE TRIGGER {trigger} AFTER {event} ON {self._known(name)} REFERENCING {rows} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )

    def _count_totals(self, changed: list[tuple[str, str]], shard: str = "pg_backend_pid()") -> str:
        rows = " UNION ALL ".join(
            f"SELECT {sign} AS n, state, name, lane FROM {source}" for sign, source in changed
        )
        return (
            f"INSERT INTO {self._known('totals')} AS known (state, name, lane, shard, jobs) "
            f"SELECT state, name, lane, {shard}, sum(n) FROM ({rows}) AS changed "
            "GROUP BY state, name, lane HAVING sum(n) <> 0 "
            "ON CONFLICT (state, name, lane, shard) DO UPDATE SET jobs = known.jobs + excluded.jobs"
        )

    def _count_series(
        self, facts: list[str], span: str = "60", at: str = "at", shard: str = "pg_backend_pid()"
    ) -> str:
        def total(what: str, where: str) -> str:
            return f"coalesce(sum({what}) FILTER (WHERE {where}), 0)"

        sums = [
            *(total("n", f"fact = '{fact}'") for fact in HAPPENED),
            total("n", "fact = 'started' AND us IS NOT NULL"),
            *(total("n", f"place = {place}") for place in range(len(RAN))),
            total("us", "fact <> 'started'"),
            total("us", "fact = 'started'"),
        ]
        named = ", ".join(f"{what} AS {name}" for name, what in zip(COUNTED, sums, strict=True))
        changes = " OR ".join(f"{name} <> 0" for name in COUNTED)
        return (
            f"INSERT INTO {self._known('series')} AS known ({_columns(COUNTED)}) "
            f"SELECT span, at, name, lane, {shard}, {', '.join(COUNTED)} FROM ("
            f"SELECT {span} AS span, {at} AS at, name, lane, {named} "
            f"FROM ({' UNION ALL '.join(facts)}) AS facts GROUP BY 1, 2, 3, 4) AS changed "
            f"WHERE {changes} {_adding(COUNTED, 'known')}"
        )


def _minute(moment: str) -> str:
    return f"date_bin('1 minute', {moment}, TIMESTAMPTZ '2000-01-01 00:00:00+00')"


def _between(since: str, until: str) -> str:
    return (
        f"CASE WHEN {since} IS NOT NULL THEN "
        f"greatest(0, CAST(date_part('epoch', {until} - {since}) * 1000000 AS bigint)) END"
    )


_PLACE = f"width_bucket(us, CAST(ARRAY[{', '.join(map(str, BOUNDS))}] AS bigint[]))"


def _summed(sign: str, fact: str, rows: str, place: str = "CAST(NULL AS integer)") -> str:
    """How often something happened, by minute, handler and lane, and how long that took."""
    return (
        f"SELECT at, name, lane, {fact} AS fact, {place} AS place, "
        f"{sign} * count(*) AS n, {sign} * sum(us) AS us FROM ({rows}) AS one "
        "GROUP BY 1, 2, 3, 4, 5"
    )


def _job_facts(sign: str, source: str) -> list[str]:
    """What each job adds: its enqueuing, the start of its latest attempt unless that is to be
    retried (it has a row of its own then), its end."""
    waited = _between("greatest(due_at, enqueued_at)", "started_at")
    ran = _between("started_at", "finished_at")
    enqueued = (
        f"SELECT {_minute('enqueued_at')} AS at, name, lane, CAST(NULL AS bigint) AS us "
        f"FROM {source}"
    )
    started = (
        f"SELECT {_minute('started_at')} AS at, name, lane, {waited} AS us FROM {source} "
        "WHERE started_at IS NOT NULL AND (finished_at IS NOT NULL OR state = 'running')"
    )
    ended = (
        f"SELECT {_minute('finished_at')} AS at, name, lane, state, {ran} AS us FROM {source} "
        "WHERE finished_at IS NOT NULL"
    )
    return [
        _summed(sign, "'enqueued'", enqueued),
        _summed(sign, "'started'", started),
        _summed(sign, "state", ended, _PLACE),
    ]


def _attempt_facts(sign: str, source: str, jobs: str) -> list[str]:
    """What each attempt adds that has a row of its own: its start, its end."""
    of = f"FROM {source} AS it JOIN {jobs} AS job ON job.id = it.job_id"
    started = (
        f"SELECT {_minute('it.started_at')} AS at, job.name, job.lane, CAST(NULL AS bigint) AS us "
        f"{of} WHERE it.started_at IS NOT NULL"
    )
    ended = (
        f"SELECT {_minute('it.finished_at')} AS at, job.name, job.lane, "
        "CASE it.outcome WHEN 'retrying' THEN 'retried' ELSE 'late' END AS outcome, "
        f"{_between('it.started_at', 'it.finished_at')} AS us {of} WHERE it.finished_at IS NOT NULL"
    )
    return [_summed(sign, "'started'", started), _summed(sign, "outcome", ended, _PLACE)]


class _Fact(NamedTuple):
    """Something that a row adds to the series, in SQLite's words."""

    name: str
    at: str
    """When it happened."""
    where: str
    """Whether it did."""
    values: Mapping[str, str]
    """What it adds to which columns."""
    us: str = "NULL"
    """The duration that is ``us`` there."""
    of: tuple[str, ...] = ()
    """The columns of the row that all that hangs on, or expressions of ``{row}``."""


def _sqlite_job_facts(row: str) -> list[_Fact]:
    begun = "({row}.finished_at IS NOT NULL OR {row}.state = 'running')"
    started = f"{row}.started_at IS NOT NULL AND {begun.format(row=row)}"
    waited = _sqlite_between(
        f"max(coalesce({row}.due_at, ''), {row}.enqueued_at)", f"{row}.started_at"
    )
    whose = ("name", "lane")
    ended = {end: f"{row}.state = '{end}'" for end in ENDS}
    return [
        _Fact(
            "enqueued", f"{row}.enqueued_at", "true", {"enqueued": "1"}, of=(*whose, "enqueued_at")
        ),
        _Fact(
            "started",
            f"{row}.started_at",
            started,
            {"started": "1", "waited": "us", "waits": "1"},
            waited,
            (*whose, "enqueued_at", "due_at", "started_at", begun),
        ),
        _sqlite_end(row, ended, (*whose, "state", "started_at", "finished_at")),
    ]


def _sqlite_attempt_facts(row: str) -> list[_Fact]:
    at = f"{row}.started_at"
    return [
        _Fact("started", at, f"{at} IS NOT NULL", {"started": "1"}, of=("started_at",)),
        _sqlite_end(
            row,
            {"retried": f"{row}.outcome = 'retrying'"},
            ("outcome", "started_at", "finished_at"),
        ),
    ]


def _sqlite_end(row: str, how: Mapping[str, str], of: tuple[str, ...]) -> _Fact:
    edges = ("0", *map(str, BOUNDS), str(2**62))
    ran = {
        name: f"coalesce(us >= {least} AND us < {most}, 0)"
        for name, (least, most) in zip(RAN, pairwise(edges), strict=True)
    }
    return _Fact(
        "ended",
        f"{row}.finished_at",
        f"{row}.finished_at IS NOT NULL",
        {**how, "ran": "coalesce(us, 0)", **ran},
        _sqlite_between(f"{row}.started_at", f"{row}.finished_at"),
        of,
    )


def _sqlite_minute(moment: str) -> str:
    return f"substr({moment}, 1, 16) || ':00.000000'"


def _sqlite_hour(moment: str) -> str:
    return f"substr({moment}, 1, 13) || ':00:00.000000'"


def _sqlite_between(since: str, until: str) -> str:
    """Microseconds. SQLite's own functions round moments to milliseconds."""

    def whole(moment: str) -> str:
        seconds = f"CAST(strftime('%s', substr({moment}, 1, 19)) AS INTEGER)"
        return f"({seconds} * 1000000 + CAST(substr({moment}, 21) AS INTEGER))"

    return f"CASE WHEN {since} IS NOT NULL THEN max(0, {whole(until)} - {whole(since)}) END"


class _SQLite(_Triggers):
    """Triggers for each row. There is one writer, who counts in the shard 1."""

    def __init__(self, known: Callable[[str], str], local: Callable[[str], str]) -> None:
        self._known = known

    def fill(self) -> Iterator[str]:
        yield (
            f"INSERT INTO {self._known('totals')} (state, name, lane, shard, jobs) "
            f"SELECT state, name, lane, 0, count(*) FROM {self._known('jobs')} "
            "GROUP BY state, name, lane"
        )
        of_jobs, of_attempts = _sqlite_job_facts("it"), _sqlite_attempt_facts("it")
        job = f"JOIN {self._known('jobs')} AS job ON job.id = it.job_id"
        for fact in of_jobs:
            yield self._fill(fact, self._known("jobs"), "it", "")
        for fact in of_attempts:
            yield self._fill(fact, self._known("attempts"), "job", job)
        yield _fill_lanes(self._known("series"))

    def _fill(self, fact: _Fact, source: str, whose: str, job: str) -> str:
        old = f"{fact.at} < strftime('%Y-%m-%d %H:%M:%S', 'now', '-2 days')"
        names, each = tuple(fact.values), ", ".join(f"sum({v})" for v in fact.values.values())
        how = "outcome" if job else "state"
        # By itself, so that the duration is found once for each.
        rows = (
            f"SELECT it.{how}, {fact.us} AS us, {whose}.name AS of_name, {whose}.lane AS of_lane, "
            f"iif({old}, 3600, 60) AS span, "
            f"iif({old}, {_sqlite_hour(fact.at)}, {_sqlite_minute(fact.at)}) AS at "
            f"FROM {source} AS it {job} WHERE {fact.where}"
        )
        return (
            f"WITH it AS MATERIALIZED ({rows}) "
            f"INSERT INTO {self._known('series')} ({_columns(names)}) "
            f"SELECT it.span, it.at, it.of_name, it.of_lane, 0, {each} FROM it WHERE true "
            f"GROUP BY 1, 2, 3, 4 {_adding(names, self._known('series'))}"
        )

    def triggers(self) -> Iterator[str]:
        job = f"JOIN {self._known('jobs')} AS job ON job.id = {{}}.job_id"
        more, less = self._add_total("new"), self._take_total("old")
        yield self._trigger("jobs", "insert", "INSERT", "", [more])
        yield self._trigger("jobs", "delete", "DELETE", "", [less])
        kind = ("state", "name", "lane")
        update = f"UPDATE OF {', '.join(kind)}"
        yield self._trigger("jobs", "update", update, _differ(kind), [less, more])
        yield from self._each("jobs", _sqlite_job_facts, "old", "new", "")
        yield from self._each("attempts", _sqlite_attempt_facts, "job", "job", job)

    def _each(
        self, name: str, facts: Callable[[str], list[_Fact]], was: str, whose: str, job: str
    ) -> Iterator[str]:
        """Small ones, as a trigger costs what all of it would: one for each fact that comes, that
        comes by a change, or that goes by one."""
        for before, after in zip(facts("old"), facts("new"), strict=True):
            what, columns = after.name, [c for c in after.of if "{" not in c]
            changed, differ = f"UPDATE OF {', '.join(columns)}", _differ(after.of)
            gone = self._count(before, "-1", was, job.format("old"))
            come = self._count(after, "1", whose, job.format("new"))
            yield self._trigger(name, f"{what}_insert", "INSERT", after.where, [come])
            yield self._trigger(
                name, f"{what}_come", changed, f"{after.where} AND {differ}", [come]
            )
            yield self._trigger(
                name, f"{what}_gone", changed, f"{before.where} AND {differ}", [gone]
            )

    def _trigger(self, name: str, what: str, event: str, when: str, body: list[str]) -> str:
        statements = " ".join(f"{statement};" for statement in body)
        return (
            f"CREATE TRIGGER {self._known(f'{name}_counted_{what}')} AFTER {event} "
            f"ON {self._known(name)} {f'WHEN {when}' if when else ''} BEGIN {statements} END"
        )

    def _add_total(self, row: str) -> str:
        return (
            f"INSERT INTO {self._known('totals')} (state, name, lane, shard, jobs) "
            f"VALUES ({row}.state, {row}.name, {row}.lane, 0, 1) "
            "ON CONFLICT (state, name, lane, shard) DO UPDATE SET jobs = jobs + 1"
        )

    def _take_total(self, row: str) -> str:
        return (
            f"UPDATE {self._known('totals')} SET jobs = jobs - 1 WHERE state = {row}.state "
            f"AND name = {row}.name AND lane = {row}.lane AND shard = 0"
        )

    def _count(self, fact: _Fact, sign: str, whose: str, job: str) -> str:
        names = tuple(fact.values)
        values = ", ".join(f"{sign} * ({value})" for value in fact.values.values())
        return (
            f"INSERT INTO {self._known('series')} ({_columns(names)}) "
            f"SELECT 60, {_sqlite_minute(fact.at)}, {whose}.name, {whose}.lane, 1, {values} "
            f"FROM (SELECT {fact.us} AS us) {job} WHERE true "
            f"{_adding(names, self._known('series'))}"
        )


def _differ(columns: tuple[str, ...]) -> str:
    old, new = (
        ", ".join(c.format(row=row) if "{" in c else f"{row}.{c}" for c in columns)
        for row in ("old", "new")
    )
    return f"({old}) IS NOT ({new})"
