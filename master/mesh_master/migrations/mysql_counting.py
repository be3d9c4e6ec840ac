"""The triggers of revision 0010 on MariaDB and MySQL.

They fire for each row. As on PostgreSQL a connection counts in rows of its own, so that nobody
waits for another's transaction. There is nothing to count when they are made: no older revision
ran there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from alembic.operations import Operations
from sqlalchemy import text

__all__ = ["MySQL"]

ENDS = ("succeeded", "failed", "cancelled", "skipped", "expired")

_SHARD = "1 + connection_id() % 1000000"
_KEY = "span, at, name, lane, shard"


class _Fact(NamedTuple):
    """Something that a row adds to the series."""

    at: str
    """When it happened."""
    where: str
    """Whether it did."""
    values: Mapping[str, str]
    """What it adds to which columns."""
    us: str
    """The duration that is ``us`` there."""
    of: tuple[str, ...]
    """The columns of the row that all that hangs on."""


class MySQL:
    def __init__(
        self, known: Callable[[str], str], ran: Sequence[str], bounds: Sequence[int]
    ) -> None:
        """``known`` is the whole name of something of ours, ``ran`` the columns of durations
        between the ``bounds``, in microseconds."""
        self._known = known
        edges = (0, *bounds, 2**62)
        self._ran = {
            name: f"coalesce(us >= {least} AND us < {most}, 0)"
            for name, (least, most) in zip(ran, pairwise(edges), strict=True)
        }

    def run(self, op: Operations) -> None:
        context = op.get_context()
        for statement in self.triggers():
            if context.as_sql:
                # The client ends a statement at the first semicolon, unless told otherwise.
                context.impl.static_output(f"DELIMITER //\n{statement}//\nDELIMITER ;\n")
            else:
                op.execute(text(statement.replace(":", r"\:")))

    def triggers(self) -> Iterator[str]:
        yield self._trigger("jobs", "INSERT", self._total("NEW", 1), *self._each("NEW"))
        kind = _same(("state", "name", "lane"))
        moved = f"IF NOT ({kind}) THEN {self._total('OLD', -1)} {self._total('NEW', 1)} END IF;"
        yield self._trigger("jobs", "UPDATE", moved, *self._changes(self._job_facts, "OLD", "NEW"))
        yield self._trigger("jobs", "DELETE", self._total("OLD", -1))
        look = " ".join(
            f"SET of_{name} = (SELECT job.{name} FROM {self._known('jobs')} AS job "
            "WHERE job.id = NEW.job_id);"
            for name in ("name", "lane")
        )
        come = [self._count(fact, 1, "of_") for fact in self._attempt_facts("NEW")]
        yield self._trigger("attempts", "INSERT", look, _if("of_name IS NOT NULL", *come))
        changes = self._changes(self._attempt_facts, "of_", "of_")
        yield self._trigger("attempts", "UPDATE", look, _if("of_name IS NOT NULL", *changes))

    def _trigger(self, name: str, event: str, *body: str) -> str:
        return (
            f"CREATE TRIGGER {self._known(f'{name}_counted_{event.lower()}')} AFTER {event} "
            f"ON {self._known(name)} FOR EACH ROW BEGIN "
            "DECLARE us BIGINT; DECLARE of_name, of_lane TEXT; "
            f"{' '.join(body)} END"
        )

    def _each(self, row: str) -> Iterator[str]:
        for fact in self._job_facts(row):
            yield self._count(fact, 1, f"{row}.")

    def _changes(self, facts: Callable[[str], list[_Fact]], was: str, whose: str) -> Iterator[str]:
        was, whose = (f"{row}." if row in ("OLD", "NEW") else row for row in (was, whose))
        for before, after in zip(facts("OLD"), facts("NEW"), strict=True):
            gone, come = self._count(before, -1, was), self._count(after, 1, whose)
            yield _if(f"NOT ({_same(after.of)})", gone, come)

    def _total(self, row: str, by: int) -> str:
        return (
            f"INSERT INTO {self._known('totals')} (state, name, lane, shard, jobs) "
            f"VALUES ({row}.state, {row}.name, {row}.lane, {_SHARD}, {by}) "
            f"ON DUPLICATE KEY UPDATE jobs = jobs + {by};"
        )

    def _count(self, fact: _Fact, sign: int, whose: str) -> str:
        values = ", ".join(f"{sign} * ({value})" for value in fact.values.values())
        added = ", ".join(f"{name} = {name} + VALUES({name})" for name in fact.values)
        return _if(
            fact.where,
            f"SET us = {fact.us};",
            f"INSERT INTO {self._known('series')} ({_KEY}, {', '.join(fact.values)}) "
            f"VALUES (60, {_minute(fact.at)}, {whose}name, {whose}lane, {_SHARD}, {values}) "
            f"ON DUPLICATE KEY UPDATE {added};",
        )

    def _job_facts(self, row: str) -> list[_Fact]:
        begun = f"({row}.finished_at IS NOT NULL OR {row}.state = 'running')"
        due = f"greatest(coalesce({row}.due_at, {row}.enqueued_at), {row}.enqueued_at)"
        whose = ("name", "lane")
        started = f"{row}.started_at"
        return [
            _Fact(f"{row}.enqueued_at", "true", {"enqueued": "1"}, "NULL", (*whose, "enqueued_at")),
            _Fact(
                started,
                f"{started} IS NOT NULL AND {begun}",
                {"started": "1", "waited": "us", "waits": "1"},
                _between(due, started),
                (*whose, "state", "enqueued_at", "due_at", "started_at", "finished_at"),
            ),
            self._end(
                row,
                {end: f"{row}.state = '{end}'" for end in ENDS},
                (*whose, "state", "started_at", "finished_at"),
            ),
        ]

    def _attempt_facts(self, row: str) -> list[_Fact]:
        at = f"{row}.started_at"
        retried = {"retried": f"{row}.outcome = 'retrying'"}
        return [
            _Fact(at, f"{at} IS NOT NULL", {"started": "1"}, "NULL", ("started_at",)),
            self._end(row, retried, ("outcome", "started_at", "finished_at")),
        ]

    def _end(self, row: str, how: Mapping[str, str], of: tuple[str, ...]) -> _Fact:
        return _Fact(
            f"{row}.finished_at",
            f"{row}.finished_at IS NOT NULL",
            {**how, "ran": "coalesce(us, 0)", **self._ran},
            _between(f"{row}.started_at", f"{row}.finished_at"),
            of,
        )


def _if(condition: str, *body: str) -> str:
    return f"IF {condition} THEN {' '.join(body)} END IF;"


def _same(columns: Sequence[str]) -> str:
    return " AND ".join(f"OLD.{column} <=> NEW.{column}" for column in columns)


def _minute(moment: str) -> str:
    return f"timestamp(date({moment}), maketime(hour({moment}), minute({moment}), 0))"


def _between(since: str, until: str) -> str:
    """Microseconds."""
    return f"greatest(0, timestampdiff(MICROSECOND, {since}, {until}))"
