"""A cluster with one agent and no master: what workers do is read from the agent's ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh import Mesh
from mesh.job import new_job_id
from mesh.ports import Agent, LaneDepth, Ledger
from mesh.testing import MemoryAgent
from mesh.testing.faulty import unwrapped
from mesh.wire import Event, Finished, Heartbeat, Record, Retrying, Started
from mesh_workers import Worker

__all__ = ["PATIENCE", "Gate", "Rig", "until_gone"]

PATIENCE = 20.0


class Rig:
    """``app`` on ``agent``, and all ``records`` read so far."""

    def __init__(self, url: str = "", **settings: Any) -> None:
        self.url = url or f"memory://{new_job_id()}"
        self.settings = {"lease": 30.0, "grace": 5.0, "heartbeat": 60.0} | settings
        self.app = self.new_app()
        self.records: list[Record] = []
        self._agent: Agent | None = None
        self._ledger: Ledger | None = None
        self._comes_again = False

    def new_app(self) -> Mesh:
        """One more app on the same cluster, with handlers of its own."""
        return Mesh(agents={"m": self.url}, **self.settings)

    def worker(
        self, concurrency: int = 2, app: Mesh | None = None, lane: str = "default"
    ) -> Worker:
        return Worker(app or self.app, "m", {lane: concurrency})

    @property
    def memory(self) -> MemoryAgent:
        agent = unwrapped(self.app.connect_agent("m"))
        assert isinstance(agent, MemoryAgent)
        return agent

    async def agent(self) -> Agent:
        if self._agent is None:
            connection = self.app.connect_agent("m")
            self._agent = unwrapped(connection)
            self._comes_again = connection is not self._agent
            await self._agent.open()
        return self._agent

    async def close(self) -> None:
        await self.app.close()
        if self._agent is not None:
            await self._agent.close()

    # reading the ledger ----------------------------------------------------------------------

    async def until(self, enough: Callable[[], bool]) -> None:
        """Read the ledger until ``enough()``; fail if that takes too long."""
        if self._ledger is None:
            self._ledger = await (await self.agent()).ledger()
        async with asyncio.timeout(PATIENCE):
            while not enough():
                for record in (await self._ledger.read(10_000, 1.0)).records:
                    # What was in doubt is told again, which is nothing new; else it is a fault.
                    if not (self._comes_again and record in self.records):
                        self.records.append(record)

    async def ended(self, *job_ids: str) -> list[Finished]:
        """The jobs' terminal records, in the order of the ids, read until all are there."""

        def last() -> dict[str, Finished]:
            return {r.id: r for r in reversed(self.records) if isinstance(r, Finished)}

        await self.until(lambda: set(job_ids) <= last().keys())
        return [last()[job_id] for job_id in job_ids]

    async def outcomes(self, job_id: str, count: int) -> list[Finished | Retrying]:
        """The first ``count`` outcomes of the job's attempts."""
        await self.until(lambda: len(self.told(job_id, Finished, Retrying)) >= count)
        found = self.told(job_id, Finished, Retrying)
        return [r for r in found if isinstance(r, Finished | Retrying)]

    def told(self, job_id: str, *kinds: type[Record]) -> list[Record]:
        """What was read so far of a job, its ``Accepted`` left out."""
        of_job = (r for r in self.records if isinstance(r, Started | Retrying | Finished | Event))
        return [r for r in of_job if r.id == job_id and (not kinds or isinstance(r, kinds))]

    def beats(self) -> list[Heartbeat]:
        return [r for r in self.records if isinstance(r, Heartbeat)]

    async def is_empty(self) -> bool:
        """Whether the agent holds no job at all."""
        return not any(depth.total for depth in (await (await self.agent()).depth()).values())

    async def holds(self) -> LaneDepth:
        """What the agent has in the default lane."""
        return (await (await self.agent()).depth()).get("default", LaneDepth())

    async def until_holds(self, enough: Callable[[LaneDepth], bool]) -> None:
        """Look until the agent has in the default lane what it should; agents don't tell."""
        async with asyncio.timeout(PATIENCE):
            while not enough(await self.holds()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


class Gate:
    """A handler's body that counts who is inside, and lets nobody out before ``open``."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entered = 0
        self.opened = asyncio.Event()
        self._changed = asyncio.Condition()

    async def pass_through(self) -> None:
        self.inside += 1
        self.entered += 1
        self.most = max(self.most, self.inside)
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1

    async def until_entered(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.entered >= count)


async def until_gone(*pids: int) -> None:
    """Return when no such process is left; a killed one may wait to be reaped by its parent."""
    async with asyncio.timeout(PATIENCE):
        for pid in pids:
            while _is_running(pid):  # noqa: ASYNC110 - not our children: nobody tells
                await asyncio.sleep(0.005)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
