"""The rows that no table of rates holds: fairness, backlogs, memory, idle cost, cold start.

They return figures as ``rows`` does, and those that run jobs end with the same proof.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.process import anonymous, cpu_seconds, resident
from benchmarks.rig import WARM, Rig
from benchmarks.rows import Figures, flow_through, preload, start_all
from benchmarks.servers import nats_messages
from benchmarks.systems import System

__all__ = ["SINGLE"]

_S = 1e9
_FLOW = 30_000
"""Jobs of a flow beside a backlog or a history."""
_CURVE_WINDOW = 10_000


def slow(system: System, jobs: int) -> Figures:
    """Jobs that sleep 50 ms, 4 workers of 50 at once: wall time over the ideal."""
    workers, slots, nap = 4, 50, 0.05
    with Rig(system, jobs, handler="slow", concurrency=slots) as rig:
        rig.start_master()
        rig.start_workers(workers)
        producer = rig.producer()
        producer.do("bulk", jobs, WARM)
        rig.await_started(jobs, jobs + WARM)
        rig.await_recorded(WARM)
        answer = producer.do("bulk", 0, jobs)
        rig.await_started(0, jobs)
        rig.await_recorded(jobs + WARM)
        rig.verify(0, jobs + WARM)
        shares: dict[int, int] = {}
        for job in range(jobs):
            shares[rig.board.pid(job)] = shares.get(rig.board.pid(job), 0) + 1
        last = max(rig.board.started(job) for job in range(jobs))
    took = (last - answer["begin"]) / _S + nap
    ideal = jobs * nap / (workers * slots)
    return {
        "value": took / ideal,
        "seconds": took,
        "ideal": ideal,
        "least": min(shares.values()),
        "most": max(shares.values()),
    }


def long(system: System, jobs: int) -> Figures:
    """1,000 quick jobs in one bulk call with a ten-minute one: seconds until all have started."""
    with Rig(system, jobs, handler="long", env={"MESH_GRACE": "0.5"}) as rig:
        producer = start_all(rig)
        answer = producer.do("bulk", 0, jobs)
        rig.await_started(0, jobs)
        rig.await_recorded(jobs + WARM - 1)
        rig.verify(0, jobs + WARM)
        starts = [rig.board.started(job) for job in range(1, jobs)]
        at_once = (max(starts) - answer["begin"]) / _S
    return {"value": at_once}


def backlog(system: System, jobs: int) -> Figures:
    """The flow, with that many jobs waiting in another lane, beside the flow of an empty system."""
    with Rig(system, _FLOW) as rig:
        rig.start_master()
        parked = rig.producer("parked")
        parked.do("bulk", 0, jobs)
        parked.stop()
        rig.await_recorded(jobs, ended=False)
        return _beside(rig, system)


def history(system: System, jobs: int) -> Figures:
    """The flow, with that many jobs in the master's history, beside that of an empty system."""
    with Rig(system, _FLOW) as rig:
        assert rig.history is not None
        rig.history.fill(jobs)
        return _beside(rig, system)


def _beside(rig: Rig, system: System) -> Figures:
    full = flow_through(rig, _FLOW, "single")
    with Rig(system, _FLOW) as empty:
        reference = flow_through(empty, _FLOW, "single")
    return {
        "value": full["value"] / reference["value"],
        "full": full["value"],
        "empty": reference["value"],
        "worker_mb": full["worker_mb"],
        "worker_mb_empty": reference["worker_mb"],
        "master_mb": full["master_mb"],
        "master_mb_empty": reference["master_mb"],
    }


def curve(system: System, jobs: int) -> Figures:
    """The drain rate over the first jobs of a backlog of this size, in the same lane."""
    window = min(jobs, _CURVE_WINDOW)
    with Rig(system, jobs) as rig:
        rig.start_master()
        preload(rig, jobs)
        if system.master:
            rig.await_recorded(jobs, ended=False)
        rig.start_workers()
        rig.await_started(0, window)
        times = sorted(rig.board.started(job) for job in range(window))
    start = times[window // 10]
    return {"value": window * 0.9 / max(1, times[-1] - start) * _S}


def memory(system: System, jobs: int) -> Figures:
    """Growth of the worker's own memory, in MB, over this many jobs; its resident memory then."""
    with Rig(system, jobs) as rig:
        producer = start_all(rig)
        warm = jobs // 20
        producer.do("bulk", 0, warm)
        rig.await_started(0, warm)
        before = anonymous([rig.workers[0].pid])
        producer.do("bulk", warm, jobs - warm)
        rig.await_started(warm, jobs)
        rig.await_recorded(jobs + WARM)
        after = anonymous([rig.workers[0].pid])
        total = resident([rig.workers[0].pid])
        rig.verify(0, jobs + WARM)
        master = resident([rig.master.pid]) if rig.master else 0.0
    return {"value": after - before, "warm_mb": before, "worker_mb": total, "master_mb": master}


def idle(system: System, jobs: int) -> Figures:
    """CPU of worker and master with nothing to do, in % of a core, and messages a second, over
    as many seconds as there are ``jobs``."""
    with Rig(system, 1) as rig:
        producer = start_all(rig)
        producer.stop()
        time.sleep(3)  # what was under way ends
        own = [rig.workers[0].pid, *([rig.master.pid] if rig.master else [])]
        messages = nats_messages(rig.servers[0])
        cpu, begin = cpu_seconds(own), time.monotonic()
        time.sleep(jobs)
        took = time.monotonic() - begin
        used = (cpu_seconds(own) - cpu) / took
        messages = nats_messages(rig.servers[0]) - messages
    return {"value": used * 100, "messages": messages / took}


_FIRST = """
import asyncio, os
from mesh import Mesh

app = Mesh.from_env()

@app.job
async def quick(n: int, text: str) -> None: ...

async def main() -> None:
    await quick.enqueue(0, "x" * 100)
    os._exit(0)

asyncio.run(main())
"""


def cold(system: System, jobs: int) -> Figures:
    """Seconds from the start of Python to the first job stored, and of ``mesh --help``."""
    with Rig(system, 1) as rig:
        first = _typical([sys.executable, "-c", _FIRST], rig)
        bare = _typical([sys.executable, "-c", "pass"], rig)
        shown = _typical([str(Path(sys.executable).parent / "mesh"), "--help"], rig)
    return {"value": first, "help": shown, "python": bare}


def _typical(command: list[str], rig: Rig) -> float:
    """The median of nine runs, in seconds."""
    took = []
    for _ in range(9):
        begin = time.monotonic()
        subprocess.run(command, env=rig.env, check=True, stdout=subprocess.DEVNULL)
        took.append(time.monotonic() - begin)
    return statistics.median(took)


SINGLE = {
    "slow": slow,
    "long": long,
    "backlog": backlog,
    "curve": curve,
    "history": history,
    "memory": memory,
    "idle": idle,
    "cold": cold,
}
