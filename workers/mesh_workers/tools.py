"""What a worker's lanes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.app import Mesh
from mesh.ports import Agent
from mesh_workers.counting import AttemptTally
from mesh_workers.keeper import LeaseKeeper
from mesh_workers.reporter import Reporter

__all__ = ["Tools"]


@dataclass(frozen=True, slots=True)
class Tools:
    """One of each for a worker."""

    app: Mesh
    agent: Agent
    worker: str
    keeper: LeaseKeeper
    reporter: Reporter
    tally: AttemptTally = field(default_factory=AttemptTally)
    """What attempts are counted in as long as the app's monitor counts."""
    cancels: Mapping[str, str] = field(default_factory=dict)
    """Why jobs are to be cancelled, by job id; kept up to date by the worker."""
