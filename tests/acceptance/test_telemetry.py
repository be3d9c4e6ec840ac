"""What a real cluster tells of itself: spans, metrics, health."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh import JobFailed, Mesh
from mesh.ports import Agent
from mesh.testing.servers import NatsServer, free_port
from mesh.wire import Finished

from .processes import MESH, Start

APP = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from mesh import Context, Failure, Mesh, Retry

file = open(f"spans-{os.getpid()}", "w")
exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\\n")
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))

app = Mesh.from_env()

@app.job(retry=Retry(2, delay=0))
async def first(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ValueError("not yet")
    await ctx.enqueue(second)

@app.job
def second(ctx: Context) -> None:
    ctx.sync(ctx.enqueue(third))

@app.job(process=True, retry=Retry(1))
def third() -> None | Failure:
    return Failure("said so")

if __name__ == "__main__":
    import asyncio

    async def enqueue() -> None:
        async with app:
            await first.enqueue()

    asyncio.run(enqueue())
"""


async def test_spans_of_a_job_and_its_children_hang_together_over_all_processes(
    tmp_path: Path, nats_server: NatsServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "traced.py").write_text(APP)
    cluster = {"MESH_AGENTS": f"n={nats_server.url}", "MESH_CLUSTER": "traced", "MESH_OTEL": "1"}
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    start("worker", "traced:app", "--concurrency", "2")
    assert await asyncio.to_thread(start("traced.py").wait, 60) == 0
    async with Mesh.from_env() as app:
        await _until_ended(await app.agent("n"), 3)
    named = {_key(span): span for span in _read_spans(tmp_path)}
    (enqueued, tried, ran) = (named["first", n] for n in (None, 1, 2))
    traces = {span["context"]["trace_id"] for span in named.values()}
    assert traces == {enqueued["context"]["trace_id"]}
    parents = {
        ("first", None): None,
        ("first", 1): enqueued,
        ("first", 2): enqueued,
        ("second", None): ran,
        ("second", 1): named["second", None],
        ("third", None): named["second", 1],
        ("third", 1): named["third", None],
    }
    assert named.keys() == parents.keys()
    for key, parent in parents.items():
        expected = None if parent is None else parent["context"]["span_id"]
        assert named[key]["parent_id"] == expected, key
    for attempt in (tried, ran):
        assert attempt["links"][0]["context"]["span_id"] == enqueued["context"]["span_id"]
        assert attempt["kind"] == "SpanKind.CONSUMER"
    assert tried["attributes"]["error.type"] == "ValueError"
    assert tried["status"]["status_code"] == "ERROR"
    assert named["third", 1]["status"]["description"] == "Failure: said so"


CLUSTER = """
from mesh import Mesh, Retry

app = Mesh.from_env(heartbeat=0.5)

@app.job(lane="mail", retry=Retry(2, delay=0))
async def send(number: int) -> None:
    if number == 0:
        raise ValueError("never")
"""


async def test_health_and_metrics_of_a_cluster_whose_agent_stands_still(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster.py").write_text(CLUSTER)
    monkeypatch.setenv("MESH_MASTER", f"sqlite:///{tmp_path}/mesh.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    master, worker = (["--monitor", str(free_port())] for _ in range(2))
    file, health = ["--health-file", "health"], tmp_path / "health"
    with NatsServer() as nats:
        monkeypatch.setenv("MESH_AGENTS", f"n={nats.url}")
        start("master", "cluster:app", *master)
        running = start("worker", "cluster:app", *worker, *file)
        await _until(lambda: _is_ready(master) and _is_ready(worker))
        async with importlib.import_module("cluster").app as app:
            for job in await app.handlers["send"].enqueue_many([(n,) for n in range(10)]):
                with suppress(JobFailed):
                    await job.result(timeout=60)
        counted = _Metrics(worker), _Metrics(master)
        for metrics, prefix in zip(counted, ("jobmesh_worker", "jobmesh"), strict=True):
            mail = {"handler": "send", "lane": "mail"}
            ended = {"retrying": 1, "failed": 1, "succeeded": 9}
            for outcome, count in ended.items():
                assert (
                    metrics.sum(f"{prefix}_attempts_ended_total", outcome=outcome, **mail) == count
                )
            for name in ("attempts_started_total", "attempt_duration_seconds_count"):
                assert metrics.sum(f"{prefix}_{name}", **mail) == 11
        assert counted[1].sum("jobmesh_jobs_enqueued_total") == 10
        assert counted[1].sum("jobmesh_leader", duty="recorder:n") == 1
        assert counted[1].sum("jobmesh_lane_workers", lane="mail") == 1
        os.kill(nats.pid, signal.SIGSTOP)
        try:
            await _until(lambda: not _is_ready(worker) and b'"ready":false' in health.read_bytes())
            assert not _is_well(*file)
            assert _is_well(*worker, "--live")
            assert _is_well(*master), "its agents' health is not its own"
            assert _Metrics(master).sum("jobmesh_agent_up", agent="n") == 0
        finally:
            os.kill(nats.pid, signal.SIGCONT)
        await _until(lambda: _is_ready(worker) and b'"ready":true' in health.read_bytes())
        assert _is_well(*file)
        os.kill(running.pid, signal.SIGSTOP)
        assert not _is_well(*worker, "--live")
        os.kill(running.pid, signal.SIGCONT)
        assert _is_well(*worker, "--live")


async def test_each_process_of_a_worker_tells_of_itself(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster.py").write_text(CLUSTER)
    monkeypatch.setenv("MESH_URL", f"sqlite:///{tmp_path}/mesh.db")
    monkeypatch.setenv("MESH_HEALTH_FILE", "health")
    monkeypatch.chdir(tmp_path)
    ports = [str(free_port())]
    supervisor = start("worker", "cluster:app", "--processes", "2", "--monitor", *ports)
    ports.append(str(int(ports[0]) + 1))
    try:
        await _until(lambda: all(_is_ready(["--monitor", port]) for port in ports))
        await _until(lambda: _is_well("--processes", "2"))
        assert not _is_well("--processes", "3")
    finally:
        supervisor.terminate()  # killed, it would leave its processes behind
    assert await asyncio.to_thread(supervisor.wait, 60) == 0


def _is_ready(monitor: Sequence[str]) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{monitor[1]}/health/ready", timeout=30):
            return True
    except OSError:
        return False


def _is_well(*arguments: str) -> bool:
    return subprocess.run([MESH, "health", *arguments], capture_output=True).returncode == 0


class _Metrics:
    """What a process tells at its port."""

    def __init__(self, monitor: Sequence[str]) -> None:
        with urlopen(f"http://127.0.0.1:{monitor[1]}/metrics", timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and sample.labels.items() >= labels.items()
        )


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0.05)


async def _until_ended(agent: Agent, count: int) -> None:
    """Read the ledger until so many jobs have ended."""
    ledger = await agent.ledger()
    async with asyncio.timeout(60):
        while count > 0:
            records = (await ledger.read(1000, 1.0)).records
            count -= sum(isinstance(record, Finished) for record in records)
    await ledger.close()


def _read_spans(folder: Path) -> Iterator[dict[str, Any]]:
    for file in folder.glob("spans-*"):
        for line in file.read_text().splitlines():
            yield json.loads(line)


def _key(span: dict[str, Any]) -> tuple[str, int | None]:
    """The handler and, of an attempt's span, its number."""
    return span["attributes"]["mesh.job.name"], span["attributes"].get("mesh.job.attempt")
