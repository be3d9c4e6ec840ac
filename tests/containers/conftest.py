import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .engine import ROOT, Cluster, compose_command, docker
from .standins import StandIns, build_stand_ins

IMAGE = "jobmesh-test"
PROJECT = "jobmesh-test"
OURS = ["migrate", "master", "worker-mail", "worker-reports", "producer"]


@pytest.fixture(scope="session")
def compose() -> list[str]:
    try:
        return compose_command()
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1]
        pytest.skip(f"no Docker engine to run containers on: {why}")


@pytest.fixture(scope="session")
def bases(compose: list[str]) -> StandIns | None:
    """``None``: the images that Dockerfile and compose file name, from their registry."""
    return None if os.environ.get("STAND_INS") == "no" else build_stand_ins()


@pytest.fixture(scope="session")
def image(bases: StandIns | None) -> str:
    """Our image, built."""
    arguments = {} if bases is None else {"PYTHON_IMAGE": bases.python, "BUILD_IMAGE": bases.build}
    given = [part for item in arguments.items() for part in ("--build-arg", "=".join(item))]
    docker("build", "--tag", IMAGE, *given, ROOT)
    return IMAGE


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs of ``hold`` say that they run, and wait to be let go on."""
    folder = tmp_path_factory.mktemp("gate")
    folder.chmod(0o777)  # the container's account is not ours
    return folder


@pytest.fixture(scope="module")
def project(
    compose: list[str],
    bases: StandIns | None,
    image: str,
    gate: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """The cluster of the compose file, not up yet. What is said otherwise: which images, how often
    containers are looked at, a lease that ends soon, and handlers of the tests' own."""
    held = {
        "volumes": [f"{ROOT}/tests/containers/app:/held:ro", f"{gate}:/gate"],
        "environment": {"PYTHONPATH": "/held", "MESH_LEASE": "10"},
        "healthcheck": {"interval": "4s"},
    }
    services: dict[str, dict[str, Any]] = {name: {"image": image} for name in OURS}
    for name in ("master", "worker-mail", "worker-reports"):
        services[name] |= held
    # Process 1 is mesh itself, as in Kubernetes.
    services["worker-reports"] |= {
        "command": ["worker", "held:app", "--lane", "reports=2"],
        "init": False,
    }
    if bases is not None:
        services |= {"postgres": {"image": bases.postgres}, "nats": {"image": bases.nats}}
    override = tmp_path_factory.mktemp("compose") / "override.yml"
    override.write_text(json.dumps({"services": services}))
    cluster = Cluster(compose, PROJECT, override)
    cluster.compose("down", "--volumes", "--timeout", "0")  # of a run that was broken off
    try:
        yield cluster
    finally:
        print(cluster.compose("logs", "--no-color", "--tail", "60"))  # noqa: T201
        cluster.compose("down", "--volumes", "--timeout", "0")


@pytest.fixture(scope="module")
def cluster(project: Cluster) -> Cluster:
    """All of it, up."""
    project.compose("up", "--detach", "--no-build")
    return project
