"""What a real cluster tells of itself: spans."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.ports import Agent
from mesh.testing.servers import NatsServer
from mesh.wire import Finished

from .processes import Start

APP = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from mesh import Context, Mesh, Retry

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

@app.job(process=True)
def third() -> None:
    pass

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
