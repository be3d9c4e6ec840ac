"""The metrics of a process that is coordinator and worker, and all that speaks of them."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh import Context, Mesh, Retry
from mesh.roles import RoleOptions, make_role
from mesh.service import Group
from mesh.testing.servers import free_port
from mesh_master import metrics

ROOT = Path(__file__).parent.parent
NAME = re.compile(r"\b(?:jobmesh|process)_[a-z_]+[a-z]\b")


class Told:
    """What a process tells."""

    def __init__(self, body: bytes) -> None:
        families = list(text_string_to_metric_families(body.decode()))
        self.samples = [sample for family in families for sample in family.samples]
        self.names = {sample.name for sample in self.samples}
        self.families = {family.name for family in families}
        assert len(self.families) == len(families), "a family comes in one piece"

    def value(self, name: str, **labels: str) -> float:
        (found,) = [s.value for s in self.samples if s.name == name and s.labels == labels]
        return found


async def told_by(app: Mesh) -> Told:
    body, kind = await metrics.render(app)
    assert kind.startswith("text/plain; version=")
    return Told(body)


@pytest.fixture
async def told(tmp_path: Path) -> Told:
    """By a process that has run a job twice."""
    app = Mesh(f"sqlite:///{tmp_path}/mesh.db", heartbeat=0.1)

    @app.job(lane="mail", retry=Retry(2, delay=0))
    async def send(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("not yet")

    app.monitor.counts = True
    roles = [make_role(name, app, RoleOptions()) for name in ("coordinator", "worker")]
    async with app, Group("all", roles), asyncio.timeout(60):
        # Of jobs that came before its recorder a master does not know how long they waited.
        await _until(app, lambda told: "jobmesh_recorder_lag_entries" in told.names)
        job = await send.enqueue()
        await job.result()
        return await _until(app, lambda told: told.value("jobmesh_workers", state="running") == 1)


async def _until(app: Mesh, enough: Callable[[Told], bool]) -> Told:
    while not enough(told := await told_by(app)):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return told


def test_a_process_tells_what_it_did_and_how_the_cluster_stands(told: Told) -> None:
    mail = {"handler": "send", "lane": "mail"}
    for prefix, labels in (("jobmesh", mail), ("jobmesh_worker", {"agent": "local", **mail})):
        for outcome in ("retrying", "succeeded"):
            name = f"{prefix}_attempts_ended_total"
            assert told.value(name, outcome=outcome, **labels) == 1
        assert told.value(f"{prefix}_attempts_started_total", **labels) == 2
        for name in ("attempt_duration_seconds", "attempt_wait_seconds"):
            assert told.value(f"{prefix}_{name}_count", **labels) == 2
            assert told.value(f"{prefix}_{name}_bucket", le="+Inf", **labels) == 2
    assert told.value("jobmesh_jobs_enqueued_total", **mail) == 1
    assert told.value("jobmesh_lane_slots", lane="mail") == 10
    assert told.value("jobmesh_agent_up", agent="local") == 1
    duties = [s.labels["duty"] for s in told.samples if s.name == "jobmesh_leader"]
    assert sorted(duties) == ["control", "janitor", "recorder:local", "rescuer", "scheduler"]


def test_labels_are_few(told: Told) -> None:
    assert {label for sample in told.samples for label in sample.labels} == {
        *("agent", "duty", "handler", "lane", "le", "outcome", "python", "state", "version")
    }


async def test_a_cluster_that_is_away_is_told_of_too() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    app = Mesh(master=f"postgresql://{nobody}/x", agents={"n": f"nats://{nobody}"})
    async with app:
        told = await told_by(app)
    assert told.value("jobmesh_master_up") == 0


async def test_a_process_without_a_coordinator_asks_the_cluster_itself(tmp_path: Path) -> None:
    async with Mesh(f"sqlite:///{tmp_path}/mesh.db") as app:
        told = await told_by(app)
    assert told.value("jobmesh_agent_up", agent="local") == 1
    assert told.value("jobmesh_duty_led", duty="scheduler") == 0


# what speaks of them -----------------------------------------------------------------------------


def _texts(thing: Any, key: str) -> list[str]:
    """All values of that key, at any depth."""
    if isinstance(thing, Mapping):
        found = [str(thing[key])] if key in thing else []
        return found + [text for value in thing.values() for text in _texts(value, key)]
    if isinstance(thing, list):
        return [text for item in thing for text in _texts(item, key)]
    return []


def test_dashboard_and_alerts_name_only_metrics_that_there_are(told: Told) -> None:
    dashboard = json.loads((ROOT / "examples/grafana/jobmesh.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    alerts = importlib.import_module("yaml").safe_load(
        (ROOT / "examples/grafana/alerts.yml").read_text()
    )
    rules = alerts["groups"][0]["rules"]
    assert all(rule["annotations"]["summary"] for rule in rules)
    queries = [*_texts(dashboard["panels"], "expr"), *_texts(alerts, "expr")]
    queries += _texts(dashboard["templating"], "definition")
    assert len(queries) > 40
    for query in queries:
        names = NAME.findall(query)
        assert names, query
        assert set(names) <= told.names, query


def test_the_page_lists_all_metrics_and_no_others(told: Told) -> None:
    page = (ROOT / "docs/observability.md").read_text()
    listed = set(re.findall(r"^\| `(jobmesh_[a-z_]+)`", page, re.MULTILINE))
    plain = {
        re.sub(r"_(bucket|count|sum)$", "", name) if "_seconds_" in name else name
        for name in told.names
        if name.startswith("jobmesh")
    }
    assert listed == plain
