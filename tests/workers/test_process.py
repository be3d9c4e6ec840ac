"""The real command ``mesh worker`` in a process of its own, with real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_rig import PATIENCE, Rig, until_gone

from mesh.job import State
from mesh.testing.conformance.agent import make_job
from mesh.wire import Event, Finished, Retrying, Started

APP = """
import asyncio, logging, os, threading, time
from contextlib import suppress
from mesh import Context, Mesh, Retry

app = Mesh(
    agents={{"m": "{url}"}}, lease=1.0, grace={grace}, heartbeat=0.2,
)

def say(line):
    os.write(1, (line + "\\n").encode())

@app.job
async def quick() -> int:
    return os.getpid()

@app.job
async def wait_for_file(ctx: Context, path: str) -> int:
    say(f"started {{ctx.attempt}}")
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    return ctx.attempt

@app.job
def endless_thread() -> None:
    say("started 1")
    threading.Event().wait()

@app.job
async def stubborn() -> None:
    say("started 1")
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

@app.job(process=True)
def wait_in_a_process(ctx: Context, path: str) -> int:
    ctx.chunk(os.getpid())
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()

@app.job(process=True)
def log_in_a_process(ctx: Context) -> None:
    logging.getLogger("some.library").warning("said in %s", "a process")
    ctx.log.error("kept", part=1)

@app.job
def log_in_a_thread() -> None:
    logging.getLogger("some.library").warning("said in %s", "a thread")

@app.job(retry=Retry(2))
async def die(ctx: Context) -> None:
    os._exit(9)
