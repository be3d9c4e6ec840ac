"""What becomes of an attempt: pure functions."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.job import State
from mesh.retry import Retry
from mesh.testing.conformance.agent import make_job
from mesh.wire import ErrorInfo, Finished, Retrying, decode_records, encode_records
from mesh_workers.outcome import (
    MAX_MESSAGE,
    MAX_TRACEBACK,
    MISS_LIMIT,
    Cancelled,
    Failed,
    Outcome,
    Run,
    Succeeded,
    decide,
    describe,
    miss,
)

NOW = 1_800_000_000.0

policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 20),
    delay=st.floats(0, 1e6),
    backoff=st.sampled_from(["fixed", "exponential"]),
    factor=st.floats(1, 1e3),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
outcomes = st.one_of(
    st.builds(Succeeded, st.binary()),
    st.builds(Failed, st.just(ErrorInfo("E", "no")), st.booleans(), st.none() | st.floats(0, 1e6)),
    st.builds(Cancelled, st.just(ErrorInfo("Cancelled", "no need"))),
)
STATES = {
    Succeeded: State.SUCCEEDED,
    Failed: State.FAILED,
    Cancelled: State.CANCELLED,
}


def make_run(attempt: int = 1, **changes: Any) -> Run:
    return Run(make_job(attempt=attempt, **changes), attempt, 0, "w", NOW - 1)


class TestDecide:
    @given(policies, outcomes, st.integers(1, 25), st.randoms(use_true_random=False))
    def test_an_attempt_ends_the_job_or_leads_to_the_next(
        self, policy: Retry, outcome: Outcome, attempt: int, random: Random
    ) -> None:
        run = make_run(attempt, misses=3)
        record, again = decide(run, outcome, policy, NOW, random)
        assert (record.id, record.attempt, record.at) == (run.job.id, attempt, NOW)
        if isinstance(record, Finished):
            assert again is None
            succeeded = isinstance(outcome, Succeeded)
            assert record.state is STATES[type(outcome)]
            assert (record.result is None) is not succeeded
            assert (record.error is None) is succeeded
        else:
            assert isinstance(outcome, Failed)
            assert outcome.retryable
            assert again is not None
            assert (again.id, again.attempt, again.misses) == (run.job.id, attempt + 1, 0)
            assert again.attempt <= policy.max_attempts
            assert record.due_at == again.due_at
            if outcome.delay is not None:
                assert again.due_at == NOW + outcome.delay
            else:
                longest = policy.max_delay * (1 + policy.jitter)
                assert NOW <= again.due_at <= NOW + longest + 1e-3

    def test_a_success_keeps_its_result(self) -> None:
        record, _ = decide(make_run(), Succeeded(b"[1]"), Retry(), NOW, Random())
        assert isinstance(record, Finished)
        assert record.result == b"[1]"

    def test_the_fixed_delay_is_exact_without_jitter(self) -> None:
        policy = Retry(3, delay=7, backoff="fixed", jitter=0)
        record, _ = decide(make_run(2), Failed(ErrorInfo("E", "")), policy, NOW, Random())
        assert isinstance(record, Retrying)
        assert record.due_at == NOW + 7

    def test_exhausted_even_when_not_to_blame(self) -> None:
        outcome = Failed(ErrorInfo("WorkerStopped", ""), delay=0.0)
        record, again = decide(make_run(3), outcome, Retry(3), NOW, Random())
        assert isinstance(record, Finished)
        assert again is None


class TestMiss:
    def test_delays_grow_and_the_job_fails_in_the_end(self) -> None:
        run = make_run(2)
        delays = []
        for misses in range(1, MISS_LIMIT):
            record, again = miss(run, NOW)
            assert record is None
            assert again is not None
            assert (again.attempt, again.misses) == (2, misses)
            delays.append(again.due_at - NOW)
            run = Run(again, 2, 0, "w", NOW)
        assert delays == sorted(delays)
        assert delays[0] == 1
        assert delays[-1] == 30
        record, again = miss(run, NOW)
        assert again is None
        assert record is not None
        assert record.state is State.FAILED
        assert record.error is not None
        assert record.error.type == "UnknownHandler"
        assert "'conformance'" in record.error.message


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class BadStr(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


class TestDescribe:
    def test_tells_type_message_and_place(self) -> None:
        info = describe(raised(ValueError("too few")))
        assert (info.type, info.message) == ("ValueError", "too few")
        assert "in raised" in info.traceback
        assert info.traceback.endswith("ValueError: too few\n")

    def test_leaves_out_the_callers_own_frames(self) -> None:
        assert "in raised" not in describe(raised(ValueError()), skip=1).traceback
        assert describe(ValueError("never raised"), skip=3).message == "never raised"

    def test_caps_keep_both_ends(self) -> None:
        info = describe(raised(ValueError("start" + "x" * 10**6 + "end")))
        assert info.message.startswith("start")
        assert info.message.endswith("end")
        assert "characters left out" in info.message
        assert len(info.message) < MAX_MESSAGE + 100
        assert len(info.traceback) < MAX_TRACEBACK + 100
        assert info.traceback.startswith("Traceback")
        assert info.traceback.rstrip().endswith("end")

    def test_an_enormous_type_name(self) -> None:
        assert len(describe(type("X" * 10_000, (Exception,), {})()).type) < 400

    @pytest.mark.parametrize(
        "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), RecursionError()]
    )
    def test_a_message_that_cannot_be_shown(self, error: BaseException) -> None:
        info = describe(raised(BadStr(error)))
        assert info.type == "BadStr"
        assert type(error).__name__ in info.message

    def test_chains_and_groups_are_shown(self) -> None:
        try:
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ExceptionGroup("several", [ValueError("a"), TypeError("b")]) from error
        except ExceptionGroup as error:
            info = describe(error)
        for part in ("KeyError: 'inner'", "ValueError: a", "TypeError: b", "direct cause"):
            assert part in info.traceback

    def test_a_very_long_chain(self) -> None:
        error = raised(ValueError("0"))
        for number in range(2000):
            link = ValueError(str(number))
            link.__cause__ = error
            error = raised(link)
        assert describe(error).message == "1999"

    @given(st.text(alphabet=st.characters(codec=None, categories=None), max_size=50))
    def test_any_text_can_be_stored(self, text: str) -> None:
        info = describe(raised(ValueError(text)))
        self.check_storable(info)

    @pytest.mark.parametrize("text", ["\x00", "\ud800", "a\x00b\udfff"])
    def test_nul_and_lone_surrogates_can_be_stored(self, text: str) -> None:
        kind = type("Odd", (Exception,), {"__qualname__": "Odd" + text})
        info = describe(raised(kind(text)))
        self.check_storable(info)

    def check_storable(self, info: ErrorInfo) -> None:
        record, _ = decide(make_run(5), Failed(info), Retry(5), NOW, Random())
        assert decode_records(encode_records([record])) == [record]
        assert "\x00" not in info.type + info.message + info.traceback
