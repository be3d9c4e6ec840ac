from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.testing.servers import NatsServer, PostgresServer, free_port
from tests.acceptance.processes import Start, starting

from .rig import write_app

REPORT = pytest.StashKey[list[str]]()


@pytest.fixture
def nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    write_app(tmp_path)
    with starting(tmp_path) as start:
        yield start


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call it with the master's URL and the agents' by name: they are what processes that are
    started from then on find. Returns where the HTTP API of a coordinator will be."""

    def set_up(master: str, **agents: str) -> str:
        http = f"127.0.0.1:{free_port()}"
        for name, value in {
            "MESH_CLUSTER": f"outage-{os.getpid()}",
            "MESH_MASTER": master,
            "MESH_AGENTS": ",".join(f"{name}={url}" for name, url in agents.items()),
            "MESH_HTTP": http,
            "MESH_AUTO_MIGRATE": "1",
            "MESH_LEASE": "5",
            "MESH_HEARTBEAT": "1",
            "MESH_PUSH_TIMEOUT": "2",
            "MESH_CONNECT_TIMEOUT": "2",
        }.items():
            monkeypatch.setenv(name, value)
        return f"http://{http}"

    return set_up


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Call it with what was measured: it is shown at the end of the session."""
    lines = request.config.stash.setdefault(REPORT, [])
    return lambda what: lines.append(f"{request.node.name}: {what}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(REPORT, []):
        terminalreporter.write_line(line)
