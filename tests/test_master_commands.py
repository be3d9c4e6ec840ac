"""What ``mesh jobs``, ``mesh workers`` and ``mesh db`` print."""

from __future__ import annotations

import asyncio
import json
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from mesh.definition import Definition
from mesh.errors import ConfigError, InvalidArguments, JobNotFound, SchemaMismatch, UnknownHandler
from mesh.job import State, new_job_id
from mesh.ports import MasterSettings
from mesh.testing.conformance.master import Story
from mesh.wire import Defined, ErrorInfo, Heartbeat, LaneLoad, Record
from mesh_master.commands import register
from mesh_master.store import SqlMaster

SHOP = """
from mesh import Mesh
app = Mesh({url!r})

@app.job(lane="mail")
async def send(user_id: int, template: str = "hello") -> str: ...
"""


MESH = str(Path(sys.executable).with_name("mesh"))


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

    def run(
        self, *arguments: str, typed: str | None = None, master: bool = True
    ) -> tuple[int, str, str]:
        """How a command ends, what it prints, and what it says beside."""
        where = ["--master", self.url] if master else ["--app", "shop_of_test:app"]
        result = CliRunner().invoke(self._cli, [*arguments, *where], input=typed)
        return result.exit_code, result.stdout, result.stderr

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
    shell.record(story.accepted(), story.started(), story.event(0), story.retrying())
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
    (said,) = [event["data"] for event in shown["events"] if event["kind"] == "progress"]
    assert said == {"number": 0}
    with pytest.raises(JobNotFound, match=r"mesh\.db"):
        shell.mesh("jobs", "show", new_job_id())
    with pytest.raises(ConfigError, match="not a UUID"):
        shell.mesh("jobs", "show", "7")


def test_jobs_are_found_by_what_is_known_of_them(shell: Shell) -> None:
    now = time.time()
    old = Story(now - 7200, name="reports.daily", meta={"tenant": "7"})
    new = Story(now - 60, name="reports.weekly", meta={"tenant": "7", "kind": "a=b"})
    other = Story(now - 30, lane="mail", parent=new.id)
    for story in (old, new, other):
        shell.record(story.accepted())
    shell.record(old.finished(state=State.FAILED), new.finished(state=State.CANCELLED))

    def ls(*options: str) -> list[str]:
        return [job["id"] for job in shell.json("jobs", "ls", *options)]

    assert ls("--name", "reports.*") == sorted([new.id, old.id], reverse=True)
    assert ls("--state", "failed", "--state", "cancelled") == [new.id, old.id]
    assert set(ls("--since", "1h")) == {other.id, new.id}
    assert ls("--until", "1h") == [old.id]
    at = datetime.fromtimestamp(now - 3600, UTC).isoformat()
    assert ls("--state", "failed", "--since", at) == []
    assert ls("--meta", "tenant=7", "--meta", "kind=a=b") == [new.id]
    assert ls("--parent", new.id) == [other.id]
    assert set(ls("--error", "OSError", "--order", "enqueued")) == {new.id, old.id}
    page = shell.mesh("jobs", "ls", "--order", "finished", "--limit", "1")
    (before,) = re.findall(r"--before (\S+)", page)
    assert ls("--order", "finished", "--before", before) == [old.id]
    for options, words in (
        (["--since", "yesterday"], "--since 'yesterday': write how long ago, such as 90s"),
        (["--until", "2026-01-01T00:00"], "has no offset from UTC"),
        (["--meta", "tenant"], "--meta 'tenant': write TAG=VALUE"),
        (["--order", "end"], "order='end'"),
        (["--state", "running", "--order", "finished"], "running has not"),
    ):
        with pytest.raises(ConfigError, match=words):
            ls(*options)


def test_jobs_are_done_again(shell: Shell) -> None:
    story = Story(name="send", lane="mail", payload=b'{"user_id":1}')
    shell.record(story.accepted(), story.finished(state=State.FAILED))
    with pytest.raises(InvalidArguments, match="as a JSON object"):
        shell.mesh("jobs", "retry", story.id, "--payload", "[1]")
    code, _, told = shell.run("jobs", "retry", story.id, "--payload", '{"u":1}', master=False)
    assert (code, "handler 'send', arguments" in told) == (1, True)
    text = shell.mesh("jobs", "retry", story.id, "--payload", '{"user_id":2}', master=False)
    (new_id,) = re.findall(rf"{story.id} → (\S+)", text)
    assert f"again as   {new_id}" in shell.mesh("jobs", "show", story.id)
    shown = shell.json("jobs", "show", new_id)["job"]
    assert (shown["retry_of"], shown["payload"]) == (story.id, {"user_id": 2})
    assert "failed, done again" in shell.mesh("jobs", "ls")
    code, _, told = shell.run("jobs", "retry", story.id)
    assert (code, f"as job {new_id}: retry that one" in told) == (1, True)
    assert shell.json("jobs", "ls", "--state", "failed", "--not-retried") == []


