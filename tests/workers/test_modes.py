"""The modes of a worker process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh import Mesh, State
from mesh.errors import ConfigError
from mesh.roles import RoleOptions, make_role
from mesh.settings import AgentState
from mesh_master.coordinator import Coordinator

PATIENCE = 30.0


def new_app(folder: Path) -> Mesh:
    app = Mesh(f"sqlite:///{folder}/mesh.db", lease=3.0)

    @app.job
    async def echo(n: int) -> int:
        return n

    app.schedule(echo, "every day", 1)
    return app


async def test_execution_runs_jobs_without_a_master(tmp_path: Path) -> None:
    """The master's database is not even there; the agent's is another file."""
    away = f"sqlite:///{tmp_path}/no/such/folder/master.db"
    app = Mesh(master=away, agents={"a": f"sqlite:///{tmp_path}/agent.db"})
    ended = asyncio.Event()

    @app.job
    async def echo(n: int) -> int:
        ended.set()
        return n

    app.schedule(echo, "every day", 1)
    async with make_role("worker", app, RoleOptions(mode="execution")):
        await echo.enqueue(1)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        assert app.config.master is None
        with pytest.raises(ConfigError, match="no master configured"):
            await app.master()
    await app.close()


async def test_coordinator_runs_the_masters_duties_alone(tmp_path: Path) -> None:
    app = new_app(tmp_path)
    service = make_role("worker", app, RoleOptions(mode="coordinator"))
    assert isinstance(service, Coordinator)
    async with service:
        job = await app.get_handler("echo").enqueue(1)
        async with asyncio.timeout(PATIENCE):
            while not await (await app.master()).get_jobs([job.id]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await job.status() is State.QUEUED
    await app.close()


async def test_drain_moves_what_is_left_to_the_master_and_ends(tmp_path: Path) -> None:
    app = new_app(tmp_path)
    jobs = await app.get_handler("echo").enqueue_many([(n,) for n in range(300)])
    drain = make_role("worker", new_app(tmp_path), RoleOptions(mode="drain", agents=("local",)))
    await drain.start()
    async with asyncio.timeout(PATIENCE):
        await drain.wait()
    assert {await job.status() for job in jobs} == {State.SCHEDULED}
    assert not any(d.total for d in (await (await app.agent("local")).depth()).values())
    # Nobody takes them back to the agent; once it is active again they run, each once.
    master = await app.master()
    ran = list[int]()
    other = Mesh(f"sqlite:///{tmp_path}/mesh.db", lease=3.0)

    @other.job
    async def echo(n: int) -> int:
        ran.append(n)
        return n

    coordinator = make_role("coordinator", new_app(tmp_path), RoleOptions())
    async with coordinator, make_role("worker", other, RoleOptions()):
        await master.change_settings(lambda s: s.with_agent_state("local", AgentState.ACTIVE))
        async with asyncio.timeout(PATIENCE):
            assert [await job.result() for job in jobs] == list(range(300))
        attempts = await master.attempts(jobs[0].id)
    assert sorted(ran) == list(range(300))
    assert [a.outcome for a in attempts] == ["succeeded"]
    await other.close()
    await app.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "drain"}, "which agents to empty, such as --agent local"),
        ({"mode": "drain", "agents": ("lokal",)}, "did you mean 'local'"),
        ({"mode": "drain", "agents": ("local",), "lanes": {"x": 1}}, "leave out --lane"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_role("worker", new_app(tmp_path), RoleOptions(**options))  # type: ignore[arg-type]


async def test_drain_needs_a_master(tmp_path: Path) -> None:
    app = Mesh(agents={"a": f"sqlite:///{tmp_path}/agent.db"})
    with pytest.raises(ConfigError, match="moves jobs back to the master, and none is configured"):
        make_role("worker", app, RoleOptions(mode="drain", agents=("a",)))
