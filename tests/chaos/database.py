"""SQLAlchemy's engines for the databases of a deployment, as an application makes its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["engine"]

_DRIVERS = {
    "postgresql": "postgresql+asyncpg",
    "mariadb": "mariadb+asyncmy",
    "sqlite": "sqlite+aiosqlite",
}


def engine(url: str, **options: Any) -> AsyncEngine:
    """For a master's URL, as ``Mesh`` takes it."""
    parsed = make_url(url)
    arguments = {"timeout": 5} if parsed.drivername == "sqlite" else {}
    return create_async_engine(
        parsed.set(drivername=_DRIVERS[parsed.drivername]), connect_args=arguments, **options
    )
