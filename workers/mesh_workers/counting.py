"""Counting what a worker does, for metrics."""

from __future__ import annotations

from mesh.job import State
from mesh.monitor import Tally
from mesh.ports import Settlement
from mesh.wire import Finished, Retrying
from mesh_workers.outcome import Run

__all__ = ["AttemptTally"]


class AttemptTally(Tally):
    """A worker's."""

    def began(self, run: Run) -> None:
        job = run.job
        waited = run.started_at - max(job.enqueued_at, job.due_at)
        self.start(self.pair(job.name, job.lane), waited)

    def settled(self, settlement: Settlement) -> None:
        """Count the end of an attempt, or of a job that never started, if it is one."""
        record = settlement.record
        if isinstance(record, Finished | Retrying):
            outcome = record.state if isinstance(record, Finished) else State.RETRYING
            seconds = record.at - record.started_at if record.started_at else None
            self.end(self.pair(record.name, record.lane), outcome, seconds)
