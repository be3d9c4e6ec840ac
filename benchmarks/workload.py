"""The workload: which rows there are, how many jobs each takes, which systems take part.

The job is a no-op that gets one int and a 100-character string (``adapters/producer.py``).
"""

from __future__ import annotations

from benchmarks.systems import System

__all__ = ["SCALES", "jobs_for", "takes_part"]

SCALES = {"full": 1.0, "smoke": 0.02}

_FEWEST = 200


def jobs_for(system: System, row: str, scale: float) -> int:
    """How many jobs a run of this row measures."""
    sizes = system.sizes
    full = {
        "enqueue": sizes.enqueue,
        "enqueue-bulk": sizes.bulk,
        "flow": sizes.flow,
        "flow-bulk": min(sizes.bulk, sizes.drain),
        "latency": 500,
    }.get(row, sizes.drain)
    return max(_FEWEST, round(full * scale))


def takes_part(system: System, row: str) -> bool:
    """Whether a system can do a row at all, and the row is about it."""
    if row in ("enqueue-bulk", "flow-bulk"):
        return system.bulk
    if row == "drain-alone":
        return bool(system.master)
    if row == "drain-threads":
        return system.threads or system.name == "jobmesh-nats"
    return True
