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
from benchmarks.process import BenchFailed, Child, Producer, cpu_seconds
from benchmarks.servers import Kind, Server, make_server
from benchmarks.systems import System
from mesh import Mesh, State

__all__ = ["WARM", "Rig", "bench_folder"]

ROOT = Path(__file__).parent.parent
WARM = 200
"""Jobs to warm up with."""
PATIENCE = 300.0
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
        self.server: Server | None = None
        self.servers: list[Server] = []
        self._concurrency = concurrency
        self._stack = ExitStack()
        self._env = {
            key: value for key, value in os.environ.items() if not key.startswith("MESH_")
        } | {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "BENCH_BOARD": str(self.folder / "board"),
            "BENCH_HANDLER": handler,
            "BENCH_CONCURRENCY": str(concurrency),
            "NODE_PATH": str(bench_folder() / system.adapter / "node_modules"),
            **(env or {}),
        }
        self._mesh: Mesh | None = None

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._start_servers()
            if self.system.setup:
                self._child(self.system.setup, "setup").wait(60)
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
        self.server, url = self._server(self.system.server, "server")
        self._env["BENCH_URL"] = url
        if self.system.ours:
            if self.system.server in ("postgres", "none"):
                master = self._env["MESH_URL"] = url
            else:
                _, master = self._server("postgres", "master")
                self._env |= {"MESH_MASTER": master, "MESH_AGENTS": f"agent={url}"}
            self._mesh = Mesh(master=master)
            self._stack.callback(self._mesh.sync.close)
        elif self.system.server == "postgres":
            self._env["PGDSN"] = url

    def _server(self, kind: Kind, name: str) -> tuple[Server | None, str]:
        server, url = make_server(kind, self.folder / name)
        if server is not None:
            self.servers.append(server)
            self._stack.callback(server.close)
        return server, url

    # processes -------------------------------------------------------------------------------

    def _command(self, template: tuple[str, ...], number: int = 0) -> list[str]:
        words = [
            word.format(
                app=self.system.module,
                url=self._env["BENCH_URL"],
                concurrency=self._concurrency,
                n=number,
                root=ROOT,
            )
            for word in template
        ]
        local = self._environment() / words[0]
        return [str(local) if local.exists() else words[0], *words[1:]]

    def _environment(self) -> Path:
        """The folder of the system's programs."""
        return (
            Path(sys.executable).parent
            if self.system.ours
            else bench_folder() / self.system.adapter / "bin"
        )

    def _child(self, template: tuple[str, ...], name: str, number: int = 0) -> Child:
        child = Child(
            self._command(template, number), env=self._env, log=self.folder / f"{name}.log"
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
        env = self._env | ({"BENCH_HANDLER": handler} if handler else {})
        template = self.system.producer or ("python", "-m", self.system.module)
        producer = Producer(self._command(template), env=env, log=self.folder / "producer.log")
        self._stack.callback(producer.stop)
        return producer

    def cpu(self, *others: Child) -> float:
        """CPU seconds that the servers, workers, master and ``others`` used so far."""
        children = [*self.workers, *([self.master] if self.master else []), *others]
        return cpu_seconds([*(c.pid for c in children), *(s.pid for s in self.servers)])

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
            for child in (*self.workers, *([self.master] if self.master else [])):
                child.check()
            if time.monotonic() > since + PATIENCE:
                worker = self.workers[0] if self.workers else None
                what = f"job {reached} has not started in {PATIENCE:.0f} s"
                raise worker.failure(what) if worker else BenchFailed(what)
            time.sleep(0.002)

    def await_recorded(self, count: int, *states: State) -> int:
        """Return when the master has that many jobs (in ``states``, if given), and the moment.
        For systems without a recorder: at once."""
        deadline = time.monotonic() + PATIENCE
        while self._mesh is not None and self.recorded(*states) < count:
            if time.monotonic() > deadline:
                raise BenchFailed(f"the master has {self.recorded(*states)} of {count} jobs")
            time.sleep(0.01)
        return time.monotonic_ns()

    def recorded(self, *states: State) -> int:
        """How many jobs the master has in these states (none given: in any)."""
        mesh = self._mesh
        assert mesh is not None

        async def ask() -> int:
            counts = await (await mesh.master()).count_jobs()
            return sum(n for state, n in counts.items() if not states or state in states)

        return mesh.sync(ask())

    def verify(self, first: int, end: int) -> None:
        """Raises ``BenchFailed`` unless each of the jobs ran exactly once."""
        wrong = self.board.wrong(first, end)
        if wrong:
            job, runs = next(iter(wrong.items()))
            raise BenchFailed(
                f"{self.system.name}: {len(wrong)} jobs did not run once: job {job} ran {runs}×"
            )
