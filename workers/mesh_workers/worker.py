"""A worker: one process's hands on one agent.

*starting*: the agent is reached, with retries for as long as it takes. *running*: each lane
pulls and runs. *draining* (after ``stop``): nothing is pulled, what is queued is given back,
what runs has ``grace`` seconds; then it is cancelled and counts as an attempt that will be
repeated. *stopped*: all outcomes are written, or the agent was away and leases will expire.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from mesh import __version__
from mesh.app import Mesh
from mesh.errors import AgentError, ConfigError
from mesh.job import check_name
from mesh.job_logs import events_of_logs
from mesh.monitor import Families
from mesh.ports import Agent, Check
from mesh.service import Backoff, Service, unique_name
from mesh.wire import Defined, Envelope, Heartbeat
from mesh_workers.counting import AttemptTally
from mesh_workers.follow import Following
from mesh_workers.keeper import LeaseKeeper
from mesh_workers.lane import Lane
from mesh_workers.outlets import Outlets
from mesh_workers.processes import locate
from mesh_workers.reporter import Reporter
from mesh_workers.standing import PATIENCE, health_of, metrics_of
from mesh_workers.tools import Tools

__all__ = ["Worker"]

log = logging.getLogger("mesh")

_LAST_WORDS = 5.0
"""Seconds for writing outcomes when the grace time is over."""


class Worker(Service):
    """Serves lanes on one agent."""

    def __init__(self, app: Mesh, agent: str, lanes: Mapping[str, int]) -> None:
        """``lanes``: concurrency by lane. Raises ``ConfigError``."""
        served = app.config.agent(agent)
        for lane, concurrency in lanes.items():
            check_name("lane", lane)
            if concurrency < 1:
                raise ConfigError(f"lane '{lane}': concurrency {concurrency} is below 1")
            if not served.serves(lane):
                raise ConfigError(
                    f"agent '{agent}' does not serve lane '{lane}': its 'lanes' setting lists "
                    f"{', '.join(sorted(served.lanes or ()))}"
                )
        if not lanes:
            raise ConfigError(f"a worker on agent '{agent}' needs at least one lane")
        self.worker_id = unique_name()
        super().__init__(f"worker {self.worker_id}")
        self._app = app
        self._agent_name = agent
        self._lanes = dict(lanes)
        self._started_at = app.now()
        self.lanes: list[Lane] = []
        self._state = "starting"
        self._reporter: Reporter | None = None
        self._following: Following | None = None
        self._tally = AttemptTally()

    async def health(self) -> Sequence[Check]:
        most = PATIENCE * self._app.config.heartbeat
        subject = f"worker on {self._agent_name}"
        return health_of(subject, self._state, self._reporter, self.lanes, most)

    async def metrics(self, families: Families) -> None:
        agent = self._agent_name
        metrics_of(families, self._tally, self._reporter, self.lanes, agent=agent)

    async def run(self, ready: Callable[[], None]) -> None:
        for handler in self._app.handlers.values():
            # A signature that cannot be used is said now, not when its first job comes.
            _ = handler.shape, handler.plan
            if handler.in_process:
                locate(handler)
        with self._app.monitor.watching(self):
            await self._reach(ready)

    async def _reach(self, ready: Callable[[], None]) -> None:
        agent = self._app.connect_agent(self._agent_name)
        try:
            if await Backoff(self.stopping).retry(
                f"worker on agent {self._agent_name}", lambda: _open(agent), AgentError
            ):
                config = self._app.config
                with events_of_logs(config.log_events, config.event_size):
                    await self._work(agent, ready)
        finally:
            await agent.close()

    async def _work(self, agent: Agent, ready: Callable[[], None]) -> None:
        keeper = LeaseKeeper(
            lambda: self._app.connect_agent(self._agent_name), self._app.config.lease, self._job_in
        )
        config = self._app.config
        reporter = Reporter(agent, Outlets(config.persist_events, config.event_size))
        following = Following(agent, self._app.cluster, self.worker_id)
        if not await Backoff(self.stopping).retry(
            f"the board of agent {self._agent_name}", following.begin, AgentError
        ):
            return
        tools = Tools(
            *(self._app, agent, self.worker_id, keeper, reporter, self._tally, following.cancels)
        )
        self.lanes = [Lane(name, n, tools, self.stopping) for name, n in self._lanes.items()]
        self._following = following
        self._reporter, self._state = reporter, "running"
        self._pause_lanes()
        keeper.start()
        try:
            await self._serve(reporter, following, ready)
        finally:
            await keeper.stop()

    def _job_in(self, frame: FrameType) -> Envelope | None:
        found = (lane.job_in(frame) for lane in self.lanes)
        return next((job for job in found if job is not None), None)

    def _pause_lanes(self) -> None:
        """Let the lanes run that the cluster's settings let run here, and no others; none if this
        worker is drained."""
        settings = self._app.cluster.settings
        is_drained = self._following is not None and self._following.is_drained
        for lane in self.lanes:
            lane.pause(is_drained or not settings.runs(lane.name, self._agent_name))
        state = "draining" if is_drained else "running"
        if state != self._state and self._reporter is not None and not self.stopping.is_set():
            log.info("%s is %s", self.name, "drained" if is_drained else "used again")
            self._state = state
            self._reporter.heartbeat(self._heartbeat())

    def _told(self, cancels: Mapping[str, str]) -> None:
        self._pause_lanes()
        for job_id, reason in cancels.items():
            for lane in self.lanes:
                if lane.cancel(job_id, reason):
                    break

    async def _serve(
        self, reporter: Reporter, following: Following, ready: Callable[[], None]
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(reporter.run())
            told = tasks.create_task(following.run(Backoff(asyncio.Event()), self._told))
            beat = tasks.create_task(self._beat(reporter))
            lanes = [tasks.create_task(lane.run(), name=f"lane-{lane.name}") for lane in self.lanes]
            log.info(
                "%s serves %s on agent %s",
                self.name,
                ", ".join(f"{lane.name} x{lane.concurrency}" for lane in self.lanes),
                self._agent_name,
            )
            reporter.defined(self._defined())
            ready()
            await self.stopping.wait()
            self._state = "draining"
            reporter.heartbeat(self._heartbeat())
            await self._drain(lanes)
            beat.cancel()
            told.cancel()
            reporting.cancel()
        self._state = "stopped"
        reporter.heartbeat(self._heartbeat())
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await reporter.flush()
        except (AgentError, TimeoutError) as error:
            log.warning("%s could not say goodbye: %s", self.name, error)
        log.info("%s stopped", self.name)

    async def _drain(self, lanes: list[asyncio.Task[None]]) -> None:
        grace = self._app.config.grace
        running = sum(lane.running for lane in self.lanes)
        if running:
            log.info("%s: waiting up to %g s for %d running jobs", self.name, grace, running)
        _, late = await asyncio.wait(lanes, timeout=grace)
        if late:
            for lane in self.lanes:
                lane.interrupt()
            _, late = await asyncio.wait(late, timeout=_LAST_WORDS)
        for task in late:
            # Handlers that swallow their cancellation end with the process.
            task.cancel()

    async def _beat(self, reporter: Reporter) -> None:
        while True:
            reporter.heartbeat(self._heartbeat())
            await self._app.clock.sleep(self._app.config.heartbeat)

    def _defined(self) -> list[Defined]:
        now = self._app.now()
        return [
            Defined(name, handler.lane, now, self._app.prefix.text, handler.definition.encode())
            for name, handler in self._app.handlers.items()
        ]

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            worker=self.worker_id,
            at=self._app.now(),
            agent=self._agent_name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_at=self._started_at,
            state=self._state,
            lanes=[lane.load for lane in self.lanes],
            finished=sum(lane.finished for lane in self.lanes),
            stragglers=sum(lane.stragglers for lane in self.lanes),
        )


async def _open(agent: Agent) -> bool:
    await agent.open()
    return True
