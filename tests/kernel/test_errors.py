"""One tree of errors, drawn as it is."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

import mesh
from mesh import errors
from mesh.errors import MeshError, did_you_mean

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == "mesh.errors"
}


def drawn() -> dict[str, str]:
    """Each error in the docstring's tree, and the one it hangs from."""
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        above[depth] = found[2]
        if depth:
            parents[found[2]] = above[depth - 1]
    return parents


def test_the_drawing_is_the_tree() -> None:
    actual = {
        name: kind.__bases__[0].__name__ for name, kind in CLASSES.items() if kind is not MeshError
    }
    assert drawn() == actual


def test_all_names_all() -> None:
    assert set(errors.__all__) == CLASSES.keys() | {"did_you_mean"}
    assert errors.__all__ == sorted(errors.__all__)


def test_every_error_says_what_it_means() -> None:
    assert all(
        (kind.__doc__ and kind.__doc__ != MeshError.__doc__) or kind is MeshError
        for kind in CLASSES.values()
    )


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (errors.InvalidArguments, TypeError),
        (errors.InvalidSchedule, ValueError),
        (errors.UnknownHandler, LookupError),
        (errors.JobNotFound, LookupError),
        (errors.ResultTimeout, TimeoutError),
    ],
)
def test_errors_that_python_has_a_word_for(
    kind: type[MeshError], also: type[BaseException]
) -> None:
    assert issubclass(kind, also)


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("no"),
        errors.InvalidSchedule("unknown unit 'minuts' at 9", "every 5 minuts", 9),
        errors.PublishOutcomeUnknown("who knows", ["a", "b"]),
        errors.JobNotFound("an-id", " (yet)"),
        errors.JobFailed("it failed", "an-id", "failed", "ValueError", "Traceback…"),
        errors.JobCancelled("it ended", "an-id", "expired"),
    ],
)
def test_errors_cross_process_boundaries(error: MeshError) -> None:
    """Process pools, for one, pickle what is raised."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    ("word", "known", "says"),
    [
        ("mastr", ["master", "agents"], "; did you mean 'master'?"),
        ("zzz", ["b", "a"], " (known: a, b)"),
        ("zzz", [], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], says: str) -> None:
    assert did_you_mean(word, known) == says


def test_what_users_catch_is_exported() -> None:
    internal = {"CorruptMessage", "LeaseLost", "SchemaMismatch", "UnsupportedVersion", "WireError"}
    assert CLASSES.keys() - internal <= set(mesh.__all__)
