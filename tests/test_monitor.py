"""What processes tell of themselves: counting, the tiny port, the file, ``mesh health``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from mesh import ConfigError, Mesh
from mesh.cli import cli
from mesh.job import State
from mesh.monitor import Door, Families, Health, HealthFile, Monitor, Tally, exposition
from mesh.monitor.tally import BOUNDS, OTHER
from mesh.place import Place
from mesh.ports import Check
from mesh.roles import RoleOptions
from mesh.testing.conformance.master import Story
from mesh.testing.servers import free_port
from mesh.wire import Record
from mesh_master.coordinator import Coordinator, coordinator_role
from mesh_master.counting import LedgerTally

TEXTS = dict.fromkeys(
    (
        "jobs_enqueued",
        "attempts_started",
        "attempts_ended",
        "attempt_duration_seconds",
        "attempt_wait_seconds",
    ),
    "…",
)


class Part:
    """A part that says what it is told to."""

    name = "part"

    def __init__(self, *, ok: bool = True) -> None:
        self.ok = ok

    async def health(self) -> Sequence[Check]:
        return [Check(self.name, self.ok, "said")]

    async def metrics(self, families: Families) -> None:
        families.gauge("part_ok", "…", int(self.ok), quoted='a "b"\n\\')


# counting ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 1e5)), max_size=50))
def test_what_is_counted_comes_out_of_prometheus_own_parser(ran: list[tuple[str, float]]) -> None:
    tally = Tally(most=3)
    for handler, seconds in ran:
        tally.end(tally.pair(handler, "lane"), State.SUCCEEDED, seconds)
    families = Families()
    families.tally("x", tally, TEXTS, agent="n")
    body, kind = exposition(families)
    assert kind.startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(body.decode())}
    ended = found["x_attempts_ended"].samples if ran else []
    assert sum(sample.value for sample in ended) == len(ran)
    assert len({s.labels["handler"] for s in ended}) <= 4
    names = list(dict.fromkeys(handler for handler, _ in ran))
    expected = sum(handler in names[3:] for handler, _ in ran)
    assert sum(s.value for s in ended if s.labels["handler"] == OTHER) == expected
    for name in names[:3]:
        took = [seconds for handler, seconds in ran if handler == name]
        for sample in found["x_attempt_duration_seconds"].samples:
            if sample.labels.get("handler") == name and sample.name.endswith("_bucket"):
                bound = float(sample.labels["le"])
                assert sample.value == sum(seconds <= bound for seconds in took)


def test_bounds_grow() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_a_start_counts_once_however_often_it_is_told() -> None:
    tally, story = LedgerTally(), Story()
    pair = story.job.name, story.job.lane
    tally.count([story.accepted(), story.started(), story.started()], story.begin)
    assert (tally.enqueued[pair], tally.started[pair]) == (1, 1)
    tally.count([story.retrying(), story.started(2, at=14), story.finished(2, at=15)], story.begin)
    tally.count([Story().finished()], story.begin)  # so short that its start was not told
    assert tally.started[pair] == 3
    assert tally.ended == {(*pair, "retrying"): 1, (*pair, "succeeded"): 2}
    assert tally.durations[pair].sum == 3.0


def test_waits_are_measured_from_when_a_job_is_due_if_that_is_known() -> None:
    def waits(records: list[Record], since: float) -> float | None:
        tally = LedgerTally()
        tally.count(records, since)
        (spread,) = tally.waits.values() or [None]
        return None if spread is None else spread.sum

    at_once = Story()
    assert waits([at_once.accepted(), at_once.finished(at=5)], at_once.begin) == 4.0
    delayed = Story(due_at=Story().begin + 3)
    assert waits([delayed.accepted(), delayed.finished(at=5)], delayed.begin) == 1.0
    assert waits([delayed.finished(at=5)], delayed.begin + 1) is None, "it may have been delayed"
    again = Story()
    told: list[Record] = [again.retrying(at=2), again.finished(2, at=14)]
    assert waits(told, again.begin + 1) == 1.0  # due again 10 s after it failed


# doors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9100", "127.0.0.1:9100"),
        ("0.0.0.0:9100", "0.0.0.0:9100"),
        (":9100", "127.0.0.1:9100"),
        ("[::1]:9100", "[::1]:9100"),
    ],
)
def test_places(text: str, expected: str) -> None:
    assert str(Place.parse(text)) == expected
    assert str(Place.parse(text).next(2)) == expected.replace("9100", "9102")
    assert Mesh("sqlite:///unused.db", monitor=text).config.monitor == expected


@pytest.mark.parametrize("text", ["", "host", "0", "70000", "host:", "1:2:x"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a port, or HOST:PORT"):
        Place.parse(text)


async def ask(place: Place, request: str) -> str:
    reader, writer = await asyncio.open_connection(place.host, place.port)
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


async def test_the_door_answers_probes_and_survives_others() -> None:
    monitor, place = Monitor(), Place("127.0.0.1", free_port())
    async with Door(monitor, place):
        assert "503" in await ask(place, "GET /health/ready HTTP/1.1\r\n\r\n"), "nothing runs"
        with monitor.watching(part := Part()):
            assert await ask(place, "\r\n\r\n") == ""
            assert "200 OK" in await ask(place, "GET /health/live?now HTTP/1.0\r\nHost: x\r\n\r\n")
            answer = await ask(place, "GET /health/ready HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 200 OK\r\n")
            health = msgspec.json.decode(answer.partition("\r\n\r\n")[2], type=Health)
            assert health.checks == [Check("part", True, "said")]
            part.ok = False
            head, _, body = (await ask(place, "HEAD /health/ready HTTP/1.1\r\n\r\n")).partition(
                "\r\n\r\n"
            )
            assert ("503" in head, body) == (True, "")
            assert "405" in await ask(place, "POST /metrics HTTP/1.1\r\n\r\n")
            assert "404" in await ask(place, "GET / HTTP/1.1\r\n\r\n")
            metrics = (await ask(place, "GET /metrics HTTP/1.1\r\n\r\n")).partition("\r\n\r\n")[2]
            found = {f.name: f for f in text_string_to_metric_families(metrics)}
            (sample,) = found["part_ok"].samples
            assert (sample.value, sample.labels) == (0, {"quoted": 'a "b"\n\\'})
            assert {"jobmesh_build_info", "process_cpu_seconds"} <= found.keys()
        assert monitor.counts
        other = Door(monitor, place)
        with pytest.raises(ConfigError, match=r"cannot listen there .* give another port"):
            await other.start()


async def test_the_file_is_there_as_long_as_the_process(tmp_path: Path) -> None:
    monitor, path = Monitor(), tmp_path / "health"
    arguments = ["health", "--health-file", str(path)]
    with monitor.watching(part := Part()):
        async with HealthFile(monitor, path):
            assert _run(*arguments) == (0, "ok    part: said\n")
        assert _run(*arguments, "--live")[0] == 1
        part.ok = False
        async with HealthFile(monitor, path):
            assert _run(*arguments) == (1, "FAIL  part: said\n")
            assert _run(*arguments, "--live")[0] == 0
            path.write_text("what")
            assert _run(*arguments, "--live")[0] == 1
    assert not path.exists()
    with pytest.raises(ConfigError, match="health_file="):
        await HealthFile(monitor, tmp_path / "nowhere" / "health").start()


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, arguments)
    return result.exit_code, result.stdout


# the cost for those who want none of it ----------------------------------------------------------


def test_nothing_of_it_is_imported_unless_it_is_used(tmp_path: Path) -> None:
    program = (
        "import sys, mesh.cli, mesh.middleware, mesh_master.commands, mesh_workers\n"
        "mesh.Mesh('sqlite:///mesh.db', monitor=9100, health_file='health')\n"
        "print([name for name in ('opentelemetry', 'prometheus_client', 'rich.live') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# the master --------------------------------------------------------------------------------------


async def test_a_coordinator_is_ready_once_every_duty_is_somebodys(tmp_path: Path) -> None:
    app = Mesh(f"sqlite:///{tmp_path}/mesh.db")
    coordinator = coordinator_role(app, RoleOptions())
    assert isinstance(coordinator, Coordinator)
    assert not (await app.monitor.health()).ready
    async with coordinator, asyncio.timeout(30):
        while not (health := await app.monitor.health()).ready:
            missing = [check for check in health.checks if not check.ok]
            assert {check.detail for check in missing} == {"nobody has it (yet)"}
            await asyncio.sleep(0.01)
    assert not (await app.monitor.health()).ready
