"""What docs/jobs.md says of telling jobs things, run; and its commands, looked up."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import mesh
from mesh import JobCancelled, Mesh, State

from .cluster_rig import PATIENCE, Rig
from .conftest import MakeRig
from .pages import JOBS, blocks, check_command, run


@asynccontextmanager
async def shop(rig: Rig, **settings: Any) -> AsyncIterator[dict[str, Any]]:
    """The names that the page uses, on a cluster that runs."""
    app = rig.app(**settings)

    @app.job
    async def send_mail(user_id: int) -> str:
        return f"sent to {user_id}"

    @app.job
    async def fetch(what: int | str) -> str:
        return f"page {what}"

    @app.job
    async def parse(page: str) -> list[str]:
        return page.split()

    @app.job
    async def store(words: list[str], table: str) -> str:
        return f"{table}: {words}"

    @app.job
    async def publish(paths: list[str]) -> int:
        return len(paths)

    @app.job
    async def compare(pages: list[str]) -> bool:
        return pages == ["page 1", "page 2"]

    @app.job
    async def cleanup() -> None: ...

    @app.job
    async def alert(text: str) -> None: ...

    names = {name: getattr(mesh, name) for name in mesh.__all__} | {"app": app, "user_id": 42}
    names |= {each.name: each for each in app.handlers.values()}
    names |= {"send_receipt": send_mail, "make_report": send_mail, "resize": fetch, "export": fetch}
    async with rig.running(app):
        yield names | {"url": "x", "paths": ["a", "b", "c"], "handler": send_mail}


async def test_when_where_and_once(rig: Rig) -> None:
    async with shop(rig) as names:
        (code,) = blocks("When and where it runs")
        await run(code, names)
        jobs = [names["job"], *names["jobs"]]
        assert [await job.status() for job in jobs] == [State.SCHEDULED] * len(jobs)
        assert (await names["job"].info()).meta == {"tenant": "42"}

        (code,) = blocks("Once only: idempotency keys")
        await names["send_mail"].options(key="welcome:42", delay=600).enqueue(42)
        await run(code, names)
        assert names["job"].existing
        assert names["found"].id == names["job"].id


async def test_inside_a_transaction(rig: Rig) -> None:
    url = rig.master_url.replace("sqlite:", "sqlite+aiosqlite:")
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    order = SimpleNamespace(id=7)

    class Session(AsyncSession):
        def add(self, instance: object, _warn: bool = True) -> None:
            assert instance is order  # a row of the application's

    async with shop(rig) as names:
        (code,) = blocks("Inside your transaction")
        names |= {"AsyncSession": Session, "engine": engine, "order": order}
        await run(code, names)
        async for job in names["app"].jobs(name="send_mail"):
            assert await job.result(PATIENCE) == "sent to 7"
        assert await names["app"].count(name="send_mail") == {State.SUCCEEDED: 1}
    await engine.dispose()


async def test_one_after_another(rig: Rig) -> None:
    after, flows, graph = blocks("One after another: workflows")
    async with shop(rig) as names:
        app: Mesh = names["app"]
        await run(after, names)
        assert await names["report"].result(PATIENCE) == "sent to 42"
        await run(flows, names)
        assert names["result"] == 3
        (stored,) = [job async for job in app.jobs(name="store")]
        assert await stored.result(PATIENCE) == "pages: ['page', 'x']"
        await run(graph, names)
        assert sorted(names["running"].jobs) == ["cleanup", "compare", "left", "right"]
        assert await names["running"].jobs["compare"].result(PATIENCE) is True
        (alert,) = [job async for job in app.jobs(name="alert")]
        with pytest.raises(JobCancelled, match="was to run after the failure of"):
            await alert.result(PATIENCE)


async def test_cancelling_and_limits(rig: Rig) -> None:
    async with shop(rig) as names:
        (code,) = blocks("Cancelling")
        await run(code, names)
        assert names["state"] in (State.CANCELLED, State.SUCCEEDED)
        (code,) = blocks("Limits")
        names["app"] = app = rig.app()
        await run(code, names)
        for name in ("export", "sync", "call_api"):
            assert app.handlers[name].limits is not None


async def test_two_apps_in_one_process(
    make_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"Mesh": Mesh}
    (code,) = blocks("Lanes, agents and the cluster")
    await run(code, names)
    assert [names[app].config.cluster for app in ("here", "there")] == ["default", "there"]


def test_the_commands_of_the_page_exist() -> None:
    lines = re.findall(r"^mesh .*$", JOBS, re.MULTILINE)
    assert len(lines) >= 20
    for line in lines:
        check_command(line)
