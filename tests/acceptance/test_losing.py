"""An agent that loses what it had, while real processes work: its streams are deleted, or its rows.

Nobody is started again. What the master knew reaches its end, and what was stored on the master
first is never in danger.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from mesh import JobHandle, Mesh, State
from mesh.doctor import examine
from mesh.errors import PartlyStored
from mesh.job import TERMINAL
from mesh.ports import JobFilter, Master
from mesh.testing.servers import NatsServer, PostgresServer
from mesh_agents.nats import NatsAgent
from mesh_agents.sql import SqlAgent

from .processes import Start, all_jobs

PATIENCE = 60.0
BEGUN = (State.RUNNING, State.RETRYING, State.SUCCEEDED)

SHOP = """
import asyncio
from mesh import Context, Mesh, Retry

app = Mesh.from_env()

@app.job(lane="sums", retry=Retry(20, delay=0.5, backoff="fixed"))
async def double(n: int, ctx: Context) -> int:
    await asyncio.sleep(0.05)
    if n % 10 == 0 and ctx.attempt == 1:
        raise ValueError("again")
    return 2 * n
"""


async def lose_streams(agent: NatsAgent) -> None:
    streams = agent._streams
    for kind in streams.wanted():
        await streams.api(f"STREAM.DELETE.{streams.names.stream(kind)}")


async def lose_rows(agent: SqlAgent) -> None:
    async with agent.database.write() as connection:
        await connection.execute(text("DELETE FROM mesh_agent_jobs"))


@pytest.fixture(params=["nats", "sql"])
def cluster(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nats_server: NatsServer,
    postgres: PostgresServer,
) -> Callable[[Mesh], Awaitable[None]]:
    """Its agent loses what it has."""
    (tmp_path / "shop.py").write_text(SHOP)
    agent = nats_server.url if request.param == "nats" else postgres.create_database()
    for name, value in {
        "MESH_CLUSTER": f"losing-{uuid4().hex[:12]}",
        "MESH_MASTER": postgres.create_database(),
        "MESH_AGENTS": f"first={agent}",
        "MESH_LEASE": "2",
        "MESH_HEARTBEAT": "1",
        "MESH_AUTO_MIGRATE": "true",
    }.items():
        monkeypatch.setenv(name, value)

    async def lose(app: Mesh) -> None:
        agent = await app.agent("first")
        if isinstance(agent, NatsAgent):
            await lose_streams(agent)
        else:
            assert isinstance(agent, SqlAgent)
            await lose_rows(agent)

    return lose


async def until_known(master: Master, ids: set[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(await master.known(sorted(ids))) < len(ids):
            await asyncio.sleep(0.05)


async def until_dispatched(master: Master, ids: set[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(k.state is State.SCHEDULED for k in (await master.known(sorted(ids))).values()):
            await asyncio.sleep(0.05)


async def test_what_an_agent_lost_is_found_and_done(
    cluster: Callable[[Mesh], Awaitable[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Mesh.from_env()

    @app.job(name="double", lane="sums")
    async def double(n: int) -> int:
        return 2 * n

    start("master", "shop:app")
    start("worker", "shop:app", "--lane", "sums=4")
    async with app:
        master = await app.master()
        before = await double.enqueue_many([(n,) for n in range(400)])
        firm = await double.options(durability="master").enqueue_many([(n,) for n in range(100)])
        known = {job.id for job in before}
        await until_known(master, known)
        # One whose dispatch the master has not heard of is asked for when its claim ends: in 60 s.
        await until_dispatched(master, {job.id for job in firm})
        during: list[JobHandle[int]] = []
        stop = asyncio.Event()

        async def produce() -> None:
            while not stop.is_set():
                # Whose outcome is not known, as the stream went meanwhile, may be there or not.
                try:
                    during.extend(await double.enqueue_many([(n,) for n in range(5)]))
                except PartlyStored as error:
                    if error.not_stored:
                        raise
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            async with asyncio.timeout(PATIENCE):
                # Under load: most are there, some run, some may have ended.
                while not await master.count_jobs(JobFilter(states=BEGUN)):
                    await asyncio.sleep(0.02)
            await cluster(app)
            await asyncio.sleep(0.5)
            stop.set()
        left = await master.count_jobs(JobFilter(states=[State.QUEUED, State.RUNNING]))
        assert sum(left.values()) > 0
        after = await double.enqueue_many([(n,) for n in range(20)])
        await until_ended(master, known | {job.id for job in [*firm, *after]})
        story = {job.id: job for job in await all_jobs(app)}
        counts = Counter(story[job.id].state for job in [*before, *firm, *after])
        assert counts == {State.SUCCEEDED: 520}
        lost = [a for job_id in story for a in await master.attempts(job_id) if a.outcome == "lost"]
        # On a slow machine a lease may be lost, too.
        assert "AgentLost" in {attempt.error_type for attempt in lost}
        assert (await master.agents())[0].lost > 0
        (found,) = [c for c in await examine(app) if c.subject == "agent first" and not c.ok]
        assert "which were dispatched again" in found.detail
        # Whatever else the master heard of has ended too.
        await until_ended(master, set(story))
        shown = json.dumps(Counter(str(job.state) for job in await all_jobs(app)))
        assert len(during) > 10, shown


async def until_ended(master: Master, ids: set[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            known = await master.known(sorted(ids))
            if len(known) == len(ids) and all(k.state in TERMINAL for k in known.values()):
                return
            await asyncio.sleep(0.2)
