"""The transition table, versions, priorities, names and ids."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.job import (
    INITIAL,
    TERMINAL,
    TERMINAL_VERSION,
    TRANSITIONS,
    Priority,
    State,
    check_job_id,
    check_name,
    moment_of,
    new_job_id,
    state_version,
)

STARTS_ATTEMPT = {State.RUNNING, State.RETRYING}
"""From these, ``running`` is the next attempt."""
ON_AGENT = {State.QUEUED, State.RUNNING, State.RETRYING}


def next_attempt(before: State, after: State, attempt: int) -> int:
    if after is State.SCHEDULED and before in ON_AGENT:
        return attempt + 1
    return attempt + (before in STARTS_ATTEMPT and after is State.RUNNING)


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_the_terminal_states_are_those_of_the_design() -> None:
    assert {state.value for state in TERMINAL} == {
        "succeeded",
        "failed",
        "cancelled",
        "skipped",
        "expired",
    }


def test_every_state_can_be_reached_and_every_job_can_end() -> None:
    reached = set(INITIAL)
    while new := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= new
    assert reached == set(State)

    ends = set(TERMINAL)
    while new := {state for state in State if TRANSITIONS[state] & ends} - ends:
        ends |= new
    assert ends == set(State)


@pytest.mark.parametrize(
    ("before", "after"),
    [(before, after) for before in State for after in sorted(TRANSITIONS[before])],
)
def test_the_version_grows_along_each_transition(before: State, after: State) -> None:
    attempt = 7
    assert state_version(before, attempt) < state_version(
        after, next_attempt(before, after, attempt)
    )


@given(st.data())
def test_the_version_grows_along_every_walk(data: st.DataObject) -> None:
    state = data.draw(st.sampled_from(sorted(INITIAL)))
    attempt, versions = 1, [state_version(state, 1)]
    for _ in range(20):
        if state in TERMINAL:
            break
        after = data.draw(st.sampled_from(sorted(TRANSITIONS[state])))
        state, attempt = after, next_attempt(state, after, attempt)
        versions.append(state_version(state, attempt))
    assert versions == sorted(set(versions))


@given(st.integers(1, 10_000), st.sampled_from(sorted(set(State) - TERMINAL)))
def test_no_attempt_reaches_the_terminal_version(attempt: int, state: State) -> None:
    assert 0 <= state_version(state, attempt) < TERMINAL_VERSION


@given(st.sampled_from(sorted(TERMINAL)), st.integers(1, 1000))
def test_all_terminal_states_share_one_version(state: State, attempt: int) -> None:
    assert state_version(state, attempt) == TERMINAL_VERSION


@pytest.mark.parametrize("priority", list(Priority))
def test_priorities_are_parsed_from_what_they_are_shown_as(priority: Priority) -> None:
    assert Priority.parse(priority.word) is priority
    assert Priority.parse(priority.word.upper()) is priority
    assert Priority.parse(int(priority)) is priority
    assert Priority.parse(priority) is priority


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("hihg", "unknown priority 'hihg'; did you mean 'high'?"),
        ("urgent!", "unknown priority 'urgent!' (known: high, highest, low, lowest, normal)"),
        ("", "unknown priority ''"),
        (0, "priority 0 is not between 1 and 5"),
        (6, "priority 6 is not between 1 and 5"),
        (2.5, "priority 2.5 is not between 1 and 5"),
        (None, "priority None is not between 1 and 5"),
    ],
)
def test_a_wrong_priority_is_named(value: object, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Priority.parse(value)  # type: ignore[arg-type]
    assert str(error.value).startswith(says)


def test_new_ids_are_uuid_version_7() -> None:
    for text in {new_job_id() for _ in range(500)}:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


def test_new_ids_differ() -> None:
    assert len({new_job_id() for _ in range(10_000)}) == 10_000


def test_new_ids_are_ordered_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for millisecond in (0, 1, 255, 256, 1_800_000_000_000, 2**48 - 1):
        monkeypatch.setattr("time.time_ns", lambda ms=millisecond: ms * 1_000_000)
        ids.append(new_job_id())
    assert ids == sorted(ids)
    assert int(ids[4].replace("-", "")[:12], 16) == 1_800_000_000_000


def test_ids_are_taken_in_any_case_and_as_uuids() -> None:
    job_id = new_job_id()
    assert check_job_id(job_id.upper()) == job_id
    assert check_job_id(uuid.UUID(job_id)) == job_id


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "42",
        "x" * 36,
        "01a207fd-01b5-7707-9c23-d71dd172ee51\n",
        "{01a207fd-01b5-7707-9c23-d71dd172ee51}",
    ],
)
def test_an_id_that_is_no_uuid_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is not a UUID, such as"):
        check_job_id(wrong)


@pytest.mark.parametrize("name", ["a", "mail", "A-Z_09", "x" * 64])
def test_names(name: str) -> None:
    assert check_name("lane", name) == name


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", "a*", ">", "a\n", "x" * 65, 5, None])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid name: use 1 to 64"):
        check_name("lane", name)


def test_an_id_tells_when_it_was_made() -> None:
    before = time.time()
    assert before - 0.002 <= moment_of(new_job_id()) <= time.time() + 0.002
