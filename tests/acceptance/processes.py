"""Real processes of a cluster, and all that its history tells of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mesh import Mesh
from mesh.ports import JobFilter, JobInfo

__all__ = ["MESH", "Start", "all_jobs", "starting"]

MESH = str(Path(sys.executable).parent / "mesh")


class Start(Protocol):
    def __call__(self, *arguments: str, piped: bool = False) -> subprocess.Popen[str]:
        """Start ``mesh ARGUMENTS``, or a program: ``producer.py``. What it prints goes to its
        log, or into a pipe, and then it reads from one too."""
        ...


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Starts processes in the folder. What still runs at the end is killed; the logs are shown."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, piped: bool = False) -> subprocess.Popen[str]:
        program = [sys.executable] if arguments[0].endswith(".py") else [MESH]
        with (folder / f"{len(started)}-{arguments[0]}.log").open("w") as log:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                stdin=subprocess.PIPE if piped else None,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for log in sorted(folder.glob("*.log")):
        sys.stdout.write(f"--- {log.name}\n{log.read_text()[-3000:]}\n")


async def all_jobs(app: Mesh) -> list[JobInfo]:
    """The history, page by page."""
    master, jobs, before = await app.master(), list[JobInfo](), None
    while page := await master.list_jobs(JobFilter(limit=1000, before=before)):
        jobs += page
        before = page[-1].id
    return jobs
