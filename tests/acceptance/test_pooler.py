"""A cluster whose processes reach their database through PgBouncer alone, in transaction mode."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.testing.servers import PgBouncer, PostgresServer

from .processes import Start, all_jobs

JOBS = 600
PATIENCE = 90.0

SHOP = """
import asyncio
from mesh import Mesh

app = Mesh.from_env()

@app.job
async def ship(n: int) -> int:
    await asyncio.sleep(0.05)
    return n
"""

PRODUCER = """
import asyncio, json, os
import asyncpg
from shop import app, ship

async def main():
    async with app:
        jobs = await asyncio.gather(*(ship.enqueue(n) for n in range(200)))
        jobs += await ship.enqueue_many([(n,) for n in range(200)])
        jobs += [await ship.options(key=f"k-{n}").enqueue(n) for n in range(50)]
        jobs += [await ship.options(delay=0.5).enqueue(n) for n in range(50)]
        mine = await asyncpg.connect(os.environ["MESH_MASTER"], statement_cache_size=0)
        for begin in (0, 50):
            async with mine.transaction():
                for n in range(begin, begin + 50):
                    jobs.append(await ship.options(session=mine).enqueue(n))
        try:
            async with mine.transaction():
                await ship.options(session=mine).enqueue(-1)
                raise ValueError
        except ValueError:
            pass
        await mine.close()
    print(json.dumps([job.id for job in jobs]))

asyncio.run(main())
"""


@pytest.mark.timeout(240)
async def test_a_cluster_behind_pgbouncer(
    tmp_path: Path, postgres: PostgresServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "producer.py").write_text(PRODUCER)
    with PgBouncer(postgres) as pgbouncer:
        url = pgbouncer.url(postgres.create_database())
        for name, value in {
            "MESH_MASTER": url,
            "MESH_AGENTS": f"pg-1={url}",
            "MESH_LEASE": "3",
            "MESH_HEARTBEAT": "1",
        }.items():
            monkeypatch.setenv(name, value)
        assert start("db", "upgrade").wait(60) == 0
        parts = [start("master", "shop:app") for _ in range(2)]
        parts += [start("worker", "shop:app", "--concurrency", "20") for _ in range(2)]
        producer = start("producer.py", piped=True)
        output, _ = await asyncio.to_thread(producer.communicate, timeout=PATIENCE)
        ids = json.loads(output)
        assert len(set(ids)) == JOBS
        # The pooler restarts: everybody must find it again.
        pgbouncer.kill()
        pgbouncer.start()
        async with Mesh.from_env() as app, asyncio.timeout(PATIENCE):
            master = await app.master()
            while (await master.count_jobs()).get(State.SUCCEEDED, 0) < JOBS:
                await asyncio.sleep(0.05)
            assert sorted(job.id for job in await all_jobs(app)) == sorted(ids)
            for process in parts:
                process.send_signal(signal.SIGTERM)
            for process in parts:
                assert await asyncio.to_thread(process.wait, 30) == 0
            depth = await (await app.agent("pg-1")).depth()
            assert not any(lane.total for lane in depth.values())
