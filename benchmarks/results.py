"""The results file: every single measurement, the machine, the versions; and what it says."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.systems import SYSTEMS
from benchmarks.workload import ROWS, Target

__all__ = ["LATEST", "Ratio", "Results"]

LATEST = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A target's figure: of the medians, and the least and greatest of single rounds."""

    value: float
    least: float
    most: float
    ours: float
    peer: float | None
    met: bool


class Results:
    """Written anew after each measurement, so that a run that is cut short keeps what it has."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path = path
        self.data = data

    @classmethod
    def new(cls, path: Path, scale: float, versions: dict[str, dict[str, str]]) -> Results:
        return cls(
            path,
            {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "scale": scale,
                "machine": _machine(),
                "versions": versions,
                "measurements": [],
            },
        )

    @classmethod
    def load(cls, path: Path) -> Results:
        return cls(path, json.loads(path.read_text()))

    def add(self, row: str, system: str, turn: int, jobs: int, figures: dict[str, Any]) -> None:
        self.data["measurements"].append(
            {"row": row, "system": system, "turn": turn, "jobs": jobs, **figures}
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, indent=1)
        self.path.write_text(text + "\n")

    def figures(self, row: str, system: str, figure: str = "value") -> dict[int, Any]:
        """A figure by round; failed rounds are missing."""
        return {m["turn"]: m[figure] for m in self._of(row, system) if figure in m}

    def median(self, row: str, system: str, figure: str = "value") -> float | None:
        found = self.figures(row, system, figure)
        return statistics.median(found.values()) if found else None

    def failures(self) -> list[dict[str, Any]]:
        return [m for m in self.data["measurements"] if "error" in m]

    def ratio(self, target: Target) -> Ratio | None:
        """How a target stands; ``None`` if something was not measured."""
        ours = self.figures(target.row, target.ours, target.figure)
        if not ours:
            return None
        peers: dict[int, float] = dict.fromkeys(ours, 1.0)
        if target.peer is not None:
            peers = self.figures(target.peer_row or target.row, target.peer, target.figure)
        both = [ours[turn] / peers[turn] for turn in ours if turn in peers]
        if not both:
            return None
        mine, other = statistics.median(ours.values()), statistics.median(peers.values())
        value = mine / other
        met = value >= target.limit if target.bound == "≥" else value <= target.limit
        return Ratio(value, min(both), max(both), mine, other if target.peer else None, met)

    def better_peers(self) -> Iterator[tuple[str, str, float, str, float]]:
        """Where a peer is ahead of the best of ours: row, peer, figure, ours, figure."""
        for row in ROWS.values():
            lower = row.unit == "ms"
            systems = dict.fromkeys(m["system"] for m in self._of(row.name))
            known = {s: v for s in systems if (v := self.median(row.name, s)) is not None}
            ours = {s: v for s, v in known.items() if s.startswith("jobmesh-")}
            if not ours:
                continue
            best = min(ours, key=lambda s: ours[s] if lower else -ours[s])
            for system, value in known.items():
                ahead = value < ours[best] if lower else value > ours[best]
                if system not in ours and ahead and not SYSTEMS[system].bare:
                    yield row.title, system, value, best, ours[best]

    def _of(self, row: str, system: str | None = None) -> list[dict[str, Any]]:
        return [
            m
            for m in self.data["measurements"]
            if m["row"] == row and system in (None, m["system"])
        ]


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
