"""``app.sync``: from threads, after a fork, never where a loop runs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh import InvalidArguments, Mesh, MeshError, State
from mesh.handler import Handler


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Mesh]:
    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}")
    yield app
    app.sync.close()


@pytest.fixture
def double(app: Mesh) -> Handler[[int], int, int]:
    @app.job
    def double(x: int) -> int:
        return x * 2

    return double


def mesh_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "mesh-sync"]


def test_results_and_exceptions(app: Mesh, double: Handler[[int], int, int]) -> None:
    handle = app.sync(double.enqueue(4))
    assert app.sync(handle.status()) is State.QUEUED
    with pytest.raises(InvalidArguments, match="Expected `int`"):
        app.sync(double.enqueue("4"))  # type: ignore[arg-type]


def test_any_awaitable(app: Mesh) -> None:
    async def main() -> int:
        return await asyncio.ensure_future(asyncio.sleep(0, 7))

    assert app.sync(main()) == 7


def test_from_many_threads_one_loop(app: Mesh, double: Handler[[int], int, int]) -> None:
    barrier = threading.Barrier(8)

    def enqueue(x: int) -> str:
        barrier.wait(10)
        return app.sync(double.enqueue(x)).id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(enqueue, range(8)))) == 8
    assert mesh_threads() == ["mesh-sync"]


async def test_not_where_a_loop_runs(app: Mesh, double: Handler[[int], int, int]) -> None:
    with pytest.raises(MeshError, match="an event loop runs: use await instead"):
        app.sync(double.enqueue(1))
    with pytest.raises(MeshError, match="an event loop runs: use await instead"):
        app.sync.close()
    handle = await asyncio.to_thread(app.sync, double.enqueue(1))
    assert await handle.status() is State.QUEUED
    await app.close()
    await asyncio.to_thread(app.sync.close)


def test_closing_and_using_again(app: Mesh, double: Handler[[int], int, int]) -> None:
    app.sync.close()
    for _ in range(2):
        app.sync(double.enqueue(1))
        assert mesh_threads() == ["mesh-sync"]
        app.sync.close()
        app.sync.close()
        assert mesh_threads() == []


def test_closing_leaves_no_thread_waiting(app: Mesh) -> None:
    waiting = threading.Event()

    async def for_ever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(app.sync, for_ever())
        assert waiting.wait(10)
        app.sync.close()
        with pytest.raises(CancelledError):
            call.result(10)


def test_a_result_that_is_waited_for_when_the_app_is_closed(
    app: Mesh, double: Handler[[int], int, int]
) -> None:
    handle = app.sync(double.enqueue(1))
    started = threading.Event()

    async def result() -> int:
        started.set()
        return await handle.result()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(app.sync, result())
        assert started.wait(10)
        app.sync.close()
        with pytest.raises(MeshError, match="the app was closed meanwhile"):
            call.result(10)


def test_iterating(app: Mesh) -> None:
    closed = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(5):
                await asyncio.sleep(0)
                yield number
        finally:
            closed.set()

    assert list(app.sync.iterate(numbers())) == [0, 1, 2, 3, 4]
    closed.clear()
    for number in (some := app.sync.iterate(numbers())):
        if number == 2:
            break
    some.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_an_exception_while_iterating(app: Mesh) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(app.sync.iterate(broken()))


def test_ctrl_c_cancels_what_is_waited_for(app: Mesh) -> None:
    cancelled = threading.Event()

    async def for_ever() -> None:
        main = threading.main_thread().ident
        assert main is not None
        # Once the caller waits, as it does when a person presses Ctrl-C.
        await asyncio.sleep(0.2)
        signal.pthread_kill(main, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    # A shell that starts the suite in the background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            app.sync(for_ever())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled.wait(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_has_a_loop_of_its_own(
    app: Mesh, double: Handler[[int], int, int]
) -> None:
    app.sync(double.enqueue(1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            app.sync(double.enqueue(2))
            app.sync.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    app.sync(double.enqueue(3))

    async def depth() -> int:
        return (await (await app.agent("local")).depth())["default"].total

    assert app.sync(depth()) == 3
