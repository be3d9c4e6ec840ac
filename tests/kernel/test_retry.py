"""When a failed attempt runs again."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.outcome import Snooze
from mesh.retry import DEFAULT_RETRY, NO_RETRY, Retry

policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 10_000),
    delay=st.floats(0, 1e9),
    backoff=st.sampled_from(["fixed", "linear", "exponential"]),
    factor=st.floats(1, 1e6),
    max_delay=st.floats(0, 1e9),
    jitter=st.floats(0, 1),
)


@given(policies, st.integers(1, 20_000), st.randoms(use_true_random=False))
def test_a_delay_is_bounded_and_ends_with_the_attempts(
    policy: Retry, attempt: int, random: Random
) -> None:
    delay = policy.next_delay(attempt, random)
    if attempt >= policy.max_attempts:
        assert delay is None
    else:
        assert delay is not None
        assert math.isfinite(delay)
        assert 0 <= delay <= policy.max_delay * (1 + policy.jitter)


def test_exponential_delays_grow_until_the_longest() -> None:
    policy = Retry(2000, delay=2, factor=3, max_delay=100, jitter=0)
    delays = [policy.next_delay(attempt, Random(1)) for attempt in range(1, 2000)]
    assert delays[:5] == [2, 6, 18, 54, 100]
    assert set(delays[5:]) == {100}


def test_linear_delays_grow_by_the_same_until_the_longest() -> None:
    policy = Retry(100, delay=5, backoff="linear", max_delay=17, jitter=0)
    assert [policy.next_delay(attempt, Random(1)) for attempt in range(1, 6)] == [5, 10, 15, 17, 17]


def test_fixed_delays_stay() -> None:
    policy = Retry(10, delay=7, backoff="fixed", jitter=0)
    assert {policy.next_delay(attempt, Random(1)) for attempt in range(1, 10)} == {7}


def test_jitter_spreads_to_both_sides_and_not_further() -> None:
    policy, random = Retry(delay=10, jitter=0.2), Random(1)
    delays = [policy.next_delay(1, random) or 0.0 for _ in range(2000)]
    assert 8 <= min(delays) < 8.1
    assert 11.9 < max(delays) <= 12
    assert 9.8 < sum(delays) / len(delays) < 10.2


def test_the_first_execution_counts() -> None:
    assert NO_RETRY.next_delay(1, Random(1)) is None
    assert Retry(2).next_delay(1, Random(1)) is not None
    assert Retry(2).next_delay(2, Random(1)) is None
    assert DEFAULT_RETRY.max_attempts == 5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_attempts": 0}, "Retry(max_attempts=0): the first execution counts"),
        ({"delay": -1}, "Retry(delay=-1"),
        ({"delay": math.nan}, "Retry(delay=nan"),
        ({"max_delay": -0.5}, "max_delay=-0.5"),
        ({"max_delay": math.inf}, "max_delay=inf"),
        ({"backoff": "liner"}, "Retry(backoff='liner'): no such backoff; did you mean 'linear'?"),
        ({"factor": 0.5}, "Retry(factor=0.5): below 1 the delays would shrink"),
        ({"factor": math.nan}, "Retry(factor=nan)"),
        ({"jitter": 1.5}, "Retry(jitter=1.5): must be between 0 and 1"),
        ({"jitter": math.nan}, "Retry(jitter=nan)"),
        ({"on": ValueError}, "Retry(on=<class 'ValueError'>): must be a tuple of exceptions"),
        ({"on": "ValueError"}, "Retry(on='ValueError'): must be a tuple of exceptions"),
        ({"on": (int,)}, "Retry(on=...): <class 'int'> is no exception"),
        ({"give_up_on": ("",)}, "Retry(give_up_on=...): '' is no exception"),
        ({"when": 3}, "Retry(when=3): must be a function of the error"),
    ],
)
def test_a_wrong_policy_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Retry(**wrong)
    assert says in str(error.value)


class Declined(Exception):
    pass


class StolenCard(Declined):
    pass


KINDS: list[type[BaseException]] = [
    *(Declined, StolenCard, ValueError, UnicodeError, OSError, ConnectionError, Exception),
    *(BaseException, KeyboardInterrupt, TimeoutError),
]
some_kinds = st.lists(st.sampled_from(KINDS), max_size=3).map(tuple)


class TestWhichFailures:
    @given(st.sampled_from(KINDS), some_kinds, some_kinds)
    def test_are_those_that_except_would_catch(
        self,
        kind: type[BaseException],
        on: tuple[type[BaseException], ...],
        give_up_on: tuple[type[BaseException], ...],
    ) -> None:
        expected = (not on or issubclass(kind, on)) and not issubclass(kind, give_up_on)
        policy = Retry(on=on, give_up_on=give_up_on)
        assert policy.is_for(kind()) is expected
        # The same in another process, which has only what travels.
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Retry) == policy

    def test_may_be_told_by_name(self) -> None:
        policy = Retry(on=("OSError", f"{__name__}.Declined"), give_up_on=(StolenCard,))
        assert policy == Retry(on=(OSError, Declined), give_up_on=(f"{__name__}.StolenCard",))
        assert policy.is_for(ConnectionResetError())
        assert policy.is_for(Declined())
        assert not policy.is_for(StolenCard())
        assert not policy.is_for(ValueError())

    def test_may_be_told_by_a_function_which_is_asked_last(self) -> None:
        asked = []

        def when(error: BaseException) -> bool:
            asked.append(error)
            return "again" in str(error)

        policy = Retry(on=(ValueError,), when=when)
        assert policy.is_for(ValueError("again"))
        assert not policy.is_for(ValueError("no"))
        assert not policy.is_for(KeyError("again"))
        assert len(asked) == 2

    def test_a_policy_of_an_older_version_is_for_all(self) -> None:
        old = msgspec.msgpack.encode([3, 1.0, "fixed", 2.0, 60.0, 0.0])
        policy = msgspec.msgpack.decode(old, type=Retry)
        assert policy == Retry(3, delay=1, backoff="fixed", max_delay=60, jitter=0)
        assert policy.is_for(KeyboardInterrupt())


@pytest.mark.parametrize("make", [Retry.after, Snooze])
@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan, "5"])
def test_a_wrong_delay_is_named(make: Callable[[Any], Any], seconds: Any) -> None:
    with pytest.raises(ConfigError, match="must be a number of seconds, 0 or more") as error:
        make(seconds)
    assert repr(seconds) in str(error.value)


def test_what_is_raised_says_why() -> None:
    assert str(Retry.after(5)) == "Retry.after(5)"
    assert str(Snooze(2.5, "the shop is closed")) == "the shop is closed"
    assert (Retry.after(5).seconds, Snooze(0).seconds) == (5.0, 0.0)
