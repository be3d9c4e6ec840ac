"""Services that come and go, and what else of a coordinator must not end with one refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mesh.clock import SystemClock
from mesh.ports import MasterSettings
from mesh.service import Service
from mesh.testing.faulty import Fault, Plan, faulty_master
from mesh_master.control import Follower
from mesh_master.roster import Roster
from mesh_master.store import SqlMaster

PATIENCE = 30.0


class Lingering(Service):
    """Says that it was told to stop, and stops when it is let."""

    def __init__(self) -> None:
        super().__init__("lingering")
        self.told = asyncio.Event()
        self.let = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await self.stopping.wait()
        self.told.set()
        await self.let.wait()


class Failing(Service):
    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        raise ValueError("over")


async def test_members_that_go_while_the_roster_stops_are_no_error() -> None:
    lingering, failing = Lingering(), Failing("failing")
    members: dict[str, Service] = {"lingering": lingering, "failing": failing}
    roster = Roster("roster", lambda: members)
    await roster.start()
    async with asyncio.timeout(PATIENCE):
        await lingering.told.wait()  # by the roster, which ends for the other's sake
        stop = asyncio.create_task(roster.stop())
        await asyncio.sleep(0)
        lingering.let.set()
        await stop
        with pytest.raises(ValueError, match="over"):
            await roster.wait()
    assert not roster.members


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[SqlMaster]:
    master = SqlMaster(f"sqlite:///{tmp_path / 'mesh.db'}", MasterSettings())
    await master.open()
    yield master
    await master.close()


async def test_a_board_that_cannot_be_had_at_first_is_asked_for_again(master: SqlMaster) -> None:
    plan = Plan(1, rate=1.0, faults={Fault.FAIL}, in_a_row=1)
    follower = Follower(faulty_master(master, plan), SystemClock())
    async with follower, asyncio.timeout(PATIENCE):
        await follower.known.wait()
    assert {one.call for one in plan.injected} >= {"master.board", "master.board.read"}
