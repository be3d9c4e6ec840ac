"""The workload: the rows, how many jobs each takes, which systems take part, what is aimed at.

The job is a no-op that gets one int and a 100-character string (``adapters/producer.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.systems import System

__all__ = ["CURVE", "ROWS", "SCALES", "TARGETS", "Row", "Target"]

SCALES = {"full": 1.0, "smoke": 0.02}

_MANY = 999


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to measure."""

    name: str
    title: str
    unit: str
    jobs: Callable[[System], int]
    """How many jobs a run of full scale takes."""
    takes: Callable[[System], bool] = lambda system: not system.bare
    """Whether a system takes part."""
    most_runs: int = _MANY
    """Fewer runs than asked for, where one takes minutes."""
    fewest: int = 200
    """Jobs, at any scale."""

    def size(self, system: System, scale: float) -> int:
        return max(self.fewest, round(self.jobs(system) * scale))


def _ours_on_nats(system: System) -> bool:
    return system.name == "jobmesh-nats"


def _has_bulk(system: System) -> bool:
    return system.bulk and not system.bare


def _enqueues(system: System) -> bool:
    return system.sizes.enqueue > 0


CURVE = {"curve-1k": 1_000, "curve-10k": 10_000, "curve-100k": 100_000, "curve-1m": 1_000_000}
"""The backlogs at which the drain is measured, by row."""

_ON_CURVE = ("jobmesh-nats", "jobmesh-postgres", "pgqueuer", "bullmq")


def _curve(name: str, backlog: int) -> Row:
    return Row(
        name,
        f"drain of the first 10,000 of {backlog:,} queued",
        "jobs/s",
        lambda system: backlog,
        lambda system: system.name in _ON_CURVE,
        most_runs=1,
    )


ROWS = {
    row.name: row
    for row in (
        Row("enqueue", "enqueue, 64 callers", "jobs/s", lambda s: s.sizes.enqueue, _enqueues),
        Row(
            "enqueue-bulk", "enqueue, bulk call", "jobs/s", lambda s: s.sizes.bulk, lambda s: s.bulk
        ),
        Row("drain", "drain, 1 worker", "jobs/s", lambda s: s.sizes.drain),
        Row("drain-2", "drain, 2 workers", "jobs/s", lambda s: s.sizes.drain, most_runs=1),
        Row(
            "drain-alone",
            "drain, recorder paused",
            "jobs/s",
            lambda s: s.sizes.drain,
            lambda s: bool(s.master),
        ),
        Row(
            "drain-threads",
            "drain, handlers in threads",
            "jobs/s",
            lambda s: s.sizes.drain // (2 if s.ours else 1),
            lambda s: s.threads or _ours_on_nats(s),
        ),
        Row("flow", "flow", "jobs/s", lambda s: s.sizes.flow),
        Row("flow-bulk", "flow, bulk call", "jobs/s", lambda s: s.sizes.drain, _has_bulk),
        Row("latency", "idle latency, p50", "ms", lambda s: 400, lambda s: True),
        Row("slow", "50 ms jobs: wall time over ideal", "x", lambda s: 10_000, _ours_on_nats),
        Row(
            "long",
            "1,000 quick jobs beside a ten-minute one",
            "s",
            lambda s: 1_001,
            _ours_on_nats,
            fewest=1_001,
        ),
        Row(
            "backlog",
            "flow beside 1,000,000 queued, over empty",
            "x",
            lambda s: 1_000_000,
            _ours_on_nats,
            most_runs=1,
        ),
        Row(
            "history",
            "flow with 5,000,000 jobs of history, over empty",
            "x",
            lambda s: 5_000_000,
            _ours_on_nats,
            most_runs=1,
        ),
        Row(
            "memory",
            "worker's growth over 1,000,000 jobs",
            "MB",
            lambda s: 1_000_000,
            _ours_on_nats,
            most_runs=1,
        ),
        Row("idle", "idle worker and master", "% CPU", lambda s: 30, _ours_on_nats, fewest=5),
        Row("cold", "cold start to the first job", "s", lambda s: 9, _ours_on_nats, fewest=3),
        *(_curve(name, backlog) for name, backlog in CURVE.items()),
    )
}


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: a figure of ours, as a ratio to a peer's figure or as such."""

    what: str
    row: str
    ours: str
    bound: Literal["≥", "≤"]
    limit: float
    peer: str | None = None
    peer_row: str | None = None
    """The peer's row, if it is another."""
    figure: str = "value"


