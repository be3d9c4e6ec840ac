"""The command ``mesh health``: how a process of this machine or container is, for those who have
no curl."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import typer

from mesh.errors import ConfigError
from mesh.monitor import FILE_EVERY, Health
from mesh.place import Place
from mesh.ports import Check

__all__ = ["health"]

_PATIENCE = 5.0
_STALE = 3 * FILE_EVERY
"""Seconds after which a file is old: the process has ended, or its event loop stands still."""

_EVERYWHERE = ("0.0.0.0", "::")


def health(
    monitor: Annotated[
        str | None,
        typer.Option(
            envvar="MESH_MONITOR", metavar="[HOST:]PORT", help="Ask there: the process's --monitor."
        ),
    ] = None,
    health_file: Annotated[
        Path | None,
        typer.Option(envvar="MESH_HEALTH_FILE", help="Read that: the process's --health-file."),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", "-p", help="As many as the worker was told to run.")
    ] = 1,
    live: Annotated[
        bool, typer.Option("--live", help="Only whether it lives, not whether it can work.")
    ] = False,
) -> None:
    """Say how a worker or master process is. Exits 0 if it is ready (with --live: alive), else 1.
    Of several processes (--processes) all must be."""
    if monitor is None and health_file is None:
        raise ConfigError("mesh health: give --monitor or --health-file, as the process has it")
    if processes < 1:
        raise ConfigError(f"--processes {processes}: must be 1 or more")
    found = list(_look(monitor, health_file, processes))
    for one in found:
        for check in one.checks:
            mark = typer.style("ok  ", fg="green") if check.ok else typer.style("FAIL", fg="red")
            typer.echo(f"{mark}  {check.subject}: {check.detail}")
    well = all(one.ready or (live and not _is_dead(one)) for one in found)
    raise typer.Exit(0 if well else 1)


def _look(monitor: str | None, file: Path | None, processes: int) -> Iterator[Health]:
    for number in range(processes):
        # Of both, as from the environment of a container, the file: it costs the process nothing.
        if file is not None:
            yield _read(file if processes == 1 else Path(f"{file}.{number + 1}"))
        elif monitor is not None:
            yield _ask(Place.parse(monitor).next(number))


def _ask(place: Place) -> Health:
    host = "127.0.0.1" if place.host in _EVERYWHERE else place.host
    url = f"http://{Place(host, place.port)}/health/ready"
    try:
        with urlopen(url, timeout=_PATIENCE) as answer:
            body = answer.read()
    except HTTPError as error:
        body = error.read()  # 503: not ready, and why
    except OSError as error:
        return _dead(url, f"does not answer: {getattr(error, 'reason', error)}")
    return _parse(url, body)


def _read(file: Path) -> Health:
    try:
        age = time.time() - file.stat().st_mtime
        body = file.read_bytes()
    except OSError as error:
        return _dead(str(file), f"cannot be read: {error.strerror}: does the process run?")
    if age > _STALE:
        return _dead(str(file), f"is {age:.0f} s old: the process has ended, or stands still")
    return _parse(str(file), body)


def _parse(what: str, body: bytes) -> Health:
    try:
        return msgspec.json.decode(body, type=Health)
    except msgspec.MsgspecError:
        return _dead(what, "is not the health of a process of mesh")


_DEAD = "process"


def _dead(what: str, why: str) -> Health:
    return Health(False, [Check(_DEAD, False, f"{what} {why}")])


def _is_dead(health: Health) -> bool:
    return [check.subject for check in health.checks] == [_DEAD]