def test_many_jobs_are_done_again_once_that_is_confirmed(shell: Shell) -> None:
    stories = [Story() for _ in range(3)]
    shell.record(*[s.accepted() for s in stories])
    shell.record(*[s.finished(state=State.FAILED) for s in stories])
    code, _, asked = shell.run("jobs", "retry", "--state", "failed", typed="n\n")
    assert (code, "Do 3 jobs (3 failed) again?" in asked) == (1, True)
    assert shell.json("jobs", "ls", "--retried") == []
    made = shell.json("jobs", "retry", "--state", "failed", "--since", "10000d", "--yes")
    assert made.keys() == {story.id for story in stories}
    code, out, told = shell.run("jobs", "retry", "--state", "failed", "--yes")
    assert (code, out, "no such jobs" in told) == (0, "", True)
    with pytest.raises(ConfigError, match="needs to know which jobs"):
        shell.mesh("jobs", "retry")
    with pytest.raises(ConfigError, match="not both"):
        shell.mesh("jobs", "retry", stories[0].id, "--state", "failed")
    with pytest.raises(ConfigError, match="queued has not ended; cancel it first"):
        shell.mesh("jobs", "retry", "--state", "queued")


def test_jobs_are_removed(shell: Shell) -> None:
    done, failed, begun = Story(), Story(), Story()
    shell.record(*[s.accepted() for s in (done, failed, begun)], begun.started())
    shell.record(done.finished(), failed.finished(state=State.FAILED))
    code, out, told = shell.run("jobs", "rm", done.id, begun.id, new_job_id())
    assert (code, out) == (1, f"{done.id} → removed\n")
    assert "is running, and stays" in told
    assert "is not in the master" in told
    assert "Forget 1 job (1 failed) for ever?" in shell.run("jobs", "rm", "--error", "OSError")[2]
    assert shell.json("jobs", "rm", "--error", "OSError", "-y") == {"removed": 1}
    assert [job["id"] for job in shell.json("jobs", "ls")] == [begun.id]


def test_many_jobs_are_cancelled_once_that_is_confirmed(shell: Shell) -> None:
    done, *held = (Story(lane="mail") for _ in range(3))
    shell.record(done.accepted(), done.finished(), *[s.accepted() for s in held])
    code, _, asked = shell.run("jobs", "cancel", "--lane", "mail", typed="n\n")
    assert (code, "Cancel 2 jobs (2 queued)?" in asked) == (1, True)
    assert shell.json("jobs", "cancel", "--lane", "mail", "--yes") == {"asked": 2}
    with pytest.raises(ConfigError, match="needs to know which jobs"):
        shell.mesh("jobs", "cancel")
    with pytest.raises(ConfigError, match="not both"):
        shell.mesh("jobs", "cancel", done.id, "--lane", "mail")
    with pytest.raises(ConfigError, match="succeeded has ended already"):
        shell.mesh("jobs", "cancel", "--state", "succeeded")


def test_an_ended_job_is_followed_to_its_end(shell: Shell) -> None:
    story = Story()
    shell.record(story.accepted(), story.event(0), story.event(1, "log"), story.retrying())
    shell.record(story.finished(2, "w-2", at=20, state=State.FAILED))
    lines = shell.mesh("jobs", "tail", story.id).splitlines()
    assert [line.split(" ")[4] for line in lines] == [
        *("enqueued", "started", "progress", "log", "retrying", "started", "failed")
    ]
    assert "failed (attempt 2) OSError" in lines[-1]
    told = [
        json.loads(line) for line in shell.mesh("jobs", "tail", story.id, "--json").splitlines()
    ]
    assert [one["data"].get("event") for one in told] == [
        *("enqueued", "started", None, None, "retrying", "started", "failed")
    ]
    assert (told[2]["kind"], told[2]["data"]) == ("progress", {"number": 0})
    with pytest.raises(JobNotFound):
        shell.mesh("jobs", "tail", new_job_id())
    with pytest.raises(ConfigError, match="not both"):
        shell.mesh("jobs", "tail", story.id, "--lane", "mail")


