"""The whole: the real command line as separate processes, on NATS and PostgreSQL.

5,000 jobs in two lanes; one worker is killed halfway and another takes its place. Every job that
``enqueue`` acknowledged is in the master once, succeeded; the attempts tell what happened; and
nothing is left on the agent or in its ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.testing.servers import NatsServer, PostgresServer

from .processes import Start, all_jobs

JOBS = 5_000
PATIENCE = 90.0

SHOP = """
import asyncio
from mesh import Mesh

app = Mesh.from_env()

@app.job(lane="mail")
async def send_mail(n: int) -> int:
    await asyncio.sleep(0.2)
    return n

@app.job(lane="reports")
def build_report(n: int) -> str:
    return f"report {n}"
"""

PRODUCER = """
import asyncio, json, sys
from shop import app, build_report, send_mail

async def main(count):
    async def one(n):
        handler = send_mail if n % 2 else build_report
        return (await handler.enqueue(n)).id

    async with app:
        ids = []
        for start in range(0, count, 500):
            ids += await asyncio.gather(*(one(n) for n in range(start, start + 500)))
    json.dump(ids, sys.stdout)

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.fixture
def cluster(
    tmp_path: Path,
    nats_server: NatsServer,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with the application; the environment says where the cluster is."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "producer.py").write_text(PRODUCER)
    for name, value in {
        "MESH_CLUSTER": f"acceptance-{os.getpid()}",
        "MESH_MASTER": postgres.create_database(),
        "MESH_AGENTS": f"nats-1={nats_server.url}",
        "MESH_LEASE": "3",
        "MESH_HEARTBEAT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


async def until_succeeded(app: Mesh, count: int) -> None:
    """Wait until the master has at least so many successes."""
    master = await app.master()
    async with asyncio.timeout(PATIENCE):
        while (await master.count_jobs()).get(State.SUCCEEDED, 0) < count:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
async def test_five_thousand_jobs_survive_a_killed_worker(cluster: Path, start: Start) -> None:
    upgrade = start("db", "upgrade")
    assert upgrade.wait(60) == 0
    coordinator = start("master", "shop:app")
    victim = start("worker", "shop:app", "--lane", "mail", "--concurrency", "100")
    reports = start("worker", "shop:app", "--lane", "reports", "--concurrency", "4")
    producer = subprocess.Popen(
        [sys.executable, "producer.py", str(JOBS)], cwd=cluster, stdout=subprocess.PIPE, text=True
    )
    async with Mesh.from_env() as app:
        # The reports finish first; the victim is in the middle of the mail by then.
        await until_succeeded(app, JOBS // 2)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        output, _ = await asyncio.to_thread(producer.communicate, timeout=60)
        assert producer.returncode == 0
        ids = json.loads(output)
        assert len(set(ids)) == JOBS
        successor = start("worker", "shop:app", "--lane", "mail", "--concurrency", "100")
        await until_succeeded(app, JOBS)

        jobs = await all_jobs(app)
        assert sorted(job.id for job in jobs) == sorted(ids)
        assert {job.state for job in jobs} == {State.SUCCEEDED}
        again = [job for job in jobs if job.attempt > 1]
        # Those in flight when their worker was killed, and no others.
        assert 1 <= len(again) <= 100
        for job in again:
            assert job.name == "send_mail"
            story = await (await app.master()).attempts(job.id)
            assert [a.outcome for a in story] == ["lost", "succeeded"]
            assert story[0].worker != story[1].worker
        assert all(job.result is not None and job.payload is not None for job in jobs)

        for process in (successor, reports):
            process.send_signal(signal.SIGTERM)
        for process in (successor, reports):
            assert await asyncio.to_thread(process.wait, 30) == 0
        agent = await app.agent("nats-1")
        depth = await agent.depth()
        assert {lane: d.total for lane, d in depth.items() if d.total} == {}
        ledger = await agent.ledger()
        async with asyncio.timeout(PATIENCE):
            while await ledger.lag():
                await asyncio.sleep(0.05)
        await ledger.close()
        coordinator.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(coordinator.wait, 30) == 0
