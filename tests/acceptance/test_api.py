"""The HTTP API as a process: restarts, readers that come again, a master that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

from mesh.testing.servers import PostgresServer, free_port

from .processes import Start

PATIENCE = 60.0
CHUNKS = 60

APP = """
import asyncio

from mesh import Context, Mesh

app = Mesh(
    master={master!r},
    agents={agents!r},
    auto_migrate=True,
    connect_timeout=2,
    persist_events=("lifecycle", "chunk", "result"),
)

@app.job
async def count(ctx: Context, to: int) -> int:
    for number in range(to):
        await ctx.chunk(number)
        await asyncio.sleep(0.05)
    return to
"""


class Site:
    """A master that serves the API, and is stopped and started again at the same address."""

    def __init__(self, folder: Path, start: Start, master: str, agents: dict[str, str]) -> None:
        (folder / "counting.py").write_text(APP.format(master=master, agents=agents))
        self._start = start
        self._address = f"127.0.0.1:{free_port()}"
        self.client = httpx.AsyncClient(base_url=f"http://{self._address}", timeout=PATIENCE)
        self._master: Popen[str] | None = None

    async def serve(self) -> None:
        self._master = self._start("master", "counting:app", "--http", self._address)
        await self.until("/health/live")

    def stop(self) -> None:
        """As a service manager does; what streams are open then must not keep it."""
        assert self._master is not None
        self._master.terminate()
        assert self._master.wait(PATIENCE) == 0

    def work(self) -> None:
        self._start("worker", "counting:app")

    async def until(self, path: str, status: int = 200) -> Any:
        """What is there, once it answers so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    answer = await self.client.get(path)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if answer.status_code == status:
                    return answer.json()
                await asyncio.sleep(0.05)

    async def enqueue(self, **payload: int) -> str:
        async with asyncio.timeout(PATIENCE):
            while True:
                body = {"name": "count", "payload": payload, "options": {"durability": "master"}}
                answer = await self.client.post("/api/v1/jobs", json=body)
                if answer.status_code == 202:
                    return str(answer.headers["location"])
                await asyncio.sleep(0.05)

    async def follow(self, job: str, last: str | None = None) -> AsyncIterator[dict[str, str]]:
        """What the job's stream tells: fields of one event after the other."""
        headers = {"Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = last
        async with self.client.stream("GET", f"{job}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif not line:
                    if "event" in fields:
                        yield fields
                    fields = {}


@pytest.fixture
async def site(
    tmp_path: Path, start: Start, where: tuple[str, dict[str, str]]
) -> AsyncIterator[Site]:
    site = Site(tmp_path, start, *where)
    async with site.client:
        await site.serve()
        yield site


async def test_readers_miss_nothing_when_the_server_is_stopped_and_started(site: Site) -> None:
    site.work()
    job = await site.enqueue(to=CHUNKS)
    told: list[dict[str, str]] = []
    async for event in site.follow(job):
        told.append(event)
        if len(told) == 5:
            # The stream is open. It ends, and so does the process.
            await asyncio.to_thread(site.stop)
    assert told[-1]["event"] != "end"
    await site.serve()
    async with asyncio.timeout(PATIENCE):
        told += [event async for event in site.follow(job, told[-1]["id"])]
    assert told.pop()["event"] == "end"
    ids = [int(event["id"]) for event in told]
    assert ids == sorted(set(ids))
    chunks = [event["data"] for event in told if event["event"] == "chunk"]
    assert [f'"data":{number}}}' in chunk for number, chunk in enumerate(chunks)] == [True] * CHUNKS
    assert told[-1]["event"] == "lifecycle"
    assert '"succeeded"' in told[-1]["data"]


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


async def test_it_says_that_the_master_is_away_and_comes_back(
    tmp_path: Path, start: Start, database: PostgresServer
) -> None:
    agent = f"sqlite:///{tmp_path}/agent.db"
    site = Site(tmp_path, start, database.create_database(), {"local": agent})
    async with site.client:
        await site.serve()
        await site.until("/health/ready")
        database.kill()
        ready = await site.until("/health/ready", 503)
        assert ready["status"] == "degraded"
        for path in ("jobs", "overview", "jobs/count", "workers"):
            answer = await site.client.get(f"/api/v1/{path}")
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"]
        assert (await site.client.get("/health/live")).status_code == 200
        database.start()
        assert (await site.until("/health/ready"))["status"] == "ok"
        assert (await site.until("/api/v1/jobs"))["jobs"] == []
        # One that never had a master: it starts, and says so.
        database.kill()
        site.stop()
        await site.serve()
        assert (await site.client.get("/api/v1/jobs")).status_code == 503
        database.start()
        assert (await site.until("/api/v1/jobs"))["jobs"] == []
