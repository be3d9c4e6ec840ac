"""When a failed attempt runs again."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.retry import DEFAULT_RETRY, NO_RETRY, Retry

policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 10_000),
    delay=st.floats(0, 1e9),
    backoff=st.sampled_from(["fixed", "exponential"]),
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
        ({"backoff": "linear"}, "Retry(backoff='linear'): must be 'fixed' or 'exponential'"),
        ({"factor": 0.5}, "Retry(factor=0.5): below 1 the delays would shrink"),
        ({"factor": math.nan}, "Retry(factor=nan)"),
        ({"jitter": 1.5}, "Retry(jitter=1.5): must be between 0 and 1"),
        ({"jitter": math.nan}, "Retry(jitter=nan)"),
    ],
)
def test_a_wrong_policy_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Retry(**wrong)
    assert says in str(error.value)
