"""The results file: every single measurement, the machine, the versions."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "Results"]

FOLDER = Path(__file__).parent / "results"


class Results:
    """Written anew after each measurement, so that a run that is cut short keeps what it has."""

    def __init__(self, path: str | None, scale: float) -> None:
        self.path = Path(path) if path else FOLDER / "latest.json"
        self._data: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "scale": scale,
            "machine": _machine(),
            "measurements": [],
        }

    def add(self, row: str, system: str, turn: int, jobs: int, figures: dict[str, Any]) -> None:
        self._data["measurements"].append(
            {"row": row, "system": system, "turn": turn, "jobs": jobs, **figures}
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self._data, indent=1))


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
