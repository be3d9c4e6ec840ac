"""What processes write down: one JSON object a line, there even if the process is killed next.

Moments are of the machine's monotonic clock, which all its processes share and no skew touches.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Journal", "read_journals"]

Entry = dict[str, Any]


class Journal:
    """Appends to a file; any number of processes may, to the same one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, **data: Any) -> None:
        line = json.dumps({"t": time.monotonic(), "e": event, **data}) + "\n"
        os.write(self._file, line.encode())


def read_journals(folder: Path) -> list[Entry]:
    """All entries of all journals of a folder, by time. A line that its process was killed in is
    left out."""

    def entries() -> Iterator[Entry]:
        for path in folder.glob("*.jsonl"):
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue

    return sorted(entries(), key=lambda entry: entry["t"])
