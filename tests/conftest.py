"""Servers for the suite: started once for each process that runs tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mesh.testing.servers import NatsServer, PostgresServer


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment says of a mesh must not reach the tests."""
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        monkeypatch.delenv(name)
    # Processes that tests start are not to want one port.
    monkeypatch.setenv("MESH_HTTP", "off")
