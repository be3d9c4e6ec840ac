"""A recorder that was away finds a million records, and takes no more memory than else."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.ports import Agent, Delivery, Ledger
from mesh.testing.conformance.agent import make_finished, make_job
from mesh.testing.servers import NatsServer, PostgresServer
from mesh.wire import Accepted
from tests.acceptance.processes import Start

from .rig import LONG, eventually

JOBS = 500_000
AT_ONCE = 2_000
MOST_GROWTH = 150.0
"""MB above the memory of a recorder that has nothing to do."""


def memory(process: subprocess.Popen[str]) -> float:
    """MB that a process has in RAM."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {process.pid} has ended")


async def fill(agent: Agent) -> None:
    """Tell of jobs that were accepted, and a little later succeeded."""
    payload = b'{"order":123456,"note":"' + b"x" * 100 + b'"}'
    for _ in range(JOBS // AT_ONCE):
        jobs = [make_job("mail", payload=payload) for _ in range(AT_ONCE)]
        await agent.append([Accepted(job, time.time()) for job in jobs])
        await agent.append([make_finished(Delivery(job, ""), time.time()) for job in jobs])


async def until_recorded(ledger: Ledger, process: subprocess.Popen[str]) -> float:
    """Wait until nothing is left in the ledger. The most memory that the process had."""
    most = 0.0
    async with asyncio.timeout(1200):
        while await ledger.lag():
            most = max(most, memory(process))
            await asyncio.sleep(0.2)
    return max(most, memory(process))


@pytest.mark.skipif(not LONG, reason="takes minutes: make outages")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["nats", "postgresql"])
async def test_a_million_records_are_recorded_in_bounded_memory(
    kind: str,
    nats: NatsServer,
    postgres: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    settings(
        postgres.create_database(),
        agent=nats.url if kind == "nats" else postgres.create_database(),
    )
    log = tmp_path / "0-master.log"
    coordinator = start("master", "shop:app")
    await eventually(lambda: "holds the lease 'recorder:agent'" in log.read_text(), "no recorder")
    async with Mesh.from_env() as app:
        agent, master = await app.agent("agent"), await app.master()
        # What it does for the first time is loaded then.
        await agent.append([make_finished(Delivery(make_job(), ""), time.time())])
        ledger = await agent.ledger()
        idle = await until_recorded(ledger, coordinator)
        coordinator.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(coordinator.wait, 60) == 0

        await fill(agent)
        began = time.monotonic()
        coordinator = start("master", "shop:app")
        most = await until_recorded(ledger, coordinator)
        took = time.monotonic() - began
        assert (await master.count_jobs())[State.SUCCEEDED] == JOBS + 1
        await ledger.close()
    assert most - idle < MOST_GROWTH
    report(
        f"{2 * JOBS:,} records in {took:.0f} s, memory {idle:.0f} MB idle and {most:.0f} MB at most"
    )
