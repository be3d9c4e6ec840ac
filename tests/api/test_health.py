"""Health and metrics over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from mesh import Mesh
from mesh.testing.servers import free_port

from .conftest import LOCAL, PATIENCE, Served


async def test_metrics_and_health_of_a_cluster_in_this_process(served: Served) -> None:
    await served.ended(await served.enqueue("add", x=1))
    answer = await served.client.get(f"{LOCAL}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for name in ("jobmesh_attempts_ended", "jobmesh_worker_attempts_ended"):
        (sample,) = found[name].samples
        assert (sample.labels["handler"], sample.value) == ("add", 1)
    assert (await served.client.get(f"{LOCAL}/health/live")).json()["status"] == "ok"
    async with asyncio.timeout(PATIENCE):
        while (answer := await served.client.get(f"{LOCAL}/health/ready")).status_code == 503:
            assert answer.json()["status"] == "degraded"  # a duty is nobody's yet
            await asyncio.sleep(0.01)


async def test_metrics_and_health_where_nothing_runs(tmp_path: Path) -> None:
    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}")
    async with app, (served := Served(app)).client:
        assert (await served.client.get(f"{LOCAL}/health/ready")).status_code == 200
        assert "jobmesh_master_up 1.0" in (await served.client.get(f"{LOCAL}/metrics")).text
    nobody = Mesh(master=f"postgresql://127.0.0.1:{free_port()}/x")
    async with nobody, (served := Served(nobody)).client:
        answer = await served.client.get(f"{LOCAL}/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
        assert (await served.client.get(f"{LOCAL}/health/live")).status_code == 200


async def test_metrics_are_for_those_who_may_read(tmp_path: Path) -> None:
    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}", sign_in="required")
    async with app, (served := Served(app)).client:
        assert (await served.client.get(f"{LOCAL}/metrics")).status_code == 401
        assert (await served.client.get(f"{LOCAL}/health/ready")).status_code == 200
