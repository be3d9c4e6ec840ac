"""The coordinator: a process's share of the master's duties.

One recorder for each agent, a dispatcher, a scheduler and a janitor; any number of coordinators
may run. States:
*opening* (the master is not there: try again; a wrong schema or cluster ends it), *running*
(each duty looks after itself: an agent that is away stops its own recorder alone).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mesh.app import Mesh
from mesh.clock import Clock, SystemClock
from mesh.config import RETENTION
from mesh.errors import ConfigError, MasterUnavailable
from mesh.ports import Agent, Master
from mesh.roles import RoleOptions
from mesh.schedules import Declaring
from mesh.service import Backoff, Group, Service, unique_name
from mesh.sql.outbox import Outbox
from mesh_master.dispatcher import Dispatcher
from mesh_master.janitor import Janitor
from mesh_master.outboxes import OutboxDuty
from mesh_master.recorder import Recorder
from mesh_master.scheduler import Scheduler

__all__ = ["Coordinator", "coordinator_role"]


class Coordinator(Group):
    """Opens its connections, and closes them when it stops: give it connections of its own."""

    def __init__(
        self,
        master: Master,
        agents: Mapping[str, Agent],
        *,
        serves: Callable[[str], Sequence[str]] | None = None,
        transient_threshold: float = 60.0,
        retention: Mapping[str, float] = RETENTION,
        clock: Clock | None = None,
        holder: str | None = None,
        others: Sequence[Service] = (),
    ) -> None:
        """``serves`` gives the names of the agents that serve a lane; without it all do.
        ``retention`` is ``Config``'s. ``holder`` names this process among the coordinators.
        ``others`` run with its duties."""
        self.master = master
        self.agents = dict(agents)
        self._serves = serves or (lambda lane: list(self.agents))
        self._clock = clock or SystemClock()
        holder = holder or unique_name()
        self.dispatcher = Dispatcher(
            master, self._agents_for, threshold=transient_threshold, clock=self._clock
        )
        self.recorders = [
            Recorder(
                master, agent, holder=holder, clock=self._clock, recorded=self.dispatcher.ended
            )
            for agent in self.agents.values()
        ]
        self.scheduler = Scheduler(
            master, self.agents, ahead=transient_threshold, holder=holder, clock=self._clock
        )
        self.janitor = Janitor(master, retention=retention, holder=holder, clock=self._clock)
        duties = [*self.recorders, self.dispatcher, self.scheduler, self.janitor]
        super().__init__("coordinator", [*duties, *others])

    def _agents_for(self, lane: str) -> list[Agent]:
        return [self.agents[name] for name in self._serves(lane) if name in self.agents]

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            try:
                await self._open_master()
            except MasterUnavailable:
                ready()  # nothing else of this process need wait for the master
                backoff = Backoff(self.stopping, clock=self._clock)
                if await backoff.retry(self.name, self._open_master, MasterUnavailable) is None:
                    return
            await super().run(ready)
        finally:
            for agent in self.agents.values():
                await agent.close()
            await self.master.close()

    async def _open_master(self) -> bool:
        await self.master.open()
        await self.master.register_agents({a.name: a.url for a in self.agents.values()})
        return True


def coordinator_role(app: Mesh, options: RoleOptions) -> Service:
    """The role ``coordinator``: for the agents asked for (default: all). Raises ``ConfigError``."""
    names = options.agents or tuple(app.config.agents)
    if not names:
        raise ConfigError("no agent is configured: give agents=..., or set MESH_AGENTS")
    return Coordinator(
        app.connect_master(),
        {name: app.connect_agent(name) for name in names},
        serves=lambda lane: [agent.name for agent in app.config.agents_for(lane)],
        transient_threshold=app.config.transient_threshold,
        retention=app.config.retention,
        clock=app.clock,
        others=[Declaring(app, app.connect_master()), *_outbox(app)],
    )


def _outbox(app: Mesh) -> list[Service]:
    if app.config.outbox is None:
        return []
    outbox = Outbox(app.config.outbox, app.clock, app.config.connect_timeout)
    return [OutboxDuty(outbox, app.connect_master(), app.clock)]
