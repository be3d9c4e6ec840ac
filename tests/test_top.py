"""``mesh top``: its picture, what it reads, and the command on a terminal."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from mesh import Mesh, State
from mesh.job import new_job_id
from mesh.ports import AgentInfo, Backlog, Bucket, JobInfo
from mesh.settings import ClusterSettings, LaneState
from mesh.testing.conformance.master import Story, lease_of
from mesh.testing.servers import free_port
from mesh.wire import Accepted, Event, Heartbeat, LaneLoad
from mesh_master.top import Reader
from mesh_master.top_view import Board, view

NOW = 1_800_000_000.0
WORKER = Heartbeat(
    *("w-1", NOW - 4, "nats-1", "host", 1, "0.1.0", NOW - 500, "running"),
    lanes=[LaneLoad("mail", 20, 3, 0)],
    finished=1234,
)


def job(name: str, **known: object) -> JobInfo:
    given = {"state": State.RUNNING, "started_at": NOW - 90, **known}
    return JobInfo(new_job_id(), name, "mail", 2, attempt=1, enqueued_at=NOW, payload=None, **given)  # type: ignore[arg-type]


def full_board() -> Board:
    running = [job(f"run.{n}") for n in range(12)]
    broken = {"state": State.FAILED, "finished_at": NOW - 7200, "error_type": "ValueError"}
    return Board(
        at=NOW,
        cluster="shop",
        settings=ClusterSettings(lanes={"held": LaneState.PAUSED}),
        states={State.QUEUED: 12345, State.RUNNING: 12, State.FAILED: 2},
        minutes=[Bucket(NOW - 60 * n, None, enqueued=9, succeeded=n) for n in range(29, -1, -1)],
        backlog={"mail": Backlog(5, 7, NOW - 42), "held": Backlog(1)},
        lanes=["alone", "held", "mail"],
        agents=[AgentInfo("nats-1", "nats://host:4222", NOW - 3)],
        workers=[WORKER],
        running=running,
        progress={running[0].id: "━━━━━┄┄┄┄┄  50% pages"},
        failed=[job("send", error_message="no [bold]user[/]\nof 42", **broken)],
    )


def drawn(board: Board, width: int = 80, height: int | None = 24) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view(board, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


def line_of(lines: list[str], begin: str) -> str:
    (found,) = [line for line in lines if line.startswith(begin)]
    return found


def test_the_picture_fits_80_by_24_and_says_what_counts() -> None:
    board = full_board()
    lines = drawn(board)
    assert len(lines) == 24
    assert all(len(line) <= 80 for line in lines)
    assert line_of(lines, "jobmesh").endswith("cluster shop, active  08:00:00Z  q: quit")
    assert "queued 12,345" in lines[1]
    assert "9 enqueued, 1 ended, 0 failed" in lines[2]
    assert line_of(lines, "mail").split() == ["mail", "12", "42s", "1", "3/20"]
    assert line_of(lines, "held").split() == ["held", "1", "0", "0/0", "paused"]
    assert line_of(lines, "alone").endswith("no worker")
    assert line_of(lines, "nats-1").split() == ["nats-1", "3s", "ago", "nats://host:4222"]
    assert "running" in (worker := line_of(lines, "w-1").split())
    assert worker[2:] == ["nats-1", "3/20", "1,234", "4s", "ago"]
    assert line_of(lines, "RUNNING").endswith("job (10 of 12)")
    assert line_of(lines, "run.0 ").endswith(board.running[0].id)
    failed = line_of(lines, "send")
    assert "2h ago" in failed
    assert failed.endswith(board.failed[0].id)
    wide = drawn(board, 160, None)
    assert "ValueError: no [bold]user[/] of 42" in line_of(wide, "send")
    assert "50% pages" in line_of(wide, "run.0 ")
    assert line_of(wide, "run.11 ")


@pytest.mark.parametrize("height", [1, 5, 10, 24, 100])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_picture_never_grows_beyond_the_terminal(width: int, height: int) -> None:
    lines = drawn(full_board(), width, height)
    assert len(lines) <= max(height, 4)  # what is above the tables stays
    assert all(len(line) <= width for line in lines)


def test_a_master_that_is_away_is_said_above_what_is_known() -> None:
    lines = drawn(replace(full_board(), away="cannot be\nreached"))
    assert lines[1] == "cannot be reached; trying again"
    assert line_of(lines, "w-1")
    assert len(lines) == 24
    assert len(drawn(Board(NOW, "shop", away="cannot be reached"))) == 4, "nothing is known yet"


async def test_the_reader_tells_what_the_master_knows(tmp_path: Path) -> None:
    app = Mesh(f"sqlite:///{tmp_path}/mesh.db", redact=["token"])
    async with app:
        master, reader, now = await app.master(), Reader(app), app.now()
        running, broken = Story(now - 5, lane="mail"), Story(now - 5)
        lease = await lease_of(master)
        say: Callable[[int, bytes], Event] = lambda n, data: Event(  # noqa: E731
            running.id, 2**32 + n, now, "progress", data
        )
        beat = msgspec.structs.replace(WORKER, at=now)
        await master.record(
            "a-1",
            [
                *(running.accepted(), running.started(), say(1, b'{"done":1,"total":4}'), beat),
                *(broken.accepted(), broken.finished(state=State.FAILED)),
                Accepted(Story(now - 9, lane="other").job, now),
            ],
            lease,
        )
        board = await reader.look()
        assert board.away == ""
        assert board.states == {State.RUNNING: 1, State.FAILED: 1, State.QUEUED: 1}
        assert board.progress == {running.id: "━━┄┄┄┄┄┄┄┄  25%"}
        assert [job.id for job in board.failed] == [broken.id]
        assert set(board.lanes) == {"mail", "other"}
        assert board.backlog["other"].sent == 1
        assert sum(bucket.enqueued for bucket in board.minutes) == 3
        assert [worker.worker for worker in board.workers] == ["w-1"]
        await master.record("a-1", [say(2, b'{"value":{"page":7,"token":"x"}}')], lease)
        board = await reader.look()
        assert board.progress == {running.id: "{'page': 7, 'token': '[redacted]'}"}
        drawn(board)


async def test_the_reader_goes_on_trying(tmp_path: Path) -> None:
    nobody = f"postgresql://127.0.0.1:{free_port()}/x"
    async with Mesh(master=nobody, connect_timeout=0.5) as app:
        board = await Reader(app).look()
    assert "check that the server runs" in board.away


@pytest.mark.parametrize("way", ["q", "SIGINT"])
def test_the_command_ends_when_asked(tmp_path: Path, way: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from mesh.cli import main; main()", "top"]
    environment = {**os.environ, "MESH_URL": f"sqlite:///{tmp_path}/mesh.db", "TERM": "xterm"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path
    )
    os.close(theirs)
    seen = b""
    while b"RUNNING" not in seen:
        seen += os.read(ours, 4096)
    if way == "q":
        os.write(ours, b"q")
    else:
        process.send_signal(signal.SIGINT)
    try:
        while more := os.read(ours, 4096):
            seen += more
    except OSError:  # Linux: the other end is closed
        pass
    assert process.wait(30) == 0
    assert b"Traceback" not in seen
    os.close(ours)
