"""What ``mesh lanes``, ``agents``, ``settings``, ``cluster`` and ``worker --mode`` do and say."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import typer
from typer.testing import CliRunner

from mesh import Mesh, Retry, State
from mesh.doctor import examine
from mesh.errors import ConfigError
from mesh.roles import RoleOptions, make_role
from mesh.settings import AgentState, ClusterSettings, LaneState, Mode
from mesh_master.commands import register

T = TypeVar("T")

SHOP = """
from mesh import Mesh
app = Mesh({url!r}, heartbeat=0.5)

@app.job(lane="mail")
async def send(n: int) -> int:
    return n
"""


class Shell:
    def __init__(self, url: str) -> None:
        self.url = url
        self._cli = typer.Typer()
        register(self._cli)

    def mesh(self, *arguments: str, given: str = "") -> str:
        """What a command prints. Raises what it raises."""
        command = [*arguments, "--app", "shop_of_steering:app"]
        result = CliRunner().invoke(self._cli, command, input=given)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def run(self, work: Callable[[Mesh], Awaitable[T]]) -> T:
        """Something that a process of the cluster does meanwhile."""

        async def do() -> T:
            from shop_of_steering import app  # type: ignore[import-not-found]

            async with app:
                return await work(app)

        return asyncio.run(do())

    @property
    def settings(self) -> ClusterSettings:
        async def ask(app: Mesh) -> ClusterSettings:
            return await (await app.master()).cluster_settings()

        return self.run(ask)

    def enqueue(self, *numbers: int, **options: Any) -> list[str]:
        async def enqueue(app: Mesh) -> list[str]:
            send = app.get_handler("send").options(**options)
            return [(await send.enqueue(n)).id for n in numbers]

        return self.run(enqueue)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    url = f"sqlite:///{tmp_path}/mesh.db"
    (tmp_path / "shop_of_steering.py").write_text(SHOP.format(url=url))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Shell(url)
    sys.modules.pop("shop_of_steering", None)


def test_the_mode_is_shown_and_changed(shell: Shell) -> None:
    assert shell.mesh("cluster", "mode") == "active\n"
    assert "passive" in shell.mesh("cluster", "mode", "passive")
    assert shell.settings.mode is Mode.PASSIVE
    assert shell.mesh("cluster", "mode") == "passive\n"
    with pytest.raises(ConfigError, match="unknown mode 'pasive'; did you mean 'passive'"):
        shell.mesh("cluster", "mode", "pasive")


def test_settings_are_set_and_unset(shell: Shell) -> None:
    shell.mesh("settings", "set", "timeout", "30")
    shell.mesh("settings", "set", "retry", '{"max_attempts": 2, "delay": 1}')
    assert (shell.settings.timeout, shell.settings.retry) == (30.0, Retry(2, delay=1))
    found = json.loads(shell.mesh("settings", "ls", "--json"))
    assert found["timeout"] == 30.0
    shown = shell.mesh("settings", "ls")
    assert re.search(r'retention +\{.*"succeeded": 604800.* default', shown)
    assert re.search(r"timeout +30.0 *$", shown, re.MULTILINE)
    shell.mesh("settings", "unset", "timeout")
    assert shell.settings.timeout is None
    shell.mesh("settings", "set", "timezone", "europe/amsterdam")
    assert shell.settings.timezone == "Europe/Amsterdam"
    assert "Europe/Amsterdam" in shell.mesh("settings", "ls")
    shell.mesh("settings", "unset", "timezone")
    assert shell.settings.timezone is None
    with pytest.raises(
        ConfigError, match="'Amsterdam' is unknown; did you mean 'Europe/Amsterdam'"
    ):
        shell.mesh("settings", "set", "timezone", "Amsterdam")
    with pytest.raises(ConfigError, match="'timout'; did you mean 'timeout'"):
        shell.mesh("settings", "set", "timout", "3")
    with pytest.raises(ConfigError, match="payload_limit=0"):
        shell.mesh("settings", "set", "payload_limit", "0")
    with pytest.raises(ConfigError, match="retry: unknown key 'delays'; did you mean 'delay'"):
        shell.mesh("settings", "set", "retry", '{"delays": 3}')


def test_lanes_are_paused_and_listed(shell: Shell) -> None:
    shell.enqueue(1, 2)
    shell.enqueue(3, delay=3600)
    shell.mesh("lanes", "pause", "mail")
    assert shell.settings.lane("mail") is LaneState.PAUSED
    (mail,) = json.loads(shell.mesh("lanes", "ls", "--json"))["lanes"]
    assert (mail["lane"], mail["state"], mail["held"], mail["workers"]) == ("mail", "paused", 1, 0)
    assert mail["agents"] == {"local": {"ready": 2, "leased": 0, "delayed": 0}}
    assert "local 2+0+0" in shell.mesh("lanes", "ls")
    shell.mesh("lanes", "resume", "mail")
    assert shell.settings.lanes == {}
    with pytest.raises(ConfigError, match="no lane!"):
        shell.mesh("lanes", "pause", "no lane!")


def test_a_lane_is_purged(shell: Shell) -> None:
    jobs = shell.enqueue(1, 2) + shell.enqueue(3, delay=3600)
    (delayed,) = shell.enqueue(4, delay=30)
    with pytest.raises(SystemExit):
        shell.mesh("lanes", "purge", "mail", given="n\n")
    output = shell.mesh("lanes", "purge", "mail", "--reason", "a flood", given="y\n")
    assert "3 jobs of lane mail are cancelled; 1 are held by agents until they are due" in output

    async def recorded(app: Mesh) -> dict[str, tuple[State, str | None]]:
        async with make_role("coordinator", app, RoleOptions()):
            master = await app.master()
            while True:
                found = await master.get_jobs([*jobs, delayed])
                if len(found) == 4 and all(found[i].state is State.CANCELLED for i in jobs):
                    return {i: (job.state, job.error_message) for i, job in found.items()}
                await asyncio.sleep(0.02)

    found = shell.run(recorded)
    assert {found[i] for i in jobs} == {(State.CANCELLED, "a flood")}
    assert found[delayed] == (State.QUEUED, None)
    assert "0 jobs" in shell.mesh("lanes", "purge", "mail", "--yes")


def test_draining_a_lane_returns_when_it_is_empty(shell: Shell) -> None:
    assert "lane mail is empty" in shell.mesh("lanes", "drain", "mail")
    assert shell.settings.lane("mail") is LaneState.DRAINING
    (held,) = shell.enqueue(1)

    async def state(app: Mesh) -> State:
        return (await (await app.master()).get_jobs([held]))[held].state

    assert shell.run(state) is State.SCHEDULED


def test_agents_come_and_go(shell: Shell, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/second.db"
    shell.mesh("agents", "add", "second", url, "--lanes", "mail,reports")
    with pytest.raises(ConfigError, match="'second' is not drained"):
        shell.mesh("agents", "rm", "second")
    with pytest.raises(ConfigError, match="no agent is named 'secnd'; did you mean 'second'"):
        shell.mesh("agents", "drain", "secnd")
    found = {a["name"]: a for a in json.loads(shell.mesh("agents", "ls", "--json"))}
    assert found["second"] | {"seen_at": 0} == {
        "name": "second",
        "url": url,
        "lanes": ["mail", "reports"],
        "state": "active",
        "is_added": True,
        "away": "",
        "jobs": 0,
        "lag": 0,
        "seen_at": 0,
    }
    shell.mesh("agents", "drain", "second")
    assert shell.settings.agent("second").state is AgentState.DRAINING
    assert "second is removed" in shell.mesh("agents", "rm", "second")
    assert shell.settings.agents == {}
    assert "second" not in shell.mesh("agents", "ls")


def test_what_cannot_be_an_agent_is_refused(shell: Shell) -> None:
    with pytest.raises(ConfigError, match="is not a URL"):
        shell.mesh("agents", "add", "second", "nonsense")
    with pytest.raises(ConfigError, match="not a valid name"):
        shell.mesh("agents", "add", "sec ond", "sqlite:///x.db")
    with pytest.raises(ConfigError, match="in this process's configuration with another URL"):
        shell.mesh("agents", "add", "local", "sqlite:///another.db")
    assert shell.settings.agents == {}


def test_an_agent_with_jobs_is_not_removed_unless_forced(shell: Shell, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/second.db"
    shell.mesh("agents", "add", "second", url)

    async def enqueue(app: Mesh) -> None:
        await app.meet_agents()
        await app.get_handler("send").options(agent="second").enqueue(1)

    shell.run(enqueue)
    shell.mesh("agents", "drain", "second", "--no-wait")
    with pytest.raises(ConfigError, match="has 1 jobs, and 1 ledger entries"):
        shell.mesh("agents", "rm", "second")
    assert "removed" in shell.mesh("agents", "rm", "second", "--force")


def test_why_a_job_does_not_run_is_said(shell: Shell) -> None:
    (job,) = shell.enqueue(1, durability="master")

    def said() -> str:
        return shell.mesh("jobs", "show", job)

    assert re.search(r"^waits +no coordinator runs, so nobody .*\n +→ mesh master", said(), re.M)
    shell.mesh("cluster", "mode", "passive")
    shell.mesh("lanes", "pause", "mail")
    shell.mesh("agents", "drain", "local", "--no-wait")
    causes = [one["text"] for one in json.loads(shell.mesh("jobs", "show", job, "--json"))["waits"]]
    for part in ("is passive", "mail is paused", "local is draining", "no worker of the lane mail"):
        assert any(part in cause for cause in causes), part
    assert "1 of these wait: the lane mail is paused\n  → mesh lanes resume mail" in shell.mesh(
        "jobs", "ls"
    )

    async def advice(app: Mesh) -> str:
        return "\n".join(check.advice for check in await examine(app) if not check.ok)

    found = shell.run(advice)
    for part in ("cluster mode active", "lanes resume mail", "agents add local", "mesh master"):
        assert part in found, part

    async def runs(app: Mesh) -> None:
        master = await app.master()
        await master.change_settings(lambda s: ClusterSettings(revision=s.revision))
        async with (
            make_role("coordinator", app, RoleOptions()),
            make_role("worker", app, RoleOptions()),
        ):
            assert await (await app.get_job(job)).result(timeout=30) == 1
            assert not [c for c in await examine(app) if c.subject == "coordinators" and not c.ok]

    shell.run(runs)
    assert "waits" not in said()
    assert "of these wait" not in shell.mesh("jobs", "ls")


def test_jobs_are_cancelled(shell: Shell) -> None:
    (held,) = shell.enqueue(1, delay=3600)
    (queued,) = shell.enqueue(2)
    assert shell.mesh("jobs", "cancel", held, "--reason", "a mistake") == f"{held} cancelled\n"
    found = json.loads(shell.mesh("jobs", "cancel", held, queued, "--wait", "0", "--json"))
    assert found == {held: "cancelled", queued: "not known to the master yet"}
    assert "a mistake" in shell.mesh("jobs", "show", held)
    with pytest.raises(ConfigError, match="job id 'nonsense' is not a UUID"):
        shell.mesh("jobs", "cancel", "nonsense")
