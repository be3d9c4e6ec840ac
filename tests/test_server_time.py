"""The database server's time, as a process knows it."""

from __future__ import annotations

from typing import cast

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import SystemClock
from mesh.sql.server_time import ServerTime

AHEAD = 1000.0


class Clocks(SystemClock):
    """This machine's, and the server's, which is ahead of it."""

    def __init__(self) -> None:
        self.since = 0.0

    def time(self) -> float:
        return 1_700_000_000.0 + self.since

    def monotonic(self) -> float:
        return self.since


class Connection:
    """Answers ``delay`` seconds after the server has looked at its clock."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.delay = 0.0
        self.asked = 0

    async def execute(self, _: object) -> Connection:
        self.asked += 1
        self._seen = self.clocks.time() + AHEAD
        self.clocks.since += self.delay
        return self

    def scalar_one(self) -> float:
        return self._seen


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


async def test_an_answer_that_took_long_does_not_count(clocks: Clocks) -> None:
    connection = Connection(clocks)
    asking = cast(AsyncConnection, connection)
    time = ServerTime(clocks, query="SELECT now()")
    await time.measure(asking)
    assert time.now() == clocks.time() + AHEAD
    clocks.since += 61
    connection.delay = 12
    await time.measure_now_and_then(asking)
    assert time.now() == clocks.time() + AHEAD
    # Soon it is asked again, and not by each transaction.
    await time.measure_now_and_then(asking)
    assert connection.asked == 2
    clocks.since += 5
    connection.delay = 0.0
    await time.measure_now_and_then(asking)
    assert (connection.asked, time.now()) == (3, clocks.time() + AHEAD)
    await time.measure_now_and_then(asking)
    assert connection.asked == 3


async def test_a_slow_answer_is_better_than_none(clocks: Clocks) -> None:
    connection = Connection(clocks)
    asking = cast(AsyncConnection, connection)
    time = ServerTime(clocks, query="SELECT now()")
    connection.delay = 8
    await time.measure(asking)
    assert time.now() == pytest.approx(clocks.time() + AHEAD, abs=4)
    clocks.since += 5
    connection.delay = 2  # still slow, and surer
    await time.measure_now_and_then(asking)
    assert time.now() == pytest.approx(clocks.time() + AHEAD, abs=1)
