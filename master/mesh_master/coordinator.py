"""The coordinator: a process's share of the master's duties.

One recorder for each agent, a dispatcher, a scheduler, a rescuer, a janitor and the control duty;
any number of coordinators may run. States: *opening* (the master is not there: try again; a wrong
schema or cluster ends it), *running* (each duty looks after itself: an agent that is away stops its
own recorder alone).

It follows the cluster's settings. Agents that are added while it runs get a recorder, and those
that are removed lose theirs; in the mode ``archive`` there is no dispatcher, scheduler or rescuer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from mesh.app import Mesh
from mesh.clock import Clock, SystemClock
from mesh.cluster import Cluster
from mesh.config import RETENTION, AgentConfig
from mesh.emptying import Mover
from mesh.errors import InvalidSchedule, MasterError, MasterUnavailable
from mesh.monitor import Families, Monitor
from mesh.plugins import hide_password
from mesh.ports import Agent, Check, Master
from mesh.roles import RoleOptions
from mesh.schedule.zones import zone_named
from mesh.schedules import Declaring
from mesh.service import Backoff, Group, Service, unique_name
from mesh.sql.outbox import Outbox
from mesh.wire import Record
from mesh_master.control import Control, Follower
from mesh_master.counting import LedgerTally
from mesh_master.dispatcher import Dispatcher
from mesh_master.draining import Draining
from mesh_master.janitor import Janitor
from mesh_master.metrics import DUTIES, NOT_IN_ARCHIVE, TEXTS, cluster_metrics
from mesh_master.outboxes import OutboxDuty
from mesh_master.recorder import Recorder
from mesh_master.rescuer import Rescuer
from mesh_master.roster import Roster
from mesh_master.scheduler import Scheduler
from mesh_master.telling import HeldEnds, Telling

__all__ = ["Coordinator", "coordinator_role"]

log = logging.getLogger("mesh")


class Coordinator(Group):
    """Opens its connections, and closes them when it stops: give it connections of its own."""

    def __init__(
        self,
        master: Master,
        agents: Mapping[str, Agent],
        *,
        serves: Callable[[str], Sequence[str]] | None = None,
        transient_threshold: float = 60.0,
        timezone: str = "UTC",
        cluster: Cluster | None = None,
        connect: Callable[[str], Agent] | None = None,
        retention: Mapping[str, float] = RETENTION,
        clock: Clock | None = None,
        holder: str | None = None,
        others: Sequence[Service] = (),
        telling: Telling | None = None,
        monitor: Monitor | None = None,
        silence: float = 30.0,
        rescue_after: float = 60.0,
    ) -> None:
        """``serves`` gives the names of the agents that serve a lane; without it all do.
        ``retention`` is ``Config``'s. ``cluster`` is told of the cluster's settings. ``connect``
        makes the connection to an agent that was added at run time; without it those are left to
        other coordinators. ``holder`` names this process among the coordinators. ``others`` run
        with its duties, and ``telling`` is given what recorders have recorded. ``monitor`` is told
        of it; ``silence`` and ``rescue_after`` are ``Config``'s."""
        self.master = master
        self.agents = dict(agents)
        self.recorders: dict[str, Recorder] = {}
        self._drains: dict[str, Draining] = {}
        self._own = frozenset(agents)
        self._serves = serves or (lambda lane: list(self.agents))
        self._cluster = cluster
        self._connect = connect
        self._clock = clock or SystemClock()
        self._holder = holder or unique_name()
        self._telling = telling
        self._monitor = monitor or Monitor()
        self._silence = silence
        self._tally = LedgerTally()
        self._is_open = False
        self.dispatcher = Dispatcher(
            master, self._agents_for, threshold=transient_threshold, clock=self._clock
        )
        for agent in self.agents.values():
            self._add_recorder(agent)
        self.scheduler = Scheduler(
            master,
            self.agents,
            ahead=transient_threshold,
            holder=self._holder,
            timezone=timezone,
            clock=self._clock,
        )
        self.janitor = Janitor(
            master,
            retention=lambda s: retention if cluster is None else cluster.under(s).retention,
            holder=self._holder,
            clock=self._clock,
        )
        self.rescuer = Rescuer(
            master,
            self.agents,
            after=rescue_after,
            silence=silence,
            holder=self._holder,
            clock=self._clock,
        )
        self._follower = Follower(master, self._clock)
        self._control = Control(
            master, self.agents, self._follower, holder=self._holder, clock=self._clock
        )
        self._duties = Roster("duties", self._wanted)
        # The follower last: who listens to it is there before it has something to say.
        always = [self.janitor, self._control]
        if cluster is not None:
            always.append(_Steered(self, cluster, self._follower))
        self._always: dict[str, Service] = {s.name: s for s in (*always, self._follower, *others)}
        # Sinks first: they are there for as long as there are recorders.
        members: list[Service] = []
        if telling is not None:
            held = HeldEnds(telling, master, holder=self._holder, clock=self._clock)
            members = [telling, held]
        super().__init__("coordinator", [*members, self._duties])

    def _agents_for(self, lane: str) -> list[Agent]:
        return [self.agents[name] for name in self._serves(lane) if name in self.agents]

    def _add_recorder(self, agent: Agent) -> None:
        self.recorders[agent.name] = Recorder(
            self.master,
            agent,
            holder=self._holder,
            clock=self._clock,
            recorded=self._recorded,
            tell=None if self._telling is None else self._telling.tell,
        )

    def _recorded(self, records: Sequence[Record], since: float) -> None:
        self.dispatcher.ended(records)
        if self._monitor.counts:
            self._tally.count(records, since)

    def _wanted(self) -> dict[str, Service]:
        """The duties that are to be done now."""
        duties: dict[str, Service] = {r.name: r for r in self.recorders.values()}
        if self._cluster is None or not self._cluster.is_archive:
            each = (self.dispatcher, self.scheduler, self.rescuer)
            duties |= {duty.name: duty for duty in each}
        for name, agent in self.agents.items():
            if self._cluster is not None and self._cluster.is_draining(name):
                duty = self._drains.get(name) or self._draining(agent)
                self._drains[name] = duties[f"draining of {name}"] = duty
            else:
                self._drains.pop(name, None)
        return duties | self._always

    def _draining(self, agent: Agent) -> Draining:
        mover = Mover(self.master, self._agents_for)
        return Draining(self.master, agent, mover, holder=self._holder, clock=self._clock)

    async def settle_in(self) -> None:
        """Do as the settings say: they are new. Raises ``MasterError``."""
        cluster = self._cluster
        assert cluster is not None
        self._heed(cluster)
        if self._connect is not None:
            if cluster.is_missing_agents:
                cluster.set_added(await self.master.added_agents())
            await self._meet(cluster.config.agents, self._connect)
        self._duties.look_again()

    def _heed(self, cluster: Cluster) -> None:
        threshold = cluster.config.transient_threshold
        self.dispatcher.threshold = self.scheduler.ahead = threshold
        self.dispatcher.leaving_out = cluster.draining_lanes
        try:
            self.scheduler.timezone = zone_named(cluster.config.timezone).name
        except InvalidSchedule as error:
            zone = self.scheduler.timezone
            log.error("schedules that name no time zone stay in %s: %s", zone, error)

    async def _meet(
        self, wanted: Mapping[str, AgentConfig], connect: Callable[[str], Agent]
    ) -> None:
        for name, config in wanted.items():
            known = self.agents.get(name)
            if known is None or (name not in self._own and known.url != hide_password(config.url)):
                await self._part_with(name)
                self.agents[name] = connect(name)
                self._add_recorder(self.agents[name])
        for name in self.agents.keys() - wanted.keys() - self._own:
            await self._part_with(name)
        self._control.look_again()

    async def _part_with(self, name: str) -> None:
        agent = self.agents.pop(name, None)
        if agent is not None:
            if (drain := self._drains.pop(name, None)) is not None:
                await drain.stop()
            await self.recorders.pop(name).stop()
            self._duties.look_again()
            self._control.look_again()
            await agent.close()

    async def run(self, ready: Callable[[], None]) -> None:
        with self._monitor.watching(self):
            await self._run(ready)

    async def _run(self, ready: Callable[[], None]) -> None:
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
            agents = (agent.close() for agent in self.agents.values())
            await asyncio.gather(*agents, self.master.close())

    async def _open_master(self) -> bool:
        await self.master.open()
        await self.master.register_agents({a.name: a.url for a in self.agents.values()})
        if self._cluster is not None:
            # Before the first duty: it would make jobs by settings that do not hold.
            board = await self.master.board()
            try:
                self._cluster.hear(await board.read(0.0))
            finally:
                await board.close()
            self._heed(self._cluster)
        self._is_open = True
        return True

    async def health(self) -> Sequence[Check]:
        """Ready: the master answers, and each duty is some coordinator's."""
        if not self._is_open:
            return [Check("master", False, "has not been reached (yet)", "see the log")]
        try:
            leases = await self.master.leases()
        except MasterError as error:
            return [Check("master", False, str(error), "see the log")]
        is_archive = self._cluster is not None and self._cluster.is_archive
        wanted = [duty for duty in DUTIES if duty not in NOT_IN_ARCHIVE or not is_archive]
        checks = [Check("master", True, "answers")]
        for duty in wanted:
            led = duty in leases
            checks.append(Check(f"duty {duty}", led, "is led" if led else "nobody has it (yet)"))
        return checks

    async def metrics(self, families: Families) -> None:
        families.tally("jobmesh", self._tally, TEXTS)
        for name, recorder in self.recorders.items():
            if recorder.leading.is_set():
                text = "Entries of an agent's ledger that are not in the master yet."
                families.gauge("jobmesh_recorder_lag_entries", text, recorder.lag, agent=name)
                text = "Ledger records that this process brought to the master."
                families.counter("jobmesh_recorder_records", text, recorder.records, agent=name)
        text = "Jobs that an agent lost and this process had dispatched again."
        rescued = self.rescuer.rescued
        for name in sorted({*self.agents, *rescued}):
            families.counter("jobmesh_jobs_rescued", text, rescued[name], agent=name)
        if self._is_open:
            await cluster_metrics(
                *(families, self.master, self.agents),
                silence=self._silence,
                now=self._clock.time(),
                holder=self._holder,
            )


