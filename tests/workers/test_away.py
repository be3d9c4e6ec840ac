"""A worker whose agent is away says so, to whoever asks and in its log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from worker_rig import PATIENCE, Rig

from mesh.ports import Check
from mesh_workers import Worker


async def about_agent(worker: Worker) -> Check:
    (check,) = [c for c in await worker.health() if c.subject == "worker on m: agent"]
    return check


async def test_health_and_log_say_since_when_the_agent_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(heartbeat=0.05)
    caplog.set_level(logging.WARNING, "mesh")
    async with rig.worker() as worker:
        await rig.until(lambda: bool(rig.beats()))
        assert "away" not in (await about_agent(worker)).detail

        rig.memory.go_down()
        async with asyncio.timeout(PATIENCE):
            while (check := await about_agent(worker)).ok:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.01)
        assert check.detail.startswith("is away since 20")
        assert " UTC: agent m at " in check.detail
        assert "mesh doctor" in check.advice

        rig.memory.go_down(False)
        async with asyncio.timeout(PATIENCE):
            while "away" in (await about_agent(worker)).detail:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    said = [r.getMessage() for r in caplog.records if "writing to agent m" in r.getMessage()]
    assert said[0].endswith(" is down; trying again")
    assert said[1] == "writing to agent m: back"
    await rig.close()
