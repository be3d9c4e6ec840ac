"""Servers and processes of a deployment.

Each process reaches each server through a proxy of its own, so that one can be cut off while the
others are not. What a process says goes to its log; each that is started anew has a new name.

- ``nats``: one nats-server as agent, PostgreSQL as master.
- ``sql``: two databases on one PostgreSQL as agents, another PostgreSQL as master.
- ``mariadb``: the same on MariaDB.
- ``embedded``: one SQLite file, and processes that are everything (``mesh up``).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh import Mesh
from mesh.config import Config
from mesh.testing.servers import MariaServer, NatsServer, PostgresServer
from tests.acceptance.processes import MESH

from .database import engine
from .journal import Entry, Journal, read_journals
from .proxy import Proxy

__all__ = ["DEPLOYMENTS", "GRACE", "LEASE", "Cluster", "Deployment", "Member", "Role"]

Deployment = Literal["nats", "sql", "mariadb", "embedded"]
DEPLOYMENTS: tuple[Deployment, ...] = get_args(Deployment)
Role = Literal["worker", "coordinator", "producer"]

LEASE = 5.0
GRACE = 4.0
PATIENCE = 60.0
CONCURRENCY = 10

APPLICATION = "tests.chaos.application:app"
ROOT = Path(__file__).parents[2]

COUNTS: Mapping[Deployment, Mapping[Role, int]] = {
    "nats": {"worker": 3, "coordinator": 2, "producer": 2},
    "sql": {"worker": 3, "coordinator": 2, "producer": 2},
    "mariadb": {"worker": 3, "coordinator": 2, "producer": 2},
    "embedded": {"worker": 2, "producer": 2},
}

Server = NatsServer | PostgresServer | MariaServer


@dataclass
class Member:
    """A place in the cluster, and the process that is in it now."""

    role: Role
    number: int
    proxies: dict[str, Proxy]
    """By ``agent`` and ``master``."""
    version: int = 1
    skew: float = 0.0
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever does something to the process."""

    @property
    def who(self) -> str:
        return f"{self.role}-{self.number}.{self.generation}"