class _Steered(Service):
    """Lets a coordinator settle in whenever the cluster's settings have changed."""

    def __init__(self, coordinator: Coordinator, cluster: Cluster, follower: Follower) -> None:
        super().__init__("steered")
        self._coordinator = coordinator
        self._cluster = cluster
        self._changed = asyncio.Event()
        follower.listeners.append(self._told)

    def _told(self, changes: Mapping[str, bytes | None]) -> None:
        if self._cluster.hear(changes):
            self._changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(self.stopping)
        async with asyncio.TaskGroup() as tasks:
            stop = tasks.create_task(self.stopping.wait())
            while not self.stopping.is_set():
                self._changed.clear()
                await backoff.retry("following the settings", self._settle_in, MasterError)
                changed = tasks.create_task(self._changed.wait())
                await asyncio.wait([changed, stop], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()

    async def _settle_in(self) -> bool:
        await self._coordinator.settle_in()
        return True


def coordinator_role(app: Mesh, options: RoleOptions) -> Service:
    """The role ``coordinator``: for the agents asked for (default: all, and those that are added
    while it runs). Raises ``ConfigError``."""
    names = options.agents or tuple(app.config.agents)
    master = app.connect_master()
    return Coordinator(
        master,
        {name: app.connect_agent(name) for name in names},
        serves=lambda lane: [agent.name for agent in app.cluster.agents_for(lane)],
        transient_threshold=app.config.transient_threshold,
        timezone=app.config.timezone,
        cluster=app.cluster,
        connect=None if options.agents else app.connect_agent,
        retention=app.config.retention,
        clock=app.clock,
        others=[Declaring(app, app.connect_master()), *_outbox(app)],
        telling=Telling(app.sinks, master, app.clock) if app.sinks else None,
        monitor=app.monitor,
        silence=app.config.silence,
        rescue_after=app.config.rescues_after,
    )


def _outbox(app: Mesh) -> list[Service]:
    if app.config.outbox is None:
        return []
    outbox = Outbox(app.config.outbox, app.clock, app.config.connect_timeout)
    return [OutboxDuty(outbox, app.connect_master(), app.clock)]
