"""``mesh demo``: real jobs on real input that every machine has, Python's own standard library.

One job per source file (lane ``parse``, CPU-bound, in threads), some of which fail at first and
recover; one report per package (lane ``report``) as soon as its files are done. Everything runs
in this process: coordinator, worker and producer, on one SQLite file, or with a nats-server as
the agent. The history stays in a temporary folder for ``mesh jobs``. The dashboard is open
meanwhile, and, where there is a terminal, afterwards, with a shop for it to show (``demo_shop``).
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import sysconfig
import tempfile
import time
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mesh.app import Mesh
from mesh.console import run
from mesh.context import Context
from mesh.demo_shop import LANES, open_shop
from mesh.errors import ConfigError, JobNotSucceeded
from mesh.handler import Handler
from mesh.job import State
from mesh.job_handle import JobHandle
from mesh.retry import Retry
from mesh.roles import RoleOptions, make_role
from mesh.service import Group, Service

__all__ = ["FileReport", "PackageReport", "demo"]

_LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
_FLAKY_ONE_IN = 40
_ROWS = 15


@dataclass(frozen=True)
class FileReport:
    """What one source file holds."""

    lines: int
    functions: int
    classes: int
    comments: int
    tokens: int


@dataclass(frozen=True)
class PackageReport:
    """The sum over a package's files."""

    package: str
    files: int
    lines: int
    functions: int
    classes: int
    comments: int


class FlakyDisk(OSError):
    """The demo's deliberate failure: some files cannot be read at the first try."""


def parse_file(ctx: Context[Any], path: str) -> FileReport:
    """Tokenize a file and count what is in it."""
    if ctx.attempt == 1 and zlib.crc32(os.path.basename(path).encode()) % _FLAKY_ONE_IN == 0:
        raise FlakyDisk(f"{path} cannot be read just now")
    source = Path(path).read_bytes()
    counts: Counter[str] = Counter()
    tokens = 0
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        tokens += 1
        if token.type == tokenize.COMMENT:
            counts["comment"] += 1
        elif token.type == tokenize.NAME:
            counts[token.string] += 1
    return FileReport(
        source.count(b"\n"), counts["def"], counts["class"], counts["comment"], tokens
    )


async def report_package(package: str, files: list[FileReport]) -> PackageReport:
    """Add up a package."""
    return PackageReport(
        package,
        len(files),
        sum(f.lines for f in files),
        sum(f.functions for f in files),
        sum(f.classes for f in files),
        sum(f.comments for f in files),
    )


def find_packages(most: int | None) -> dict[str, list[str]]:
    """The standard library's source files by package; single modules count as one package."""
    root = Path(sysconfig.get_path("stdlib"))
    packages: dict[str, list[str]] = {}
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        inside = Path(folder).relative_to(root).parts
        package = inside[0] if inside else "(modules)"
        for file in sorted(files):
            if file.endswith(".py") and (most is None or count < most):
                packages.setdefault(package, []).append(os.path.join(folder, file))
                count += 1
    return packages


class Display(Protocol):
    """Shows how far the demo is."""

    def advance(self, lane: str) -> None: ...
    def note(self, text: str) -> None: ...


class _Bars:
    """For a terminal."""

    def __init__(self, console: Console, totals: dict[str, int]) -> None:
        self.progress = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks = {lane: self.progress.add_task(lane, total=n) for lane, n in totals.items()}

    def advance(self, lane: str) -> None:
        self.progress.advance(self._tasks[lane])

    def note(self, text: str) -> None:
        pass


class _Lines:
    """For a pipe or a log."""

    def __init__(self, console: Console, totals: dict[str, int]) -> None:
        self._console = console
        self._totals = totals
        self._done: Counter[str] = Counter()

    def advance(self, lane: str) -> None:
        self._done[lane] += 1
        done, total = self._done[lane], self._totals[lane]
        if done == total or done % max(1, total // 10) == 0:
            self._console.print(f"{lane}: {done} of {total} jobs done", highlight=False)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False)


@contextmanager
def _display(console: Console, totals: dict[str, int]) -> Iterator[Display]:
    if not console.is_terminal:
        yield _Lines(console, totals)
        return
    bars = _Bars(console, totals)
    with bars.progress:
        yield bars


def demo(agent: str = "local", files: int | None = None, once: bool = False) -> None:
    """Run the demo; raises ``SystemExit(1)`` if a job did not succeed. With a terminal the
    dashboard then stays open, and a shop runs for it to show, until Ctrl-C; not so ``once``."""
    console = Console()
    # The failures are deliberate: counted in the summary, not shouted through the display.
    logging.getLogger("mesh").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="mesh-demo-"))
    master = f"sqlite:///{folder / 'mesh.db'}"
    with ExitStack() as stack:
        if agent == "local":
            app = Mesh(master)
        elif agent == "nats":
            from mesh.testing.servers import NatsServer

            server = stack.enter_context(NatsServer())
            console.print(f"nats-server with JetStream at {server.url}", highlight=False)
            app = Mesh(master=master, agents={"nats": server.url})
        else:
            raise ConfigError(f"mesh demo --agent {agent}: must be 'local' or 'nats'")
        try:
            failed = run(
                _demo(app, console, find_packages(files), console.is_terminal and not once)
            )
        except KeyboardInterrupt:
            console.print("interrupted", style="yellow")
            raise SystemExit(130) from None
    console.print(
        f"\nThe history is kept. Look at it:  mesh jobs ls --master {master}", soft_wrap=True
    )
    if failed:
        raise SystemExit(1)


