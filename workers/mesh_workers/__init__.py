"""Workers: they pull jobs from agents, run handlers, and write outcomes to the ledger."""

from mesh_workers.role import worker_role as worker_role
from mesh_workers.worker import Worker as Worker

__all__ = ["Worker", "worker_role"]
