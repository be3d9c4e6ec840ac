"""Real processes on MariaDB alone, which is the master and the agent at once.

A worker is killed halfway and another takes its place: every job that ``enqueue`` acknowledged is
in the master once, succeeded, and nothing is left on the agent or in its ledger.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.testing.servers import MariaServer

from .processes import Start, all_jobs

JOBS, CONCURRENCY = 600, 20
PATIENCE = 90.0

SHOP = """
import asyncio
from mesh import Mesh

app = Mesh.from_env()

@app.job
async def send_mail(n: int) -> int:
    await asyncio.sleep(0.2)
    return n
"""

PRODUCER = """
import asyncio
from shop import app, send_mail

async def main():
    async with app:
        jobs = await asyncio.gather(*(send_mail.enqueue(n) for n in range({jobs})))
        await send_mail.options(delay=3600, key="once").enqueue(-1)
        print(*(job.id for job in jobs))

asyncio.run(main())
"""


@pytest.mark.timeout(240)
async def test_master_and_agent_in_one_mariadb(
    tmp_path: Path, mariadb: MariaServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "producer.py").write_text(PRODUCER.format(jobs=JOBS))
    monkeypatch.setenv("MESH_URL", mariadb.create_database())
    monkeypatch.setenv("MESH_LEASE", "3")
    monkeypatch.setenv("MESH_HEARTBEAT", "1")
    assert await asyncio.to_thread(start("db", "upgrade").wait, 60) == 0
    coordinator = start("master", "shop:app")
    victim = start("worker", "shop:app", "--concurrency", str(CONCURRENCY))
    producer = start("producer.py", piped=True)
    output, _ = await asyncio.to_thread(producer.communicate, timeout=60)
    ids = output.split()
    assert len(set(ids)) == JOBS
    async with Mesh.from_env() as app:
        master = await app.master()

        async def until_succeeded(count: int) -> None:
            async with asyncio.timeout(PATIENCE):
                while (await master.count_jobs()).get(State.SUCCEEDED, 0) < count:
                    await asyncio.sleep(0.05)

        await until_succeeded(JOBS // 4)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        successor = start("worker", "shop:app", "--concurrency", str(CONCURRENCY))
        await until_succeeded(JOBS)

        jobs = {job.id: job for job in await all_jobs(app)}
        (held,) = jobs.keys() - set(ids)
        assert jobs.pop(held).state is State.SCHEDULED
        assert {job.state for job in jobs.values()} == {State.SUCCEEDED}
        # Those that ran when their worker was killed, and those whose outcome was being written.
        again = [job for job in jobs.values() if job.attempt > 1]
        assert 1 <= len(again) <= 2 * CONCURRENCY
        for job in again:
            story = await master.attempts(job.id)
            assert [a.outcome for a in story] == ["lost", "succeeded"]

        successor.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(successor.wait, 30) == 0
        (name,) = app.config.agents
        agent = await app.agent(name)
        assert {lane: d.total for lane, d in (await agent.depth()).items() if d.total} == {}
        ledger = await agent.ledger()
        async with asyncio.timeout(PATIENCE):
            while await ledger.lag():
                await asyncio.sleep(0.05)
        await ledger.close()
        coordinator.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(coordinator.wait, 30) == 0