async def _demo(app: Mesh, console: Console, packages: dict[str, list[str]], stays: bool) -> int:
    """Returns how many jobs did not succeed."""
    parse = app.job(lane="parse", retry=Retry(3, delay=0.5))(parse_file)
    report = app.job(lane="report")(report_package)
    keep_busy = open_shop(app)
    lanes = {"parse": os.cpu_count() or 2, "report": 4, **LANES}
    roles = [make_role(name, app, RoleOptions(lanes=lanes)) for name in ("coordinator", "worker")]
    dashboard = _dashboard(app)
    totals = {"parse": sum(map(len, packages.values())), "report": len(packages)}
    begun = time.perf_counter()
    services = Group("demo", [*roles, *dashboard])
    async with app, services:
        for server in dashboard:
            console.print(f"The dashboard is open at [bold]{server.url}[/]")  # type: ignore[attr-defined]
        with _display(console, totals) as display:
            async with asyncio.TaskGroup() as tasks:
                # Should the services end before the work does, so does the demo, with their error.
                watch = tasks.create_task(services.wait())
                work = [
                    tasks.create_task(_package(parse, report, name, paths, display))
                    for name, paths in packages.items()
                ]
                done = [await task for task in work]
                watch.cancel()
        elapsed = time.perf_counter() - begun
        states = await (await app.master()).count_jobs()
        handles = [handle for package in done for handle in package.handles]
        retried = await _count_retries(app, handles)
        _print_summary(console, done, states, retried, elapsed)
        if stays and dashboard:
            await _stay(console, services, keep_busy)
    return sum(package.failed for package in done)


def _dashboard(app: Mesh) -> list[Service]:
    """The HTTP API, if it is installed."""
    try:
        return [make_role("api", app, RoleOptions(http="127.0.0.1:0"))]
    except ConfigError:
        return []


async def _stay(
    console: Console, services: Service, keep_busy: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    console.print(
        "\nThe dashboard stays open, and a shop sends mails, exports orders and answers questions "
        "for it to show. Ctrl-C ends it."
    )
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    busy, end = asyncio.create_task(keep_busy()), asyncio.create_task(ended.wait())
    watch = asyncio.create_task(services.wait())
    await asyncio.wait([busy, end, watch], return_when=asyncio.FIRST_COMPLETED)
    for task in (busy, end, watch):
        task.cancel()
    await asyncio.gather(busy, end, watch, return_exceptions=True)
    console.print("ending …")


@dataclass
class _Package:
    report: PackageReport | None
    handles: list[JobHandle[Any]]
    failed: int


async def _package(
    parse: Handler[[str], FileReport, FileReport],
    report: Handler[[str, list[FileReport]], PackageReport, Any],
    name: str,
    paths: Sequence[str],
    display: Display,
) -> _Package:
    jobs = await parse.enqueue_many([(path,) for path in paths])
    reports: list[FileReport] = []
    failed = 0

    async def collect(job: JobHandle[FileReport]) -> None:
        nonlocal failed
        try:
            reports.append(await job.result())
        except JobNotSucceeded as error:
            failed += 1
            display.note(str(error))
        display.advance("parse")

    async with asyncio.TaskGroup() as tasks:
        for job in jobs:
            tasks.create_task(collect(job))
    last = await report.enqueue(name, reports)
    result = await last.result()
    display.advance("report")
    display.note(f"package {name}: {result.files} files, {result.lines:,} lines")
    return _Package(result, [*jobs, last], failed)


async def _count_retries(app: Mesh, handles: Sequence[JobHandle[Any]]) -> int:
    master = await app.master()
    retries = 0
    for start in range(0, len(handles), 500):
        found = await master.get_jobs([handle.id for handle in handles[start : start + 500]])
        retries += sum(job.attempt - 1 for job in found.values())
    return retries


def _print_summary(
    console: Console,
    done: Sequence[_Package],
    states: dict[State, int],
    retried: int,
    elapsed: float,
) -> None:
    reports = sorted(
        (p.report for p in done if p.report is not None), key=lambda r: r.lines, reverse=True
    )
    columns = ("files", "lines", "functions", "classes", "comments")
    table = Table(title="Python's standard library, by package")
    table.add_column("package")
    for column in columns:
        table.add_column(column, justify="right")
    for entry in reports[:_ROWS]:
        table.add_row(entry.package, *(f"{getattr(entry, c):,}" for c in columns))
    if len(reports) > _ROWS:
        rest = [sum(getattr(r, c) for r in reports[_ROWS:]) for c in columns]
        table.add_row(f"{len(reports) - _ROWS} more", *(f"{n:,}" for n in rest), style="dim")
    total = [sum(getattr(r, c) for r in reports) for c in columns]
    table.add_section()
    table.add_row("all", *(f"{n:,}" for n in total), style="bold")
    console.print(table)
    jobs = sum(states.values())
    told = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
    console.print(
        f"{jobs:,} jobs in {elapsed:.1f} s ({jobs / elapsed:,.0f} jobs/s): {told}; "
        f"{retried} failed on purpose, were retried and recovered.",
        highlight=False,
    )
