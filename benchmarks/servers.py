"""The servers under the systems: a new one, with nothing in it, for each run.

Equal for all that use them. PostgreSQL: its defaults (fsync and synchronous_commit on). NATS: its
defaults, that is fsync every two minutes; ``nats-sync`` calls it for every write. Redis: its
defaults without snapshots, so that it never touches the disk: its fastest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmarks.process import BenchFailed
from mesh.testing.servers import NatsServer, PostgresServer, free_port

__all__ = ["Kind", "Server", "make_server", "nats_messages"]

Kind = Literal["nats", "nats-sync", "postgres", "redis", "none"]


class Server(Protocol):
    """What a run needs of a server."""

    @property
    def pid(self) -> int: ...
    def start(self) -> Any: ...
    def close(self) -> None: ...


class RedisServer:
    """redis-server on a free port, without persistence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise BenchFailed("no redis-server on the PATH: apt-get install redis-server")
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self.folder)],
            stdout=(self.folder / "redis.log").open("w"),
        )
        deadline = time.monotonic() + 20
        while "eady to accept connections" not in (self.folder / "redis.log").read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchFailed(f"redis: {(self.folder / 'redis.log').read_text()}")
            time.sleep(0.01)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def make_server(kind: Kind, folder: Path) -> tuple[Server | None, str]:
    """A started server, and its URL. ``none`` is a SQLite file."""
    folder.mkdir()
    if kind == "none":
        return None, f"sqlite:///{folder / 'jobs.db'}"
    if kind == "redis":
        redis = RedisServer(folder)
        redis.start()
        return redis, redis.url
    if kind == "postgres":
        postgres = PostgresServer(settings={})
        postgres.start()
        return postgres, postgres.create_database()
    monitor = free_port()
    nats = NatsServer(
        folder,
        config=f'http: "127.0.0.1:{monitor}"',
        sync_interval="always" if kind == "nats-sync" else None,
    )
    nats.start()
    return nats, nats.url


def nats_messages(server: Server) -> int:
    """How many messages went in and out of a NATS server so far."""
    assert isinstance(server, NatsServer)
    config = (server.folder / "nats.conf").read_text()
    address = config.partition('http: "')[2].partition('"')[0]
    with urllib.request.urlopen(f"http://{address}/varz") as answer:
        found = json.load(answer)
    return int(found["in_msgs"]) + int(found["out_msgs"])
