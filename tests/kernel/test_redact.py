"""Secrets are hidden where jobs are shown, and come back where they were."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.redact import HIDDEN, Redactor

NAMES = ["password", "api-key"]
SECRET = "s3cret"

plain = st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3)
keys = st.sampled_from(["Password", "API_KEY", "name", "list", "password_hint"])
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4)
)


def hidden_in(value: Any) -> list[Any]:
    """The values under the rules' names, anywhere."""
    if isinstance(value, list):
        return [found for item in value for found in hidden_in(item)]
    if not isinstance(value, dict):
        return []
    return [
        found
        for key, item in value.items()
        for found in ([item] if key in ("Password", "API_KEY") else hidden_in(item))
    ]


@given(values)
def test_all_of_those_names_and_nothing_else_is_hidden(value: Any) -> None:
    shown = json.loads(Redactor(NAMES).json(json.dumps(value).encode()))
    assert set(map(str, hidden_in(shown))) <= {HIDDEN}
    assert len(hidden_in(shown)) == len(hidden_in(value))
    if not hidden_in(value):
        assert shown == value


@given(values)
def test_what_was_shown_can_be_stored_again(value: Any) -> None:
    redactor, data = Redactor(NAMES), json.dumps(value).encode()
    assert json.loads(redactor.restore(redactor.json(data), data)) == value


def test_an_edit_keeps_the_secret_and_a_new_secret_is_taken() -> None:
    redactor = Redactor(["password"])
    stored = b'{"user":{"name":"ann","password":"s3cret"},"n":1}'
    edited = b'{"user":{"name":"bob","password":"[redacted]"},"n":2}'
    assert json.loads(redactor.restore(edited, stored)) == {
        "user": {"name": "bob", "password": SECRET},
        "n": 2,
    }
    new = b'{"user":{"name":"ann","password":"other"},"n":1}'
    assert redactor.restore(new, stored) == new


def test_a_hidden_value_that_was_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\$\.user\.password"):
        Redactor(["password"]).restore(b'{"user":{"password":"[redacted]"}}', b'{"user":{}}')


def test_a_text_that_looks_hidden_elsewhere_is_left_alone() -> None:
    redactor = Redactor(["password"])
    data = msgspec.json.encode({"title": HIDDEN})
    assert redactor.restore(data, b"{}") == data


def test_what_is_no_json_is_hidden_whole() -> None:
    assert Redactor(["password"]).json(b"\xff password=1") == b'"[redacted]"'
    assert Redactor().json(b"\xff") == b"\xff"


def test_single_values_are_hidden_by_their_names() -> None:
    redactor = Redactor(["api-key"])
    assert redactor.text("Api_Key", "x") == HIDDEN
    assert redactor.text("tenant", "x") == "x"
