"""One run: a server with nothing in it, a board, a system's processes. All of it goes at its end.

Job numbers: those to measure come first, then some to warm up with, then some to spare.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.board import Board
from benchmarks.history import History
from benchmarks.process import BenchFailed, Child, Producer, cpu_seconds
from benchmarks.servers import Kind, Server, make_server
from benchmarks.systems import System

__all__ = ["WARM", "Rig", "bench_folder"]

ROOT = Path(__file__).parent.parent
WARM = 200
"""Jobs to warm up with."""
PATIENCE = 60.0
"""Seconds without any progress after which a run has failed."""


def bench_folder() -> Path:
    """Where the systems' environments are."""
    return Path(os.environ.get("BENCH_FOLDER", ROOT / ".bench"))


class Rig:
    """A context manager: on enter the server is up and the system's tables are made."""

    def __init__(
        self,
        system: System,
        jobs: int,
        *,
        handler: str = "quick",
        concurrency: int = 100,
        env: dict[str, str] | None = None,
    ) -> None:
        self.system = system
        self.jobs = jobs
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.board = Board.create(self.folder / "board", jobs + 2 * WARM)
        self.workers: list[Child] = []
        self.master: Child | None = None
        self.servers: list[Server] = []
        """The system's own first."""
        self._concurrency = concurrency
        self._stack = ExitStack()
        self.env = {
            key: value for key, value in os.environ.items() if not key.startswith("MESH_")
        } | {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "BENCH_BOARD": str(self.folder / "board"),
            "BENCH_HANDLER": handler,
            "BENCH_CONCURRENCY": str(concurrency),
            "NODE_PATH": str(bench_folder() / system.adapter / "node_modules"),
            **dict(system.env),
            **(env or {}),
        }
        self._master_url: str | None = None
        self.history: History | None = None
        """What the master knows, for our systems."""

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._start_servers()
            if self.system.setup:
                self._child(self.system.setup, "setup").wait(60)
            if self._master_url:
                self.history = self._stack.enter_context(History(self._master_url))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start_servers(self) -> None:
        url = self._server(self.system.server, "server")
        self.env["BENCH_URL"] = url
        if self.system.ours:
            if self.system.server in ("postgres", "none"):
                master = self.env["MESH_URL"] = url
            else:
                master = self._server("postgres", "master")
                self.env |= {"MESH_MASTER": master, "MESH_AGENTS": f"agent={url}"}
            self._master_url = master
        elif self.system.server == "postgres":
            self.env["PGDSN"] = url

    def _server(self, kind: Kind, name: str) -> str:
        server, url = make_server(kind, self.folder / name)
        if server is not None:
            self.servers.append(server)
            self._stack.callback(server.close)
        return url

    # processes -------------------------------------------------------------------------------

    def _command(self, template: tuple[str, ...], number: int = 0) -> list[str]:
        words = [
            word.format(
                app=self.system.module,
                url=self.env["BENCH_URL"],
                concurrency=self._concurrency,
                n=number,
                root=ROOT,
            )
            for word in template
        ]
        local = self._programs() / words[0]
        return [str(local) if local.exists() else words[0], *words[1:]]

    def _programs(self) -> Path:
        """The folder of the system's programs."""
        return (
            Path(sys.executable).parent
            if self.system.ours or self.system.bare
            else bench_folder() / self.system.adapter / "bin"
        )

    def _child(self, template: tuple[str, ...], name: str, number: int = 0) -> Child:
        child = Child(
            self._command(template, number), env=self.env, log=self.folder / f"{name}.log"
        )
        self._stack.callback(child.stop)
        return child

    def start_master(self) -> None:
        """Start the recorder, for systems that have one."""
        if self.system.master:
            self.master = self._child(self.system.master, "master")

    def start_workers(self, count: int = 1) -> None:
        for number in range(count):
            self.workers.append(self._child(self.system.worker, f"worker-{number}", number))

    def producer(self, handler: str | None = None) -> Producer:
        """A connected producer; ``handler`` if not the run's own."""
        env = self.env | ({"BENCH_HANDLER": handler} if handler else {})
        template = self.system.producer or ("python", "-m", self.system.module)
        producer = Producer(self._command(template), env=env, log=self.folder / "producer.log")
        self._stack.callback(producer.stop)
        return producer

    def cpu(self, producer: Child | None = None) -> dict[str, float]:
        """CPU seconds used so far, by part: ``server`` is the system's own, ``database`` the
        master's."""
        pids: dict[str, list[int]] = {
            "worker": [worker.pid for worker in self.workers],
            "master": [self.master.pid] if self.master else [],
            "producer": [producer.pid] if producer else [],
        }
        for part, server in zip(("server", "database"), self.servers, strict=False):
            pids[part] = [server.pid]
        return {part: cpu_seconds(roots) for part, roots in pids.items() if roots}

    def cpu_since(
        self, before: dict[str, float], jobs: int, producer: Child | None = None
    ) -> dict[str, float]:
        """Figures: CPU time since ``before``, in µs a job, by part and in all."""
        used = {
            part: (seconds - before.get(part, 0.0)) / jobs * 1e6
            for part, seconds in self.cpu(producer).items()
        }
        return {f"{part}_us": value for part, value in used.items()} | {
            "cpu_us": sum(used.values())
        }

    # waiting ---------------------------------------------------------------------------------

    def await_started(self, first: int, end: int) -> None:
        """Return when jobs ``first … end - 1`` have all started. Raises ``BenchFailed``."""
        job, since = first, time.monotonic()
        while True:
            reached = self.board.missing_from(job, end)
            if reached == end:
                return
            if reached > job:
                job, since = reached, time.monotonic()
            self._check()
            if time.monotonic() > since + PATIENCE:
                worker = self.workers[0] if self.workers else None
                what = f"job {reached} has not started in {PATIENCE:.0f} s"
                raise worker.failure(what) if worker else BenchFailed(what)
            time.sleep(0.002)

    def await_recorded(self, jobs: int, *, ended: bool = True) -> int:
        """Return when the master knows that many jobs of this run (as ``ended``, or at all), and
        the moment. For systems without a recorder: at once."""
        begin = time.monotonic()
        while self.history is not None:
            asked = time.monotonic()
            known = self.history.count(ended=ended)
            now = time.monotonic()
            if known >= jobs:
                break
            if now > begin + PATIENCE:
                raise BenchFailed(f"the master knows {known} of {jobs} jobs")
            self._check()
            # Counting keeps the database busy, so seldom at first: a quarter of what is left at
            # the speed so far, and never more than a fifth of the time.
            left = (jobs - known) / max(known, 1) * (now - begin)
            time.sleep(max(0.01, 4 * (now - asked), min(left / 4, 0.25)))
        return time.monotonic_ns()

    def _check(self) -> None:
        for child in (*self.workers, *([self.master] if self.master else [])):
            child.check()

    def verify(self, first: int, end: int) -> None:
        """Raises ``BenchFailed`` unless each of the jobs ran exactly once."""
        wrong = self.board.wrong(first, end)
        if wrong:
            job, runs = next(iter(wrong.items()))
            raise BenchFailed(
                f"{self.system.name}: {len(wrong)} jobs did not run once: job {job}, {runs} times"
            )
