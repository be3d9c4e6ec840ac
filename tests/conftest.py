"""Servers for the suite: started once for each process that runs tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.testing.servers import NatsServer, PgBouncer, PostgresServer
from tests.packages import installed


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    # Of another version than the wheel's, say: POSTGRES_BIN=/usr/lib/postgresql/15/bin
    folder = os.environ.get("POSTGRES_BIN")
    with PostgresServer(binaries=Path(folder) if folder else None) as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    installed("pgbouncer", ["pgbouncer"])
    # Each test has a database of its own: their connections must not pile up.
    with PgBouncer(postgres, settings={"server_idle_timeout": "1"}) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment says of a mesh must not reach the tests."""
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        monkeypatch.delenv(name)
    # Processes that tests start are not to want one port.
    monkeypatch.setenv("MESH_HTTP", "off")
