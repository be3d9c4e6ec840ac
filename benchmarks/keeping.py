"""What the history takes, and how fast it is forgotten: ``python -m benchmarks.keeping``.

Records ``--jobs`` jobs that ended long ago into an empty master on PostgreSQL, as a recorder does
that learns of them at their end, and says how many bytes the database grew by and how many it wrote
ahead (WAL) for each. Then the janitor forgets them: once as when it keeps up, and once, of as many
again, as when it does not. The figures of docs/scale.md.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import typer
from sqlalchemy import text

from mesh.job import State
from mesh.ports import MasterSettings
from mesh.testing.conformance.master import Story, record
from mesh.testing.servers import PostgresServer
from mesh_master.janitor import Janitor
from mesh_master.store import SqlMaster

DAY = 86_400.0
BATCH = 4000
RETENTION = {State.SUCCEEDED.value: 7 * DAY}


async def fill(master: SqlMaster, jobs: int) -> None:
    for start in range(0, jobs, BATCH):
        ended = master.database.now() - 10 * DAY
        stories = [Story(ended) for _ in range(min(BATCH, jobs - start))]
        await record(master, *(story.finished() for story in stories))


async def number(master: SqlMaster, query: str) -> float:
    async with master.database.read() as connection:
        return float((await connection.execute(text(query))).scalar_one())


async def forget(master: SqlMaster, jobs: int, interval: float) -> float:
    """All of them, jobs a second. ``interval``: after so many seconds it does not keep up."""
    janitor = Janitor(master, retention=lambda _: RETENTION, holder="me", interval=interval)
    began = time.perf_counter()
    async with janitor:
        while janitor.removed < jobs:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    return jobs / (time.perf_counter() - began)


async def main(jobs: int) -> None:
    with PostgresServer() as server:
        master = SqlMaster(server.create_database(), MasterSettings(auto_migrate=True))
        await master.open()
        size, wal = (
            "SELECT pg_database_size(current_database())",
            "SELECT pg_current_wal_lsn() - '0/0'",
        )
        await fill(master, BATCH)
        await forget(master, BATCH, 0.0)
        before = await number(master, size), await number(master, wal)
        await fill(master, jobs)
        after = await number(master, size), await number(master, wal)
        typer.echo(f"history: {(after[0] - before[0]) / jobs:.0f} bytes a job")
        typer.echo(f"written ahead: {(after[1] - before[1]) / jobs:.0f} bytes a job")
        typer.echo(f"forgotten, keeping up: {await forget(master, jobs, 3600.0):,.0f} jobs/s")
        await fill(master, jobs)
        typer.echo(f"forgotten, not keeping up: {await forget(master, jobs, 0.0):,.0f} jobs/s")
        await master.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200_000)
    asyncio.run(main(parser.parse_args().jobs))
