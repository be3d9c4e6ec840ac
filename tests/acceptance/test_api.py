"""The HTTP API as processes serve it: on NATS and PostgreSQL, over real sockets, on bad days."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.testing.servers import NatsServer, PostgresServer, free_port

from .processes import Start

PATIENCE = 60.0

SHOP = """
import asyncio

from mesh import Context, Mesh

app = Mesh.from_env()

@app.job
async def count(ctx: Context, to: int) -> int:
    for number in range(to):
        await ctx.progress(number + 1, to)
        await ctx.chunk(f"{number} ")
        await asyncio.sleep(0.02)
    return to
"""


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


class Site:
    """A coordinator with the API, which can be stopped and started, and a worker."""

    def __init__(self, start: Start) -> None:
        self.port = free_port()
        self._start = start
        start("worker", "shop_served:app")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/", timeout=PATIENCE)
        self.serve()

    def serve(self, ready: str = "health/ready") -> None:
        """Start it, and return once there is an answer of 200 at ``ready``."""
        address = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] = self._start(
            "master", "shop_served:app", "--http", address
        )
        self.until(lambda: self.client.get(ready).status_code == 200)

    def until(self, what: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(httpx.TransportError):
                if what():
                    return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def enqueue(self, **payload: Any) -> str:
        answer = self.client.post("api/v1/jobs", json={"name": "count", "payload": payload})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def read(self, job_id: str, last: int, most: int | None = None) -> list[tuple[int, str]]:
        """Ids and kinds of a stream's events: all of them, or ``most``, or until it breaks."""
        found: list[tuple[int, str]] = []
        headers = {"accept": "text/event-stream"} | ({"last-event-id": str(last)} if last else {})
        path = f"api/v1/jobs/{job_id}/events"
        seq = -1
        with (
            contextlib.suppress(httpx.TransportError),
            self.client.stream("GET", path, headers=headers) as stream,
        ):
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    seq = int(line[4:])
                elif line.startswith("event: "):
                    found.append((seq, line[7:]))
                if len(found) == most:
                    break
        return found


@pytest.fixture
def site(
    tmp_path: Path,
    nats_server: NatsServer,
    database: PostgresServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    for name, value in {
        "MESH_CLUSTER": f"served-{os.getpid()}-{time.monotonic_ns()}",
        "MESH_MASTER": database.create_database(),
        "MESH_AGENTS": f"nats={nats_server.url}",
        "MESH_AUTO_MIGRATE": "true",
        "MESH_CONNECT_TIMEOUT": "2",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "shop_served.py").write_text(SHOP, "utf-8")
    site = Site(start)
    yield site
    site.client.close()


def test_a_stream_goes_on_over_restarts_of_the_server(site: Site) -> None:
    job_id = site.enqueue(to=150)
    seen = site.read(job_id, 0, most=20)
    began = time.monotonic()
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < PATIENCE
    site.serve()
    for _ in range(3):
        seen += site.read(job_id, seen[-1][0], most=15)
    seen += site.read(job_id, seen[-1][0])
    assert seen.pop() == (seen[-1][0], "end")
    seqs = [seq for seq, _ in seen]
    assert seqs == sorted(set(seqs))
    page, after, pages = None, -1, []
    while page is None or page["events"]:
        page = site.client.get(
            f"api/v1/jobs/{job_id}/events", params={"after": after, "limit": 100}
        ).json()
        pages += [(event["seq"], event["kind"]) for event in page["events"]]
        after = page["next"]
    assert seen == pages


def test_open_streams_do_not_hold_the_server_up(site: Site) -> None:
    job_id = site.enqueue(to=3000)
    with site.client.stream(
        "GET", f"api/v1/jobs/{job_id}/events", headers={"accept": "text/event-stream"}
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        site.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(httpx.TransportError):
            for _ in lines:
                pass
    assert site.process.wait(10) == 0


def test_without_the_master_it_says_so_and_recovers(site: Site, database: PostgresServer) -> None:
    assert site.client.get("api/v1/jobs").status_code == 200
    database.kill()
    answer = site.client.get("api/v1/jobs")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:mesh:master-unavailable"
    assert answer.headers["retry-after"]
    ready = site.client.get("health/ready")
    assert ready.status_code == 503
    assert site.client.get("health/live").status_code == 200
    database.start()
    site.until(lambda: site.client.get("api/v1/jobs").status_code == 200)
    site.until(lambda: site.client.get("health/ready").status_code == 200)


def test_it_starts_without_a_master(site: Site, database: PostgresServer) -> None:
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(PATIENCE) == 0
    database.kill()
    site.serve("health/live")
    for path in ("jobs", "overview", "jobs/count", "workers"):
        answer = site.client.get(f"api/v1/{path}")
        assert answer.status_code == 503, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert site.client.get("health/ready").status_code == 503
    database.start()
    site.until(lambda: site.client.get("health/ready").status_code == 200)
    job_id = site.enqueue(to=1)
    assert site.read(job_id, 0)[-1][1] == "end"
