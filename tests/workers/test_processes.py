"""Handlers in processes: nothing that they do to their process reaches the worker or others."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import process_handlers
import pytest
from worker_rig import PATIENCE, Rig, until_gone

from mesh import ProcessDied, Retry
from mesh.errors import ConfigError
from mesh.job import State
from mesh.testing.conformance.agent import make_job
from mesh.wire import Event, Finished
from mesh_workers import Worker, child
from mesh_workers import processes as processes_module
from mesh_workers.outcome import (
    Cancelled,
    Failed,
    Outcome,
    Run,
    Snoozed,
    Succeeded,
    TimeLimit,
)
from mesh_workers.processes import Processes, locate

ONCE = Retry(1)


class Pool:
    """Runs ``process_handlers`` as a lane does."""

    def __init__(self) -> None:
        self.processes = Processes()
        self.said: list[tuple[str, Any]] = []
        self.spoke = asyncio.Event()

    async def __call__(
        self,
        name: str,
        limit: TimeLimit | None = None,
        policy: Retry = ONCE,
        size: int = 10_000_000,
        **arguments: Any,
    ) -> Outcome:
        payload = msgspec.json.encode(arguments)
        job = make_job(name=name, payload=payload, meta={"a": "b"})
        run = Run(job, 1, 0, "w", 0.0)
        handler = process_handlers.app.handlers[name]
        return await self.processes.run(handler, run, self._say, limit, policy, size)

    async def _say(self, kind: str, data: bytes, at: float, joins: bool) -> None:
        self.said.append((kind, msgspec.json.decode(data)))
        self.spoke.set()

    async def pid(self) -> int:
        outcome = await self("pid")
        assert isinstance(outcome, Succeeded), outcome
        return int(outcome.result)

    async def pids(self) -> list[int]:
        """Those that the handler tells in its first chunk."""
        await asyncio.wait_for(self.spoke.wait(), PATIENCE)
        pids: list[int] = self.said[0][1]
        return pids


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    async with asyncio.timeout(100):
        yield pool
        await pool.processes.close()


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


class TestRunning:
    async def test_one_process_is_used_again_and_again(self, pool: Pool) -> None:
        first = await pool.pid()
        assert first != os.getpid()
        assert await pool.pid() == first
        assert await pool("pid_async") == Succeeded(str(first).encode())

    async def test_as_many_as_there_are_jobs_at_the_same_time(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        path = tmp_path / "go"
        running = [asyncio.create_task(pool("wait_for_file", path=str(path))) for _ in range(2)]
        while len(pool.said) < 2:
            pool.spoke.clear()
            await asyncio.wait_for(pool.spoke.wait(), PATIENCE)
        third = await pool.pid()
        path.touch()
        outcomes = await asyncio.gather(*running)
        pids = {int(o.result) for o in outcomes if isinstance(o, Succeeded)}
        assert len(pids | {third}) == 3

    async def test_what_it_says_comes_in_order_and_before_its_end(
        self, pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        outcome = await pool("say", count=200)
        progress = [("progress", {"done": n, "total": 200, "label": None}) for n in range(200)]
        line = ("log", {"level": "warning", "message": "half", "data": {"part": 1}})
        assert pool.said == [*progress, line, ("chunk", "text")]
        assert isinstance(outcome, Succeeded)
        assert msgspec.json.decode(outcome.result)[1:] == [1, 1, "default", {"a": "b"}]
        logged = [(r.name, r.getMessage()) for r in caplog.records]
        assert ("shop", "a line of its own") in logged
        assert any(name == "mesh.job.say" and "half" in text for name, text in logged)

    async def test_a_large_result_and_one_that_is_too_large(self, pool: Pool) -> None:
        outcome = await pool("large", length=3_000_000)
        assert isinstance(outcome, Succeeded)
        assert len(outcome.result) == 3_000_002
        assert failed(await pool("large", size=99, length=98)).error.type == "ResultTooLarge"

    async def test_a_typed_request(self, pool: Pool) -> None:
        assert await pool("numbers.double", n=21) == Succeeded(b"42")

    async def test_arguments_that_do_not_fit(self, pool: Pool) -> None:
        outcome = failed(await pool("large", length="x"))
        assert (outcome.error.type, outcome.retryable) == ("InvalidArguments", False)

    async def test_what_it_raises_is_understood(self, pool: Pool) -> None:
        assert isinstance(await pool("raises", what="Cancel"), Cancelled)
        snoozed = await pool("raises", what="Snooze")
        assert isinstance(snoozed, Snoozed)
        assert snoozed.delay == 30
        assert failed(await pool("raises", what="Failure")).error.message == "declined"
        error = failed(await pool("raises", what="ValueError")).error
        assert (error.type, error.message) == ("ValueError", "a bug")
        assert "process_handlers.py" in error.traceback
        assert "mesh_workers" not in error.traceback
        # Not even that ends the process.
        first = await pool.pid()
        assert failed(await pool("raises", what="SystemExit")).error.type == "SystemExit"
        assert await pool.pid() == first

    async def test_its_policy_is_asked_there(self, pool: Pool) -> None:
        policy = Retry(5, on=(ValueError,))
        assert failed(await pool("picky", None, policy, message="again")).retryable
        assert not failed(await pool("picky", None, policy, message="no")).retryable


class TestDying:
    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ("SIGSEGV", "was killed by SIGSEGV"),
            ("segfault", "was killed by SIGSEGV"),
            ("SIGKILL", "was killed by SIGKILL; the system may be out of memory"),
            ("SIGABRT", "was killed by SIGABRT"),
            ("exit", "exited with status 7"),
        ],
    )
    async def test_is_the_end_of_the_attempt_and_of_nothing_else(
        self, pool: Pool, tmp_path: Path, how: str, says: str
    ) -> None:
        path = tmp_path / "go"
        other = asyncio.create_task(pool("wait_for_file", path=str(path)))
        (beside,) = await pool.pids()
        first = await pool.pid()
        outcome = failed(await pool("die", how=how))
        assert outcome.error.type == "ProcessDied"
        assert outcome.error.message == f"the process {first} that ran the handler {says}"
        assert outcome.retryable
        assert await pool.pid() not in (first, beside)
        path.touch()
        assert await other == Succeeded(str(beside).encode())

    async def test_shows_where_native_code_crashed(
        self, pool: Pool, capfd: pytest.CaptureFixture[str]
    ) -> None:
        await pool("die", how="segfault")
        told = capfd.readouterr().err
        assert "Segmentation fault" in told
        assert 'process_handlers.py", line' in told

    async def test_may_be_what_a_policy_gives_up_on(self, pool: Pool) -> None:
        policy = Retry(5, give_up_on=(ProcessDied,))
        assert not failed(await pool("die", None, policy, how="exit")).retryable

    async def test_while_idle_harms_no_job(self, pool: Pool) -> None:
        first = await pool.pid()
        os.kill(first, signal.SIGKILL)
        # Whether its death is known by now or not.
        assert await pool.pid() != first

    async def test_again_and_again_before_the_job_begins_is_said(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes_module, "_PROGRAM", "import os; os._exit(5)")
        outcome = failed(await pool("pid"))
        assert outcome.error.type == "ProcessDied"
        assert "exited with status 5, and so did 2 before it" in outcome.error.message


class TestKilling:
    async def test_at_the_end_of_its_time(self, pool: Pool) -> None:
        outcome = failed(await pool("hang", TimeLimit(0.5), Retry(5)))
        assert outcome.error.type == "TimeoutError"
        assert outcome.error.message == "the attempt took longer than 0.5 s"
        assert outcome.retryable
        await until_gone(*await pool.pids())
        await pool.pid()

    async def test_the_time_to_start_is_not_the_handlers(self, pool: Pool) -> None:
        # Python and the handler's module need longer than this.
        assert isinstance(await pool("pid", TimeLimit(0.05)), Succeeded)

    async def test_at_the_deadline(self, pool: Pool) -> None:
        outcome = failed(await pool("hang", TimeLimit(1.5, 2_000_000_000.0), Retry(5)))
        assert (outcome.error.type, outcome.retryable) == ("DeadlineExceeded", False)
        await until_gone(*await pool.pids())

    async def test_when_the_attempt_is_cancelled(self, pool: Pool) -> None:
        running = asyncio.create_task(pool("hang"))
        pids = await pool.pids()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until_gone(*pids)
        await pool.pid()

    async def test_idle_ones_when_the_pool_is_closed(self, pool: Pool) -> None:
        pid = await pool.pid()
        await pool.processes.close()
        await until_gone(pid)


def test_a_worker_that_was_killed_has_gone_whatever_it_had_not_read() -> None:
    ours, theirs = socket.socketpair()
    pipe = child._Pipe(ours.detach())
    pipe.send(child.Begun())
    theirs.close()
    assert pipe.receive() is None
    pipe.close()


class TestFinding:
    def test_the_handlers_place(self) -> None:
        assert locate(process_handlers.pid) == ("process_handlers", "pid")

    async def test_a_worker_refuses_what_another_process_cannot_import(self) -> None:
        rig = Rig()
        main: Any = lambda: None  # noqa: E731
        main.__module__, main.__name__, main.__qualname__ = "__main__", "f", "f"

        def local() -> None: ...

        for name, function, says in (
            ("a", local, "is inside a function; define it at the top of its module"),
            ("b", lambda: None, "is inside a function"),
            ("c", main, "f is in the program's main file; put handlers in a module"),
            ("d", process_handlers.undecorated, "decorate the function where it is defined"),
        ):
            app = rig.new_app()
            app.job(name=name, process=True)(function)
            with pytest.raises(ConfigError, match=f"'{name}' has process=True.*{says}"):
                await Worker(app, "m", {"default": 1}).start()


class TestOnAWorker:
    @pytest.fixture
    def rig_of_processes(self, any_rig: Rig) -> Rig:
        any_rig.app.handlers.update(process_handlers.app.handlers)
        return any_rig

    async def push(self, rig: Rig, name: str, payload: bytes = b"{}", **options: Any) -> str:
        job = make_job(name=name, payload=payload, **options)
        assert await (await rig.agent()).push([job]) == [None]
        return job.id

    async def test_events_are_in_the_ledger_before_the_end(self, rig_of_processes: Rig) -> None:
        rig = rig_of_processes
        job_id = await self.push(rig, "say", b'{"count":2}')
        async with rig.worker():
            (end,) = await rig.ended(job_id)
        assert end.state is State.SUCCEEDED
        told = rig.told(job_id, Event, Finished)
        kinds = [r.kind for r in told[:-1] if isinstance(r, Event)]
        # Of progress that waits only the latest is told.
        assert list(dict.fromkeys(kinds)) == ["progress", "log", "chunk"]

    async def test_a_death_is_an_attempt_and_the_next_runs(self, rig_of_processes: Rig) -> None:
        rig = rig_of_processes
        policy = Retry(2, delay=0.01)
        job_id = await self.push(rig, "die", b'{"how":"SIGSEGV"}', retry=policy)
        other = await self.push(rig, "pid")
        async with rig.worker(1):
            end, good = await rig.ended(job_id, other)
        assert good.state is State.SUCCEEDED
        assert (end.state, end.attempt, end.lost) == (State.FAILED, 2, 0)
        assert end.error is not None
        assert end.error.type == "ProcessDied"
        assert "SIGSEGV" in end.error.message

    async def test_a_cancelled_job_has_no_process_any_more(self, rig_of_processes: Rig) -> None:
        rig = rig_of_processes
        job_id = await self.push(rig, "hang")
        async with rig.worker() as worker:
            await rig.until(lambda: bool(rig.told(job_id, Event)))
            (said,) = rig.told(job_id, Event)
            assert isinstance(said, Event)
            (lane,) = worker.lanes
            assert lane.cancel(job_id, "a mistake")
            (end,) = await rig.ended(job_id)
        assert end.error is not None
        assert (end.state, end.error.message) == (State.CANCELLED, "a mistake")
        await until_gone(*msgspec.json.decode(said.data))
