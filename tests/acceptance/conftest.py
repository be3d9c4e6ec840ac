from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import Start, starting


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as start:
        yield start
