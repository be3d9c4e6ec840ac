"""Failures that look alike have one fingerprint, others have others."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.fingerprint import fingerprint, normalized

words = st.text("abc xyzé\n\t:;(]\\", max_size=20)
numbers = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.integers(0).map(hex),
    st.uuids().map(str),
    st.uuids().map(lambda one: one.hex.upper()),
)
quoted = st.tuples(st.sampled_from(["'", '"', "`"]), st.text("ab 7-é/", max_size=9)).map(
    lambda it: f" {it[0]}{it[1]}{it[0]} "
)


@given(words, numbers, numbers, words)
def test_numbers_and_ids_do_not_tell_failures_apart(a: str, one: str, two: str, z: str) -> None:
    assert fingerprint("f", "E", f"{a} {one} {z}") == fingerprint("f", "E", f"{a} {two} {z}")


@given(words, quoted, quoted, words)
def test_quoted_texts_do_not_tell_failures_apart(a: str, one: str, two: str, z: str) -> None:
    assert normalized(a + one + z) == normalized(a + two + z)


@given(st.text())
def test_it_is_short_and_of_one_line(message: str) -> None:
    short = normalized(message)
    assert len(short) <= 200
    assert "\n" not in short
    assert re.fullmatch("[0-9a-f]{16}", fingerprint("f", "E", message))


@given(*[st.tuples(*[st.text("ab ", max_size=3)] * 3)] * 2)
def test_handlers_errors_and_words_tell_failures_apart(
    one: tuple[str, str, str], two: tuple[str, str, str]
) -> None:
    alike = (*one[:2], one[2].split()) == (*two[:2], two[2].split())
    assert (fingerprint(*one) == fingerprint(*two)) == alike


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("can't open 'a.txt': it's gone", "can't open …: it's gone"),
        ("user 17 has 3.5e-7 left, not -2", "user # has # left, not #"),
        (f"order {UUID(int=7)} at 0xDEADbeef of commit 7cc2bcb9", "order # at # of commit #"),
        ('said "no" 404\n  (again)', "said … # (again)"),
        ("12:30:01, 2026-01-31", "#, ###"),
        ("connection to 10.0.0.1:5432 refused", "connection to # refused"),
        ("deadbeef is a word, fee1dead0 is not", "deadbeef is a word, # is not"),
        ("", ""),
    ],
)
def test_what_is_taken_out(message: str, short: str) -> None:
    assert normalized(message) == short
    assert normalized(short) == short


def test_none_is_nothing() -> None:
    assert fingerprint("f", None, None) == fingerprint("f", "", "")
