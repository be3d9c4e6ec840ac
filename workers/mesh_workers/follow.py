"""Following an agent's board: what the cluster has to say to its workers.

The board is read once before a worker's lanes begin, so that a job that was cancelled, or a lane
that was paused, while no worker ran does not start. From then on a change is heard within a
second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec

from mesh.cluster import Cluster
from mesh.errors import AgentError
from mesh.notices import Cancel, cancelled_job, drain_key
from mesh.ports import Agent, Board
from mesh.service import Backoff

__all__ = ["Following"]

log = logging.getLogger("mesh")

_READ = 30.0
"""Seconds that a read waits."""


class Following:
    """Belongs to the worker's event loop; ``begin``, then ``run`` is its only task."""

    def __init__(self, agent: Agent, cluster: Cluster, worker: str) -> None:
        self.cancels: dict[str, str] = {}
        """Why jobs are to be cancelled, by job id."""
        self.is_drained = False
        """This worker is to take no more jobs."""
        self._drain_key = drain_key(worker)
        self._agent = agent
        self._cluster = cluster
        self._board: Board | None = None

    async def begin(self) -> bool:
        """Learn what stands. Raises ``AgentError``."""
        self._board = await self._agent.board()
        self._take(await self._board.read(0.0))
        return True

    async def run(self, backoff: Backoff, told: Callable[[Mapping[str, str]], None]) -> None:
        """Learn what changes, until cancelled. ``told`` is called after each change, with the
        cancels that are new."""
        assert self._board is not None
        board = self._board

        async def read() -> Mapping[str, bytes | None]:
            return await board.read(_READ)

        try:
            while True:
                changes = await backoff.retry("the agent's board", read, AgentError)
                if changes:
                    told(self._take(changes))
        finally:
            await board.close()

    def _take(self, notices: Mapping[str, bytes | None]) -> dict[str, str]:
        new: dict[str, str] = {}
        for key, data in notices.items():
            job_id = cancelled_job(key)
            if job_id is None:
                continue
            if data is None:
                self.cancels.pop(job_id, None)
                continue
            try:
                new[job_id] = Cancel.decode(data).reason
            except msgspec.MsgspecError as error:
                log.error("the cancel of job %s cannot be read: %s", job_id, error)
        self.cancels |= new
        if self._drain_key in notices:
            self.is_drained = notices[self._drain_key] is not None
        self._cluster.hear(notices)
        return new
