"""Servers for the suite, started once for each process that runs tests; and, with
``--faulty SEED``, faults for what the tests run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mesh import plugins
from mesh.ports import Agent, Master
from mesh.testing.faulty import Fault, Plan, faulty_agent, faulty_master
from mesh.testing.servers import MariaServer, NatsServer, PgBouncer, PostgresServer
from tests.packages import installed

settings.register_profile("fuzz", max_examples=500)
"""For ``make fuzz``: five times the examples."""


# Tests send it to processes of theirs, which would ignore it as a shell's background jobs do.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faulty",
        type=int,
        metavar="SEED",
        help="run the same tests on agents and masters that fail by this plan",
    )


@pytest.fixture(autouse=True)
def _faults(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what an app connects to fail: for its workers and coordinators in every way; for the
    application itself, which is to be told of its errors, in the ways that it must not notice."""
    seed: int | None = request.config.getoption("--faulty")
    if seed is None:
        return
    roles = Plan(seed)
    client = Plan(seed, faults={Fault.DELAY, Fault.REPEAT, Fault.REORDER})
    for module, plan in (("mesh.app", roles), ("mesh.client", client)):

        def agent(*args: Any, plan: Plan = plan) -> Agent:
            return faulty_agent(plugins.connect_agent(*args), plan)

        def master(*args: Any, plan: Plan = plan) -> Master:
            return faulty_master(plugins.connect_master(*args), plan)

        monkeypatch.setattr(f"{module}.connect_agent", agent)
        monkeypatch.setattr(f"{module}.connect_master", master)


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


@pytest.fixture(scope="module")
def postgres_url(postgres: PostgresServer) -> str:
    """A database that the tests of a file share."""
    return postgres.create_database()


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    installed("pgbouncer", ["pgbouncer"])
    # Each test has a database of its own: their connections must not pile up.
    with PgBouncer(postgres, settings={"server_idle_timeout": "1"}) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_installed() -> None:
    # Not the package mariadb-server: that starts a server of its own.
    installed("mariadb-server-core", ["mariadbd"])
    installed("mariadb-client", ["mariadb"])  # and what mariadb-install-db needs


@pytest.fixture(scope="session")
def mariadb(mariadb_installed: None) -> Iterator[MariaServer]:
    with MariaServer() as server:
        yield server


@pytest.fixture(scope="module")
def mariadb_url(mariadb: MariaServer) -> str:
    """As ``postgres_url``."""
    return mariadb.create_database()


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment says of a mesh must not reach the tests."""
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        monkeypatch.delenv(name)
    # Processes that tests start are not to want one port.
    monkeypatch.setenv("MESH_HTTP", "off")
