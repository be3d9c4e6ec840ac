"""Images to stand in for python, postgres and nats where none can be pulled from a registry.

They are made of Debian packages (``mmdebstrap``, as root) and of the wheels that the tests use
anyway, under names of their own: nothing takes the place of an image of yours. Each behaves as
the real one does in what the compose file asks of it: accounts, variables, volumes, entrypoint,
signal, health check. An image that there is already is kept as long as what goes into it is the
same.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.testing.servers import nats_server_binary, postgres_installation

from .engine import ROOT, docker, has_image, run

__all__ = ["StandIns", "build_stand_ins"]

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ["busybox-static", "ca-certificates", "python3-pip", "python3-venv"]

POSTGRES = """
FROM {debian}
RUN useradd --uid 999 --user-group postgres \\
    && install -d -o postgres -g postgres /var/lib/postgresql /var/run/postgresql
# As in the wheel: programs find their libraries three folders up, beside the package.
COPY installation /usr/lib/postgresql/package/18
COPY libraries /usr/lib/postgresql/{libraries}
COPY start /usr/local/bin/start
ENV PATH=/usr/lib/postgresql/package/18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker
VOLUME /var/lib/postgresql
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["start"]
"""

# As postgres:18 does: a new database is set up by a server that no TCP client reaches.
POSTGRES_START = """#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --encoding=UTF8 \\
        --auth-local=trust --auth-host=scram-sha-256
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl start --wait --options="-c listen_addresses='' -k /var/run/postgresql"
    createdb --host=/var/run/postgresql --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl stop --wait --mode=fast
fi
exec postgres -c listen_addresses='*' -k /var/run/postgresql
"""

NATS = """
FROM {debian}
RUN ln -s /bin/busybox /usr/local/bin/wget
COPY nats-server /usr/local/bin/nats-server
ENTRYPOINT ["nats-server"]
"""

# The base of the image's build stage alone: where its pip finds packages.
BUILD = """
FROM {debian}
COPY wheels /wheels
RUN printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' > /etc/pip.conf
"""


@dataclass(frozen=True)
class StandIns:
    """The names of the images."""

    python: str
    build: str
    postgres: str
    nats: str


def build_stand_ins() -> StandIns:
    """Build those that the engine does not have yet. Raises ``RuntimeError`` if one cannot be
    built."""
    debian = _debian()
    installation = postgres_installation()
    libraries = installation.parent.with_suffix(".libs")
    return StandIns(
        python=debian,
        build=_build("build", debian, BUILD, wheels=_requirements()),
        postgres=_build(
            "postgres",
            debian,
            POSTGRES.replace("{libraries}", libraries.name),
            {"start": POSTGRES_START},
            {"installation": installation, "libraries": libraries},
        ),
        nats=_build("nats", debian, NATS, copies={"nats-server": nats_server_binary()}),
    )


def _name(kind: str, *contents: object) -> str:
    digest = hashlib.sha256(repr(contents).encode()).hexdigest()[:12]
    return f"jobmesh-stand-in-{kind}:{digest}"


def _debian() -> str:
    """Debian with Python: for python:3.13-slim, and below the others."""
    name = _name("python", SUITE, PACKAGES)
    if has_image(name):
        return name
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("mmdebstrap is missing: apt-get install mmdebstrap")
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "debian.tar"
        run(
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *('--customize-hook=ln -s python3 "$1/usr/bin/python"', SUITE, tar),
        )
        docker("import", tar, name)
    return name


def _build(
    kind: str,
    debian: str,
    dockerfile: str,
    files: Mapping[str, str] | None = None,
    copies: Mapping[str, Path] | None = None,
    wheels: Sequence[str] = (),
) -> str:
    """``files``: names and contents; ``copies``: names and where to copy from; ``wheels``:
    requirements whose wheels go into the folder of that name."""
    files, copies = files or {}, copies or {}
    sources = [(str(path), path.stat().st_mtime_ns) for path in copies.values()]
    name = _name(kind, debian, dockerfile, files, sources, wheels)
    if has_image(name):
        return name
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        (folder / "Dockerfile").write_text(dockerfile.format(debian=debian).lstrip())
        for file, text in files.items():
            (folder / file).write_text(text)
            (folder / file).chmod(0o755)
        for copy, path in copies.items():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / copy)
        if wheels:
            _download(wheels, folder / "wheels")
        docker("build", "--tag", name, folder)
    return name


def _requirements() -> list[str]:
    """What the Dockerfile's pip needs: to build jobmesh, and for the extras that it names."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = re.search(r"'\.\[([a-z,]+)\]'", (ROOT / "Dockerfile").read_text())
    assert extras is not None, "the Dockerfile installs no extras"
    optional = project["project"]["optional-dependencies"]
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(needed for extra in extras[1].split(",") for needed in optional[extra]),
    ]


def _download(requirements: Sequence[str], folder: Path) -> None:
    """Wheels for the stand-in's Python, got as the pip of this environment gets its own."""
    machine = run("uname", "-m").strip()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(17, 37)]
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--dest",
            folder,
            "--only-binary",
            ":all:",
        ),
        *("--python-version", PYTHON, "--platform", f"manylinux2014_{machine}"),
        *(part for platform in platforms for part in ("--platform", platform)),
        *requirements,
    )


if __name__ == "__main__":
    try:
        print(build_stand_ins())  # noqa: T201
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
