"""The master's schema is upgraded while processes of the code before it work, on each database.

Old code is the code that is here. New code is the same with one revision more.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from mesh import Mesh, State
from mesh_master import presence
from mesh_master.store import SqlMaster
from tests.revisions import ADDS, TAKES, TODAY, TOMORROW, with_revision

from .processes import Start, all_jobs

PATIENCE = 90.0
MORE = 150

SHOP = """
import asyncio
from mesh import Mesh, Retry

app = Mesh.from_env()

@app.job(retry=Retry(3, delay=0.05))
async def ship(n: int) -> int:
    await asyncio.sleep(0.02)
    return n
"""

# Until its input ends: singles, bulk, keyed ones and delayed ones that the master holds.
PRODUCER = """
import asyncio, json, sys
from shop import app, ship

async def main():
    ids, done = [], asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with app:
        while not done.done():
            jobs = await asyncio.gather(*(ship.enqueue(n) for n in range(10)))
            jobs += await ship.enqueue_many([(n,) for n in range(10)])
            jobs.append(await ship.options(key=f"k-{len(ids)}").enqueue(1))
            jobs.append(await ship.options(durability="master", delay=0.2).enqueue(2))
            ids += [job.id for job in jobs]
            await asyncio.sleep(0.2)
    print(json.dumps(ids))

asyncio.run(main())
"""

NEW_CODE = """
from pathlib import Path
from mesh_master import schema

schema._FOLDER = Path({folder!r})

from mesh.cli import main
main()
"""


async def until_succeeded(app: Mesh, count: int) -> None:
    master = await app.master()
    async with asyncio.timeout(PATIENCE):
        while (await master.count_jobs()).get(State.SUCCEEDED, 0) < count:
            await asyncio.sleep(0.05)


async def until_at_work(master: SqlMaster, *revisions: str) -> None:
    """Wait until code that knows these was heard of."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with master.database.read() as connection:
                seen = await presence.at_work(master.database, master.tables, connection)
            if seen.keys() >= set(revisions):
                return
            await asyncio.sleep(0.1)


async def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.timeout(240)
async def test_the_schema_is_upgraded_under_load(
    tmp_path: Path,
    where: tuple[str, dict[str, str]],
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master_url, agents = where
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "producer.py").write_text(PRODUCER)
    adds = with_revision(tmp_path / "adds", ADDS, works_with=TODAY)
    takes = with_revision(tmp_path / "takes", TAKES, on=adds)
    for name, folder in {"adds": adds, "takes": takes}.items():
        (tmp_path / f"{name}.py").write_text(NEW_CODE.format(folder=str(folder)))
    for name, value in {
        "MESH_CLUSTER": f"upgrade-{os.getpid()}",
        "MESH_MASTER": master_url,
        "MESH_AGENTS": ",".join(f"{agent}={url}" for agent, url in agents.items()),
        "MESH_AUTO_MIGRATE": "false",
        "MESH_HTTP": "off",
    }.items():
        monkeypatch.setenv(name, value)
    assert start("db", "upgrade").wait(60) == 0
    old = [start("master", "shop:app"), start("worker", "shop:app")]
    producer = start("producer.py", piped=True)

    async with Mesh.from_env() as app:
        await until_succeeded(app, MORE)
        upgrade = start("adds.py", "db", "upgrade")
        assert await asyncio.to_thread(upgrade.wait, PATIENCE) == 0
        master = await app.master()
        assert isinstance(master, SqlMaster)
        async with master.database.read() as connection:
            version = await connection.execute(text("SELECT version_num FROM mesh_schema_version"))
            assert version.scalar_one() == TOMORROW
        # One process after the other; an old one that starts now works too.
        new = [start("adds.py", "master", "shop:app"), start("adds.py", "worker", "shop:app")]
        old.append(start("master", "shop:app"))
        await until_at_work(master, TODAY, TOMORROW)
        refused = start("takes.py", "db", "upgrade")
        assert await asyncio.to_thread(refused.wait, PATIENCE) != 0
        await end(*old)
        done = (await master.count_jobs())[State.SUCCEEDED]
        await until_succeeded(app, done + MORE)
        output, _ = await asyncio.to_thread(producer.communicate, "", timeout=PATIENCE)
        ids = json.loads(output)
        await until_succeeded(app, len(ids))
        jobs = await all_jobs(app)
        assert sorted(job.id for job in jobs) == sorted(ids)
        assert {job.attempt for job in jobs} == {1}
        await end(*new)
    assert_nothing_went_wrong(tmp_path)


def assert_nothing_went_wrong(folder: Path) -> None:
    for log in folder.glob("*.log"):
        told = log.read_text()
        assert "ERROR" not in told
        assert "Traceback" not in told
        assert ("--force" in told) == ("takes.py" in log.name)
