"""The cluster's settings: kept in the master, followed by every process of the cluster.

They say what mode the cluster is in, how its lanes and agents stand, and what is the default of
some of ``mesh.config.Config``'s keys, for processes that are not told otherwise: a value that a
process is given itself (``mesh.toml``, environment, ``Mesh(...)``) wins over the cluster's, and
the cluster's wins over the built-in default.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from mesh.retry import Retry

__all__ = ["SHARED", "AgentState", "AgentStatus", "ClusterSettings", "LaneState", "Mode"]


class Mode(StrEnum):
    """What the cluster does."""

    ACTIVE = "active"
    """Everything."""
    PASSIVE = "passive"
    """Jobs are accepted and scheduled, and none starts."""
    ARCHIVE = "archive"
    """Jobs are refused, none starts, schedules make none; history can be read, and is kept."""


class LaneState(StrEnum):
    """Whether a lane's jobs are run and accepted."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Its jobs wait where they are; new ones are accepted."""
    DRAINING = "draining"
    """What agents have of it is run; new jobs wait on the master."""


class AgentState(StrEnum):
    """Whether an agent is given jobs."""

    ACTIVE = "active"
    DRAINING = "draining"
    """It is given none, none starts there, and what it has is moved elsewhere."""


class AgentStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent as all processes are to see it. Where it is, only the master tells."""

    state: AgentState = AgentState.ACTIVE
    added: int = 0
    """Grows each time that the agent is added at run time; 0: it is in configurations alone."""


class ClusterSettings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Travels as JSON: fields unknown to an older reader are skipped. ``None`` is not set."""

    revision: int = 0
    """Grows with each change; of two the greater counts."""
    mode: Mode = Mode.ACTIVE
    lanes: Mapping[str, LaneState] = {}
    """Those that are not active."""
    agents: Mapping[str, AgentStatus] = {}
    """Those that were added at run time, and those that are not active."""
    timeout: float | None = None
    retry: Retry | None = None
    transient_threshold: float | None = None
    payload_limit: int | None = None
    retention: Mapping[str, float] | None = None
    timezone: str | None = None

    def lane(self, name: str) -> LaneState:
        return self.lanes.get(name, LaneState.ACTIVE)

    def agent(self, name: str) -> AgentStatus:
        return self.agents.get(name, _ACTIVE)

    def runs(self, lane: str, agent: str) -> bool:
        """Whether an agent's jobs of this lane may start."""
        return (
            self.mode is Mode.ACTIVE
            and self.lane(lane) is not LaneState.PAUSED
            and self.agent(agent).state is AgentState.ACTIVE
        )

    def with_lane(self, name: str, state: LaneState) -> ClusterSettings:
        lanes = {**self.lanes, name: state}
        if state is LaneState.ACTIVE:
            del lanes[name]
        return msgspec.structs.replace(self, lanes=lanes)

    def with_agent(self, name: str, status: AgentStatus) -> ClusterSettings:
        agents = {**self.agents, name: status}
        if status == _ACTIVE:
            del agents[name]
        return msgspec.structs.replace(self, agents=agents)

    def with_agent_state(self, name: str, state: AgentState) -> ClusterSettings:
        return self.with_agent(name, msgspec.structs.replace(self.agent(name), state=state))

    @property
    def shared(self) -> dict[str, Any]:
        """Those keys of ``Config`` that are set, with their values."""
        return {key: value for key in SHARED if (value := getattr(self, key)) is not None}

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> ClusterSettings:
        """Raises ``msgspec.MsgspecError``, or ``ConfigError`` for a policy that is none."""
        return _decode(data)


_ACTIVE = AgentStatus()

_decode = msgspec.json.Decoder(ClusterSettings).decode

SHARED = ("timeout", "retry", "transient_threshold", "payload_limit", "retention", "timezone")
"""The keys of ``Config`` that the cluster may set."""
