"""The NATS JetStream transport."""

from mesh_agents.nats.agent import NatsAgent as NatsAgent

__all__ = ["NatsAgent"]
