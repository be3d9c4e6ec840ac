"""Agents are away: others take what is new, else the master holds it; else callers are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.testing.servers import NatsServer, PostgresServer
from tests.acceptance.processes import Start

from .rig import OUTAGE, Load


@pytest.mark.timeout(900)
async def test_another_agent_takes_what_is_new(
    nats: NatsServer,
    nats_server: NatsServer,
    postgres: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    settings(postgres.create_database(), one=nats_server.url, two=nats.url)
    start("master", "shop:app")
    start("worker", "shop:app")
    load = Load(tmp_path, start)
    load.begin()
    before = await load.grows(OUTAGE, load.stored, load.ran)

    nats.kill()
    during = await load.grows(OUTAGE, load.stored, load.ran)
    nats.start()
    await load.end()
    async with Mesh.from_env() as app:
        account = await load.account(app, ["one", "two"])
    # What the agent had leased to workers when it was killed may have been given to others.
    account.must_hold(runs_again=True)
    assert not load.refusals()
    report(f"enqueued, executed before {before}, in the outage {during}; {account}")


@pytest.mark.timeout(900)
async def test_without_any_agent_jobs_are_held_and_without_the_master_too_refused(
    nats: NatsServer,
    database: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    settings(database.create_database(), nats=nats.url)
    start("master", "shop:app")
    start("worker", "shop:app")
    load = Load(tmp_path, start)
    load.begin()
    before = await load.grows(OUTAGE, load.stored, load.ran)

    nats.kill()
    (held,) = await load.grows(OUTAGE, load.stored)
    assert not load.refusals()

    database.kill()
    await load.grows(OUTAGE, lambda: len(load.refusals()))
    refusals = load.refusals()
    for refusal in refusals:
        assert refusal.startswith("AgentUnavailable: not stored: agent nats at nats://"), refusal
        assert "; master at postgresql://***@127.0.0.1:" in refusal

    database.start()
    nats.start()
    await load.grows(OUTAGE / 2, load.stored, load.ran)
    await load.end()
    async with Mesh.from_env() as app:
        account = await load.account(app, ["nats"])
    account.must_hold(runs_again=True)
    report(f"before {before}, held on the master {held}, refused {len(refusals)}; {account}")
