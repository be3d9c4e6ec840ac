"""docs/performance.md from the results.

What people wrote between the two ``notes`` marks of the page stays.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.results import Results
from benchmarks.systems import SYSTEMS, System
from benchmarks.workload import ROWS, TARGETS

__all__ = ["write_report"]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- notes: begin -->", "<!-- notes: end -->"

_TABLE = (
    *("enqueue", "enqueue-bulk", "drain", "drain-alone", "drain-2"),
    *("drain-threads", "flow", "flow-bulk", "latency"),
)


def write_report(results: Results, page: Path = PAGE) -> None:
    """Write the page, and its plots into the folder of the page's name beside it."""
    plots = draw(results, page.with_suffix(""))
    page.write_text(
        "\n\n".join(
            [
                "# Performance",
                _head(results),
                "## Targets",
                _targets(results),
                *(f"![{name}]({page.stem}/{file})" for name, file in plots.items()),
                "## All systems",
                _table(results),
                "## Where the time goes",
                _parts(results),
                "## What a peer does better",
                _better(results),
                "## What pays, and what does not",
                f"{BEGIN}\n{_notes(page)}\n{END}",
                "## Settings",
                _settings(),
                "## Machine and versions",
                _versions(results),
            ]
        )
        + "\n"
    )


def _head(results: Results) -> str:
    rounds = 1 + max((m["turn"] for m in results.data["measurements"]), default=0)
    smoke = (
        ""
        if results.data["scale"] >= 1
        else f"\n\n**Scaled to {results.data['scale']:g} of the full job counts: a check that "
        "everything works, not a measurement.**"
    )
    return f"""\
Written by `make bench` on {results.data["date"][:10]}: do not edit, but for the notes. The job is a
no-op with one int and a 100-character string. Every process, server and system ran on the same
machine; systems took turns in each of {rounds} rounds (one round for two workers, for the rows that
take minutes, and for systems that no target names). Figures are medians; ratios are of medians,
with the least and greatest of single rounds. In each run every job was seen to run exactly once, on
a board that all processes share, and our rates count a job only when the master, on PostgreSQL
with fsync on, holds its terminal record (on SQLite its own file; with the recorder paused the
handler's start).

- **enqueue**: 64 callers in one process, each awaiting its own call. **bulk**: the system's call
  for many jobs, 1,000 at a time.
- **drain**: a backlog worked off, from its first tenth on.
- **flow**: 64 callers enqueue while one worker works and, for us, the recorder records.
- **idle latency**: one job at a time, from the call to the handler's start.
- **bare-nats**, **bare-postgres**: no systems, but what driver and server take with nothing around
  them: a floor.{smoke}"""


def _targets(results: Results) -> str:
    lines = [
        "| | target | measured | least to greatest | ours | peer's | |",
        "|---|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        against = f"times {target.peer}" if target.peer else ""
        aim = f"{target.bound} {target.limit:g} {against}".strip()
        ratio = results.ratio(target)
        if ratio is None:
            lines.append(f"| {target.what} | {aim} | not measured | | | | |")
            continue
        spread = f"{_short(ratio.least)} to {_short(ratio.most)}"
        peer = "" if ratio.peer is None else _short(ratio.peer)
        verdict = "met" if ratio.met else "**missed**"
        lines.append(
            f"| {target.what} | {aim} | {_short(ratio.value)} | {spread} "
            f"| {_short(ratio.ours)} | {peer} | {verdict} |"
        )
    return "\n".join(lines)


def _table(results: Results) -> str:
    rows = [ROWS[name] for name in _TABLE]
    heads = [f"{row.title}, {row.unit}" for row in rows]
    lines = [
        f"| | {' | '.join(heads)} | idle latency, p99, ms | keeps history |",
        "|---" * (len(rows) + 3) + "|",
    ]
    for system in SYSTEMS.values():
        cells = [_cell(results, row.name, system) for row in rows]
        cells += [
            _cell(results, "latency", system, "p99"),
            "" if system.bare else "yes" if system.history else "no",
        ]
        lines.append(f"| {system.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(results: Results, row: str, system: System, figure: str = "value") -> str:
    value = results.median(row, system.name, figure)
    return "" if value is None else _short(value)


def _parts(results: Results) -> str:
    """CPU time by process, of the rows that have several."""
    parts = ("producer", "server", "worker", "master", "database")
    lines = [
        "CPU time in microseconds a job, medians, start-up of the worker included in drains. The "
        "sum, over two cores, bounds the rate.",
        "",
        f"| | {' | '.join(parts)} | sum |",
        "|---" * (len(parts) + 2) + "|",
    ]
    for row in ("enqueue", "enqueue-bulk", "drain", "drain-alone", "flow", "flow-bulk"):
        for system in ("jobmesh-nats", "jobmesh-postgres", "pgqueuer", "taskiq-nats", "bullmq"):
            figures = [f"{part}_us" for part in parts] + ["cpu_us"]
            known = [results.median(row, system, figure) for figure in figures]
            if known[-1] is not None:
                cells = ["" if value is None else _short(value) for value in known]
                lines.append(f"| {ROWS[row].title}: {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _better(results: Results) -> str:
    lines = [
        f"- {title}: {peer} {_short(value)}, {ours} {_short(mine)}."
        for title, peer, value, ours, mine in results.better_peers()
    ]
    for failure in results.failures():
        # Without the paths of the machine it ran on.
        what = re.sub(r"\S*/", "", failure["error"].splitlines()[0])
        lines.append(f"- Failed: {failure['row']} of {failure['system']}: {what}")
    return "\n".join(lines) or "Nothing in these rows."


def _notes(page: Path) -> str:
    text = page.read_text() if page.exists() else ""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def _settings() -> str:
    parts = ["What each system is set to, from the docstring of its adapter in `benchmarks/`."]
    servers = ast.get_docstring(ast.parse((Path(__file__).parent / "servers.py").read_text()))
    parts.append(f"**Servers.** {servers}")
    for adapter in dict.fromkeys(system.adapter for system in SYSTEMS.values()):
        source = Path(__file__).parent / "adapters" / f"{adapter}.py"
        if source.exists():
            text = ast.get_docstring(ast.parse(source.read_text())) or ""
        else:
            lines = source.with_suffix(".cjs").read_text().splitlines()
            head = lines[: lines.index('"use strict";')]
            text = "\n".join(line.removeprefix("//").strip() for line in head)
        first, _, rest = text.partition("\n")
        parts.append(f"**{first.strip()}** {rest.strip()}")
    return "\n\n".join(parts).replace("``", "`")


def _versions(results: Results) -> str:
    machine = results.data["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}.",
        "",
    ]
    for name, packages in results.data["versions"].items():
        lines.append(f"- {name}: " + ", ".join(f"{p} {v}" for p, v in packages.items()))
    return "\n".join(lines)


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
