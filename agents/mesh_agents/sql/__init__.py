"""Agents in SQL databases: PostgreSQL and SQLite."""

from mesh_agents.sql.agent import SqlAgent as SqlAgent

__all__ = ["SqlAgent"]
