"""Plans come from their seed alone; and what breaks things on the way does what it says."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise

import pytest

from .cluster import DEPLOYMENTS, Deployment
from .plan import FAULTS, plan
from .proxy import Mode, Proxy
from .rounds import SECONDS, SEEDS

PATIENCE = 20.0


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_a_seed_is_a_plan(deployment: str) -> None:
    steps = plan(7, deployment, 600)
    assert steps == plan(7, deployment, 600)
    assert steps != plan(8, deployment, 600)
    assert {step.fault for step in steps} == {f for f, by in FAULTS.items() if deployment in by}
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert all(step.at + step.lasts < 600 for step in steps)
    # The first of a short run are those of the long one, until one would last beyond its end.
    short = plan(7, deployment, 60)
    early = [step for step in steps if step.at < 45]
    assert short[: len(early)] == early


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_the_short_rounds_break_much(deployment: Deployment) -> None:
    steps = plan(SEEDS[deployment], deployment, SECONDS)
    faults = {step.fault for step in steps}
    assert len(faults) >= 7
    assert {"kill worker", "fill master", "upgrade"} <= faults
    if deployment != "embedded":
        assert faults & {"kill agent", "restart agent"}
        assert faults & {"kill master", "restart master"}
        assert "kill coordinator" in faults
        # A server that is still being mended is left alone.
        masters = [step for step in steps if step.fault.endswith("master")]
        assert all(then.at > step.at + step.lasts + 3 for step, then in pairwise(masters))


def test_a_plan_of_some_faults() -> None:
    steps = plan(7, "nats", 300, only=("kill", "upgrade"))
    assert {step.fault.split()[0] for step in steps} == {"kill", "upgrade"}


class Echo:
    """A server that answers each line, behind a proxy."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._proxy = Proxy(self._server.sockets[0].getsockname()[1])
        await self._proxy.start()
        return self._proxy

    async def __aexit__(self, *_: object) -> None:
        await self._proxy.close()
        self._server.close()

    @staticmethod
    async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def echoed(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one\n")
    assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"one\n"
    return reader, writer


async def until_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Nothing comes any more, whichever way this end hears of it."""
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()


async def test_a_cut_ends_connections_and_those_that_come() -> None:
    async with Echo() as proxy:
        there = await echoed(proxy)
        await proxy.become("cut")
        await until_over(*there)
        await until_over(*await asyncio.open_connection("127.0.0.1", proxy.port))
        await proxy.become("pass")
        _, writer = await echoed(proxy)
        writer.close()


async def test_what_hangs_goes_on_later() -> None:
    async with Echo() as proxy:
        reader, writer = await echoed(proxy)
        modes: tuple[Mode, ...] = ("hang", "slow", "pass")
        for mode in modes:
            await proxy.become(mode)
            writer.write(b"two\n")
            answer = asyncio.create_task(reader.readline())
            if mode == "hang":
                done, _ = await asyncio.wait([answer], timeout=0.2)
                assert not done
                await proxy.become("pass")
            assert await asyncio.wait_for(answer, PATIENCE) == b"two\n"
        writer.close()
