"""Whatever waits for company: every record is written once, and no batch acknowledged before."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.ports import LedgerBatch
from mesh.testing.conformance.master import Story
from mesh.wire import Accepted, Record
from mesh_master import gather
from mesh_master.gather import PATIENCE, Gathering

STORIES = [Story() for _ in range(4)]
RECORDS: list[Record] = [r for s in STORIES for r in (s.accepted(), s.started(), s.finished())]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(RECORDS), max_size=6),
            st.sampled_from([0.1, PATIENCE / 2, PATIENCE * 2]),
            st.booleans(),
        )
    )
)
def test_nothing_is_lost_or_acknowledged_too_early(
    batches: list[tuple[list[Record], float, bool]],
) -> None:
    gathering, now = Gathering(), 0.0
    came: list[tuple[LedgerBatch, Counter[int]]] = []
    written: Counter[int] = Counter()
    acknowledged: list[LedgerBatch] = []
    for records, pause, wait in [*batches, ([], 1.0, False)]:
        now += pause
        batch = LedgerBatch(records, len(came))
        came.append((batch, Counter(map(id, records))))
        out, done = gathering.add(batch, now, wait=wait)
        written.update(map(id, out))
        acknowledged += done
        told = sum((counts for one, counts in came if one in acknowledged), Counter[int]())
        assert told <= written
    assert not gathering
    assert written == sum((counts for _, counts in came), Counter[int]())
    assert acknowledged == [batch for batch, _ in came]


def test_an_acceptance_waits_for_the_end_and_comes_before_it() -> None:
    gathering, (one, other) = Gathering(), STORIES[:2]
    first, second = (
        LedgerBatch([one.accepted(), other.accepted()], 1),
        LedgerBatch([one.finished()], 2),
    )
    assert gathering.add(first, 0.0, wait=True) == ([], [])
    assert gathering
    records, done = gathering.add(second, 0.2, wait=True)
    assert (records, done) == ([one.accepted(), one.finished()], [])
    # Patience ends: what waited is written, and all batches are done with.
    third = LedgerBatch([], 3)
    records, done = gathering.add(third, PATIENCE + 0.1, wait=True)
    assert (records, done) == ([other.accepted()], [first, second, third])


def test_what_waits_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "MOST_JOBS", 10)
    gathering = Gathering()
    accepted: list[Record] = [Story().accepted() for _ in range(25)]
    records, _ = gathering.add(LedgerBatch(accepted, 1), 0.0, wait=True)
    assert records == accepted[:15]
    monkeypatch.setattr(gather, "MOST_BYTES", 1)
    records, _ = gathering.add(LedgerBatch([], 2), 0.1, wait=True)
    assert records == accepted[15:]


def test_delayed_jobs_do_not_wait() -> None:
    job = msgspec.structs.replace(STORIES[0].job, due_at=2e9)
    later = Accepted(job, 1.0)
    records, _ = Gathering().add(LedgerBatch([later], 1), 0.0, wait=True)
    assert records == [later]
