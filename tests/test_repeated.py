"""Transactions that a server gave up to break a deadlock are done again, wherever they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncmy.errors import OperationalError
from sqlalchemy import exc

from mesh.errors import MasterUnavailable
from mesh.sql import repeated

ROOT = Path(__file__).parents[1]

# What is not a transaction to be done again, and why.
OTHERS = {
    "Outbox.take": "its block is the caller's, who takes the same jobs again",
    "Database.create_missing": "it has a lock of its own, and makes tables, once",
    "Migrations._try_upgrade": "it has a lock of its own, and is tried again by who calls it",
}


def writers(tree: ast.Module) -> Iterator[tuple[str, ast.AsyncFunctionDef]]:
    """The functions, by their names within their classes, that open ``Database.write``."""
    for owner in ast.walk(tree):
        for function in ast.iter_child_nodes(owner):
            if isinstance(function, ast.AsyncFunctionDef) and any(map(opens, ast.walk(function))):
                name = f"{owner.name}." if isinstance(owner, ast.ClassDef) else ""
                yield f"{name}{function.name}", function


def opens(node: ast.AST) -> bool:
    if not isinstance(node, ast.AsyncWith):
        return False
    calls = [item.context_expr for item in node.items]
    return any(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "write"
        for call in calls
    )


def test_every_transaction_is_repeated() -> None:
    found: dict[str, bool] = {}
    for part in ("mesh", "agents", "master", "workers"):
        for path in (ROOT / part).rglob("*.py"):
            if "testing" in path.parts:
                continue
            for name, function in writers(ast.parse(path.read_text("utf-8"))):
                marks = [mark.id for mark in function.decorator_list if isinstance(mark, ast.Name)]
                found[name] = "repeated" in marks
    assert len(found) > 40  # it does see them
    assert {name for name, is_repeated in found.items() if not is_repeated} == OTHERS.keys()


async def test_until_it_is_done() -> None:
    tries = 0

    @repeated
    async def transaction(fails: int, number: int) -> int:
        nonlocal tries
        tries += 1
        if tries <= fails:
            cause = OperationalError(number, "said the server")
            raise MasterUnavailable("m") from exc.OperationalError("UPDATE", None, cause)
        return tries

    assert await transaction(3, 1213) == 4
    for number, most in ((1213, 11), (2013, 1)):
        tries = 0
        with pytest.raises(MasterUnavailable):
            await transaction(100, number)
        assert tries == most
