"""A cluster that runs in this process, and its HTTP API, asked without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from mesh import Context, Mesh, Retry
from mesh.roles import RoleOptions, make_role
from mesh.service import Group
from mesh_master.api import create_app

__all__ = ["LOCAL", "PATIENCE", "Served"]

PATIENCE = 30.0
LOCAL = "http://localhost:8642"


class Served:
    """An app, its API, and what a client asks of that."""

    def __init__(self, app: Mesh) -> None:
        self.app = app
        self.asgi = create_app(app)
        self.client = self.new_client()

    def new_client(self, url: str = LOCAL, address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(cast(Any, self.asgi), client=(address, 50000))
        return httpx.AsyncClient(transport=transport, base_url=f"{url}/api/v1/")

    async def ask(self, method: str, path: str, status: int = 200, **given: Any) -> Any:
        """The body of an answer, which must have that status."""
        answer = await self.client.request(method, path, **given)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def get(self, path: str, status: int = 200, **parameters: Any) -> Any:
        return await self.ask("GET", path, status, params=parameters)

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return await self.ask("POST", path, status, json={} if body is None else body)

    async def enqueue(self, name: str, /, **payload: Any) -> str:
        made = await self.post("jobs", {"name": name, "payload": payload}, 202)
        return str(made["id"])

    async def ended(self, job_id: str) -> Any:
        """The job, once it has ended."""
        handle = await self.known(job_id)
        async with asyncio.timeout(PATIENCE):
            async for _ in handle.events():
                pass
        return await self.get(f"jobs/{job_id}")

    async def known(self, job_id: str) -> Any:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = (await (await self.app.master()).get_jobs([job_id])).get(job_id)
                if found is not None:
                    return await self.app.get_job(job_id)
                await asyncio.sleep(0.01)


def handlers(app: Mesh) -> None:
    """Register what the tests enqueue."""

    @app.job
    async def add(x: int, y: int = 1) -> int:
        return x + y

    @app.job(lane="slow")
    async def count(ctx: Context, to: int) -> str:
        for number in range(to):
            await ctx.progress(number, to)
            await ctx.chunk(f"{number} ")
        return "counted"

    @app.job(retry=Retry(1))
    async def fail(why: str = "boom") -> None:
        raise ValueError(why)

    @app.job
    async def sign_up(name: str, password: str) -> dict[str, str]:
        return {"name": name, "password": password}

    @app.job(kind="system")
    async def upkeep() -> None: ...

    app.schedule(add, "0 2 * * *", 1, name="nightly")


@asynccontextmanager
async def serving(app: Mesh) -> AsyncIterator[Served]:
    roles = [make_role(role, app, RoleOptions()) for role in ("coordinator", "worker")]
    async with Group("cluster", roles), app:
        served = Served(app)
        async with served.client:
            yield served


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}", redact=["password"])
    handlers(app)
    async with serving(app) as served:
        yield served
