"""``docker compose up`` for real: the image, and the life of the cluster on a Docker engine.

``make containers`` runs these, in this order; each test leaves the cluster up, as it found it,
but the last, which takes it down.
"""

from __future__ import annotations

import json
import re
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mesh.job import TERMINAL, State

from .conftest import OURS, PROJECT
from .engine import ROOT, Cluster, docker, image_size, until
from .standins import StandIns

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

WORKER = "worker-reports"
HEALTHY = ["postgres", "nats", "master", "worker-mail", WORKER]
GREETING = "greeting-1-py3-none-any.whl"
LARGEST = 160 * 1024 * 1024
"""Bytes that jobmesh and what it needs may add to Python's image."""


@pytest.fixture
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a folder with a wheel in it."""
    folder = tmp_path_factory.mktemp("packages")
    with zipfile.ZipFile(folder / GREETING, "w") as wheel:
        wheel.writestr("greeting.py", "TEXT = 'hello'\n")
        info = "greeting-1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def enqueue_held(cluster: Cluster, gate: Path, name: str) -> str:
    """Enqueue a job that runs until its gate opens; its id, as soon as it runs."""
    enqueue = ("jobs", "enqueue", "hold", json.dumps({"name": name}), "--app", "held:app")
    job_id: str = cluster.mesh(*enqueue)["id"]
    until(f"{name} runs", (gate / f"{name}.1").exists)
    return job_id


def outcomes(cluster: Cluster, job_id: str) -> list[str]:
    """Of its attempts, when the job has ended."""

    def look() -> list[str]:
        story = cluster.mesh("jobs", "show", job_id)
        has_ended = State(story["job"]["state"]) in TERMINAL
        return [attempt["outcome"] for attempt in story["attempts"]] if has_ended else []

    return until(f"{job_id} has ended", look)


def producer(count: int, rate: int) -> list[str]:
    """The command for so many jobs, a second: it exits 0 when all have succeeded."""
    program = ["producer", "producer.py", f"--count={count}", f"--rate={rate}"]
    # Not what it depends on: Compose v2 would run the migration again, of a server that restarts.
    return ["run", "--rm", "-T", "--no-deps", *program]


def tally(cluster: Cluster) -> tuple[int, int, int]:
    """Of the producer, which goes on all the time: enqueued, succeeded, failed."""
    told = re.findall(
        r"(\d+) enqueued: (\d+) succeeded, (\d+) failed", cluster.compose("logs", "producer")
    )
    enqueued, succeeded, failed = map(int, told[-1])
    return enqueued, succeeded, failed


# the image ---------------------------------------------------------------------------------------


def test_the_image_is_small(image: str, bases: StandIns | None) -> None:
    python = "python:3.13-slim" if bases is None else bases.python
    added = image_size(image) - image_size(python)
    assert 0 < added < LARGEST, f"{added / 2**20:.0f} MiB"


def test_it_is_mesh_for_an_account_without_rights_on_a_root_that_is_read_only(image: str) -> None:
    mine = ("run", "--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    assert docker(*mine, image, "--version").startswith("jobmesh ")
    told = docker(*mine, "--entrypoint=sh", image, "-c", "id -u; touch /app/x 2>&1 || true")
    assert told.splitlines()[0] == "10001"
    assert "Read-only file system" in told


def test_an_image_of_ones_own_is_built_as_the_page_says(
    image: str, tmp_path: Path, packages: str
) -> None:
    (tmp_path / "requirements.txt").write_text(f"greeting @ {packages}/{GREETING}\n")
    (tmp_path / "shop.py").write_text("import mesh, greeting\nprint(greeting.TEXT)\n")
    page = (ROOT / "docs/containers.md").read_text()
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", page, re.DOTALL)
    (tmp_path / "Dockerfile").write_text(dockerfile.replace("FROM jobmesh", f"FROM {image}"))
    docker("build", "--network=host", "--tag=jobmesh-test-own", tmp_path)
    assert docker("run", "--rm", "--entrypoint=python", "jobmesh-test-own", "shop.py") == "hello\n"
    told = docker("run", "--rm", "--entrypoint=id", "jobmesh-test-own", "-u")
    assert told.strip() == "10001"
    docker("rmi", "jobmesh-test-own")


# the cluster -------------------------------------------------------------------------------------


def test_up_brings_the_schema_and_then_all_is_healthy(cluster: Cluster) -> None:
    cluster.becomes("healthy", *HEALTHY)
    migrated = cluster.state("migrate")
    assert (migrated["Status"], migrated["ExitCode"]) == ("exited", 0)
    assert cluster.health("producer") == {"running"}
    checks = json.loads(cluster.execute("master", "mesh", "doctor", "shop:app", "--json"))
    assert [check for check in checks if not check["ok"]] == []


def test_containers_have_no_rights_and_cannot_write(cluster: Cluster) -> None:
    for service in ("master", "worker-mail", WORKER, "producer"):
        status = cluster.execute(service, "cat", "/proc/1/status")
        assert re.search(r"^Uid:\t10001\b", status, re.MULTILINE)
        assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        writable = cluster.execute(
            service, "sh", "-c", "for d in / /app /opt/mesh /tmp; do [ -w $d ] && echo $d; done; :"
        )
        assert writable.split() == ["/tmp"]


def test_jobs_run_end_to_end(cluster: Cluster) -> None:
    cluster.compose(*producer(100, 50))
    ran = cluster.mesh("jobs", "ls", "--state", "succeeded", "--limit", "200")
    assert {job["lane"] for job in ran} == {"mail", "reports"}
    assert cluster.mesh("jobs", "ls", "--state", "failed") == []


def test_a_worker_that_is_stopped_finishes_what_runs(cluster: Cluster, gate: Path) -> None:
    running = enqueue_held(cluster, gate, "drained")
    with cluster.meanwhile("stop", WORKER):
        until("draining", lambda: "waiting up to 30 s" in cluster.compose("logs", WORKER))
        assert cluster.state(WORKER)["Running"]
        (gate / "drained.open").touch()
    assert cluster.state(WORKER)["ExitCode"] == 0
    assert outcomes(cluster, running) == ["succeeded"]


def test_jobs_wait_for_a_stopped_worker(cluster: Cluster) -> None:
    assert cluster.health(WORKER) == {"exited"}
    month = json.dumps({"year": 2026, "month": 2})
    enqueue = ("jobs", "enqueue", "build_report", month, "--app", "shop:app")
    waiting = cluster.mesh(*enqueue)["id"]
    cluster.compose("start", WORKER)
    assert outcomes(cluster, waiting) == ["succeeded"]
    cluster.becomes("healthy", WORKER)


def test_what_outlasts_the_grace_runs_elsewhere(cluster: Cluster, gate: Path) -> None:
    cluster.compose("stop", WORKER)
    hasty = cluster.compose("run", "--detach", "--no-deps", "-e", "MESH_GRACE=1", WORKER).strip()
    running = enqueue_held(cluster, gate, "outlasting")
    docker("stop", "--time=50", hasty)
    assert docker("inspect", "--format={{.State.ExitCode}}", hasty).strip() == "0"
    docker("rm", hasty)
    cluster.compose("start", WORKER)
    (gate / "outlasting.open").touch()
    assert outcomes(cluster, running) == ["retrying", "succeeded"]


def test_what_a_killed_worker_ran_runs_again(cluster: Cluster, gate: Path) -> None:
    running = enqueue_held(cluster, gate, "killed")
    cluster.compose("kill", WORKER)
    (gate / "killed.open").touch()
    cluster.compose("up", "--detach", "--no-build")
    assert outcomes(cluster, running) == ["lost", "succeeded"]
    cluster.becomes("healthy", WORKER)


def test_an_agent_that_is_away_is_its_workers_illness(cluster: Cluster) -> None:
    cluster.compose("stop", "nats")
    cluster.becomes("unhealthy", "worker-mail", WORKER)
    assert cluster.health("master") == {"healthy"}
    cluster.compose("start", "nats")
    cluster.becomes("healthy", *HEALTHY)


def test_servers_restart_under_load(cluster: Cluster) -> None:
    for server in ("nats", "postgres"):
        cluster.compose("restart", server)
        cluster.becomes("healthy", server)
    enqueued, _, _ = tally(cluster)
    until("all of them done", lambda: tally(cluster)[1] >= enqueued)
    assert tally(cluster)[2] == 0
    (producing,) = cluster.containers("producer")
    assert producing["RestartCount"] == 0
    cluster.becomes("healthy", *HEALTHY)


def test_a_lane_has_as_many_workers_as_one_says(cluster: Cluster) -> None:
    def serving() -> int:
        return sum(
            worker["state"] == "running" and worker["lanes"][0]["lane"] == "mail"
            for worker in cluster.mesh("workers")
        )

    cluster.compose("up", "--detach", "--no-build", "--scale", "worker-mail=2", "--scale=master=2")
    cluster.becomes("healthy", "worker-mail", "master")
    assert [len(cluster.containers(service)) for service in ("worker-mail", "master")] == [2, 2]
    until("two serve mail", lambda: serving() == 2)
    cluster.compose(*producer(200, 100))
    cluster.compose("up", "--detach", "--no-build")
    until("one serves mail", lambda: serving() == 1)


def test_down_stops_all_in_good_order_and_leaves_nothing(cluster: Cluster) -> None:
    cluster.compose("stop")
    codes = {service: cluster.state(service)["ExitCode"] for service in [*OURS, "postgres"]}
    assert codes == dict.fromkeys(codes, 0)
    cluster.compose("down", "--volumes")
    for things in ("container", "network", "volume"):
        label = f"label=com.docker.compose.project={PROJECT}"
        assert docker(things, "ls", "--quiet", "--filter", label) == ""
