"""What breaks first as a cluster grows: ``python -m benchmarks.scale`` writes the tables of
docs/scale.md.

A simulation in steps of a second, of one hour with a burst: jobs flow from producers through the
lanes of agents to workers, and through ledgers and recorders into the master's database. Each stage
takes what its processes can, by the CPU time a job costs there, which is measured; the rest waits.
It is a model: it knows of CPU time, bytes and queues, and of nothing else.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "COSTS",
    "GROWTH",
    "LAYOUTS",
    "Costs",
    "Layout",
    "Outcome",
    "costs_table",
    "simulate",
    "table",
]

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"

BASE = 100.0
"""Jobs a second, on average, that the smallest layout is for: 8.6 million a day."""
GROWTH = (1, 10, 100, 1000)
BURST, BURST_SECONDS, HOUR = 3.0, 300, 3600
"""For five minutes there come three times as many."""
HEADROOM = 0.7
"""A stage that is busier than this on average is said to be at its limit: queues grow steeply."""
DISK = 2e12
"""Bytes of the master's disk in the smallest layout."""


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds a job takes, of the janitor seconds, and bytes. Measured: see docs/scale.md."""

    agent: float = 6.25e-6
    worker: float = 10.7e-6
    handler: float = 2e-3
    """Not ours: what a handler computes, as an example."""
    recorder: float = 16e-6
    master: float = 14.1e-6
    janitor: float = 67e-6
    """Seconds of its one connection, when it does not keep up otherwise."""
    history: float = 426
    """Bytes that stay in the master, with indexes, without arguments and result."""
    wal: float = 818
    """Bytes that the master's database writes ahead."""
    payload: float = 300
    """Not ours: bytes of arguments and result, as an example."""


COSTS = Costs()


@dataclass(frozen=True, slots=True)
class Layout:
    """What runs. One recorder for each agent; a process computes on one core."""

    agents: int = 1
    workers: int = 2
    masters: int = 1
    """Clusters, each with a master of its own."""
    master_cores: float = 2.0
    retention: float = 7.0
    """Days."""
    name: str = ""


LAYOUTS: Mapping[int, tuple[Layout, ...]] = {
    1: (Layout(name="one machine"),),
    10: (
        Layout(name="one machine"),
        Layout(workers=6, name="workers on machines of their own"),
    ),
    100: (
        Layout(workers=6, name="as before"),
        Layout(workers=60, name="60 worker processes"),
        Layout(workers=60, retention=1, master_cores=4, name="and history for a day"),
    ),
    1000: (
        Layout(workers=600, retention=1, master_cores=4, name="600 worker processes"),
        Layout(agents=8, workers=600, retention=1, master_cores=4, name="and 8 agents"),
        Layout(
            agents=10,
            workers=600,
            masters=10,
            master_cores=4,
            retention=1,
            name="as 10 clusters",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    busy: Mapping[str, float]
    """By stage: the share of what it can do that the average takes."""
    lane: float
    """Seconds that the last job to begin had waited, at worst."""
    history: float
    """Seconds that the history was behind, at worst."""
    disk: float
    """Bytes that the history takes."""
    wal: float
    """Bytes a second that a master's database writes ahead, in the burst."""

    @property
    def first(self) -> str:
        """The stage that is nearest to its limit."""
        return max(self.busy, key=lambda stage: self.busy[stage])

    @property
    def holds(self) -> bool:
        return self.busy[self.first] <= HEADROOM


def simulate(rate: float, layout: Layout, costs: Costs = COSTS) -> Outcome:
    """An hour of ``rate`` jobs a second, with a burst in it."""
    can = {
        "agents": layout.agents / costs.agent,
        "workers": layout.workers / (costs.worker + costs.handler),
        "recorders": layout.agents / costs.recorder,
        "master": layout.masters * layout.master_cores / costs.master,
        "janitor": layout.masters / costs.janitor,
    }
    waiting = behind = lane = history = 0.0
    for second in range(HOUR):
        coming = rate * (BURST if HOUR / 3 <= second < HOUR / 3 + BURST_SECONDS else 1.0)
        waiting += coming
        done = min(waiting, can["workers"], can["agents"])
        waiting -= done
        behind += done
        behind -= min(behind, can["recorders"], can["master"])
        lane = max(lane, waiting / min(can["workers"], can["agents"]))
        history = max(history, behind / min(can["recorders"], can["master"]))
    disk = rate * 86_400 * layout.retention * (costs.history + costs.payload)
    busy = {stage: rate / limit for stage, limit in can.items()}
    busy["master's disk"] = disk / (DISK * layout.masters)
    wal = rate * BURST * (costs.wal + costs.payload) / layout.masters
    return Outcome(busy, lane, history, disk, wal)


_LEVERS = {
    "workers": "more worker processes",
    "master's disk": "shorter `retention`, a larger disk",
    "recorders": "more agents: each has a recorder of its own",
    "agents": "more agents",
    "master": "clusters of their own for parts of the application",
    "janitor": "clusters of their own for parts of the application",
}


def table() -> str:
    """What the simulation says, as Markdown."""
    lines = [
        "| jobs/s (burst) | layout | first at its limit, then | the first is busy "
        "| wait in the burst | history behind | history | WAL | the lever |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for growth in GROWTH:
        rate = BASE * growth
        for layout in LAYOUTS[growth]:
            end = simulate(rate, layout)
            over = sorted(
                (stage for stage, busy in end.busy.items() if busy > HEADROOM),
                key=lambda stage: -end.busy[stage],
            )
            first = ", ".join(f"**{stage}**" for stage in over) or end.first
            lever = "; ".join(_LEVERS[stage] for stage in over) or "holds"
            lines.append(
                f"| {rate:,.0f} ({rate * BURST:,.0f}) | {layout.name} | {first} "
                f"| {end.busy[end.first]:.0%} | {_time(end.lane)} | {_time(end.history)} "
                f"| {_bytes(end.disk)} | {_bytes(end.wal)}/s | {lever} |"
            )
    return "\n".join(lines)


def costs_table(costs: Costs = COSTS) -> str:
    """What a job costs, as Markdown."""
    bench, keeping = "`make bench`, row flow", "`python -m benchmarks.keeping`"
    lines = ["| where | a job | limit of one | by |", "|---|---|---|---|"]
    for where, seconds, by in (
        ("an agent (nats-server), CPU time", costs.agent, bench),
        ("a worker process, without the handler, CPU time", costs.worker, bench),
        ("a recorder, one for each agent, CPU time", costs.recorder, bench),
        ("a core of the master's PostgreSQL, CPU time, at worst", costs.master, bench),
        ("the janitor, one for each master, when it does not keep up", costs.janitor, keeping),
    ):
        limit = float(f"{1 / seconds:.2g}")
        lines.append(f"| {where} | {seconds * 1e6:.3g} µs | {limit:,.0f} jobs/s | {by} |")
    for where, size in (
        ("the history, with indexes, without arguments and result", costs.history),
        ("written ahead (WAL), recorded at its end", costs.wal),
    ):
        lines.append(f"| {where} | {size:.0f} bytes | | {keeping} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def _bytes(number: float) -> str:
    power = int(math.log(max(number, 1), 1000))
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def main() -> int:
    fresh = page = PAGE.read_text()
    for name, text in (("costs", costs_table()), ("simulation", table())):
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = fresh.split(begin)
        _, after = rest.split(end)
        fresh = f"{before}{begin}\n{text}\n{end}{after}"
    if sys.argv[1:] == ["--check"]:
        return int(fresh != page)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
