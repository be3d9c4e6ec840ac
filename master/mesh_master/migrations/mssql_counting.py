"""The triggers of revision 0010 on SQL Server.

They fire once for each statement, and count all that it changed, as on PostgreSQL: ``inserted``
and ``deleted`` are the rows as they are and as they were. A connection counts in rows of its own,
so that nobody waits for another's transaction. There is nothing to count when they are made: no
older revision ran there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from alembic.operations import Operations
from sqlalchemy import text

__all__ = ["MSSQL"]

_SHARD = "@@SPID"
_SINCE = "CAST('2000-01-01' AS DATETIME2(6))"

# What a change adds, and what it takes away.
_NEW, _OLD = ("1", "inserted"), ("-1", "deleted")


class MSSQL:
    def __init__(
        self,
        known: Callable[[str], str],
        happened: Sequence[str],
        ran: Sequence[str],
        bounds: Sequence[int],
    ) -> None:
        """``known`` is the whole name of something of ours, ``happened`` the columns of what is
        counted, ``ran`` those of durations between the ``bounds``, in microseconds."""
        self._known = known
        edges = (0, *bounds, 2**62)
        durations = {
            name: f"ends = 1 AND us >= {least} AND us < {most}"
            for name, (least, most) in zip(ran, pairwise(edges), strict=True)
        }
        self._sums = {
            **{fact: _sum("n", f"fact = '{fact}'") for fact in happened},
            "waits": _sum("n", "fact = 'started' AND us IS NOT NULL"),
            **{name: _sum("n", where) for name, where in durations.items()},
            "ran": _sum("n * us", "ends = 1 AND us IS NOT NULL"),
            "waited": _sum("n * us", "fact = 'started' AND us IS NOT NULL"),
        }

    def run(self, op: Operations) -> None:
        for statement in self.triggers():
            op.execute(text(statement.replace(":", r"\:")))

    def triggers(self) -> Iterator[str]:
        # What happened stays so when the job is forgotten.
        for event, changed, counted in (
            ("INSERT", [_NEW], [_NEW]),
            ("UPDATE", [_OLD, _NEW], [_OLD, _NEW]),
            ("DELETE", [_OLD], []),
        ):
            body = [self._count_totals(changed)]
            if counted:
                body.append(self._count_series(_of_jobs(sign, rows) for sign, rows in counted))
            yield self._trigger("jobs", event, body)
        jobs = self._known("jobs")
        for event, counted in (("INSERT", [_NEW]), ("UPDATE", [_OLD, _NEW])):
            facts = (_of_attempts(sign, rows, jobs) for sign, rows in counted)
            yield self._trigger("attempts", event, [self._count_series(facts)])

    def _trigger(self, name: str, event: str, body: Sequence[str]) -> str:
        # Or the driver would take the rows that are counted here for those of the statement.
        statements = " ".join(f"{statement};" for statement in ("SET NOCOUNT ON", *body))
        return (
            f"CREATE TRIGGER {self._known(f'{name}_counted_{event.lower()}')} "
            f"ON {self._known(name)} AFTER {event} AS BEGIN {statements} END"
        )

    def _count_totals(self, changed: Sequence[tuple[str, str]]) -> str:
        rows = " UNION ALL ".join(
            f"SELECT {sign} AS n, state, name, lane FROM {source}" for sign, source in changed
        )
        key = ("state", "name", "lane", "shard")
        source = (
            f"SELECT state, name, lane, {_SHARD} AS shard, SUM(n) AS jobs FROM ({rows}) AS changed "
            "GROUP BY state, name, lane HAVING SUM(n) <> 0"
        )
        return self._merge("totals", key, ("jobs",), source)

    def _count_series(self, facts: Iterator[str]) -> str:
        key = ("span", "at", "name", "lane", "shard")
        sums = ", ".join(f"{said} AS {name}" for name, said in self._sums.items())
        summed = (
            f"SELECT 60 AS span, at, name, lane, {_SHARD} AS shard, {sums} "
            f"FROM ({' UNION ALL '.join(facts)}) AS facts GROUP BY at, name, lane"
        )
        differs = " OR ".join(f"{name} <> 0" for name in self._sums)
        columns = (*key, *self._sums)
        source = f"SELECT {', '.join(columns)} FROM ({summed}) AS summed WHERE {differs}"
        return self._merge("series", key, tuple(self._sums), source)

    def _merge(self, name: str, key: Sequence[str], counts: Sequence[str], source: str) -> str:
        same = " AND ".join(f"known.{column} = it.{column}" for column in key)
        added = ", ".join(f"{column} = known.{column} + it.{column}" for column in counts)
        columns = (*key, *counts)
        # No HOLDLOCK, which locks the rows beside too: nobody else has this connection's rows.
        return (
            f"MERGE INTO {self._known(name)} AS known USING ({source}) AS it "
            f"ON {same} WHEN MATCHED THEN UPDATE SET {added} "
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(columns)}) "
            f"VALUES ({', '.join(f'it.{column}' for column in columns)})"
        )


def _sum(what: str, where: str) -> str:
    return f"SUM(CASE WHEN {where} THEN {what} ELSE 0 END)"


def _of_jobs(sign: str, rows: str) -> str:
    """What each job adds: its enqueuing, the start of its latest attempt unless that is to be
    retried (it has a row of its own then), its end."""
    due = "CASE WHEN it.due_at > it.enqueued_at THEN it.due_at ELSE it.enqueued_at END"
    begun = "it.finished_at IS NOT NULL OR it.state = 'running'"
    started = f"CASE WHEN {begun} THEN it.started_at END"
    return _facts(
        sign,
        "it",
        f"{rows} AS it",
        ("'enqueued'", "it.enqueued_at", "CAST(NULL AS BIGINT)", "0"),
        ("'started'", started, _between(due, "it.started_at"), "0"),
        ("it.state", "it.finished_at", _between("it.started_at", "it.finished_at"), "1"),
    )


def _of_attempts(sign: str, rows: str, jobs: str) -> str:
    """What each attempt adds that has a row of its own: its start, its end."""
    how = "CASE WHEN it.outcome = 'retrying' THEN 'retried' ELSE 'late' END"
    return _facts(
        sign,
        "job",
        f"{rows} AS it JOIN {jobs} AS job ON job.id = it.job_id",
        ("'started'", "it.started_at", "CAST(NULL AS BIGINT)", "0"),
        (how, "it.finished_at", _between("it.started_at", "it.finished_at"), "1"),
    )


def _facts(sign: str, whose: str, rows: str, *facts: tuple[str, str, str, str]) -> str:
    """Of each row its facts: what, when, how long that took, and whether it is an end."""
    each = ", ".join(f"({', '.join(fact)})" for fact in facts)
    minute = f"DATEADD(minute, DATEDIFF(minute, {_SINCE}, fact.at), {_SINCE})"
    return (
        f"SELECT CAST({sign} AS BIGINT) AS n, {minute} AS at, {whose}.name, {whose}.lane, "
        f"fact.fact, fact.us, fact.ends FROM {rows} "
        f"CROSS APPLY (VALUES {each}) AS fact (fact, at, us, ends) WHERE fact.at IS NOT NULL"
    )


def _between(since: str, until: str) -> str:
    """Microseconds."""
    return (
        f"CASE WHEN {until} > {since} THEN DATEDIFF_BIG(microsecond, {since}, {until}) "
        f"WHEN {since} IS NOT NULL AND {until} IS NOT NULL THEN 0 END"
    )
