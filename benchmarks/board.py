"""The board: a file on which every handler marks that it ran, and when.

All processes map the same file. A job is a number; its record is 16 bytes, little-endian: how
often it ran (u32), the process id of its last run (u32), the start of its last run (u64, ns of
the monotonic clock, which Linux keeps for the whole machine). So the driver needs no system's own
reports to know that each job ran exactly once, and what it measures costs every system the same.

The count is not incremented atomically: two runs of one job in the same microsecond would look
like one. Standard library only: it is imported in every system's environment.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

__all__ = ["RECORD", "Board"]

RECORD = 16


class Board:
    """The board in a file that ``create`` made."""

    def __init__(self, path: str | Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        view = memoryview(self._map)
        self.jobs = len(view) // RECORD
        self._words = view.cast("I")
        self._times = view.cast("Q")

    @classmethod
    def create(cls, path: str | Path, jobs: int) -> Board:
        """A new board for jobs ``0 … jobs - 1``, none of which has run."""
        with open(path, "wb") as file:
            file.truncate(jobs * RECORD)
        return cls(path)

    def mark(self, job: int) -> None:
        """Say that this job runs now. The count is written last: who sees it sees the rest."""
        self._times[2 * job + 1] = time.monotonic_ns()
        self._words[4 * job + 1] = os.getpid()
        self._words[4 * job] += 1

    def runs(self, job: int) -> int:
        """How often the job ran."""
        return self._words[4 * job]

    def pid(self, job: int) -> int:
        return self._words[4 * job + 1]

    def started(self, job: int) -> int:
        """When the job's last run started, in ns of ``time.monotonic_ns``."""
        return self._times[2 * job + 1]

    def missing_from(self, job: int, end: int) -> int:
        """The first job from ``job`` on, below ``end``, that has not run; ``end`` if all have."""
        words = self._words
        while job < end and words[4 * job]:
            job += 1
        return job

    def wrong(self, first: int, end: int) -> dict[int, int]:
        """Those jobs that did not run exactly once, with how often they ran."""
        words = self._words
        return {job: words[4 * job] for job in range(first, end) if words[4 * job] != 1}
