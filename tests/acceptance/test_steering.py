"""The way from the master to the workers, on whole clusters: NATS + PostgreSQL, and one SQLite
file. Coordinators and workers run here, each with an app of its own as in processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from mesh import Context, Mesh, Retry, State
from mesh.errors import ClusterArchived, ConfigError, JobCancelled, ResultTimeout
from mesh.job import new_job_id
from mesh.notices import CLUSTER, cancel_key
from mesh.roles import RoleOptions, make_role
from mesh.service import Service
from mesh.settings import ClusterSettings, LaneState, Mode
from mesh.testing.servers import NatsServer, PostgresServer

PATIENCE = 30.0


class Site:
    """A cluster, and what runs on it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = {"lease": 3.0, "heartbeat": 0.5, "auto_migrate": True, **settings}
        self.started = asyncio.Event()
        self.ran: list[int] = []
        self.release = threading.Event()
        self._stack = AsyncExitStack()
        self.app = self.new_app()

    def new_app(self) -> Mesh:
        """One more process's app."""
        app = Mesh(**self.settings)
        loop = asyncio.get_running_loop()

        @app.job
        async def quick(n: int) -> int:
            self.ran.append(n)
            return n

        @app.job
        async def endless() -> None:
            self.started.set()
            await asyncio.Event().wait()

        @app.job
        async def stubborn() -> str:
            self.started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "done all the same"
            return "never"

        @app.job
        def threaded(ctx: Context[Any]) -> None:
            loop.call_soon_threadsafe(self.started.set)
            while not self.release.wait(0.01):
                if ctx.cancelled:
                    raise RuntimeError("left half-way")

        @app.job(retry=Retry(3, delay=3600))
        async def failing() -> None:
            self.started.set()
            raise ValueError("no")

        self._stack.push_async_callback(app.close)
        return app

    def handler(self, name: str) -> Any:
        return self.app.get_handler(name)

    async def start(self, role: str, **options: Any) -> Service:
        service = make_role(role, self.new_app(), RoleOptions(**options))
        await service.start()
        self._stack.push_async_callback(service.stop)
        return service

    async def until(self, condition: Callable[[], Any]) -> None:
        """Look until it is so."""
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.02)

    async def board_of(self, agent: str) -> dict[str, bytes | None]:
        board = await (await self.app.agent(agent)).board()
        try:
            return dict(await board.read(0.0))
        finally:
            await board.close()

    async def close(self) -> None:
        self.release.set()
        await self._stack.aclose()


