"""What one process knows of its cluster: its own configuration, over the cluster's settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Set

import msgspec

from mesh.config import AgentConfig, Config
from mesh.errors import ConfigError
from mesh.notices import CLUSTER
from mesh.settings import AgentState, ClusterSettings, LaneState, Mode

__all__ = ["Cluster"]

log = logging.getLogger("mesh")


class Cluster:
    """Settings come in from boards, in any order and more than once; the newest stand. May be
    used from any thread: what it shows is replaced as a whole."""

    def __init__(self, config: Config) -> None:
        self._own = config
        self._added: Mapping[str, AgentConfig] = {}
        self._added_at: dict[str, int] = {}
        self.settings = ClusterSettings()
        self.config = config
        """As it is in effect: see ``mesh.settings`` for what wins."""

    def hear(self, notices: Mapping[str, bytes | None]) -> bool:
        """Take what a board said. Returns whether the settings are newer than before."""
        data = notices.get(CLUSTER)
        if data is None:
            return False
        try:
            return self.learn(ClusterSettings.decode(data))
        except (msgspec.MsgspecError, ConfigError) as error:
            log.error("the cluster's settings cannot be read and stay as they were: %s", error)
            return False

    def learn(self, settings: ClusterSettings) -> bool:
        """Returns whether they are newer than those known."""
        if settings.revision <= self.settings.revision:
            return False
        self.settings = settings
        self._apply()
        return True

    def forget_master(self) -> None:
        """This process is to have none, whatever its configuration says."""
        self._own = dataclasses.replace(self._own, master=None)
        self._apply()

    @property
    def own_agents(self) -> Set[str]:
        """Those of the process's own configuration."""
        return self._own.agents.keys()

    @property
    def is_archive(self) -> bool:
        return self.settings.mode is Mode.ARCHIVE

    @property
    def draining_lanes(self) -> frozenset[str]:
        lanes = self.settings.lanes.items()
        return frozenset(lane for lane, state in lanes if state is LaneState.DRAINING)

    def is_draining(self, agent: str) -> bool:
        return self.settings.agent(agent).state is AgentState.DRAINING

    def takes(self, lane: str, agent: str) -> bool:
        """Whether an agent is to be given new jobs of the lane."""
        settings = self.settings
        return (
            settings.mode is not Mode.ARCHIVE
            and (not settings.lanes or settings.lane(lane) is not LaneState.DRAINING)
            and (not settings.agents or settings.agent(agent).state is AgentState.ACTIVE)
        )

    def refusal(self, lane: str, agent: str | None = None) -> str:
        """Why new jobs of a lane do not go to an agent, or to any."""
        if self.settings.lane(lane) is LaneState.DRAINING:
            return f"lane '{lane}' is draining: its jobs wait on the master for mesh lanes resume"
        if agent is not None:
            return f"agent '{agent}' is draining"
        return f"no agent serves lane '{lane}'"

    def agents_for(self, lane: str) -> list[AgentConfig]:
        """The agents that new jobs of a lane may go to."""
        agents = self.config.agents_for(lane)
        if not self.settings.lanes and not self.settings.agents:
            return agents
        return [agent for agent in agents if self.takes(lane, agent.name)]

    # agents added at run time ----------------------------------------------------------------

    @property
    def is_missing_agents(self) -> bool:
        """Whether agents were added, or gone, of which ``set_added`` has not told."""
        added = {name: a.added for name, a in self.settings.agents.items() if a.added}
        return added != self._added_at

    def set_added(self, agents: Mapping[str, AgentConfig]) -> None:
        """The agents that were added at run time, as the master tells. One of the process's own
        configuration wins over one of the same name."""
        self._added_at = {name: a.added for name, a in self.settings.agents.items() if a.added}
        self._added = dict(agents)
        self._apply()

    def under(self, settings: ClusterSettings) -> Config:
        """The configuration as it would be in effect under these settings."""
        own = self._own
        shared = {k: v for k, v in settings.shared.items() if k not in own.given}
        agents = {**self._added, **own.agents}
        return dataclasses.replace(own, agents=agents, **shared)

    def _apply(self) -> None:
        self.config = self.under(self.settings)
