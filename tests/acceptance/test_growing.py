"""A cluster that grows while it runs, and shrinks again: real processes, jobs without a pause.

It begins as one database. An agent is added, on another kind of server; the producer, which knew
nothing of it, uses it within seconds. The first agent is drained, so that all work is on the
new one; then the new one is drained too, by a worker process in the mode ``drain``, and the first
is taken back. Every job that was acknowledged has run once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest

from mesh import Mesh, State
from mesh.ports import JobFilter
from mesh.testing.servers import NatsServer, PostgresServer

from .processes import Start, all_jobs

PATIENCE = 30.0
LOOKED_AT = 2000
"""Of the newest jobs, how many are counted: there is no waiting for more."""

SHOP = """
from pathlib import Path
from mesh import Mesh

app = Mesh.from_env()

@app.job
async def count(n: int) -> int:
    with open("ran.txt", "a") as file:
        file.write(f"{n}\\n")
    return n
"""

PRODUCER = """
import asyncio, json, signal, sys
from shop import app, count

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    n, ids = 0, {}
    async with app:
        while not stop.is_set():
            for job in await count.enqueue_many([(n + i,) for i in range(5)]):
                ids[job.id] = n
                n += 1
            await asyncio.sleep(0.1)
    json.dump(list(ids), sys.stdout)

asyncio.run(main())
"""


@pytest.fixture(params=["sqlite-nats", "postgres-nats", "sqlite-sqlite"])
def cluster(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    """The folder of the application, and the URL of the agent to come."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "producer.py").write_text(PRODUCER)
    (tmp_path / "ran.txt").touch()
    first, _, second = request.param.partition("-")
    url = f"sqlite:///{tmp_path}/mesh.db"
    if first == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url = postgres.create_database()
    other = f"sqlite:///{tmp_path}/second.db"
    if second == "nats":
        nats: NatsServer = request.getfixturevalue("nats_server")
        other = nats.url
    for name, value in {
        "MESH_CLUSTER": f"growing-{uuid4().hex[:12]}",
        "MESH_URL": url,
        "MESH_LEASE": "3",
        "MESH_HEARTBEAT": "1",
        "MESH_AUTO_MIGRATE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path, other


async def said(process: subprocess.Popen[str]) -> str:
    """What it printed; it must have ended well."""
    output, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


async def until_succeeded(app: Mesh, agent: str, count: int) -> None:
    """Until jobs have succeeded that the agent had."""
    master = await app.master()
    async with asyncio.timeout(PATIENCE):
        while True:
            done = await master.list_jobs(JobFilter(states=[State.SUCCEEDED], limit=LOOKED_AT))
            if sum(job.agent == agent for job in done) >= count:
                return
            await asyncio.sleep(0.1)


@pytest.mark.timeout(240)
async def test_nothing_is_lost(cluster: tuple[Path, str], start: Start) -> None:
    folder, url = cluster
    start("master", "shop:app")
    start("worker", "shop:app", "--agent", "local")
    async with Mesh.from_env() as app:
        producer = start("producer.py", piped=True)
        await until_succeeded(app, "local", 20)

        # It grows: the producer, and the coordinator, notice by themselves.
        assert "second is added" in await said(start("agents", "add", "second", url, piped=True))
        second = start("worker", "shop:app", "--agent", "second")
        await until_succeeded(app, "second", 20)

        # All on the new one.
        output = await said(start("agents", "drain", "local", piped=True))
        assert "agent local is empty" in output
        at = len((folder / "ran.txt").read_text().splitlines())
        await until_succeeded(app, "second", min(at // 4, LOOKED_AT))
        listed = json.loads(await said(start("agents", "ls", "--json", piped=True)))
        assert {a["name"]: (a["state"], a["is_added"]) for a in listed} == {
            "local": ("draining", False),
            "second": ("active", True),
        }

        # And back: the first is added again, the second is emptied without its workers.
        await said(start("agents", "add", "local", os.environ["MESH_URL"], piped=True))
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 30) == 0
        await said(start("worker", "shop:app", "--mode", "drain", "--agent", "second", piped=True))
        producer.send_signal(signal.SIGTERM)
        ids = json.loads(await said(producer))
        await said(start("agents", "drain", "second", piped=True))
        assert "second is removed" in await said(start("agents", "rm", "second", piped=True))

        master = await app.master()
        async with asyncio.timeout(PATIENCE):
            while (await master.count_jobs()).get(State.SUCCEEDED, 0) < len(ids):
                await asyncio.sleep(0.1)
        jobs = await all_jobs(app)
        assert {job.id for job in jobs} == set(ids)
        assert {job.state for job in jobs} == {State.SUCCEEDED}
        ran = Counter((folder / "ran.txt").read_text().split())
        assert len(ran) == len(ids)
        assert set(ran.values()) == {1}
        depth = await (await app.agent("local")).depth()
        assert not any(d.total for d in depth.values())
