"""The measurements: one function a row of the table, for one run of one system.

Each returns its figures by name; ``value`` is the one that is compared. Rates count jobs; where
history is recorded, they end only when the master holds each job's terminal record. Every run
ends with the proof that each job ran exactly once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.process import Producer, resident
from benchmarks.rig import WARM, Rig
from benchmarks.systems import System

__all__ = ["MEASURES", "Figures"]

Figures = dict[str, Any]
Measure = Callable[[System, int], Figures]

_S = 1e9


def enqueue(system: System, jobs: int) -> Figures:
    """64 callers in one process, each awaiting its own call; nobody works."""
    return _enqueue(system, jobs, "single")


def enqueue_bulk(system: System, jobs: int) -> Figures:
    """The system's call for many jobs, 1,000 at a time (our ``enqueue_many``)."""
    return _enqueue(system, jobs, "bulk")


def _enqueue(system: System, jobs: int, how: str) -> Figures:
    with Rig(system, jobs) as rig:
        producer = rig.producer()
        producer.do(how, jobs, WARM)
        before = rig.cpu(producer)
        answer = producer.do(how, 0, jobs)
        cpu = rig.cpu_since(before, jobs, producer)
        seconds = (answer["end"] - answer["begin"]) / _S
        # Nobody looks whether they were stored but a worker, to the last of them.
        producer.stop()
        rig.start_workers()
        rig.await_started(0, jobs)
        rig.verify(0, jobs)
    return {"value": jobs / seconds, **cpu}


def drain(system: System, jobs: int) -> Figures:
    """The rate at which a backlog is worked off, and recorded.

    The clock starts when a tenth has run and each worker has begun. What enqueuing leaves to
    record is recorded before.
    """
    return _drain(system, jobs, 1, True)


def drain_2(system: System, jobs: int) -> Figures:
    """The same with two worker processes."""
    return _drain(system, jobs, 2, True)


def drain_alone(system: System, jobs: int) -> Figures:
    """The worker alone, the recorder paused."""
    return _drain(system, jobs, 1, False)


def drain_threads(system: System, jobs: int) -> Figures:
    """Handlers that are ``def`` functions, run in threads."""
    return _drain(system, jobs, 1, True, handler="thread")


def _drain(
    system: System, jobs: int, workers: int, master: bool, handler: str = "quick"
) -> Figures:
    with Rig(system, jobs, handler=handler) as rig:
        if master:
            rig.start_master()
        preload(rig, jobs)
        if rig.master:
            rig.await_recorded(jobs, ended=False)
        before = rig.cpu()
        rig.start_workers(workers)
        rig.await_started(0, jobs)
        recorded = rig.await_recorded(jobs) if master else None
        cpu = rig.cpu_since(before, jobs)
        rig.verify(0, jobs)
        times = sorted(rig.board.started(job) for job in range(jobs))
        begun: dict[int, int] = {}
        for job in range(jobs):
            pid, at = rig.board.pid(job), rig.board.started(job)
            begun[pid] = min(begun.get(pid, at), at)
        start = max(times[jobs // 10], *begun.values())
        count = sum(at > start for at in times)
        end = times[-1] if recorded is None or not system.ours else recorded
        rss = resident(worker.pid for worker in rig.workers)
    return {
        "value": count / max(1, end - start) * _S,
        "ran": count / max(1, times[-1] - start) * _S,
        "processes": len(begun),
        "counted": count,
        **cpu,
        "worker_mb": rss,
    }


def preload(rig: Rig, jobs: int, handler: str | None = None) -> None:
    """Store jobs ``0 … jobs - 1``, by the system's call for many if it has one."""
    producer = rig.producer(handler)
    producer.do("bulk" if rig.system.bulk else "single", 0, jobs)
    producer.stop()


def flow(system: System, jobs: int) -> Figures:
    """Enqueue, one worker and the recorder at once, from the first call to the last record."""
    with Rig(system, jobs) as rig:
        return flow_through(rig, jobs, "single")


def flow_bulk(system: System, jobs: int) -> Figures:
    """The same with the bulk call."""
    with Rig(system, jobs) as rig:
        return flow_through(rig, jobs, "bulk")


def flow_through(rig: Rig, jobs: int, how: str) -> Figures:
    """The flow of jobs ``0 … jobs - 1`` on a rig that may hold others already."""
    producer = start_all(rig)
    before = rig.cpu(producer)
    answer = producer.do(how, 0, jobs)
    rig.await_started(0, jobs)
    end = max(rig.board.started(job) for job in range(jobs))
    ran = jobs / (end - answer["begin"]) * _S
    if rig.system.ours:
        end = rig.await_recorded(jobs + WARM)
    cpu = rig.cpu_since(before, jobs, producer)
    rig.verify(0, jobs + WARM)
    return {
        "value": jobs / (end - answer["begin"]) * _S,
        "ran": ran,
        "enqueued": jobs / (answer["end"] - answer["begin"]) * _S,
        **cpu,
        "worker_mb": resident(worker.pid for worker in rig.workers),
        "master_mb": resident([rig.master.pid]) if rig.master else 0.0,
    }


def start_all(rig: Rig) -> Producer:
    """Start master, worker and producer, and send the warm-up jobs through them."""
    rig.start_master()
    rig.start_workers()
    producer = rig.producer()
    producer.do("single", rig.jobs, WARM)
    rig.await_started(rig.jobs, rig.jobs + WARM)
    rig.await_recorded(WARM)
    return producer


def latency(system: System, jobs: int) -> Figures:
    """One job at a time on an idle system: ms from the call to the handler's start."""
    with Rig(system, jobs) as rig:
        producer = start_all(rig)
        sent = producer.do("latency", 0, jobs, pause=0.02)["sent"]
        rig.verify(0, jobs)
        took = sorted((rig.board.started(job) - at) / 1e6 for job, at in enumerate(sent))
    p50, p99 = statistics.median(took), took[min(jobs - 1, round(jobs * 0.99))]
    return {"value": p50, "p99": p99, "distribution": [round(ms, 3) for ms in took]}


MEASURES: dict[str, Measure] = {
    "enqueue": enqueue,
    "enqueue-bulk": enqueue_bulk,
    "drain": drain,
    "drain-2": drain_2,
    "drain-alone": drain_alone,
    "drain-threads": drain_threads,
    "flow": flow,
    "flow-bulk": flow_bulk,
    "latency": latency,
}