_NATS = "jobmesh-nats"
_SYNC = "jobmesh-nats-sync"
_POSTGRES = "jobmesh-postgres"

TARGETS = (
    Target("enqueue, NATS", "enqueue", _NATS, "≥", 5, "taskiq-nats"),
    Target("enqueue, NATS", "enqueue", _NATS, "≥", 3, "bullmq"),
    Target("enqueue, NATS with fsync for every write", "enqueue", _SYNC, "≥", 3, "taskiq-nats"),
    Target("enqueue_many, NATS", "enqueue-bulk", _NATS, "≥", 3, "pgqueuer"),
    Target("drain with history, NATS", "drain", _NATS, "≥", 2, "pgqueuer"),
    Target("drain with history, NATS", "drain", _NATS, "≥", 4, "taskiq-nats"),
    Target("drain with history, NATS", "drain", _NATS, "≥", 30, "celery"),
    Target("drain, recorder paused, NATS", "drain-alone", _NATS, "≥", 4, "pgqueuer", "drain"),
    Target("flow with history, NATS", "flow", _NATS, "≥", 4, "taskiq-nats"),
    Target("flow with history, NATS", "flow", _NATS, "≥", 10, "pgqueuer"),
    Target("flow with history, NATS", "flow", _NATS, "≥", 1.6, "bullmq"),
    Target("bulk flow with history, NATS", "flow-bulk", _NATS, "≥", 1.6, "pgqueuer"),
    Target("idle latency p50, NATS", "latency", _NATS, "≤", 0.7, "taskiq-nats"),
    Target("idle latency p99, NATS", "latency", _NATS, "≤", 1, "taskiq-nats", figure="p99"),
    Target("drain with history, PostgreSQL", "drain", _POSTGRES, "≥", 1.2, "pgqueuer"),
    Target("enqueue, PostgreSQL", "enqueue", _POSTGRES, "≥", 5, "pgqueuer"),
    Target("idle latency p50, PostgreSQL", "latency", _POSTGRES, "≤", 0.6, "pgqueuer"),
    Target("flow with history, SQLite", "flow", "jobmesh-sqlite", "≥", 3, "huey"),
    Target("handlers in threads, NATS", "drain-threads", _NATS, "≥", 3, "dramatiq"),
    Target("50 ms jobs, 4 workers of 50: wall time over ideal", "slow", _NATS, "≤", 1.1),
    Target("1,000 quick jobs beside a ten-minute one: s", "long", _NATS, "≤", 1),
    Target("flow beside 1,000,000 queued, over empty", "backlog", _NATS, "≥", 0.85),
    Target("flow with history of 5,000,000, over empty", "history", _NATS, "≥", 0.85),
    Target("worker's growth over 1,000,000 jobs: MB", "memory", _NATS, "≤", 5),
    Target("worker's resident memory then: MB", "memory", _NATS, "≤", 90, figure="worker_mb"),
    Target("idle worker and master: % of a core", "idle", _NATS, "≤", 1),
    Target("idle worker and master: messages/s", "idle", _NATS, "≤", 5, figure="messages"),
    Target("import mesh and first enqueue: s", "cold", _NATS, "≤", 0.35),
    Target("mesh --help: s", "cold", _NATS, "≤", 0.4, figure="help"),
)
