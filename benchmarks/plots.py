# mypy: disable-error-code="import-not-found"
"""The plots of docs/performance.md, as SVG. matplotlib is in the benchmarks' environment alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import Results
from benchmarks.systems import SYSTEMS
from benchmarks.workload import CURVE, TARGETS

__all__ = ["draw"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Draw what there are figures for; file names by caption."""
    import matplotlib

    matplotlib.use("svg")
    # The same results give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "jobmesh"
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for caption, name, painter in (
        ("Ratios to peers, least to greatest, with the targets", "ratios", _ratios),
        ("Throughput against backlog", "backlog", _backlog),
        ("Idle latency", "latency", _latency),
    ):
        figure = painter(results)
        if figure is not None:
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            drawn[caption] = f"{name}.svg"
    return drawn


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height))
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _ratios(results: Results) -> Any:
    found = [(t, r) for t in TARGETS if t.peer and (r := results.ratio(t)) is not None]
    if not found:
        return None
    figure, axes = _figure(0.6 + 0.35 * len(found))
    for place, (target, ratio) in enumerate(reversed(found)):
        color = "tab:blue" if ratio.met else "tab:red"
        axes.plot([ratio.least, ratio.most], [place, place], color=color, linewidth=5, alpha=0.4)
        axes.plot(ratio.value, place, "o", color=color)
        axes.plot(target.limit, place, ">" if target.bound == "≥" else "<", color="black")
    axes.set_yticks(range(len(found)), [f"{t.what} / {t.peer}" for t, _ in reversed(found)])
    axes.axvline(1, color="gray")
    axes.set_xscale("log")
    axes.set_xlabel("ours / peer's (triangle: the target, and the side to be on)")
    return figure


def _backlog(results: Results) -> Any:
    figure, axes = _figure(4)
    for name in SYSTEMS:
        points = [
            (size, value)
            for row, size in CURVE.items()
            if (value := results.median(row, name)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label=name)
    if not axes.lines:
        return None
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("jobs queued")
    axes.set_ylabel("handlers started, 1/s")
    axes.legend()
    return figure


def _latency(results: Results) -> Any:
    figure, axes = _figure(4.5)
    for name in SYSTEMS:
        rounds = results.figures("latency", name, "distribution").values()
        took = sorted(ms for one in rounds for ms in one)
        if took:
            shares = [(place + 1) / len(took) * 100 for place in range(len(took))]
            style = "-" if name.startswith("jobmesh-") else "--"
            axes.plot(took, shares, style, label=name)
    if not axes.lines:
        return None
    axes.set_xscale("log")
    axes.set_xlabel("ms from the call to the handler's start, one job at a time")
    axes.set_ylabel("% of jobs")
    axes.legend(fontsize="small")
    return figure
