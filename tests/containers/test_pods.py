"""The pods of examples/kubernetes on a Docker engine: run as a kubelet would run them, with their
environment, their rights and their probes, beside the servers of the compose file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from .conftest import PROJECT
from .engine import ROOT, Cluster, docker, until
from .manifests import Pod, pods
from .rules import lanes_of

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

NETWORK = f"{PROJECT}_default"

GET = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit(print(0))
print(answer.status)
print(answer.read().decode())
"""


def arguments(pod: Pod, image: str) -> list[str]:
    """Of ``docker run``, for what the pod's manifest asks of a kubelet."""
    account = pod.spec["securityContext"]
    rights = pod.container["securityContext"]
    empty = {volume["name"] for volume in pod.spec["volumes"] if "emptyDir" in volume}
    mounts = [mount for mount in pod.container["volumeMounts"] if mount["name"] in empty]
    return [
        f"--network={NETWORK}",
        f"--name={PROJECT}-{pod.name}",
        f"--user={account['runAsUser']}:{account['runAsGroup']}",
        f"--read-only={json.dumps(rights['readOnlyRootFilesystem'])}",
        *(f"--cap-drop={capability}" for capability in rights["capabilities"]["drop"]),
        "--security-opt=no-new-privileges",
        *(f"--tmpfs={mount['mountPath']}" for mount in mounts),
        *(f"--env={name}={value}" for name, value in pod.environment.items()),
        f"--volume={ROOT}/examples/shop:/app:ro",  # instead of an image FROM ours
        image,
        *pod.container["args"],
    ]


def execute(pod: Pod, *command: str) -> str:
    return docker("exec", f"{PROJECT}-{pod.name}", *command)


def get(pod: Pod, port: str, path: str) -> tuple[int, str]:
    """Status (0: nobody answers) and body, asked for at the pod's address as a kubelet does."""
    address = execute(pod, "hostname", "-i").strip()
    told = execute(pod, "python", "-c", GET, f"http://{address}:{pod.port(port)}{path}")
    status, _, body = told.partition("\n")
    return int(status), body


@pytest.fixture(scope="module")
def running(project: Cluster, image: str) -> Iterator[dict[str, Pod]]:
    """The Deployments' pods by name, one each; the Job has ended well."""
    project.compose("up", "--detach", "postgres", "nats")
    project.becomes("healthy", "postgres", "nats")
    found = pods()
    try:
        for pod in found:
            if pod.owner["kind"] == "Job":
                docker("run", *arguments(pod, image))
        going_on = [pod for pod in found if pod.owner["kind"] == "Deployment"]
        for pod in going_on:
            docker("run", "--detach", *arguments(pod, image))
        yield {pod.name: pod for pod in going_on}
    finally:
        for pod in found:
            docker("rm", "--force", f"{PROJECT}-{pod.name}")


def test_probes_find_them_well(running: dict[str, Pod]) -> None:
    for pod in running.values():
        for probe in pod.probes().values():
            until(f"{pod.name} {probe}", lambda: get(pod, probe["port"], probe["path"])[0] == 200)  # noqa: B023


def test_jobs_run_and_masters_tell_what_scales_them(running: dict[str, Pod]) -> None:
    mail = json.dumps({"user_id": 1})
    enqueue = ("mesh", "jobs", "enqueue", "send_mail", mail, "--app=shop:app", "--wait=60")
    assert "user-1@shop.example" in execute(running["master"], *enqueue)
    status, body = get(running["master"], "monitor", "/metrics")
    assert status == 200
    told = re.findall(r'^jobmesh_lane_depth\{.*lane="(\w+)".*state="ready".*\} 0\.0$', body, re.M)
    assert set(told) == set().union(*(lanes_of(pod.container["args"]) for pod in running.values()))


def test_the_api_lets_nobody_in_who_does_not_sign_in(running: dict[str, Pod]) -> None:
    assert get(running["master"], "http", "/health/ready")[0] == 200
    assert get(running["master"], "http", "/api/v1/jobs")[0] == 401


def test_they_stop_in_time(running: dict[str, Pod]) -> None:
    for pod in running.values():
        container = f"{PROJECT}-{pod.name}"
        docker("stop", f"--time={pod.spec['terminationGracePeriodSeconds']}", container)
        assert docker("inspect", "--format={{.State.ExitCode}}", container).strip() == "0"