def test_jobs_are_followed_until_ctrl_c(shell: Shell) -> None:
    """What was before is not told, what comes is."""
    before, story = Story(time.time()), Story(time.time(), lane="mail")
    shell.record(before.accepted())
    command = [MESH, "jobs", "tail", "--master", shell.url, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            # Until it has had its first look, whatever comes may count as old.
            probes = iter(range(1000))
            told: dict[str, Any] = {}
            while not told:
                probe = Story(time.time(), name=f"probe.{next(probes)}")
                shell.record(probe.accepted())
                ready, _, _ = select.select([process.stdout], [], [], 1.0)
                told = json.loads(process.stdout.readline()) if ready else {}
            assert told["job_id"] != before.id
            shell.record(story.accepted(), story.started())
            shell.record(story.event(0), story.finished())
            kinds: list[str] = []
            while kinds[-1:] != ["succeeded"]:
                told = json.loads(process.stdout.readline())
                if told["job_id"] == story.id:
                    kinds.append(told["data"].get("event", told["kind"]))
            # Of a result the data is any JSON: the story's is an object.
            assert kinds == ["enqueued", "started", "progress", "result", "succeeded"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


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


def test_a_job_is_told_from_the_shell_what_it_is_told_in_code(shell: Shell) -> None:
    def enqueue(*options: str) -> Any:
        return shell.json("jobs", "enqueue", "send", '{"user_id":3}', *options, master=False)

    first = enqueue(
        *("--at", "2035-01-31T09:00:00+01:00", "--priority", "high", "--meta", "tenant=42"),
        *("--key", "k", "--key-scope", "forever", "--expires", "60", "--result-ttl", "90"),
        *("--timeout", "5", "--retry", '{"max_attempts": 7}', "--durability", "master"),
        *("--deadline", "2035-02-01T09:00:00+01:00"),
    )
    assert enqueue("--key", "k") == {"id": first["id"], "existing": True}
    assert shell.mesh("jobs", "enqueue", "send", '{"user_id":3}', "--key", "k", master=False) == (
        f"{first['id']} (existing)\n"
    )
    child = enqueue("--after", first["id"], "--on", "finished")
    info = {job["id"]: job for job in shell.json("jobs", "ls")}
    assert info[child["id"]]["state"] == "waiting"
    assert info[first["id"]]["meta"] == {"tenant": "42"}
    assert info[first["id"]]["result_ttl"] == 90
    for options, message in (
        (["--at", "tomorrow"], "--at tomorrow: write a moment"),
        (["--meta", "tenant"], "--meta 'tenant': write TAG=VALUE"),
        (["--key", "x", "--key-scope", "ever"], "key_scope='ever'"),
        (["--on", "failure"], "says nothing without after"),
        (["--retry", "7"], "retry=7: must be a Retry, or a table"),
        (["--retry", "{"], "--retry {: "),
        (["--expires", "soon"], "--expires soon: write a moment"),
    ):
        with pytest.raises(ConfigError, match=message):
            enqueue(*options)


def test_workers_are_listed(shell: Shell) -> None:
    beat = Heartbeat(
        "w-1", 1e9, "a-1", "host-7", 42, "1.0", 5.0, "stopped", [LaneLoad("mail", 10, 2, 0)]
    )
    shell.record(beat)
    assert shell.json("workers") == []
    (worker,) = shell.json("workers", "--all")
    assert (worker["worker"], worker["lanes"][0]["lane"]) == ("w-1", "mail")
    assert "mail 2/10" in shell.mesh("workers", "--all")


def test_a_worker_that_is_heard_of_no_more_is_missing(shell: Shell) -> None:
    # Its own silence is all that the master knows, if it died or its agent is away.
    shell.record(Heartbeat("w-1", 1e9, "a-1", "host-7", 42, "1.0", 5.0, "running", []))
    assert "missing" in shell.mesh("workers", "--all")


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
        by_hand.execute("UPDATE mesh_cluster SET value = '9999' WHERE key = 'schema_works_with'")
    by_hand.close()
    with pytest.raises(SchemaMismatch, match="newer"):
        shell.mesh("jobs", "ls")
    assert "9999, newer" in shell.mesh("db", "upgrade")


def test_handlers_are_listed_shown_and_forgotten(shell: Shell) -> None:
    assert shell.json("handlers", "ls") == []
    schema = {"type": "object", "properties": {"user_id": {"type": "integer"}}}
    mail = Definition(lane="mail", title="Send mail", icon="M", timeout=5.0, arguments=schema)
    shell.record(
        Defined("send", "mail", 1e9, "shop-", mail.encode()),
        Defined("tidy", "default", 1e9, "", Definition(lane="default", kind="system").encode()),
    )
    text = shell.mesh("handlers", "ls")
    assert "M Send mail" in text
    assert "system" in text
    assert [handler["name"] for handler in shell.json("handlers", "ls")] == ["send", "tidy"]
    shown = shell.json("handlers", "show", "send")
    assert (shown["app"], shown["timeout"], shown["arguments"]) == ("shop-", 5.0, schema)
    text = shell.mesh("handlers", "show", "send")
    assert "Send mail" in text
    assert '{"type":"object"' in text
    assert "2001-09-09 01:46:40Z" in text
    for command in ("show", "rm"):
        with pytest.raises(UnknownHandler, match=r"handler 'sent'; did you mean 'send'\?; mesh"):
            shell.mesh("handlers", command, "sent")
    assert "forgotten" in shell.mesh("handlers", "rm", "send")
    assert [handler["name"] for handler in shell.json("handlers", "ls")] == ["tidy"]


def test_an_app_with_a_prefix_sees_and_steers_its_own(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = Story(name="shop-send", lane="shop-mail"), Story(name="send", lane="mail")
    definition = Definition(lane="shop-mail").encode()
    shell.record(
        mine.accepted(), others.accepted(), Defined("shop-send", "shop-mail", 1e9, "", definition)
    )
    monkeypatch.setenv("MESH_URL", shell.url)
    monkeypatch.setenv("MESH_PREFIX", "shop-")

    def mesh(*arguments: str) -> str:
        result = CliRunner().invoke(shell._cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    assert [job["id"] for job in json.loads(mesh("jobs", "ls", "--json"))] == [mine.id]
    by_name = json.loads(mesh("jobs", "ls", "--name", "send", "--lane", "mail", "--json"))
    assert [job["id"] for job in by_name] == [mine.id]
    assert len(shell.json("jobs", "ls")) == 2
    assert json.loads(mesh("handlers", "show", "send", "--json"))["name"] == "shop-send"
    assert "lane shop-mail is paused" in mesh("lanes", "pause", "mail")
    states = {lane["lane"]: lane["state"] for lane in shell.json("lanes", "ls")["lanes"]}
    assert (states["shop-mail"], states["mail"]) == ("paused", "active")
    assert "shop-send is forgotten" in mesh("handlers", "rm", "send")


def test_failures_are_shown_in_groups(shell: Shell) -> None:
    assert shell.mesh("jobs", "failures").split() == HEADS
    begin = time.time() - 3600
    stories = [Story(begin, name="send", lane="mail") for _ in range(4)]
    for n, (story, message) in enumerate(
        zip(stories, ["user 1\nis gone", "user 2 is gone", "user 3 is 'gone'", "it"], strict=True)
    ):
        end = story.finished(state=State.FAILED, at=n + 2)
        error = ErrorInfo("LookupError", message)
        shell.record(story.accepted(), msgspec.structs.replace(end, error=error))
    shown = shell.mesh("jobs", "failures").splitlines()
    groups = shell.json("jobs", "failures")
    assert [group["count"] for group in groups] == [2, 1, 1]
    first = groups[0]["fingerprint"]
    assert shown[1].split()[:3] == ["2", "send", "LookupError:"]
    assert f"{stories[1].id} {first}" in " ".join(shown[1].split())
    assert shown[-1] == f"do them again: mesh jobs retry --fingerprint {first}"
    alike = shell.json("jobs", "ls", "--fingerprint", first)
    assert {job["id"] for job in alike} == {story.id for story in stories[:2]}
    retried = shell.json("jobs", "retry", "--fingerprint", first, "--yes")
    assert retried.keys() == {story.id for story in stories[:2]}
    assert shell.mesh("jobs", "failures").splitlines()[1].split()[:2] == ["2", "2"]
    assert shell.json("jobs", "failures", "--since", "30m") == []
    assert len(shell.json("jobs", "failures", "--since", "2h", "--limit", "2")) == 2


HEADS = ["jobs", "again", "name", "error", "first", "last", "newest", "fingerprint"]
