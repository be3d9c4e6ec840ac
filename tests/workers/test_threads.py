"""Threads for handlers: all that is called runs, whatever blocks beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mesh_workers.threads import Threads

PATIENCE = 20.0


@pytest.fixture
def threads() -> Iterator[Threads[int]]:
    made: Threads[int] = Threads(4, "test-threads")
    yield made
    made.close()
    for thread in _named():
        thread.join(PATIENCE)
    assert not _named()


def _named() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("test-threads")]


async def test_all_calls_are_run_once(threads: Threads[int]) -> None:
    ran: list[int] = []

    def note(number: int) -> int:
        ran.append(number)
        return number

    for _ in range(20):
        calls = [threads.call(partial(note, number)) for number in range(500)]
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*calls) == list(range(500))
    assert sorted(ran) == sorted(list(range(500)) * 20)
    assert len(_named()) <= 4


async def test_what_blocks_does_not_stop_the_others(threads: Threads[int]) -> None:
    meet, go = threading.Barrier(4), threading.Event()

    def block() -> int:
        meet.wait(PATIENCE)  # breaks unless all four are here at once
        go.wait(PATIENCE)
        return 1

    blocked = [threads.call(block) for _ in range(3)]
    last = threads.call(block)
    waiting = threads.call(lambda: 2)
    async with asyncio.timeout(PATIENCE):
        assert not waiting.done()  # there are four threads
        go.set()
        assert await asyncio.gather(*blocked, last, waiting) == [1, 1, 1, 1, 2]


async def test_a_thread_that_blocks_is_passed_by_quick_calls(threads: Threads[int]) -> None:
    go = threading.Event()
    blocked = threads.call(lambda: int(go.wait(PATIENCE)))
    async with asyncio.timeout(PATIENCE):
        for number in range(300):
            assert await threads.call(partial(int, number)) == number
    go.set()
    assert await blocked == 1


async def test_a_cancelled_call_does_not_spoil_the_rest(threads: Threads[int]) -> None:
    go = threading.Event()
    given_up = threads.call(lambda: int(go.wait(PATIENCE)))
    given_up.cancel()
    other = threads.call(lambda: 7)
    go.set()
    async with asyncio.timeout(PATIENCE):
        assert await other == 7


async def test_no_thread_to_be_had_is_said(
    threads: Threads[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.call(partial(pytest.fail, "it was refused"))
    async with asyncio.timeout(PATIENCE):
        assert await threads.call(lambda: 2) == 2
