"""What one process knows of its cluster: its own configuration, over the cluster's settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

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

    @property
    def is_archive(self) -> bool:
        return self.settings.mode is Mode.ARCHIVE

    def agents_for(self, lane: str) -> list[AgentConfig]:
        """The agents that new jobs of a lane may go to."""
        settings = self.settings
        if settings.lanes and settings.lane(lane) is LaneState.DRAINING:
            return []
        agents = self.config.agents_for(lane)
        if not settings.agents:
            return agents
        return [a for a in agents if settings.agent(a.name).state is AgentState.ACTIVE]

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

    def _apply(self) -> None:
        own = self._own
        shared = {k: v for k, v in self.settings.shared.items() if k not in own.given}
        agents = {**self._added, **own.agents}
        self.config = dataclasses.replace(own, agents=agents, **shared)