@pytest.fixture(params=["sqlite", "nats"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    if request.param == "sqlite":
        site = Site(tmp_path, url=f"sqlite:///{tmp_path}/mesh.db")
    else:
        nats: NatsServer = request.getfixturevalue("nats_server")
        postgres: PostgresServer = request.getfixturevalue("postgres")
        site = Site(
            tmp_path,
            master=postgres.create_database(),
            agents={"local": nats.url},
            cluster=f"c-{uuid4().hex[:12]}",
        )
    yield site
    await site.close()


# cancels -------------------------------------------------------------------------------------


async def test_a_job_that_has_not_started_never_does(site: Site) -> None:
    quick = site.handler("quick")
    coordinator = await site.start("coordinator")
    job, other = await quick.enqueue(1), await quick.enqueue(2)
    assert await job.cancel("no need", wait=0) in (State.QUEUED, State.SCHEDULED)

    async def is_told() -> bool:
        return cancel_key(job.id) in await site.board_of("local")

    await site.until(is_told)
    worker = await site.start("worker")
    with pytest.raises(JobCancelled, match="no need"):
        await job.result(PATIENCE)
    assert await other.result(PATIENCE) == 2
    assert site.ran == [2]
    # Asked again, it says how it ended; and the notice is taken down everywhere.
    assert await job.cancel("again") is State.CANCELLED
    await site.until(lambda: _not(is_told()))
    await worker.stop()
    await coordinator.stop()


async def _not(answer: Any) -> bool:
    return not await answer


async def test_a_held_job_is_cancelled_by_the_master_alone(site: Site) -> None:
    await site.app.master()
    job = await site.handler("quick").options(delay=3600).enqueue(1)
    assert await job.cancel("changed my mind") is State.CANCELLED
    info = await job.info()
    assert (info.error_type, info.error_message) == ("Cancelled", "changed my mind")


async def test_running_handlers_are_told(site: Site) -> None:
    await site.start("coordinator")
    await site.start("worker")
    for name in ("endless", "threaded"):
        site.started.clear()
        job = await site.handler(name).enqueue()
        await asyncio.wait_for(site.started.wait(), PATIENCE)
        assert await job.cancel(f"enough of {name}", wait=PATIENCE) is State.CANCELLED
        with pytest.raises(JobCancelled, match=f"enough of {name}"):
            await job.result(PATIENCE)


async def test_a_result_that_came_first_wins(site: Site) -> None:
    await site.start("coordinator")
    await site.start("worker")
    job = await site.handler("stubborn").enqueue()
    await asyncio.wait_for(site.started.wait(), PATIENCE)
    assert await job.cancel(wait=PATIENCE) is State.SUCCEEDED
    assert await job.result(PATIENCE) == "done all the same"


async def test_who_does_not_wait_is_told_the_state(site: Site) -> None:
    await site.start("coordinator")
    await site.start("worker")
    job = await site.handler("threaded").enqueue()
    await asyncio.wait_for(site.started.wait(), PATIENCE)

    async def is_running() -> bool:
        return await job.status() is State.RUNNING

    await site.until(is_running)
    assert await job.cancel(wait=0) is State.RUNNING
    with pytest.raises(JobCancelled):
        await job.result(PATIENCE)
    with pytest.raises(ConfigError, match="wait=-1"):
        await job.cancel(wait=-1)


async def test_a_cancel_outlasts_a_coordinator(site: Site) -> None:
    """The notice stands in the master; who comes next sees to it."""
    first = await site.start("coordinator")
    job = await site.handler("quick").enqueue(1)
    await first.stop()
    await (await site.app.master()).cancel([job.id, new_job_id()], "while nobody was there")
    await site.start("coordinator")

    async def is_told() -> bool:
        return cancel_key(job.id) in await site.board_of("local")

    await site.until(is_told)
    await site.start("worker")
    with pytest.raises(JobCancelled, match="while nobody was there"):
        await job.result(PATIENCE)
    assert site.ran == []


# modes, lanes, settings ----------------------------------------------------------------------


async def change(site: Site, **changes: Any) -> None:
    master = await site.app.master()
    await master.change_settings(lambda s: msgspec.structs.replace(s, **changes))


async def until_heard(site: Site) -> None:
    """Until this process's app knows the settings, which it follows by itself, and the agents'
    boards tell them to whoever comes now: this app may have heard of them from the master."""
    wanted = (await (await site.app.master()).cluster_settings()).revision

    async def is_heard() -> bool:
        if site.app.cluster.settings.revision != wanted:
            return False
        boards = [await site.board_of(name) for name in site.app.config.agents]
        told = [ClusterSettings.decode(board.get(CLUSTER) or b"{}") for board in boards]
        return all(one.revision == wanted for one in told)

    await site.until(is_heard)


async def test_a_passive_cluster_accepts_and_runs_nothing(site: Site) -> None:
    await site.start("coordinator")
    await site.start("worker")
    quick = site.handler("quick")
    assert await (await quick.enqueue(0)).result(PATIENCE) == 0
    await change(site, mode=Mode.PASSIVE)
    await until_heard(site)
    job = await quick.enqueue(1)

    async def is_accepted() -> bool:
        return (await site.app.get_job(job.id)) is not None

    # A worker that begins now learns of it before its first job.
    await site.start("worker")
    with pytest.raises(ResultTimeout):
        await job.result(0.5)
    assert await is_accepted()
    await change(site, mode=Mode.ACTIVE)
    assert await job.result(PATIENCE) == 1
    assert site.ran == [0, 1]


async def test_an_archive_refuses_jobs_and_shows_history(site: Site) -> None:
    await site.start("coordinator")
    await site.start("worker")
    quick = site.handler("quick")
    job = await quick.enqueue(0)
    await job.result(PATIENCE)
    await change(site, mode=Mode.ARCHIVE)
    await until_heard(site)
    for refused in (
        quick.enqueue(1),
        quick.enqueue_many([(1,), (2,)]),
        quick.options(delay=3600).enqueue(1),
        quick.options(key="k").enqueue(1),
    ):
        with pytest.raises(ClusterArchived, match="mesh cluster mode active"):
            await refused
    # One that starts now is told before its first job too.
    late = site.new_app()
    with pytest.raises(ClusterArchived):
        await late.get_handler("quick").enqueue(1)
    assert (await job.info()).state is State.SUCCEEDED
    await change(site, mode=Mode.ACTIVE)
    await until_heard(site)
    assert await (await quick.enqueue(3)).result(PATIENCE) == 3
    assert site.ran == [0, 3]


async def test_a_draining_lane_leaves_new_jobs_on_the_master(site: Site) -> None:
    await site.start("coordinator")
    quick = site.handler("quick")
    before = await quick.enqueue(1)
    await change(site, lanes={"default": LaneState.DRAINING})
    await until_heard(site)
    after = await quick.enqueue(2)
    assert await after.status() is State.SCHEDULED
    await site.start("worker")
    assert await before.result(PATIENCE) == 1
    with pytest.raises(ResultTimeout):
        await after.result(1.0)
    assert await after.status() is State.SCHEDULED
    await change(site, lanes={})
    assert await after.result(PATIENCE) == 2


async def test_a_processs_own_configuration_wins_over_the_clusters(site: Site) -> None:
    await site.start("coordinator")
    own = Mesh(**{**site.settings, "timeout": 7.0, "agents": site.settings.get("agents")})
    await change(site, timeout=3.0, payload_limit=1000, transient_threshold=5.0)
    await own.master()  # it learns them as it opens a connection
    await until_heard(site)
    assert (site.app.config.timeout, own.config.timeout) == (3.0, 7.0)
    assert own.config.payload_limit == own.payload_limit == 1000
    assert own.config.transient_threshold == 5.0
    await own.close()
    job = await site.handler("quick").options(delay=30).enqueue(1)
    assert await job.status() is State.SCHEDULED  # later than the cluster's threshold


async def test_an_agents_board_becomes_as_the_masters(site: Site) -> None:
    """Whatever stands there: what another coordinator left, or what nobody told it."""
    master = await site.app.master()
    await change(site, timeout=3.0)
    agent = await site.app.agent("local")
    stale = ClusterSettings(revision=1, timeout=9.0).encode()
    await agent.post({"stray": b"1", CLUSTER: stale})
    await master.post({"wanted": b"2"})
    await site.start("coordinator")
    wanted = {"wanted": b"2", CLUSTER: (await master.cluster_settings()).encode()}

    async def is_same() -> bool:
        return await site.board_of("local") == wanted

    await site.until(is_same)
    # And it stays so while it changes.
    await master.post({"wanted": None, "new": b"3"})
    wanted = {"new": b"3", CLUSTER: wanted[CLUSTER]}
    await site.until(is_same)