class Cluster:
    """Started by ``start``; ``stop`` ends all that it started."""

    def __init__(self, deployment: Deployment, folder: Path, seed: int, pause: float) -> None:
        self.deployment = deployment
        self.folder = folder
        self.journal = Journal(folder / "journal" / "driver.jsonl")
        self.members: list[Member] = []
        self.servers: dict[str, Server] = {}
        """By ``agent`` and ``master``."""
        self.disks: dict[str, Path] = {}
        """Small file systems, that can be filled, by the same names."""
        self.version = 1
        """Of the code that processes are started with."""
        self._seed = seed
        self._pause = pause
        self._urls: dict[str, str] = {}
        self._watch: asyncio.Task[None] | None = None

    # servers ----------------------------------------------------------------------------------

    async def start(self) -> None:
        await asyncio.to_thread(self._start_servers)
        await self._prepare()
        for role, count in COUNTS[self.deployment].items():
            for number in range(1, count + 1):
                proxies = {}
                for name, server in self.servers.items():
                    proxies[name] = Proxy(server.port)
                    await proxies[name].start()
                self.members.append(Member(role, number, proxies))
        for member in self.members:
            self.launch(member)
        self._watch = asyncio.create_task(self._restart_the_dead())

    def _start_servers(self) -> None:
        if self.deployment == "embedded":
            disk = self._disk("master")
            self._urls = {"master": f"sqlite:///{disk / 'mesh.db'}"}
            return
        master = self._database_server("master")
        self.servers["master"] = master.start()
        self._urls["master"] = master.create_database()
        if self.deployment == "nats":
            agent = NatsServer(self._disk("agent"))
            self.servers["agent"] = agent.start()
            self._urls["nats-1"] = agent.url
        else:
            database = self._database_server("agent")
            self.servers["agent"] = database.start()
            self._urls |= {name: database.create_database() for name in ("sql-1", "sql-2")}

    def _database_server(self, name: str) -> PostgresServer | MariaServer:
        # Without fsync, as nobody pulls the plug here; the disk may be full though.
        if self.deployment == "mariadb":
            settings = {"innodb-flush-method": "nosync", "innodb-log-file-size": "32M"}
            return MariaServer(self._disk(name), settings)
        settings = {"fsync": "off", "max_wal_size": "64MB", "min_wal_size": "32MB"}
        return PostgresServer(self._disk(name), settings)

    def _disk(self, name: str) -> Path:
        """A file system of its own, if we may mount one; else a folder, which cannot be full."""
        disk = self.folder / f"disk-{name}"
        disk.mkdir()
        size = "size=700m"
        mount = ["mount", "-t", "tmpfs", "-o", f"{size},mode=755", "tmpfs", str(disk)]
        done = subprocess.run(mount, capture_output=True, check=False)
        if done.returncode == 0:
            self.disks[name] = disk
        return disk

    async def _prepare(self) -> None:
        command = [MESH, "db", "upgrade", "--app", APPLICATION]
        environment = self.environment(None)
        await asyncio.to_thread(subprocess.run, command, cwd=ROOT, env=environment, check=True)
        async with self.database().begin() as connection:
            await connection.execute(text("CREATE TABLE orders (n VARCHAR(100) PRIMARY KEY)"))

    def database(self) -> AsyncEngine:
        """The master's, for the driver."""
        (master,) = self.databases("master")
        return master

    def databases(self, server: str) -> list[AsyncEngine]:
        """Of the master or the agents, for the driver; NATS is none."""
        urls = [
            url
            for name, url in self._urls.items()
            if (name == "master") == (server == "master") and urlsplit(url).scheme != "nats"
        ]
        return [engine(url, poolclass=NullPool) for url in urls]

    def app(self) -> Mesh:
        """The cluster as the driver sees it: no fault of a process's proxies concerns it."""
        return Mesh(config=Config.from_env(self.settings()))

    def url(self, name: str, member: Member | None = None) -> str:
        """Of the master, or of an agent by its name, as a member sees it."""
        url = self._urls[name]
        if member is None or not member.proxies:
            return url
        proxy = member.proxies["master" if name == "master" else "agent"]
        return url.replace(f":{urlsplit(url).port}", f":{proxy.port}")

    @property
    def agent_names(self) -> list[str]:
        return [name for name in self._urls if name != "master"] or ["local"]

    def settings(self, member: Member | None = None) -> dict[str, str]:
        """The cluster's configuration, as a member sees it."""
        agents = {name: self.url(name, member) for name in self._urls if name != "master"}
        if self.deployment == "embedded":
            where = {"MESH_URL": self.url("master")}
        else:
            where = {
                "MESH_MASTER": self.url("master", member),
                "MESH_AGENTS": ",".join(f"{name}={url}" for name, url in agents.items()),
            }
        return where | {
            "MESH_CLUSTER": "chaos",
            "MESH_LEASE": str(LEASE),
            "MESH_GRACE": str(GRACE),
            "MESH_HEARTBEAT": "1",
            "MESH_PUSH_TIMEOUT": "2",
            "MESH_CONNECT_TIMEOUT": "2",
            "MESH_TRANSIENT_THRESHOLD": "5",
            "MESH_HTTP": "off",
        }

    def environment(self, member: Member | None) -> dict[str, str]:
        own = {
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_WHO": "driver" if member is None else member.who,
            "CHAOS_SEED": str(self._seed),
            "CHAOS_PAUSE": str(self._pause),
        }
        if member is not None:
            own |= {"CHAOS_SKEW": str(member.skew), "CHAOS_VERSION": str(member.version)}
        return os.environ | self.settings(member) | own

    def entries(self) -> list[Entry]:
        """What all wrote down until now."""
        return read_journals(self.folder / "journal")

    # processes --------------------------------------------------------------------------------

    @property
    def stopping(self) -> float:
        """Seconds in which a process is to have ended that was told to. A file's lock may be held
        by a process that is stopped just then: nobody else writes for as long. Elsewhere servers
        may not answer: 5 s for what was asked of them, 2 s each for giving back leases and
        connections; the rest is for servers on a machine that has more to do."""
        return GRACE + (45 if self.deployment == "embedded" else 20)

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    def launch(self, member: Member) -> None:
        """Start its process anew. It is to be gone."""
        member.generation += 1
        command = {
            "worker": [MESH, "worker", APPLICATION, "--concurrency", str(CONCURRENCY)],
            "coordinator": [MESH, "master", APPLICATION],
            "producer": [sys.executable, "-m", "tests.chaos.producer"],
        }[member.role]
        if self.deployment == "embedded" and member.role == "worker":
            command = [MESH, "up", APPLICATION, "--concurrency", str(CONCURRENCY)]
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{member.who}.log").open("wb") as log:
            member.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment(member),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_no_core,
            )
        self.journal.write("up", who=member.who, pid=member.process.pid, version=member.version)

    def signal(self, member: Member, what: signal.Signals) -> None:
        if member.process is not None and member.process.poll() is None:
            member.process.send_signal(what)

    async def gone(self, member: Member, patience: float) -> bool:
        """Whether its process has ended, after so many seconds at most. Those in which it waited
        for a processor do not count."""
        process = member.process
        if process is None:
            return True
        until = time.monotonic() + patience - _starved(process.pid)
        while process.poll() is None:
            if time.monotonic() > until + _starved(process.pid):
                return False
            await asyncio.sleep(0.02)
        self.journal.write("down", who=member.who, code=process.returncode)
        member.process = None
        return True

    async def ends(self, member: Member) -> None:
        """Wait until its process has ended, that was told to; one that does not is written down
        and killed."""
        told = time.monotonic()
        patience = PATIENCE if member.role == "producer" else self.stopping
        if not await self.gone(member, patience):
            self.journal.write("stuck", who=member.who, after=time.monotonic() - told)
            self.signal(member, signal.SIGUSR2)
            await self.gone(member, 1)
            await self.kill(member)

    async def kill(self, member: Member) -> None:
        self.signal(member, signal.SIGKILL)
        await self.gone(member, PATIENCE)

    async def _restart_the_dead(self) -> None:
        """As a supervisor does. Nobody is to die by itself: it is written down."""
        while True:
            for member in self.members:
                if member.busy.locked() or member.process is None:
                    continue
                if (code := member.process.poll()) is not None:
                    self.journal.write("died", who=member.who, code=code)
                    await self.gone(member, 0)
                    self.launch(member)
            await asyncio.sleep(0.2)

    async def stop_producers(self) -> None:
        """In good order: what they have begun, they end."""
        for member in self.of("producer"):
            async with member.busy:
                self.signal(member, signal.SIGTERM)
                await self.ends(member)

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for member in self.members:
            self.signal(member, signal.SIGCONT)
            self.signal(member, signal.SIGTERM)
        for member in self.members:
            await self.ends(member)
            for proxy in member.proxies.values():
                await proxy.close()

    def close(self) -> None:
        """Kill what is left."""
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.process.kill()
                member.process.wait()
        for name, server in self.servers.items():
            server.close()
            (self.folder / "logs" / f"server-{name}.log").write_text("".join(server.log))
        for disk in self.disks.values():
            subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def _starved(pid: int) -> float:
    """Seconds that the process's main thread could have run, and others did. See proc(5)."""
    try:
        _, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):  # it has ended, or this is no Linux that counts
        return 0.0
    return int(waited) / 1e9


def _no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
