"""A stream of server-sent events, by itself: silent, slow to be read, and when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.errors import MasterUnavailable
from mesh_master.api import events


def alive(messages: AsyncGenerator[bytes, None]) -> tuple[Any, asyncio.Event]:
    stopping = asyncio.Event()
    api: Any = SimpleNamespace(stopping=stopping)
    return events._alive(api, messages, True), stopping


async def test_a_silent_stream_says_that_it_lives_until_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)
    over = asyncio.Event()

    async def nothing() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            over.set()

    stream, stopping = alive(nothing())
    said = [await anext(stream) for _ in range(3)]
    assert said == [b"retry: 1000\n\n", b": still here\n\n", b": still here\n\n"]
    stopping.set()
    async with asyncio.timeout(10):
        rest = [message async for message in stream]
        await over.wait()
    assert set(rest) <= {b": still here\n\n"}


async def test_a_slow_reader_is_waited_for() -> None:
    made = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal made
        while True:
            made += 1
            yield b"data: %d\n\n" % made

    stream, stopping = alive(endless())
    assert [await anext(stream) for _ in range(4)][1:] == [b"data: %d\n\n" % n for n in (1, 2, 3)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert made <= 4
    stopping.set()
    await stream.aclose()


async def test_what_goes_wrong_on_the_way_is_told_in_the_stream() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        raise MasterUnavailable("away")

    stream, _ = alive(broken())
    *_, last = [message async for message in stream]
    assert last.startswith(b"event: problem\ndata: ")
    assert b"urn:mesh:master-unavailable" in last
