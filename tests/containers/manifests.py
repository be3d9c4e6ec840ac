"""The manifests of examples/kubernetes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .engine import ROOT

__all__ = ["FOLDER", "Pod", "kustomization", "named", "of_kind", "pods"]

FOLDER = ROOT / "examples/kubernetes"

Thing = Mapping[str, Any]


def _read(name: str) -> list[Thing]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def kustomization() -> Thing:
    (found,) = _read("kustomization.yaml")
    return found


def of_kind(*kinds: str) -> Iterator[Thing]:
    """All if none is given."""
    for name in kustomization()["resources"]:
        yield from (thing for thing in _read(name) if not kinds or thing["kind"] in kinds)


def named(kind: str, name: str) -> Thing:
    (found,) = [thing for thing in of_kind(kind) if thing["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pod:
    """What a Deployment or a Job runs: one container each."""

    owner: Thing

    @property
    def name(self) -> str:
        name: str = self.owner["metadata"]["name"]
        return name

    @property
    def template(self) -> Thing:
        template: Thing = self.owner["spec"]["template"]
        return template

    @property
    def spec(self) -> Thing:
        spec: Thing = self.template["spec"]
        return spec

    @property
    def container(self) -> Thing:
        (container,) = self.spec["containers"]
        found: Thing = container
        return found

    @property
    def environment(self) -> dict[str, str]:
        """As the kubelet puts it together: later ones win, and its own last."""
        found: dict[str, str] = {}
        for source in self.container["envFrom"]:
            if "configMapRef" in source:
                found |= named("ConfigMap", source["configMapRef"]["name"])["data"]
            else:
                found |= named("Secret", source["secretRef"]["name"])["stringData"]
        return found | {item["name"]: item["value"] for item in self.container.get("env", [])}

    @property
    def pre_stop(self) -> float:
        """Seconds until SIGTERM."""
        hook = self.container.get("lifecycle", {}).get("preStop", {})
        return float(hook.get("sleep", {}).get("seconds", 0))

    def port(self, name: str) -> int:
        (found,) = [port for port in self.container["ports"] if port["name"] == name]
        number: int = found["containerPort"]
        return number

    def probes(self) -> dict[str, Thing]:
        """The HTTP requests, by the probe's name."""
        probes = ("startupProbe", "livenessProbe", "readinessProbe")
        return {name: self.container[name]["httpGet"] for name in probes if name in self.container}


def pods() -> list[Pod]:
    return [Pod(thing) for thing in of_kind("Deployment", "Job")]
