"""``python -m benchmarks``: measure jobmesh and its peers beside each other.

    python -m benchmarks setup                       # environments under .bench/
    python -m benchmarks run [--only 'jobmesh-*,pgqueuer'] [--rows enqueue,drain]
                             [--scale full|smoke|0.1] [--runs 3]
    python -m benchmarks report                      # docs/performance.md from the results

Runs of all systems are interleaved, round by round, so that what the machine does meanwhile
touches all alike. Results are written after each measurement.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.process import BenchFailed
from benchmarks.results import Results
from benchmarks.rows import MEASURES
from benchmarks.systems import System, select
from benchmarks.workload import SCALES, jobs_for, takes_part

say = sys.stdout.write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("--only", default="*", help="systems, as comma-separated globs")
    run.add_argument("--rows", default=",".join(MEASURES), help="comma-separated")
    run.add_argument("--scale", default="full", help="full, smoke, or a factor such as 0.1")
    run.add_argument("--runs", type=int, default=3)
    run.add_argument("--output", help="where the results go (default: benchmarks/results/latest)")
    arguments = parser.parse_args()
    try:
        systems = select(arguments.only)
        rows = arguments.rows.split(",")
        if unknown := set(rows) - MEASURES.keys():
            raise ValueError(f"no row is named {min(unknown)} (known: {', '.join(MEASURES)})")
        scale = SCALES.get(arguments.scale) or float(arguments.scale)
    except ValueError as error:
        parser.error(str(error))
    return measure(systems, rows, scale, arguments.runs, Results(arguments.output, scale))


def measure(
    systems: list[System], rows: list[str], scale: float, runs: int, results: Results
) -> int:
    """Every row of every system, ``runs`` times. Returns how many measurements failed."""
    failed = 0
    for turn in range(runs):
        for row in rows:
            for system in systems:
                if not takes_part(system, row):
                    continue
                jobs = jobs_for(system, row, scale)
                begin = time.monotonic()
                try:
                    figures = MEASURES[row](system, jobs)
                except BenchFailed as error:
                    failed += 1
                    results.add(row, system.name, turn, jobs, {"error": str(error)})
                    say(f"{turn + 1} {row:<14} {system.name:<18} FAILED: {error}\n")
                    continue
                results.add(row, system.name, turn, jobs, figures)
                shown = " ".join(
                    f"{name}={value:,.4g}"
                    for name, value in figures.items()
                    if isinstance(value, float | int) and name != "value"
                )
                say(
                    f"{turn + 1} {row:<14} {system.name:<18} {figures['value']:>10,.1f}  "
                    f"({jobs:,} jobs, {time.monotonic() - begin:.0f} s) {shown}\n"
                )
                sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
