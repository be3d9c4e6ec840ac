"""``python -m benchmarks``: measure jobmesh and its peers beside each other.

    python -m benchmarks setup                       # environments under .bench/
    python -m benchmarks run [--only 'jobmesh-*,pgqueuer'] [--rows enqueue,drain]
                             [--scale full|smoke|0.1] [--runs 3] [--output FILE]
    python -m benchmarks report [--input FILE]       # docs/performance.md from the results

Systems take turns, round by round, so that what the machine does meanwhile touches all alike.
Results are written after each measurement. ``run`` exits 1 if any run failed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.environments import set_up, versions
from benchmarks.process import BenchFailed
from benchmarks.report import PAGE, write_report
from benchmarks.results import LATEST, Results
from benchmarks.rows import MEASURES
from benchmarks.single import SINGLE
from benchmarks.systems import System, select
from benchmarks.workload import CURVE, ROWS, SCALES, Row
from mesh.testing.servers import ServerFailed

_MEASURES = {**MEASURES, **SINGLE, **dict.fromkeys(CURVE, SINGLE["curve"])}


def main() -> int:
    # The servers and processes of a run that is broken off go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make each system's environment")
    run = commands.add_parser("run", help="measure")
    for command in (setup, run):
        command.add_argument("--only", default="*", help="systems, as comma-separated globs")
    run.add_argument("--rows", default=",".join(ROWS), help="comma-separated")
    run.add_argument("--scale", default="full", help="full, smoke, or a factor such as 0.1")
    run.add_argument("--runs", type=int, default=3, help="rounds")
    run.add_argument("--output", type=Path, default=LATEST)
    report = commands.add_parser("report", help="write docs/performance.md")
    report.add_argument("--input", type=Path, default=LATEST)
    report.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    try:
        if arguments.command == "report":
            write_report(Results.load(arguments.input), arguments.page)
            return 0
        systems = select(arguments.only)
        if arguments.command == "setup":
            set_up(systems)
            return 0
        names = arguments.rows.split(",")
        if unknown := set(names) - ROWS.keys():
            raise ValueError(f"no row is named '{min(unknown)}' (known: {', '.join(ROWS)})")
        scale = SCALES.get(arguments.scale) or float(arguments.scale)
    except (ValueError, BenchFailed) as error:
        parser.error(str(error))
    results = Results.new(arguments.output, scale, versions())
    return measure(systems, [ROWS[name] for name in names], arguments.runs, results)


def measure(systems: list[System], rows: list[Row], runs: int, results: Results) -> int:
    """Every row of every system, ``runs`` times. Returns 1 if any of it failed, else 0."""
    for turn in range(runs):
        for row in rows:
            for system in systems:
                if row.takes(system) and turn < min(row.most_runs, system.rounds):
                    _measure(system, row, turn, results)
    return 1 if results.failures() else 0


def _measure(system: System, row: Row, turn: int, results: Results) -> None:
    jobs = row.size(system, results.data["scale"])
    begin = time.monotonic()
    try:
        figures = _MEASURES[row.name](system, jobs)
    except (BenchFailed, ServerFailed, OSError, subprocess.SubprocessError) as error:
        figures = {"error": f"{type(error).__name__}: {error}"}
        shown = f"FAILED: {error}"
    else:
        shown = f"{figures['value']:>11,.2f} {row.unit:<7}" + " ".join(
            f"{name}={value:,.4g}"
            for name, value in figures.items()
            if isinstance(value, float | int) and name != "value"
        )
    results.add(row.name, system.name, turn, jobs, figures)
    took = time.monotonic() - begin
    sys.stdout.write(
        f"{turn + 1} {row.name:<13} {system.name:<18} {jobs:>9,} jobs {took:>4.0f} s  {shown}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
