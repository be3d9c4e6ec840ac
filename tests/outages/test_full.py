"""An agent is full: it says so, loses nothing, and goes on when there is room."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.testing.servers import NatsServer, PostgresServer
from tests.acceptance.processes import Start

from .rig import LONG, OUTAGE, Load, eventually


@pytest.mark.timeout(600)
async def test_jobs_are_refused_where_outcomes_are_not(
    nats_server: NatsServer,
    postgres: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[object], None],
) -> None:
    master = postgres.create_database()
    settings(master, nats=f"{nats_server.url}?max_bytes=2MB")
    start("master", "shop:app")
    monkeypatch.delenv("MESH_MASTER")  # else callers don't notice: the master holds their jobs
    load = Load(tmp_path, start, size=20_000)
    load.begin()
    await eventually(lambda: bool(load.refusals()), "never full")
    await load.grows(OUTAGE, lambda: len(load.refusals()))
    accepted = load.stored()
    for refusal in load.refusals():
        assert "max_bytes is 2000000: nothing was stored" in refusal, refusal

    start("worker", "shop:app")
    await load.grows(OUTAGE / 2, load.ran)
    await eventually(lambda: load.stored() > accepted, "refused although there is room")
    await load.end()
    monkeypatch.setenv("MESH_MASTER", master)
    async with Mesh.from_env() as app:
        account = await load.account(app, ["nats"])
    account.must_hold()
    report(f"stored up to the limit {accepted}, refused {len(load.refusals())}; {account}")


@pytest.mark.skipif(not LONG, reason="takes a while: make outages")
@pytest.mark.timeout(900)
async def test_a_server_at_its_limit_loses_no_outcome(
    postgres: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[object], None],
) -> None:
    """No recorder runs, so the ledger grows until there is no room for anything: workers keep
    what they know, and write it when a recorder has made room."""
    with NatsServer(max_file_store=75_000_000) as nats:
        master = postgres.create_database()
        settings(master, nats=nats.url)
        monkeypatch.delenv("MESH_MASTER")
        load = Load(tmp_path, start, callers=30, size=100_000)
        start("worker", "shop:app")
        load.begin()
        await eventually(lambda: bool(load.refusals()), "never full")
        await load.grows(OUTAGE, lambda: len(load.refusals()))
        for refusal in load.refusals():
            assert "JetStream is at its storage limit: raise max_file_store" in refusal, refusal
        accepted = load.stored()

        monkeypatch.setenv("MESH_MASTER", master)
        start("master", "shop:app")
        await eventually(lambda: load.stored() > accepted, "refused although there is room")
        await load.end()
        async with Mesh.from_env() as app:
            account = await load.account(app, ["nats"])
    account.must_hold()
    report(f"refused {len(load.refusals())} after {accepted} were stored; {account}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.timeout(600)
async def test_a_full_disk_of_an_sql_agent(
    small_disk: Path,
    postgres: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[object], None],
) -> None:
    master = postgres.create_database()
    settings(master, sql=f"sqlite:///{small_disk}/agent.db")
    monkeypatch.delenv("MESH_MASTER")
    load = Load(tmp_path, start, size=20_000)
    load.begin()
    await eventually(lambda: bool(load.refusals()), "never full")
    await load.grows(OUTAGE, lambda: len(load.refusals()))
    for refusal in load.refusals():
        assert "database or disk is full; free some of its disk" in refusal, refusal
    accepted = load.stored()

    monkeypatch.setenv("MESH_MASTER", master)
    start("master", "shop:app")
    start("worker", "shop:app")
    remount = ["mount", "-o", "remount,size=64m", str(small_disk)]
    assert await (await asyncio.create_subprocess_exec(*remount)).wait() == 0
    await eventually(lambda: load.stored() > accepted, "refused although there is room")
    await load.end()
    async with Mesh.from_env() as app:
        account = await load.account(app, ["sql"])
    account.must_hold()
    report(f"refused {len(load.refusals())} after {accepted} were stored; {account}")
