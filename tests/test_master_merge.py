"""However a ledger is cut into batches, and whatever comes again: the history is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.job import TERMINAL, TRANSITIONS, State, state_version
from mesh.ports import AttemptInfo, JobInfo, MasterSettings
from mesh.testing.conformance.master import Story
from mesh.testing.servers import PostgresServer
from mesh.wire import Finished, Record, Retrying, Started
from mesh_master import merge
from mesh_master.store import SqlMaster

JOB = "01890000-0000-7000-8000-000000000000"
WORKERS = ["w-1", "w-2", "w-3"]


@st.composite
def ledgers(draw: st.DrawFn) -> list[Record]:
    """Any records of one job in any order: more than ever happens, but all that may."""
    records: list[Record] = []
    story = Story(id=JOB)
    for at in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["accepted", "started", "retrying", "finished", "event"]))
        attempt = draw(st.integers(1, 4))
        run: dict[str, Any] = {
            "attempt": attempt,
            "worker": draw(st.sampled_from(WORKERS)),
            "at": at + 1,
            "lost": draw(st.integers(0, attempt - 1)),
        }
        if kind == "accepted":
            records.append(story.accepted(at))
        elif kind == "event":
            records.append(story.event(draw(st.integers(0, 5)), attempt=attempt))
        elif kind == "finished":
            state = draw(st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELLED]))
            records.append(story.finished(**run, state=state))
        else:
            records.append(getattr(story, kind)(**run))
    return records


class Tables:
    """The master's tables in memory, with the conflict rules that ``store`` gives to SQL."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.attempts: dict[tuple[str, int], dict[str, Any]] = {}
        self.events: dict[tuple[str, int], dict[str, Any]] = {}
        self.states: list[State] = []

    def apply(self, records: Sequence[Record]) -> None:
        heads = {
            key: merge.Head(
                row["state"],
                row["attempt"],
                row["version"],
                row["worker"],
                row["started_at"],
                row["payload"] is not None,
            )
            for key, row in self.jobs.items()
        }
        plan = merge.plan("a-1", records, heads)
        for row in plan.jobs:
            self._upsert(row)
        for row in plan.attempts:
            old = self.attempts.get(key := (row["job_id"], row["attempt"]))
            if old is None or (old["outcome"] == merge.LOST and row["outcome"] != merge.LOST):
                self.attempts[key] = row
        for row in plan.events:
            self.events.setdefault((row["job_id"], row["seq"]), row)

    def _upsert(self, row: dict[str, Any]) -> None:
        old = self.jobs.get(row["id"])
        if old is None:
            self.jobs[row["id"]] = dict(row)
            self.states.append(row["state"])
            return
        if row["version"] > old["version"]:
            due_at = row["due_at"] if row["due_at"] is not None else old["due_at"]
            old |= {name: row[name] for name in merge.STATE_COLUMNS} | {"due_at": due_at}
            self.states.append(row["state"])
        for name in ("payload", "meta"):
            old[name] = row[name] if old[name] is None else old[name]

    def rows(self) -> tuple[Any, ...]:
        return self.jobs, self.attempts, self.events


def one_by_one(records: Sequence[Record]) -> Tables:
    tables = Tables()
    for record in records:
        tables.apply([record])
    return tables


def cut(records: Sequence[Record], cuts: Sequence[int]) -> list[Sequence[Record]]:
    edges = sorted({0, len(records), *(c for c in cuts if c < len(records))})
    return [records[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 9), max_size=4)


@given(ledgers(), CUTS)
@settings(max_examples=500, deadline=None)
def test_cuts_make_no_difference(records: list[Record], cuts: list[int]) -> None:
    tables = Tables()
    for batch in cut(records, cuts):
        tables.apply(batch)
    assert tables.rows() == one_by_one(records).rows()


