"""The Docker engine, and the cluster of docker-compose.yml on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "ROOT",
    "Cluster",
    "compose_command",
    "docker",
    "has_image",
    "image_size",
    "run",
    "until",
]

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0

T = TypeVar("T")


def run(*command: str | Path) -> str:
    """What the program prints. ``RuntimeError`` with its output if it exits with another code
    than 0."""
    given = [str(part) for part in command]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(given)}: exit code {done.returncode}\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def docker(*arguments: str | Path) -> str:
    return run("docker", *arguments)


def image_size(name: str) -> int:
    """Bytes, of all its layers."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", name))


def has_image(name: str) -> bool:
    return bool(docker("images", "--quiet", name).strip())


def compose_command() -> list[str]:
    """Compose v2, else v1. Raises ``RuntimeError`` that says what is missing, of the engine and
    that."""
    if shutil.which("docker") is None:
        raise RuntimeError("the command docker is not here")
    docker("version")
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            run(*command, "version")
        except (RuntimeError, FileNotFoundError):
            continue
        return command
    raise RuntimeError("neither 'docker compose' nor docker-compose is here")


def until(what: str, look: Callable[[], T], patience: float = PATIENCE) -> T:
    """Look again and again, since containers can only be asked, until there is something."""
    end = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < end, f"after {patience:g} s still not {what}"
        time.sleep(0.2)
    return found


class Cluster:
    """docker-compose.yml with what a test says otherwise, as a project of its own."""

    def __init__(self, command: Sequence[str], project: str, override: Path) -> None:
        self._command = [
            *command,
            *("--project-name", project, "--project-directory", str(ROOT)),
            *("--file", str(ROOT / "docker-compose.yml"), "--file", str(override)),
        ]

    def compose(self, *arguments: str) -> str:
        return run(*self._command, *arguments)

    @contextmanager
    def meanwhile(self, *arguments: str) -> Iterator[None]:
        """The same, while something else happens; it must end well."""
        with subprocess.Popen(
            [*self._command, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield
                output, _ = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        assert process.returncode == 0, f"{arguments}: {process.returncode}\n{output}"

    def containers(self, service: str) -> list[Mapping[str, Any]]:
        """As ``docker inspect`` tells of them, stopped ones too."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        found: list[Mapping[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return found

    def state(self, service: str) -> Mapping[str, Any]:
        """Of its one container: ``Status``, ``ExitCode``, ``Health``…"""
        (container,) = self.containers(service)
        state: Mapping[str, Any] = container["State"]
        return state

    def health(self, service: str) -> set[str]:
        """Of all its containers: ``starting``, ``healthy``, ``unhealthy``; else the status."""
        states = [container["State"] for container in self.containers(service)]
        return {
            state["Health"]["Status"] if state["Running"] and "Health" in state else state["Status"]
            for state in states
        }

    def becomes(self, health: str, *services: str) -> None:
        """All containers of these services, in time."""
        for service in services:
            until(f"{service} {health}", partial(self._is, service, health))

    def _is(self, service: str, health: str) -> bool:
        return self.health(service) == {health}

    def execute(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command)

    def mesh(self, *arguments: str, service: str = "master") -> Any:
        """What ``mesh … --json`` prints in a container of the service."""
        return json.loads(self.execute(service, "mesh", *arguments, "--json"))
