"""The judge finds what is wrong: each promise is broken on paper, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mesh.job import State

from .checker import Report, check
from .evidence import Evidence, Row
from .journal import Entry

A, B, C, D, E = (f"01890000-0000-7000-8000-{n:012d}" for n in range(5))


def said(at: float, event: str, **data: Any) -> Entry:
    return {"t": at, "e": event, **data}


def ran(job: str, start: float, end: float | None = None, **more: Any) -> list[Entry]:
    about = {"job": job, "attempt": 1, "who": "worker-1.1"} | {
        key: more.pop(key) for key in ("attempt", "who") if key in more
    }
    outcome = more.pop("outcome", "done")
    entries = [said(start, "start", **about, **{"name": "quick", "parents": []} | more)]
    if end is not None:
        entries.append(said(end, "end", outcome=outcome, **about))
    return entries


def call(n: str, job: str, kind: str = "single", **more: Any) -> list[Entry]:
    return [
        said(1, "try", n=n, kind=kind, **more),
        said(2, "ack", n=n, job=job, existing=False),
    ]


def row(job: str, n: str | None, **more: Any) -> Row:
    return replace(Row(job, "quick", State.SUCCEEDED, 1, n), **more)


def slots(*moments: float) -> tuple[list[Row], list[Entry]]:
    rows, entries = [], []
    for number, slot in enumerate(moments):
        for schedule in ("each", "latest"):
            job = f"{schedule}-{number}-{slot}"
            rows.append(row(job, None, name="tick", schedule=schedule, slot=slot))
            entries += ran(job, slot, slot + 0.1)
    return rows, entries


def good() -> Evidence:
    """A small run in which all went well: a single job, a keyed one, a transaction, a chain."""
    rows, entries = slots(10.0, 12.0, 14.0)
    rows += [
        row(A, "p.0"),
        row(B, "p.1", key="once-1"),
        row(C, "p.2"),
        row(D, "p.3"),
        row(E, "p.4", attempt=2),
    ]
    entries += [
        *call("p.0", A),
        *call("p.1", B, "keyed", key="once-1"),
        *call("p.2", C, "transaction"),
        *call("p.3", D, "flow"),
        *call("p.4", E),
        *ran(A, 3, 4),
        *ran(B, 3, 4),
        *ran(C, 3, 4),
        *ran(D, 5, 6, parents=[A]),
        *ran(E, 5, 6, outcome="ConnectionError"),
        *ran(E, 7, 8, attempt=2),
    ]
    return Evidence(
        entries=sorted(entries, key=lambda entry: entry["t"]),
        rows=rows,
        attempts={E: {1: "retrying"}},
        seen={A: [(State.QUEUED, 1), (State.RUNNING, 1)], E: [(State.RETRYING, 1)]},
        stories={
            A: [("enqueued", 0), ("started", 1), ("succeeded", 1)],
            E: [("enqueued", 0), ("retrying", 1), ("succeeded", 2)],
        },
        orders=frozenset({"p.2"}),
    )


def judge(evidence: Evidence, twice_most: int = 10) -> Report:
    return check(evidence, together=1, slots_every=2.0, twice_most=twice_most)


def plus(evidence: Evidence, *entries: Entry) -> Evidence:
    together = [*evidence.entries, *entries]
    return replace(evidence, entries=sorted(together, key=lambda entry: entry["t"]))


def rows(evidence: Evidence, change: Callable[[Row], Row | None]) -> Evidence:
    changed = [new for old in evidence.rows if (new := change(old)) is not None]
    return replace(evidence, rows=changed)


def only(job: str, **changes: Any) -> Callable[[Row], Row | None]:
    return lambda old: replace(old, **changes) if old.id == job else old


def test_all_is_well() -> None:
    report = judge(good())
    assert report.violations == []
    assert report.figures["acknowledged"] == 5


def kill(at: float) -> list[Entry]:
    fault = said(at, "fault", fault="kill worker", concerns="worker-1.1", number="1")
    return [fault, said(at + 0.1, "down", who="worker-1.1"), said(at + 1, "mended", number="1")]


LIMITED = [*ran("l-1", 20, 22, name="limited"), *ran("l-2", 21, 23, name="limited")]

WRONG: dict[str, tuple[Evidence, str]] = {
    "an acknowledged job is not in the master": (
        rows(good(), lambda old: None if old.id == A else old),
        "lost: p.0 was acknowledged",
    ),
    "an acknowledged job has not ended": (
        rows(good(), only(A, state=State.QUEUED)),
        "is queued in the end",
    ),
    "a job comes from nowhere": (
        replace(good(), rows=[*good().rows, row("x", "nobody")]),
        "which nobody enqueued",
    ),
    "a call became two jobs": (
        replace(good(), rows=[*good().rows, row("x", "p.0")]),
        "p.0 is 2 jobs",
    ),
    "what was refused is there": (
        plus(
            replace(good(), rows=[*good().rows, row("x", "p.9")]),
            said(1, "try", n="p.9", kind="single"),
            said(2, "refused", n="p.9"),
            *ran("x", 3, 4),
        ),
        "p.9 was refused, and is job x",
    ),
    "the id that was acknowledged is another job's": (
        plus(good(), said(2.5, "ack", n="p.0", job=B, existing=False)),
        f"p.0 was acknowledged as {B} and is {A}",
    ),
    "a job ran that the master does not have": (
        plus(good(), *ran("ghost", 3, 4)),
        "job ghost ran, and the master does not have it",
    ),
    "a key stands for two jobs": (
        rows(good(), only(A, key="once-1")),
        "key once-1 stands for 2 jobs",
    ),
    "a key is answered with two jobs": (
        plus(good(), *call("p.0", A, "keyed", key="once-1")),
        "key once-1 was answered with 2 jobs",
    ),
    "a key's next job began too early": (
        rows(good(), lambda old: replace(old, key="alone-1") if old.id in (D, E) else old),
        f"key alone-1: job {E} began before job {D} had ended",
    ),
    "a transaction was rolled back and its job is there": (
        replace(good(), orders=frozenset()),
        "its job is there, and the other is not",
    ),
    "a transaction was committed and its job is not there": (
        rows(good(), only(C, n="p.0")),
        "its order is there, and the other is not",
    ),
    "a job that had ended goes on": (
        replace(good(), seen={A: [(State.FAILED, 1)]}),
        f"job {A} was failed (attempt 1) and then succeeded",
    ),
    "a job goes back": (
        replace(good(), seen={A: [(State.RUNNING, 2), (State.RUNNING, 1)]}),
        f"job {A} was running (attempt 2) and then running (attempt 1)",
    ),
    "a job that was seen is gone": (
        replace(good(), seen={"x": [(State.QUEUED, 1)]}),
        "job x was seen, and is gone",
    ),
    "events skip an attempt": (
        replace(good(), stories={E: [("enqueued", 0), ("retrying", 2), ("succeeded", 3)]}),
        "attempts are not numbered one after another",
    ),
    "events go on after the end": (
        replace(good(), stories={A: [("enqueued", 0), ("failed", 1), ("succeeded", 1)]}),
        "succeeded after failed",
    ),
    "an attempt is missing": (
        replace(good(), attempts={}),
        f"job {E} is at 2, and has no 1",
    ),
    "a job failed that cannot": (
        rows(good(), only(A, state=State.FAILED)),
        f"job {A} (quick, single) failed",
    ),
    "a job succeeded that did not run": (
        replace(good(), entries=[e for e in good().entries if e.get("job") != A or "n" in e]),
        f"job {A} (quick) succeeded, and no handler says so",
    ),
    "a child was before its parent": (
        plus(good(), *ran(D, 3.5, 3.6, parents=[A])),
        f"job {D} began before its parent {A} had ended",
    ),
    "a cancel was answered otherwise than it went": (
        plus(good(), said(4, "cancel", job=A, state="cancelled")),
        f"job {A} was said to be cancelled, and is succeeded",
    ),
    "a slot has two jobs": (
        replace(good(), rows=[*good().rows, row("x", None, schedule="each", slot=12.0)]),
        "slot 12.0 has 2 jobs",
    ),
    "a slot has none": (
        rows(good(), lambda old: None if old.slot == 12.0 else old),
        "1 slots between its first and last have no job",
    ),
    "too many at once": (
        plus(replace(good(), rows=[*good().rows, row("l-1", "p.0"), row("l-2", "p.1")]), *LIMITED),
        "2 jobs of 'limited' at once",
    ),
    "twice without a reason": (
        plus(good(), *ran(A, 5, 6, who="worker-2.1")),
        f"job {A} (quick) ran as attempt 1",
    ),
    "twice long after the reason": (
        plus(good(), *kill(-30), *ran(A, 5, 6, who="worker-2.1")),
        "with no reason",
    ),
    "something is left": (
        replace(good(), left={"slots": 2}),
        "left: 2 slots",
    ),
    "a process died": (
        plus(good(), said(9, "died", who="worker-1.1", code=1)),
        "worker-1.1 ended by itself",
    ),
    "a process failed as it stopped": (
        plus(good(), said(9, "down", who="worker-1.1", code=1)),
        "worker-1.1 ended with 1 when told to",
    ),
    "a process would not stop": (
        plus(good(), said(9, "stuck", who="worker-1.1")),
        "worker-1.1 did not end when told to",
    ),
    "an attempt that failed ran as the same again": (
        plus(good(), *ran(E, 6.5, 6.8, outcome="ConnectionError")),
        "with no reason",
    ),
    "a job had more attempts than it may": (
        plus(
            replace(good(), rows=[*good().rows, row("x", "p.9", state=State.FAILED, attempt=5)]),
            *call("p.9", "x", "doomed"),
            *(e for n in (1, 3, 4, 5) for e in ran("x", n, n, attempt=n, outcome="ValueError")),
        ),
        "ran 4 attempts, 3 at most",
    ),
    "a cancelled job began": (
        plus(
            rows(good(), only(A, state=State.CANCELLED)),
            said(2.5, "cancel", job=A, state="cancelled"),
        ),
        "was said to be cancelled, and began then",
    ),
    "connections are left over": (
        replace(good(), connections={"master": 40}, processes=2),
        "master has 40, of 2 processes",
    ),
    "memory grows": (
        replace(good(), growth={"worker-1.1": 200.0}),
        "worker-1.1 grew by 200 MB",
    ),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_wrong_is_found(what: str) -> None:
    evidence, words = WRONG[what]
    assert any(words in violation for violation in judge(evidence).violations)


def test_twice_is_explained_by_a_kill_and_bounded() -> None:
    evidence = plus(good(), *kill(3.5), *ran(A, 5, 6, who="worker-2.1"))
    report = judge(evidence)
    assert report.violations == []
    assert dict(report.explained) == {"kill worker": 1}
    assert any("are the most" in each for each in judge(evidence, twice_most=0).violations)


def test_attempts_are_doubled_where_nobody_knew_whether_the_next_was_stored() -> None:
    twice = ran(E, 27.5, 28, attempt=2, outcome="ConnectionError", who="worker-2.1")
    again = ran(E, 28.5, 29, attempt=2, who="worker-2.1")
    evidence = plus(good(), *twice, *again)
    assert any("with no reason" in each for each in judge(evidence).violations)
    assert judge(plus(evidence, *kill(6))).violations == []


def test_what_nobody_knows_of_may_run_and_be_gone_if_all_that_was_known_was_deleted() -> None:
    tried = [said(1, "try", n="p.9", kind="single"), said(2, "unknown", n="p.9", job="x-1")]
    evidence = plus(good(), *tried, *ran("x-1", 1.5, 1.6))
    assert any("x-1 ran" in each for each in judge(evidence).violations)
    deleted = said(1.7, "fault", fault="delete stream", concerns="agent", number="1")
    assert judge(plus(evidence, deleted)).violations == []
    before = said(1.4, "fault", fault="delete stream", concerns="agent", number="1")
    assert any("x-1 ran" in each for each in judge(plus(evidence, before)).violations)
    # Or the master heard that it ran, and never what with.
    evidence = replace(evidence, rows=[*evidence.rows, row("x-1", None, state=State.FAILED)])
    assert judge(plus(evidence, deleted)).violations == []
    assert any("end: job x-1" in each for each in judge(plus(evidence, before)).violations)


def test_what_nobody_knows_of_and_never_ran_is_judged_too() -> None:
    tried = [said(1, "try", n="p.9", kind="single"), said(2, "unknown", n="p.9", job="x-1")]
    deleted = said(1.7, "fault", fault="delete stream", concerns="agent", number="1")
    evidence = replace(good(), rows=[*good().rows, row("x-1", "p.9", attempt=2)])
    first, last = judge(plus(evidence, *tried, deleted)).violations
    assert first == "attempts: job x-1 is at 2, and has no 1"
    assert last.startswith("end: job x-1 (quick) succeeded, and no handler")


def test_a_stop_in_good_order_explains_nothing() -> None:
    fault = said(3.5, "fault", fault="drain worker", concerns="worker-1.1", number="1")
    evidence = plus(good(), fault, *ran(A, 5, 6, who="worker-2.1"))
    assert any("with no reason" in each for each in judge(evidence).violations)


def test_the_place_of_a_dead_worker_counts_no_longer() -> None:
    """The job keeps its place; its first run does not count beyond the end of its process."""
    first = ran("l-1", 20, None, name="limited")
    entries = [*first, *kill(20.5), *ran("l-2", 21, 22, name="limited")]
    evidence = replace(good(), rows=[*good().rows, row("l-1", "p.0"), row("l-2", "p.1")])
    assert not any("at once" in each for each in judge(plus(evidence, *entries)).violations)
