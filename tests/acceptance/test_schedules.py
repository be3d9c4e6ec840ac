"""Schedules on a whole cluster: three coordinators, of which one is killed every seven seconds.

50 schedules, each every 1 to 5 seconds. Every slot has exactly one job, which ran exactly once.
``SECONDS=60`` gives all combinations of databases and agents a whole minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.ports import JobInfo
from mesh.testing.servers import NatsServer, PostgresServer

from .processes import MESH, Start, all_jobs

PATIENCE = 60.0
KILL_EVERY = 7.0

CLOCKWORK = """
import os
from datetime import UTC, datetime
from mesh import Context, Mesh

app = Mesh.from_env()
begin = datetime.fromtimestamp(int(os.environ["BEGIN"]), UTC)

@app.job
async def tick(period: int, ctx: Context) -> None:
    line = f"{ctx.schedule} {ctx.slot.timestamp():.0f} {datetime.now(UTC).timestamp()}\\n"
    file = os.open("ran.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)

for n in range(50):
    period = n % 5 + 1
    expression = f"*/{period} * * * * *" if n % 2 else f"every {period} seconds"
    app.schedule(tick, expression, period, name=f"s{n}-{period}", start=begin)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("master", "agent", "seconds"),
    [
        ("postgres", "nats", 30),
        ("sqlite", "sqlite", 15),
        ("postgres", "postgres", 15),
        ("sqlite", "nats", 15),
    ],
)
async def test_every_slot_has_one_job_whatever_coordinator_dies(
    master: str,
    agent: str,
    seconds: int,
    tmp_path: Path,
    nats_server: NatsServer,
    postgres: PostgresServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = int(os.environ.get("SECONDS", seconds))
    urls = {
        "postgres": postgres.create_database(),
        "nats": nats_server.url,
        "sqlite": f"sqlite:///{tmp_path / 'mesh.db'}",
    }
    begin = int(time.time())
    for name, value in {
        "MESH_CLUSTER": f"clockwork-{master}-{agent}-{os.getpid()}",
        "MESH_MASTER": urls[master],
        "MESH_AGENTS": f"a={urls[agent]}",
        "BEGIN": str(begin),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "clockwork.py").write_text(CLOCKWORK)
    subprocess.run([MESH, "db", "upgrade"], cwd=tmp_path, check=True)
    start("worker", "clockwork:app", "--concurrency", "50")
    coordinators = [start("master", "clockwork:app") for _ in range(3)]
    async with Mesh.from_env() as app:
        await _until_declared(app, 50)
    since = int(time.time()) + 2
    slots = range(since, since + seconds)
    while time.time() < slots.stop:
        await asyncio.sleep(KILL_EVERY)
        victim = random.randrange(3)
        coordinators[victim].send_signal(signal.SIGKILL)
        coordinators[victim].wait()
        coordinators[victim] = start("master", "clockwork:app")

    expected = {
        (f"s{n}-{n % 5 + 1}", slot)
        for n in range(50)
        for slot in slots
        if (slot - (0 if n % 2 else begin)) % (n % 5 + 1) == 0
    }
    async with Mesh.from_env() as app:
        jobs = await _until_all_ended(app, slots, len(expected))
    ran = [line.split() for line in (tmp_path / "ran.txt").read_text().splitlines()]
    made = Counter((job.schedule or "", int(job.slot or 0)) for job in jobs)
    runs = Counter((name, int(slot)) for name, slot, _ in ran)
    # Before and after these slots there may be others, but none twice.
    for counts in (made, runs):
        assert {one for one in counts if one[1] in slots} == expected
        assert set(counts.values()) == {1}
    late = sorted(float(at) - int(slot) for _, slot, at in ran)
    sys.stdout.write(
        f"{len(ran)} jobs, late by (s): median {late[len(late) // 2]:.4f}, "
        f"p99 {late[len(late) * 99 // 100]:.4f}, at most {late[-1]:.4f}\n"
    )


async def _until_declared(app: Mesh, count: int) -> None:
    """A leader that dies before may have a successor that comes too late for the first slots."""
    async with asyncio.timeout(PATIENCE):
        while len(await app.schedules.list()) < count:
            await asyncio.sleep(0.1)


async def _until_all_ended(app: Mesh, slots: range, count: int) -> list[JobInfo]:
    """All jobs, once so many of these slots have succeeded."""
    async with asyncio.timeout(PATIENCE):
        while True:
            jobs = await all_jobs(app)
            ended = [job for job in jobs if job.state is State.SUCCEEDED]
            if sum(int(job.slot or 0) in slots for job in ended) >= count:
                return jobs
            await asyncio.sleep(0.5)
