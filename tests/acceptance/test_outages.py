"""Bad days, with real servers that are stopped and started again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh import AgentUnavailable, Mesh, PublishOutcomeUnknown, State
from mesh.roles import RoleOptions, make_role
from mesh.service import Group
from mesh.testing.servers import NatsServer, PostgresServer, free_port
from mesh_master.circumstances import find_standing
from mesh_master.why import why

from .processes import MESH


@pytest.fixture
def nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def make_app(nats: NatsServer, master: str) -> Mesh:
    app = Mesh(
        master=master,
        agents={"nats-1": nats.url},
        cluster="outage",
        auto_migrate=True,
        lease=3,
        connect_timeout=2,
        push_timeout=2,
    )

    @app.job(lane="sums")
    async def double(n: int) -> int:
        return 2 * n

    return app


@asynccontextmanager
async def running(app: Mesh, *roles: str) -> AsyncIterator[None]:
    services = [make_role(role, app, RoleOptions()) for role in roles]
    async with app, Group("cluster", services):
        yield


async def test_without_its_agent_a_job_is_held_on_the_master(
    nats: NatsServer, tmp_path: Path
) -> None:
    app = make_app(nats, f"sqlite:///{tmp_path}/master.db")
    double = app.handlers["double"]
    async with running(app, "coordinator", "worker"):
        assert await (await double.enqueue(1)).result(30) == 2
        nats.kill()
        try:
            job = await double.enqueue(2)
        except PublishOutcomeUnknown as unknown:
            # It left before the client had noticed; so we do what the error says.
            job = await double.options(id=unknown.job_ids[0]).enqueue(2)
        assert await job.status() is State.SCHEDULED
        async with make_app(nats, app.config.master or "") as asking:
            seen = await job.info()
            reasons = why(seen, await find_standing(asking, [seen], thorough=True))
        assert any("nats-1 cannot be reached" in reason.text for reason in reasons)
        nats.start()
        assert await job.result(60) == 4


async def test_without_agent_and_master_nothing_is_stored(nats: NatsServer) -> None:
    nats.stop()
    master = f"postgresql://mesh:secret@127.0.0.1:{free_port()}/none"
    app = make_app(nats, master)
    async with app:
        with pytest.raises(AgentUnavailable, match="not stored") as caught:
            await app.handlers["double"].enqueue(1)
    assert nats.url.removeprefix("nats://") in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_worker_waits_for_its_agent(nats: NatsServer, tmp_path: Path) -> None:
    app = make_app(nats, f"sqlite:///{tmp_path}/master.db")
    nats.stop()
    roles = Group("cluster", [make_role(r, app, RoleOptions()) for r in ("coordinator", "worker")])
    starting = asyncio.create_task(roles.start())
    done, _ = await asyncio.wait([starting], timeout=1)
    assert not done
    nats.start()
    async with app, asyncio.timeout(60):
        await starting
        assert await (await app.handlers["double"].enqueue(4)).result() == 8
        await roles.stop()


SHOP = """
from mesh import Mesh
app = Mesh.from_env()

@app.job(lane="mail")
async def send_mail(n: int) -> int:
    return n
"""


def test_doctor_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, nats: NatsServer, database: PostgresServer
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    environment = os.environ | {
        "MESH_MASTER": database.create_database(),
        "MESH_AGENTS": f"nats-1={nats.url}",
        "MESH_CONNECT_TIMEOUT": "2",
    }

    def doctor() -> tuple[int, list[dict[str, object]]]:
        done = subprocess.run(
            [MESH, "doctor", "shop:app", "--json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    status, checks = doctor()
    assert status == 1
    assert any("mesh db upgrade" in f"{c['detail']} {c['advice']}" for c in checks if not c["ok"])

    subprocess.run([MESH, "db", "upgrade"], cwd=tmp_path, env=environment, check=True)
    status, checks = doctor()
    # Nor does this server, made for tests, write to the disk.
    bad = ["master: loss of power", "coordinators", "lane mail"]
    assert [c["subject"] for c in checks if not c["ok"]] == bad
    assert "fsync=off" in next(str(c["detail"]) for c in checks if not c["ok"])
    assert any("mesh worker" in str(c["advice"]) for c in checks)

    nats.stop()
    status, checks = doctor()
    assert status == 1
    _, down = [c for c in checks if not c["ok"]]
    assert down["subject"] == "agent nats-1"
    assert nats.url.removeprefix("nats://") in str(down["detail"])
