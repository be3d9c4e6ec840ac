"""What ``mesh jobs``, ``mesh workers`` and ``mesh db`` print."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mesh.errors import ConfigError, InvalidArguments, JobNotFound, SchemaMismatch, UnknownHandler
from mesh.job import State, new_job_id
from mesh.ports import MasterSettings
from mesh.testing.conformance.master import Story
from mesh.wire import Heartbeat, LaneLoad, Record
from mesh_master.commands import register
from mesh_master.store import SqlMaster

SHOP = """
from mesh import Mesh
app = Mesh({url!r})

@app.job(lane="mail")
async def send(user_id: int, template: str = "hello") -> str: ...
"""


class Shell:
    def __init__(self, url: str) -> None:
        self.url = url
        self._cli = typer.Typer()
        register(self._cli)

    def mesh(self, *arguments: str, master: bool = True) -> str:
        """What a command prints. Raises what it raises."""
        where = ["--master", self.url] if master else ["--app", "shop_of_test:app"]
        result = CliRunner().invoke(self._cli, [*arguments, *where])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def json(self, *arguments: str, master: bool = True) -> Any:
        return json.loads(self.mesh(*arguments, "--json", master=master))

    def record(self, *records: Record) -> None:
        async def record() -> None:
            master = SqlMaster(self.url, MasterSettings())
            await master.open()
            lease = await master.acquire("recorder:a-1", "test", 60.0)
            assert lease is not None
            await master.record("a-1", records, lease)
            await master.close()

        asyncio.run(record())


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    (tmp_path / "shop_of_test.py").write_text(SHOP.format(url=url))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Shell(url)
    sys.modules.pop("shop_of_test", None)


def test_jobs_are_listed(shell: Shell) -> None:
    done, failed = Story(lane="mail"), Story(name="report")
    shell.record(done.accepted(), done.finished(), failed.accepted())
    shell.record(failed.finished(state=State.FAILED))
    text = shell.mesh("jobs", "ls")
    assert done.id in text
    assert failed.id in text
    assert [job["id"] for job in shell.json("jobs", "ls", "--state", "failed")] == [failed.id]
    assert [job["id"] for job in shell.json("jobs", "ls", "--lane", "mail")] == [done.id]
    newest = max(done.id, failed.id)
    assert f"--before {newest}" in shell.mesh("jobs", "ls", "--limit", "1")
    older = shell.json("jobs", "ls", "--before", newest)
    assert [job["id"] for job in older] == [min(done.id, failed.id)]
    with pytest.raises(ConfigError, match="did you mean 'succeeded'"):
        shell.mesh("jobs", "ls", "--state", "suceeded")


def test_a_job_is_shown_with_its_story(shell: Shell) -> None:
    story = Story(meta={"tenant": "7"})
    shell.record(story.accepted(), story.retrying(), story.event(0))
    shell.record(story.finished(2, "w-2", at=20, state=State.FAILED))
    text = shell.mesh("jobs", "show", story.id)
    for part in (
        "tenant=7",
        "attempt 1",
        "attempt 2",
        "by w-2",
        "OSError",
        "Traceback",
        "progress",
    ):
        assert part in text
    shown = shell.json("jobs", "show", story.id.upper())
    assert shown["job"]["payload"] == {"n": 1}
    assert [(a["attempt"], a["outcome"]) for a in shown["attempts"]] == [
        (1, "retrying"),
        (2, "failed"),
    ]
    assert shown["events"][0]["data"] == {"seq": 0}
    with pytest.raises(JobNotFound, match=r"mesh\.db"):
        shell.mesh("jobs", "show", new_job_id())
    with pytest.raises(ConfigError, match="not a UUID"):
        shell.mesh("jobs", "show", "7")


def test_a_job_is_enqueued(shell: Shell) -> None:
    job_id = new_job_id()
    enqueue = ["jobs", "enqueue", "send", '{"user_id":3}', "--delay", "3600", "--id", job_id]
    assert shell.json(*enqueue, master=False) == {"id": job_id}
    (job,) = shell.json("jobs", "ls")
    assert (job["id"], job["state"], job["lane"]) == (job_id, "scheduled", "mail")
    assert job["payload"]["user_id"] == 3
    with pytest.raises(InvalidArguments, match="user_id"):
        shell.mesh("jobs", "enqueue", "send", '{"user_id":"x"}', master=False)
    with pytest.raises(UnknownHandler, match="did you mean 'send'"):
        shell.mesh("jobs", "enqueue", "sent", master=False)
    assert len(shell.json("jobs", "ls")) == 1


def test_workers_are_listed(shell: Shell) -> None:
    beat = Heartbeat(
        "w-1", 1e9, "a-1", "host-7", 42, "1.0", 5.0, "stopped", [LaneLoad("mail", 10, 2, 0)]
    )
    shell.record(beat)
    assert shell.json("workers") == []
    (worker,) = shell.json("workers", "--all")
    assert (worker["worker"], worker["lanes"][0]["lane"]) == ("w-1", "mail")
    assert "mail 2/10" in shell.mesh("workers", "--all")


def test_the_schema_is_looked_after(shell: Shell, tmp_path: Path) -> None:
    before = shell.json("db", "current")
    assert (before["standing"], before["revision"]) == ("absent", None)
    assert "this code needs" in shell.mesh("db", "current")
    script = shell.mesh("db", "sql")
    assert shell.json("db", "current") == before
    with sqlite3.connect(tmp_path / "mesh.db") as by_hand:
        by_hand.executescript(script)
    by_hand.close()
    assert shell.json("db", "current")["standing"] == "current"
    assert shell.json("db", "upgrade")["standing"] == "current"
    assert shell.json("jobs", "ls") == []
    with sqlite3.connect(tmp_path / "mesh.db") as by_hand:
        by_hand.execute("UPDATE mesh_schema_version SET version_num = '9999'")
    by_hand.close()
    with pytest.raises(SchemaMismatch, match="newer"):
        shell.mesh("jobs", "ls")
    assert "9999, newer" in shell.mesh("db", "upgrade")
