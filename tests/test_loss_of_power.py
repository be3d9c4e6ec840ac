"""What ``mesh doctor`` says of a loss of power: of real servers, as they are configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import AgentError, AgentUnavailable, ConfigError
from mesh.ports import AgentSettings, Check
from mesh.sql import Database, DatabaseErrors, on_power_loss
from mesh.testing.servers import MariaServer, NatsServer, PostgresServer, free_port
from mesh_agents.nats import NatsAgent
from mesh_agents.nats.options import Options
from mesh_agents.nats.power import check_power_loss


async def finding(url: str) -> Check:
    """What the agent there says of it."""
    agent = NatsAgent("n-1", url, AgentSettings(connect_timeout=5))
    await agent.open()
    (found,) = [check for check in await agent.check() if "power" in check.subject]
    await agent.close()
    return found


@pytest.mark.parametrize(
    ("sync_interval", "is_safe", "says"),
    [
        ("always", True, "sync_interval is always: nothing"),
        (None, False, "sync_interval is 120 s"),
        ("'10s'", False, "sync_interval is 10 s"),
    ],
)
async def test_nats_says_when_it_calls_fsync(
    tmp_path: Path, sync_interval: str | None, is_safe: bool, says: str
) -> None:
    port = free_port()
    with NatsServer(tmp_path, f'http: "127.0.0.1:{port}"', sync_interval=sync_interval) as server:
        found = await finding(f"{server.url}?monitor=http://127.0.0.1:{port}")
    assert found.ok is is_safe
    assert says in found.detail
    assert ("sync_interval: always" in found.advice) is not is_safe


async def test_where_nats_does_not_say_doctor_says_how_to_ask(nats_server: NatsServer) -> None:
    found = await finding(nats_server.url)
    assert found.ok
    assert "2 minutes" in found.detail
    assert "?monitor=http://HOST:8222" in found.detail


async def test_a_monitor_that_is_not_there_is_named(nats_server: NatsServer) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    found = await finding(f"{nats_server.url}?monitor={nobody}")
    assert not found.ok
    assert nobody in found.detail


async def test_replicas_have_what_one_server_loses(tmp_path: Path) -> None:
    port = free_port()
    with NatsServer(tmp_path, f'http: "127.0.0.1:{port}"'):
        urls = [f"http://127.0.0.1:{port}"] * 2
        found = await check_power_loss("agent n-1: loss of power", urls, 3, 5.0)
    assert [check.ok for check in found] == [True, True]
    assert all("2 of 3 servers" in check.detail for check in found)
    assert found[0].subject.endswith(urls[0])


def test_a_monitor_has_a_url() -> None:
    with pytest.raises(ConfigError, match="monitor='host:8222' is not a URL"):
        Options.parse("nats://host?monitor=host:8222", {})


@pytest.mark.parametrize(
    ("settings", "is_safe", "says"),
    [
        ({}, True, "fsync=on, synchronous_commit=on, full_page_writes=on"),
        ({"fsync": "off", "synchronous_commit": "off"}, False, "may destroy the whole database; "),
    ],
)
async def test_postgresql_says_what_a_commit_is_worth(
    settings: dict[str, str], is_safe: bool, says: str
) -> None:
    with PostgresServer(settings=settings) as server:
        await _check(server.create_database(), is_safe, says)


async def test_mariadb_says_what_a_commit_is_worth(mariadb: MariaServer) -> None:
    # As the server for tests is started.
    await _check(mariadb.create_database(), False, "the last commits are lost")


async def test_sqlite_writes_to_the_disk(tmp_path: Path) -> None:
    await _check(f"sqlite:///{tmp_path}/mesh.db", True, "synchronous=FULL")


async def _check(url: str, is_safe: bool, says: str) -> None:
    errors = DatabaseErrors(AgentUnavailable, AgentError, AgentError)
    database = Database(url, errors, what="test")
    await database.open()
    found = await on_power_loss(database)
    await database.close()
    assert found.ok is is_safe
    assert says in found.detail
    assert (" = " in found.advice) is not is_safe