"""


class Command:
    """Runs ``mesh worker`` on the rig's agent."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self.rig = rig
        self._directory = directory
        self._started: list[Process] = []
        self.log = ""

    async def start(self, *options: str, grace: float = 30) -> Process:
        (self._directory / "shop.py").write_text(APP.format(url=self.rig.url, grace=grace))
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "mesh",
            *("worker", "shop:app", "--concurrency", "1", *options),
            cwd=self._directory,
            start_new_session=True,
            stdout=PIPE,
            stderr=PIPE,
        )
        self._started.append(process)
        return process

    async def until_it_says(self, process: Process, line: str) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while said := (await process.stdout.readline()).decode():
                if said.strip() == line:
                    return
        raise AssertionError(f"it ended before it said {line!r}: {await self.end(process)}")

    async def end(self, process: Process) -> int:
        """The exit code; what it logged is in ``log``."""
        async with asyncio.timeout(PATIENCE):
            _, errors = await process.communicate()
        self.log = errors.decode()
        assert process.returncode is not None
        return process.returncode

    async def enqueue(self, name: str, payload: bytes = b"{}") -> str:
        job = make_job(name=name, payload=payload)
        assert await (await self.rig.agent()).push([job]) == [None]
        return job.id

    async def close(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
                await process.communicate()


@pytest.fixture
async def command(tmp_path: Path) -> AsyncIterator[Command]:
    rig = Rig(f"sqlite:///{tmp_path}/agent.db")
    command = Command(rig, tmp_path)
    yield command
    await command.close()
    await rig.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(command: Command, tmp_path: Path, number: signal.Signals) -> None:
    rig, path = command.rig, tmp_path / "go"
    running = await command.enqueue("wait_for_file", b'{"path":"%s"}' % bytes(path))
    process = await command.start()
    await command.until_it_says(process, "started 1")
    waiting = await command.enqueue("quick")
    process.send_signal(number)
    await rig.until(lambda: "draining" in [beat.state for beat in rig.beats()])
    path.touch()
    assert await command.end(process) == 0
    (end,) = await rig.ended(running)
    assert (end.state, end.result) == (State.SUCCEEDED, b"1")
    await rig.until(lambda: "stopped" in [beat.state for beat in rig.beats()])
    assert f"{number.name}: stopping" in command.log
    assert "Traceback" not in command.log
    depth = await rig.holds()
    assert (depth.ready, depth.leased) == (1, 0)
    assert not rig.told(waiting)


async def test_what_was_running_when_the_worker_was_killed_is_run_again(
    command: Command, tmp_path: Path
) -> None:
    rig, path = command.rig, tmp_path / "go"
    job_id = await command.enqueue("wait_for_file", b'{"path":"%s"}' % bytes(path))
    first = await command.start()
    await rig.until(lambda: bool(rig.told(job_id, Started)))
    first.send_signal(signal.SIGKILL)
    assert await command.end(first) == -signal.SIGKILL
    second = await command.start()
    await command.until_it_says(second, "started 2")
    path.touch()
    (end,) = await rig.ended(job_id)
    assert (end.state, end.attempt, end.lost, end.result) == (State.SUCCEEDED, 2, 1, b"2")
    second.terminate()
    assert await command.end(second) == 0


async def test_a_job_that_kills_its_worker_again_and_again_fails(command: Command) -> None:
    rig = command.rig
    job_id = await command.enqueue("die")
    for _ in range(3):  # the first time it died too fast for its start to be told of
        process = await command.start()
        assert await command.end(process) == 9
    process = await command.start()
    (end,) = await rig.ended(job_id)
    process.terminate()
    assert await command.end(process) == 0
    assert end.error is not None
    assert (end.state, end.attempt, end.error.type) == (State.FAILED, 2, "WorkerDied")


@pytest.mark.parametrize(
    ("handler", "signals"), [("endless_thread", 1), ("endless_thread", 2), ("stubborn", 2)]
)
async def test_a_handler_that_never_ends_does_not_hold_up_the_exit(
    command: Command, handler: str, signals: int
) -> None:
    job_id = await command.enqueue(handler)
    process = await command.start(grace=0.1 if signals == 1 else 600)
    await command.until_it_says(process, "started 1")
    process.terminate()
    if signals == 2:
        rig = command.rig
        await rig.until(lambda: "draining" in [beat.state for beat in rig.beats()])
        process.terminate()
    assert await command.end(process) == 0
    if handler == "endless_thread":
        (stopped,) = await command.rig.outcomes(job_id, 1)
        assert isinstance(stopped, Retrying)
        assert stopped.error.type == "WorkerStopped"
    assert not command.rig.told(job_id, Finished)


async def test_logs_may_be_json_and_say_whose_they_are(command: Command) -> None:
    jobs = [await command.enqueue(f"log_in_a_{place}") for place in ("process", "thread")]
    process = await command.start("--log-json")
    await command.rig.ended(*jobs)
    process.terminate()
    assert await command.end(process) == 0
    lines = [json.loads(line) for line in command.log.splitlines()]
    of_jobs = {line["message"]: line for line in lines if line["logger"] == "some.library"}
    for job_id, place in zip(jobs, ("process", "thread"), strict=True):
        line = of_jobs[f"said in a {place}"]
        wanted = {"level": "warning", "job_id": job_id, "attempt": 1, "lane": "default"}
        assert {key: line[key] for key in wanted} == wanted
        assert line["job_name"] == f"log_in_a_{place}"
    (kept,) = [line for line in lines if line["message"].startswith("kept")]
    assert (kept["job_id"], kept["level"]) == (jobs[0], "error")


async def test_wrong_options_are_told_in_one_line(command: Command) -> None:
    for options, message in [
        (("--lane", "mail=x"), "'x' is not a number of jobs"),
        (("--agent", "n"), "no agent is named 'n' (known: m)"),
    ]:
        assert await command.end(await command.start(*options)) == 1
        assert command.log.startswith("error: ")
        assert message in command.log
        assert command.log.count("\n") == 1


async def test_processes_are_kept_running_and_drain_together(command: Command) -> None:
    rig = command.rig
    process = await command.start("--processes", "2")
    pids: set[int] = set()
    while len(pids) < 2:
        (end,) = await rig.ended(await command.enqueue("quick"))
        assert end.result is not None
        pids.add(int(end.result))
    assert process.pid not in pids
    os.kill(min(pids), signal.SIGKILL)
    while True:
        (end,) = await rig.ended(await command.enqueue("quick"))
        assert end.result is not None
        if int(end.result) not in pids:
            break
    process.send_signal(signal.SIGTERM)
    assert await command.end(process) == 0
    assert f"(pid {min(pids)}) ended with status -9: starting it again" in command.log
    assert command.log.count(" stopped") == 2


class TestProcessHandlers:
    async def begin(
        self, command: Command, path: Path, grace: float = 30
    ) -> tuple[Process, str, int]:
        """A worker, a job that runs in a process of it, and that one's pid."""
        rig = command.rig
        job_id = await command.enqueue("wait_in_a_process", b'{"path":"%s"}' % bytes(path))
        worker = await command.start(grace=grace)
        await rig.until(lambda: bool(rig.told(job_id, Event)))
        said = rig.told(job_id, Event)[-1]
        assert isinstance(said, Event)
        return worker, job_id, int(said.data)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_drain_with_the_worker_when_its_whole_group_is_signalled(
        self, command: Command, tmp_path: Path, number: signal.Signals
    ) -> None:
        rig, path = command.rig, tmp_path / "go"
        worker, job_id, pid = await self.begin(command, path)
        os.killpg(worker.pid, number)
        os.kill(pid, number)  # as those do who signal whatever is in a container
        await rig.until(lambda: "draining" in [beat.state for beat in rig.beats()])
        path.touch()
        assert await command.end(worker) == 0
        (end,) = await rig.ended(job_id)
        assert (end.state, end.attempt, end.result) == (State.SUCCEEDED, 1, b"%d" % pid)
        await until_gone(pid)

    async def test_are_killed_when_the_grace_time_is_over(
        self, command: Command, tmp_path: Path
    ) -> None:
        worker, job_id, pid = await self.begin(command, tmp_path / "go", grace=0.1)
        worker.terminate()
        assert await command.end(worker) == 0
        await until_gone(pid)
        (stopped,) = await command.rig.outcomes(job_id, 1)
        assert isinstance(stopped, Retrying)
        assert stopped.error.type == "WorkerStopped"

    async def test_end_with_a_worker_that_is_killed(self, command: Command, tmp_path: Path) -> None:
        worker, _, pid = await self.begin(command, tmp_path / "go")
        worker.kill()
        assert await command.end(worker) == -signal.SIGKILL
        await until_gone(pid)
