"""The docs say what the code does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_parts_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_guarantees_are_held_by_tests_that_exist() -> None:
    named = re.findall(r"^- `(\S+)`$", (ROOT / "docs" / "guarantees.md").read_text(), re.MULTILINE)
    assert len(named) > 30
    missing = [test for test in named if not _exists(*test.split("::"))]
    assert not missing


def test_outages_are_held_by_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "outages.md").read_text()))
    found: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"def (test_\w+)\(", file.read_text()))
    assert len(named) >= 10
    assert named <= found, named - found


def _exists(path: str, *names: str) -> bool:
    """Whether a test of that name is there, within its class if it is in one."""
    body: list[ast.stmt] = (
        ast.parse((ROOT / path).read_text()).body if (ROOT / path).exists() else []
    )
    for name in names:
        found = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == name
        ]
        if not found:
            return False
        body = found[0].body
    return True