@given(ledgers(), CUTS, st.lists(st.integers(0, 9), max_size=4))
@settings(max_examples=500, deadline=None)
def test_replays_make_no_difference(
    records: list[Record], cuts: list[int], rewinds: list[int]
) -> None:
    """A reader that comes after a crash begins again at what was not acknowledged."""
    tables = Tables()
    batches = cut(records, cuts)
    for done, batch in enumerate(batches):
        tables.apply(batch)
        for rewind in rewinds:
            for again in batches[min(rewind, done) : done + 1]:
                tables.apply(again)
    assert tables.rows() == one_by_one(records).rows()


@given(ledgers())
@settings(max_examples=500, deadline=None)
def test_history_says_what_happened(records: list[Record]) -> None:
    tables = one_by_one(records)
    row = tables.jobs.get(JOB)
    finished = [r for r in records if isinstance(r, Finished)]
    if finished:
        assert row is not None
        # The first terminal outcome stands, whole.
        assert (row["state"], row["attempt"], row["worker"], row["finished_at"]) == (
            finished[0].state,
            finished[0].attempt,
            finished[0].worker,
            finished[0].at,
        )
    elif row is not None:
        runs = [r for r in records if isinstance(r, Started | Retrying)]
        states = {Started: State.RUNNING, Retrying: State.RETRYING}
        versions = [state_version(states[type(r)], r.attempt) for r in runs]
        assert row["version"] == max(versions, default=state_version(State.QUEUED, 1))
    # No attempt that ended is forgotten: each number has an outcome, in the one place or the other.
    for record in records:
        if isinstance(record, Finished | Retrying):
            own = tables.attempts.get((JOB, record.attempt))
            assert row is not None
            assert (own is not None and own["outcome"] != merge.LOST) or (
                row["attempt"] == record.attempt and row["finished_at"] is not None
            )
        if isinstance(record, Started | Retrying | Finished):
            known = {attempt for _, attempt in tables.attempts} | (
                {row["attempt"]} if row else set()
            )
            assert {record.attempt - n for n in range(1, record.lost + 1)} <= known


@given(ledgers())
@settings(max_examples=500, deadline=None)
def test_states_follow_the_transitions(records: list[Record]) -> None:
    states = one_by_one(records).states
    for before, after in pairwise(states):
        assert before not in TERMINAL
        assert after in _reachable(before)


def _reachable(state: State) -> set[State]:
    found: set[State] = set()
    ahead = [state]
    while ahead:
        for after in TRANSITIONS[ahead.pop()] - found:
            found.add(after)
            ahead.append(after)
    return found


async def _tell(
    master: SqlMaster, batches: Sequence[Sequence[Record]]
) -> tuple[dict[str, JobInfo], list[AttemptInfo]]:
    tables = master.tables
    async with master.database.write() as connection:
        for table in (tables.jobs, tables.attempts, tables.events):
            await connection.execute(table.delete())
    lease = await master.acquire("recorder:a-1", "one", 60.0)
    assert lease is not None
    for batch in batches:
        await master.record("a-1", batch, lease)
    return await master.get_jobs([JOB]), await master.attempts(JOB)


def test_the_database_has_the_same_rules(postgres: PostgresServer) -> None:
    """What the tables in memory show holds for those of a real database."""

    async def open_master() -> SqlMaster:
        master = SqlMaster(postgres.create_database(), MasterSettings(auto_migrate=True))
        await master.open()
        return master

    with asyncio.Runner() as runner:
        master = runner.run(open_master())

        @given(ledgers(), CUTS)
        @settings(max_examples=60, deadline=None, database=None)
        def compare(records: list[Record], cuts: list[int]) -> None:
            batches = cut(records, cuts)
            one = runner.run(_tell(master, [[record] for record in records]))
            assert runner.run(_tell(master, [*batches, *batches[-1:]])) == one
            row = one_by_one(records).jobs.get(JOB)
            assert [job.state for job in one[0].values()] == ([row["state"]] if row else [])

        try:
            compare()
        finally:
            runner.run(master.close())
