"""A worker that is stopped for longer than its lease, and goes on: real processes and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.job import new_job_id
from mesh.roles import RoleOptions, make_role

from .processes import MESH

PATIENCE = 60.0

SHOP = """
import asyncio, os
from mesh import Context, Mesh

app = Mesh(master={master!r}, agents={agents!r}, cluster={cluster!r}, lease=2, auto_migrate=True)

@app.job
async def slow(ctx: Context, folder: str) -> int:
    if ctx.attempt == 1:
        open(os.path.join(folder, "started"), "w").close()
        while not os.path.exists(os.path.join(folder, "go")):
            await asyncio.sleep(0.01)
    return os.getpid()
"""


class Workers:
    """Real ``mesh worker`` processes of one application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [MESH, "worker", "shop:app"], cwd=self.folder, stderr=subprocess.PIPE, text=True
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.close()


@pytest.fixture
async def app(where: tuple[str, dict[str, str]], tmp_path: Path) -> AsyncIterator[Mesh]:
    """The producer's end of the cluster, with a coordinator."""
    master, agents = where
    cluster = f"leases-{new_job_id()[-12:]}"
    shop = SHOP.format(master=master, agents=agents, cluster=cluster)
    (tmp_path / "shop.py").write_text(shop)
    space: dict[str, Mesh] = {}
    exec(shop, space)  # as the workers will import it
    app = space["app"]
    async with app, make_role("coordinator", app, RoleOptions()):
        yield app


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


async def test_what_it_says_too_late_changes_nothing_and_it_learns_so(
    app: Mesh, workers: Workers, tmp_path: Path
) -> None:
    job = await app.handlers["slow"].enqueue(str(tmp_path))
    zombie = workers.start()
    async with patience():
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.01)
        # Told of, so that it counts: a start of the last moment may not be.
        while await job.status() is not State.RUNNING:
            await asyncio.sleep(0.01)
    os.kill(zombie.pid, signal.SIGSTOP)
    other = workers.start()
    assert await job.result(timeout=PATIENCE) == other.pid
    before = await job.info()
    assert (before.state, before.attempt) == (State.SUCCEEDED, 2)

    (tmp_path / "go").touch()
    os.kill(zombie.pid, signal.SIGCONT)
    master = await app.master()
    async with patience():
        # Its outcome is kept as that attempt's.
        while not any(
            attempt.attempt == 1 and attempt.outcome == State.SUCCEEDED
            for attempt in await master.attempts(job.id)
        ):
            await asyncio.sleep(0.01)
    assert await job.info() == before
    assert await job.result() == other.pid
    for process in (zombie, other):
        process.terminate()
    _, log = await asyncio.to_thread(zombie.communicate, timeout=PATIENCE)
    assert f"job {job.id} (slow)" in log
    assert "the lease of 2 s ended before it was extended" in log or "the lease was lost" in log
    _, log = await asyncio.to_thread(other.communicate, timeout=PATIENCE)
    assert job.id not in log
