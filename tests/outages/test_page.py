"""docs/outages.md names the test that holds each promise: it exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "outages.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    found: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"def (test_\w+)\(", file.read_text()))
    assert len(named) >= 10
    assert named <= found, named - found
