"""What docs/jobs.md says of contexts, dependencies, middleware and encryption, run."""

import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mesh import Context, JobFailed, Mesh, Retry
from mesh.codecs import Fernet

from .cluster_rig import PATIENCE, Rig
from .pages import JOBS, blocks


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the page says sqlite:///mesh.db


async def test_what_a_handler_is_given() -> None:
    space: dict[str, Any] = {}
    given, depends, override = blocks("What a handler is given")
    exec(given, space)
    exec(depends, space)
    app: Mesh = space["app"]
    async with Rig().running(app):
        parent = await space["publish"].enqueue("cat.png")
        children = await parent.result(timeout=PATIENCE)
        results = [await (await app.get_job(one)).result(timeout=PATIENCE) for one in children]
        assert results == ["cat.png@320", "cat.png@640"]
        found = [job.id async for job in app.jobs(parent=parent.id)]
        assert sorted(found) == sorted(children)
        charged = await space["charge"].enqueue(42)
        assert await charged.result(timeout=PATIENCE) == "receipt 42"
        exec(override, space)
        assert app.dependency_overrides == {space["get_session"]: space["Session"]}
        charged = await space["charge"].enqueue(43)
        assert await charged.result(timeout=PATIENCE) == "receipt 43"


def test_the_table_names_all_that_a_context_has() -> None:
    text = JOBS.partition("### The context\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`(\w+)", row)}
    has = {name for name in dir(Context) if not name.startswith("_")}
    assert named == has | {"attempt", "max_attempts"}


async def test_around_every_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space: dict[str, Any] = {"Context": Context}
    monkeypatch.setenv("SHOP_KEY", Fernet.new_key())
    first, sentry, encryption = blocks("Around every job: middleware")
    exec(first, space)
    app: Mesh = space["app"]

    @app.job(retry=Retry(1))
    async def work(ctx: Context, fails: bool) -> list[str]:
        if fails:
            raise ValueError("declined")
        return sorted(ctx.headers)

    async with Rig().running(app):
        job = await work.enqueue(False)
        assert await job.result(timeout=PATIENCE) == ["tenant", "traceparent"]
        with pytest.raises(JobFailed):
            await (await work.enqueue(True)).result(timeout=PATIENCE)
    assert "work ErrorInfo(type='ValueError', message='declined'" in capsys.readouterr().out

    captured: list[Any] = []
    scope = SimpleNamespace(set_tag=print, set_extra=print)
    module: Any = SimpleNamespace(
        capture_exception=captured.append, new_scope=lambda: nullcontext(scope)
    )
    monkeypatch.setitem(sys.modules, "sentry_sdk", module)
    exec(sentry, space)
    reporting: Mesh = space["app"]
    reporting.job(retry=Retry(1), name="work")(work.function)
    async with Rig().running(reporting):
        with pytest.raises(JobFailed):
            await (await reporting.handlers["work"].enqueue(True)).result(timeout=PATIENCE)
    assert [str(error) for error in captured] == ["declined"]

    exec(encryption, space)
    secret: Mesh = space["app"]
    secret.job(name="work")(work.function)
    async with Rig().running(secret):
        job = await secret.handlers["work"].enqueue(False)
        assert await job.result(timeout=PATIENCE) == []
        info = await job.info()
        assert list(json.loads(info.payload or b"")) == ["$encrypted"]
