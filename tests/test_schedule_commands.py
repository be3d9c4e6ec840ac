"""What ``mesh schedules`` prints and does, and what ``mesh doctor`` says of schedules."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mesh import InvalidSchedule, ScheduleNotFound
from mesh.clock import SystemClock
from mesh.console import load_app
from mesh.doctor import _check_schedules, examine
from mesh.job import State
from mesh.ports import JobFilter, MasterSettings
from mesh.recurring import ScheduleInfo, slot_job_id
from mesh.wire import ErrorInfo, Finished
from mesh_master.commands import register
from mesh_master.store import SqlMaster

SHOP = """
from mesh import Mesh
app = Mesh({url!r})

@app.schedule("0 2 * * *", 5, timezone="Europe/Amsterdam", name="nightly")
@app.job(lane="mail")
async def send(user_id: int) -> str: ...
"""


class Shell:
    def __init__(self, url: str) -> None:
        self.url = url
        self._cli = typer.Typer()
        register(self._cli)

    def mesh(self, *arguments: str, where: bool = True) -> str:
        """What a command prints. Raises what it raises."""
        master = ["--master", self.url] if where else []
        result = CliRunner().invoke(self._cli, ["schedules", *arguments, *master])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.mesh(*arguments, "--json"))

    def set_zone(self, zone: str) -> None:
        CliRunner().invoke(
            self._cli,
            ["settings", "set", "timezone", zone, "--master", self.url],
            catch_exceptions=False,
        )

    async def make(self, *ends: State) -> ScheduleInfo:
        """A schedule whose last jobs ended so."""
        app = load_app("shop_of_test:app")
        async with app:
            schedule = await app.schedules.create("send", "every minute", 7, name="often")
            master = await app.master()
            assert isinstance(master, SqlMaster)
            first = schedule.next_slot
            assert first is not None
            slots = [first + 60 * n for n in range(len(ends))]
            jobs = [
                schedule.definition.job(schedule.name, slot_job_id("often", s, 1), now=s, slot=s)
                for s in slots
            ]
            if jobs:
                states = [State.SCHEDULED] * len(jobs)
                await master.schedules.make(schedule, slots[-1] + 60, jobs, states)
            lease = await master.acquire("recorder", "test", 10)
            assert lease is not None
            for job, state in zip(jobs, ends, strict=True):
                told = (job.id, 1, 9.0, job.name, job.lane, 3, 1.0, "w", 8.0, 0)
                end = Finished(*told, state, None, ErrorInfo("E", "no"))
                await master.record("a", [end], lease)
            return schedule


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    (tmp_path / "shop_of_test.py").write_text(SHOP.format(url=url))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Shell(url)
    sys.modules.pop("shop_of_test", None)


def test_they_are_listed(shell: Shell) -> None:
    asyncio.run(shell.make(State.SUCCEEDED, State.FAILED, State.FAILED))
    (line,) = [line for line in shell.mesh("ls").splitlines() if "often" in line]
    assert "every minute" in line
    assert "failed" in line
    assert line.rstrip().endswith(" 2")
    (facts,) = shell.json("ls")
    assert (facts["consecutive_failures"], facts["last_outcome"]) == (2, "failed")
    assert facts["definition"]["payload"] == '{"user_id":7}'


def test_one_is_shown(shell: Shell) -> None:
    asyncio.run(shell.make(State.SUCCEEDED))
    text = shell.mesh("show", "often")
    for fact in ('{"user_id":7}', "lane mail", "skip", "succeeded", "next  "):
        assert fact in text
    assert len(shell.json("show", "often")["outcomes"]) == 1


def test_it_is_paused_resumed_and_removed(shell: Shell) -> None:
    asyncio.run(shell.make())
    assert "paused" in shell.mesh("pause", "often")
    assert "resume often" in shell.mesh("next", "often")
    assert shell.json("ls")[0]["state"] == "paused"
    assert "active" in shell.mesh("resume", "often")
    assert len(shell.mesh("next", "often", "-n", "3").splitlines()) == 3
    assert "removed" in shell.mesh("rm", "often")
    assert shell.json("ls") == []
    with pytest.raises(ScheduleNotFound, match="'often'"):
        shell.mesh("pause", "often")


def test_a_run_out_of_turn(shell: Shell) -> None:
    asyncio.run(shell.make())
    job_id = shell.mesh("run-now", "often").strip()

    async def jobs() -> Any:
        master = SqlMaster(shell.url, MasterSettings())
        await master.open()
        try:
            return await master.list_jobs(JobFilter(schedule="often"))
        finally:
            await master.close()

    (job,) = asyncio.run(jobs())
    assert (job.id, job.slot, job.state) == (job_id, None, State.SCHEDULED)


def test_an_expression_is_explained(shell: Shell) -> None:
    """With no cluster at all."""
    text = shell.mesh("explain", "0 2 * * *", "--tz", "Europe/Amsterdam", "-n", "3", where=False)
    assert text.count("02:00:00 +0") == 3
    told = shell.mesh("explain", "at 2001-01-01 10:00", where=False)
    assert "never" in told
    with pytest.raises(InvalidSchedule, match="did you mean 'minutes'"):
        shell.mesh("explain", "every 5 minuts", where=False)


def test_those_that_name_no_zone_are_shown_in_the_clusters(shell: Shell) -> None:
    """As it is now, whatever the coordinators have come to."""
    asyncio.run(shell.make())
    assert "often " in shell.mesh("ls")
    assert "every minute tz UTC" in shell.mesh("ls")
    shell.set_zone("Asia/Kolkata")
    assert "every minute tz Asia/Kolkata" in shell.mesh("ls")
    shown = shell.mesh("show", "often")
    assert "zone       Asia/Kolkata, the cluster's" in shown
    assert "Asia/Kolkata time" in shown
    assert shell.json("show", "often")["timezone"] == "Asia/Kolkata"
    assert shell.json("show", "often")["definition"]["expression"] == "every minute"
    assert "+0530 IST" in shell.mesh("next", "often", "-n", "1")
    shell.mesh("pause", "often")
    assert "+0530 IST" in shell.mesh("resume", "often")
    assert "Asia/Kolkata" in shell.mesh("explain", "every day at 09:00")
    assert "Europe/Rome" in shell.mesh("explain", "every day at 09:00", "--tz", "Europe/Rome")
    assert "UTC" in shell.mesh("explain", "every day at 09:00 tz UTC")
    assert "UTC" in shell.mesh("explain", "every day at 09:00", where=False)


async def test_doctor_knows_what_is_wrong_with_a_schedule(shell: Shell) -> None:
    app = load_app("shop_of_test:app")
    schedule = await shell.make()
    master = SqlMaster(shell.url, MasterSettings())
    await master.open()

    async def findings(zone: str = "UTC") -> list[tuple[str, str]]:
        return [(c.detail, c.advice) for c in await _check_schedules(master, zone) if not c.ok]

    assert await findings() == []
    ((detail, advice),) = await findings("Asia/Tokyo")
    assert "in the zone UTC, and timezone is Asia/Tokyo here" in detail
    assert "mesh settings set timezone" in advice
    late = SystemClock().time() - 100
    await master.schedules.update("often", 1, quietly=True, next_slot=late)
    ((detail, advice),) = await findings()
    assert "no job for 10" in detail
    assert "mesh master" in advice
    why = "its last 3 jobs failed"
    await master.schedules.update("often", schedule.revision, state="disabled", reason=why)
    ((detail, advice),) = await findings()
    assert "its last 3 jobs failed" in detail
    assert advice == "then: mesh schedules resume often"
    await master.close()
    assert any(check.subject == "app" for check in await examine(app))
