"""What becomes of an attempt: pure functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import Cancel, Context, Fail, Mesh, Snooze
from mesh.context import DONE
from mesh.job import State
from mesh.retry import Retry
from mesh.testing.conformance.agent import make_job
from mesh.wire import ErrorInfo, Finished, Retrying, decode_records, encode_records
from mesh_workers.around import Around
from mesh_workers.execute import run_sync
from mesh_workers.outcome import (
    MAX_MESSAGE,
    MAX_TRACEBACK,
    MISS_LIMIT,
    Cancelled,
    Failed,
    Outcome,
    Run,
    Snoozed,
    Succeeded,
    TimeLimit,
    decide,
    describe,
    judge,
    miss,
    time_limit,
    too_late,
)

NOW = 1_800_000_000.0

policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 20),
    delay=st.floats(0, 1e6),
    backoff=st.sampled_from(["fixed", "linear", "exponential"]),
    factor=st.floats(1, 1e3),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
outcomes = st.one_of(
    st.builds(Succeeded, st.binary()),
    st.builds(Failed, st.just(ErrorInfo("E", "no")), st.booleans(), st.none() | st.floats(0, 1e6)),
    st.builds(Cancelled, st.just(ErrorInfo("Cancelled", "no need"))),
    st.builds(Snoozed, st.just(ErrorInfo("Snooze", "not now")), st.floats(0, 1e6)),
)
STATES = {
    Succeeded: State.SUCCEEDED,
    Failed: State.FAILED,
    Cancelled: State.CANCELLED,
    Snoozed: State.FAILED,  # its deadline will have passed
}


def make_run(attempt: int = 1, **changes: Any) -> Run:
    return Run(make_job(attempt=attempt, **changes), attempt, 0, "w", NOW - 1)


class TestDecide:
    @given(
        policies,
        outcomes,
        st.integers(1, 25),
        st.integers(0, 3),
        st.sampled_from([0.0, NOW, NOW + 1, NOW + 1e5]),
        st.randoms(use_true_random=False),
    )
    def test_an_attempt_ends_the_job_or_leads_to_the_next(
        self,
        policy: Retry,
        outcome: Outcome,
        attempt: int,
        snoozes: int,
        deadline: float,
        random: Random,
    ) -> None:
        attempt += snoozes
        run = make_run(attempt, misses=3, snoozes=snoozes, deadline=deadline)
        record, again = decide(run, outcome, policy, NOW, random)
        assert (record.id, record.attempt, record.at) == (run.job.id, attempt, NOW)
        if isinstance(record, Finished):
            assert again is None
            succeeded = isinstance(outcome, Succeeded)
            assert record.state is STATES[type(outcome)]
            if isinstance(outcome, Snoozed):
                assert deadline
            assert (record.result is None) is not succeeded
            assert (record.error is None) is succeeded
        else:
            assert again is not None
            assert (again.id, again.attempt, again.misses) == (run.job.id, attempt + 1, 0)
            assert record.due_at == again.due_at
            assert not deadline or again.due_at < deadline
            if isinstance(outcome, Snoozed):
                assert again.snoozes == snoozes + 1
            else:
                assert isinstance(outcome, Failed)
                assert outcome.retryable
                assert again.snoozes == snoozes
                assert again.attempt - again.snoozes <= policy.max_attempts
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

    def test_a_snooze_counts_neither_as_an_attempt_nor_for_the_delay(self) -> None:
        policy = Retry(3, delay=1, factor=10, jitter=0)
        run = make_run(1)
        for _ in range(20):
            outcome = Snoozed(ErrorInfo("Snooze", ""), 30.0)
            record, again = decide(run, outcome, policy, NOW, Random())
            assert isinstance(record, Retrying)
            assert record.due_at == NOW + 30
            assert again is not None
            run = Run(again, again.attempt, 0, "w", NOW)
        delays = []
        while True:
            record, again = decide(run, Failed(ErrorInfo("E", "")), policy, NOW, Random())
            if again is None:
                break
            delays.append(again.due_at - NOW)
            run = Run(again, again.attempt, 0, "w", NOW)
        assert delays == [1, 10]
        assert (record.attempt, run.job.snoozes) == (23, 20)

    def test_no_attempt_is_planned_after_the_deadline(self) -> None:
        policy = Retry(3, delay=7, backoff="fixed", jitter=0)
        run = make_run(1, deadline=NOW + 7)
        cause = ErrorInfo("ValueError", "no such user", "Traceback")
        record, again = decide(run, Failed(cause), policy, NOW, Random())
        assert isinstance(record, Finished)
        assert again is None
        assert record.state is State.FAILED
        assert record.error is not None
        assert (record.error.type, record.error.traceback) == ("DeadlineExceeded", "Traceback")
        assert "ValueError: no such user" in record.error.message


class TestJudge:
    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_words_are_understood_even_from_a_task_group(self, depth: int) -> None:
        def judged(error: Exception) -> Outcome:
            for _ in range(depth):
                error = ExceptionGroup("unhandled errors in a TaskGroup", [error])
            return judge(raised(error), Retry(on=(KeyError,)))

        failed = judged(Fail("no such user"))
        assert isinstance(failed, Failed)
        assert not failed.retryable
        later = judged(Retry.after(7))
        assert isinstance(later, Failed)
        assert (later.retryable, later.delay) == (True, 7)
        assert isinstance(judged(Cancel("not wanted")), Cancelled)
        snoozed = judged(Snooze(3))
        assert isinstance(snoozed, Snoozed)
        assert snoozed.delay == 3

    def test_the_policy_says_what_is_worth_another_attempt(self) -> None:
        policy = Retry(on=(OSError,), when=lambda error: "try" in str(error))
        assert judge(raised(ConnectionError("try")), policy) == Failed(
            describe(raised(ConnectionError("try")))
        )
        for error in (ConnectionError("no"), ValueError("try")):
            outcome = judge(raised(error), policy)
            assert isinstance(outcome, Failed)
            assert not outcome.retryable

    @pytest.mark.parametrize("broken", [ValueError, SystemExit])
    def test_a_predicate_that_fails_stops_no_job(
        self, broken: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        def when(error: BaseException) -> bool:
            raise broken("a bug")

        outcome = judge(raised(KeyError("x")), Retry(when=when))
        assert isinstance(outcome, Failed)
        assert outcome.retryable
        assert "Retry(when=...) failed" in caplog.text


class TestTime:
    @given(
        st.none() | st.floats(0.1, 1e6),
        st.sampled_from([0.0]) | st.floats(0.1, 1e6).map(lambda after: NOW + after),
    )
    def test_an_attempt_has_its_timeout_or_what_the_deadline_leaves(
        self, timeout: float | None, deadline: float
    ) -> None:
        limit = time_limit(make_job(deadline=deadline), timeout, NOW)
        seconds = [s for s in (timeout, deadline - NOW if deadline else None) if s is not None]
        if limit is None:
            assert not seconds
            return
        assert limit.seconds == min(seconds)
        told = limit.exceeded()
        if limit.deadline:
            assert isinstance(told, Failed)
            assert (told.error.type, told.retryable) == ("DeadlineExceeded", False)
        else:
            assert isinstance(told, TimeoutError)

    def test_what_is_too_late(self) -> None:
        assert too_late(make_job(), 1, NOW) is None
        expiring = make_job(expires_at=NOW + 1)
        assert too_late(expiring, 1, NOW) is None
        late = too_late(expiring, 1, NOW + 1)
        assert late is not None
        assert (late[0], late[1].type) == (State.EXPIRED, "Expired")
        # It was started in time, once.
        assert too_late(expiring, 2, NOW + 100) is None
        ending = make_job(deadline=NOW + 1, expires_at=NOW + 1)
        for attempt in (1, 5):
            late = too_late(ending, attempt, NOW + 1)
            assert late is not None
            assert (late[0], late[1].type) == (State.FAILED, "DeadlineExceeded")

    def test_a_timeout_says_its_length(self) -> None:
        assert str(TimeLimit(2.5).exceeded()) == "the attempt took longer than 2.5 s"


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


def raise_it(error: Any) -> None:
    raise error


class TestDescribe:
    def test_tells_type_message_and_place(self) -> None:
        info = describe(raised(ValueError("too few")))
        assert (info.type, info.message) == ("ValueError", "too few")
        assert "in raised" in info.traceback
        assert info.traceback.endswith("ValueError: too few\n")

    def test_leaves_out_the_workers_own_frames(self) -> None:
        def told(function: Callable[..., Any], **arguments: Any) -> str:
            handler: Any = Mesh(agents={"m": "memory://unused"}).job(function)
            around = Around(
                handler, Context(make_job(), 1, 5, lambda kind, data, joins=False: DONE)
            )
            outcome = run_sync(partial(around.run_here, {}, **arguments), Retry())
            assert isinstance(outcome, Failed)
            return outcome.error.traceback.splitlines()[1]

        assert "in raise_it" in told(raise_it, error=ValueError())
        # Unless there are no others.
        assert "mesh_workers" in told(raise_it, unknown=1)

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
