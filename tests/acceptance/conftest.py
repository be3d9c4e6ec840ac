from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.testing.servers import MariaServer, NatsServer, PostgresServer

from .processes import Start, starting


@pytest.fixture(params=["sqlite", "nats and postgresql", "mariadb"])
def where(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    nats_server: NatsServer,
    postgres: PostgresServer,
) -> tuple[str, dict[str, str]]:
    """The URLs of a master, which is new, and of the agents."""
    if request.param == "sqlite":
        master = f"sqlite:///{tmp_path}/mesh.db"
        return master, {"local": master}
    if request.param == "mariadb":
        mariadb: MariaServer = request.getfixturevalue("mariadb")
        return mariadb.create_database(), {"maria-1": mariadb.create_database()}
    return postgres.create_database(), {"nats-1": nats_server.url}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as start:
        yield start
