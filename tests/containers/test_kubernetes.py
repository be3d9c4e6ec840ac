"""examples/kubernetes: Kubernetes takes it, it agrees with itself, and says what the code knows."""

from __future__ import annotations

import math
import re
from typing import Any

import kubernetes_validate
import pytest

from mesh.place import Place

from .engine import ROOT
from .manifests import FOLDER, Pod, kustomization, named, of_kind, pods
from .rules import check_command, config_of, lanes_of, time_to_stop

PODS = {pod.name: pod for pod in pods()}
SCALERS = {scaler["metadata"]["name"]: scaler for scaler in of_kind("ScaledObject")}

each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
each_scaler = pytest.mark.parametrize("scaler", SCALERS.values(), ids=SCALERS)


def test_kustomize_has_all_files() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")}
    assert {*kustomization()["resources"], "kustomization.yaml"} == files


def test_kubernetes_knows_every_field() -> None:
    things = [thing for thing in of_kind() if thing["kind"] != "ScaledObject"]
    assert {thing["kind"] for thing in things} >= {"Deployment", "Job", "Service", "ConfigMap"}
    for thing in things:
        # `sleep` in preStop is of 1.30.
        kubernetes_validate.validate(thing, "1.30", strict=True)


@each_pod
def test_commands_and_settings_are_the_codes(pod: Pod) -> None:
    check_command(pod.container["args"])
    config_of(pod.environment)


@each_pod
def test_a_pod_has_time_to_stop(pod: Pod) -> None:
    if pod.owner["kind"] == "Deployment":
        needed = pod.pre_stop + time_to_stop(config_of(pod.environment))
        assert pod.spec["terminationGracePeriodSeconds"] > needed


@each_pod
def test_a_pod_has_no_rights(pod: Pod) -> None:
    assert pod.spec["securityContext"]["runAsNonRoot"]
    user = pod.spec["securityContext"]["runAsUser"]
    assert f"\nUSER {user}:{user}\n" in (ROOT / "Dockerfile").read_text()
    rights = pod.container["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    # Variables that tell of Services could look like settings.
    assert pod.spec["enableServiceLinks"] is False


@each_pod
def test_labels_images_and_ports_agree(pod: Pod) -> None:
    labels = pod.template["metadata"]["labels"]
    assert labels == pod.owner["metadata"]["labels"]
    if pod.owner["kind"] == "Deployment":
        assert pod.owner["spec"]["selector"]["matchLabels"] == labels
        assert sum(labels == other.template["metadata"]["labels"] for other in PODS.values()) == 1
    (image,) = kustomization()["images"]
    assert pod.container["image"] == image["name"]
    if pod.probes():
        monitor = config_of(pod.environment).monitor
        assert monitor is not None
        assert Place.parse(monitor).port == pod.port("monitor")
        told = pod.template["metadata"]["annotations"]
        assert (told["prometheus.io/port"], told["prometheus.io/path"]) == (
            str(pod.port("monitor")),
            "/metrics",
        )


def test_every_process_that_goes_on_has_probes_at_its_monitor() -> None:
    for pod in PODS.values():
        probes = pod.probes()
        assert bool(probes) == (pod.owner["kind"] == "Deployment")
        assert {probe["port"] for probe in probes.values()} <= {"monitor"}
        if probes:
            assert probes["livenessProbe"]["path"] == probes["startupProbe"]["path"]
            assert (probes["livenessProbe"]["path"], probes["readinessProbe"]["path"]) == (
                "/health/live",
                "/health/ready",
            )


def test_services_and_budgets_select_masters() -> None:
    labels = PODS["master"].template["metadata"]["labels"]
    service = named("Service", "master")
    assert service["spec"]["selector"] == labels
    (port,) = service["spec"]["ports"]
    http = Place.parse(config_of(PODS["master"].environment).http)
    assert PODS["master"].port(port["targetPort"]) == http.port
    budget = named("PodDisruptionBudget", "master")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert budget["minAvailable"] < PODS["master"].owner["spec"]["replicas"] == 2


def test_each_lane_has_a_deployment_whose_grace_is_as_long_as_its_jobs() -> None:
    """As far as they say: those without a timeout, or a longer one, are tried again elsewhere."""
    source = (ROOT / "examples/shop/shop.py").read_text()
    jobs = dict(re.findall(r'@app\.job\(lane="(\w+)".*timeout=(\d+)', source))
    workers = [pod for pod in PODS.values() if pod.container["args"][0] == "worker"]
    served = [lanes_of(pod.container["args"]) for pod in workers]
    assert sorted(map(list, served)) == [[lane] for lane in sorted(jobs)]
    for pod, (lane,) in zip(workers, served, strict=True):
        assert config_of(pod.environment).grace >= float(jobs[lane])


# scaling -----------------------------------------------------------------------------------------


def labels_of_metric(name: str) -> set[str]:
    """As docs/observability.md has it, which another test holds to the code."""
    page = (ROOT / "docs/observability.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` \|([^|]*)\|", page, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


@each_scaler
def test_a_scaler_asks_for_its_deployments_lane(scaler: dict[str, Any]) -> None:
    spec = scaler["spec"]
    pod = PODS[spec["scaleTargetRef"]["name"]]
    (trigger,) = spec["triggers"]
    query = trigger["metadata"]["query"]
    (metric,) = re.findall(r"\b(jobmesh_\w+)", query)
    labels = dict(re.findall(r'(\w+)!?="(\w+)"', query))
    (grouped,) = re.findall(r"by \(([\w, ]+)\)", query)
    assert {*labels, *re.findall(r"\w+", grouped)} <= labels_of_metric(metric)
    assert {labels["lane"]} == lanes_of(pod.container["args"])
    assert "replicas" not in pod.owner["spec"], "two would set them"


@each_scaler
def test_a_scaler_stays_within_its_bounds(scaler: dict[str, Any]) -> None:
    spec = scaler["spec"]
    assert 0 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    # Strings, all of them: KEDA refuses numbers there.
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert math.isfinite(float(trigger["metadata"]["threshold"]))
    # What nobody can say is not 0.
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
