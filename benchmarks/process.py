"""Child processes, and what they cost: CPU seconds and memory of whole process trees (Linux)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BenchFailed", "Child", "Producer", "anonymous", "cpu_seconds", "resident"]

ANSWER_TIME = 90.0
"""Seconds for a producer to do what it was told."""

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class BenchFailed(Exception):
    """A run is worth nothing: a process died, a job ran twice or never, time is up."""


class Child:
    """A process in a session of its own, with its output in a log file."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], log: Path, pipes: bool = False
    ) -> None:
        self.command = command
        self.log = log
        pipe = subprocess.PIPE if pipes else None
        with log.open("a") as file:
            self._process = subprocess.Popen(
                command,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or file,
                stderr=file,
                env=env,
                cwd=log.parent,
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raises ``BenchFailed`` if the process has ended."""
        if self._process.poll() is not None:
            raise self.failure(f"ended with status {self._process.returncode}")

    def wait(self, timeout: float) -> None:
        """Wait for a process that ends by itself. Raises ``BenchFailed`` if it failed."""
        if self._process.wait(timeout) != 0:
            raise self.failure(f"ended with status {self._process.returncode}")

    def failure(self, what: str) -> BenchFailed:
        log = self.log.read_text(errors="replace")[-3000:]
        return BenchFailed(f"{' '.join(self.command)}: {what}\n{log}")

    def stop(self, patience: float = 5.0) -> None:
        """SIGTERM, then SIGKILL to all its session that is left."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Producer(Child):
    """A producer of ``benchmarks.adapters``: see ``producer.py`` for its commands."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        super().__init__(command, env=env, log=log, pipes=True)
        self.answer()

    def send(self, do: str, first: int, count: int, **more: Any) -> None:
        assert self._process.stdin is not None
        line = json.dumps({"do": do, "first": first, "count": count, **more})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer to the last command. Raises ``BenchFailed`` if there is none."""
        assert self._process.stdout is not None
        # It sends one line and waits, so nothing of an answer can be in our buffer already.
        if not select.select([self._process.stdout], [], [], ANSWER_TIME)[0]:
            raise self.failure(f"gave no answer in {ANSWER_TIME:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self.failure("ended without an answer")
        found: dict[str, Any] = json.loads(line)
        return found

    def do(self, do: str, first: int, count: int, **more: Any) -> dict[str, Any]:
        self.send(do, first, count, **more)
        return self.answer()


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time that these processes, their descendants, and those of them that ended, used."""
    # utime, stime, and the same of children that were waited for.
    return sum(
        sum(int(value) for value in _stat(pid)[11:15]) for pid in _tree(roots)
    ) / _TICK  # fmt: skip


def resident(roots: Iterable[int]) -> float:
    """Resident memory in MB. Pages that processes share are counted for each."""
    return sum(int(_stat(pid)[21]) for pid in _tree(roots)) * _PAGE / 1e6


def anonymous(roots: Iterable[int]) -> float:
    """Memory of the processes' own in MB: without files mapped, such as libraries and the board,
    whose pages become resident as jobs mark them."""
    return sum(_anonymous(pid) for pid in _tree(roots)) / 1e6


def _anonymous(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, found, rest = text.partition("RssAnon:")
    return int(rest.split()[0]) * 1024 if found else 0


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on; zeros for a process that has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 50
    return text.rpartition(")")[2].split()


def _tree(roots: Iterable[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return found
