"""The systems: what to install, which server they need, how their workers are started.

What each is set to, and who advises it, stands in its adapter's docstring.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from benchmarks.servers import Kind

__all__ = ["FLOORS", "OURS", "PEERS", "SYSTEMS", "System", "select"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs take this system some five seconds."""

    enqueue: int
    bulk: int
    drain: int
    flow: int


@dataclass(frozen=True, slots=True)
class System:
    """One system in one set-up."""

    name: str
    adapter: str
    """The module under ``benchmarks.adapters``; also the environment's name."""
    server: Kind
    sizes: Sizes
    worker: tuple[str, ...] = ()
    """The command of one worker process; ``{app}`` is the adapter, ``{n}`` the process."""
    packages: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    """A command to run once on a new server."""
    producer: tuple[str, ...] = ()
    """The command of its producer, if that is not its adapter run by Python."""
    master: tuple[str, ...] = ()
    """The command of the process that records history. Ours alone have one."""
    env: tuple[tuple[str, str], ...] = ()
    """Environment variables for its processes."""
    threads: bool = False
    """Its handlers are ``def`` functions that run in threads."""
    history: bool = False
    """It keeps a lasting record of each job."""
    bare: bool = False
    """No system at all: what driver and server take by themselves, in the rows where it says how
    far one could come."""
    rounds: int = 99
    """In how many rounds it takes part: one for those that no target is measured against."""

    @property
    def ours(self) -> bool:
        return self.adapter == "jobmesh"

    @property
    def module(self) -> str:
        return f"benchmarks.adapters.{self.adapter}"

    @property
    def bulk(self) -> bool:
        """Whether it has a call to enqueue many jobs."""
        return self.sizes.bulk > 0


_APP = "{app}:app"
_MESH_SETUP = ("mesh", "db", "upgrade", "--app", _APP)
_MESH_WORKER = ("mesh", "worker", _APP, "--lane", "bench={concurrency}")
_MESH_MASTER = ("mesh", "master", _APP)

OURS = (
    System(
        "jobmesh-nats",
        "jobmesh",
        "nats",
        Sizes(enqueue=300_000, bulk=500_000, drain=200_000, flow=120_000),
        worker=_MESH_WORKER,
        setup=_MESH_SETUP,
        master=_MESH_MASTER,
        history=True,
    ),
    System(
        "jobmesh-nats-sync",
        "jobmesh",
        "nats-sync",
        Sizes(enqueue=200_000, bulk=300_000, drain=150_000, flow=90_000),
        worker=_MESH_WORKER,
        setup=_MESH_SETUP,
        master=_MESH_MASTER,
        history=True,
    ),
    System(
        "jobmesh-postgres",
        "jobmesh",
        "postgres",
        Sizes(enqueue=50_000, bulk=100_000, drain=50_000, flow=20_000),
        worker=_MESH_WORKER,
        setup=_MESH_SETUP,
        master=_MESH_MASTER,
        history=True,
    ),
    System(
        "jobmesh-sqlite",
        "jobmesh",
        "none",
        Sizes(enqueue=30_000, bulk=60_000, drain=20_000, flow=10_000),
        # One process is worker and master at once.
        worker=("mesh", "up", _APP, "--concurrency", "{concurrency}"),
        setup=_MESH_SETUP,
        history=True,
    ),
)

PEERS = (
    System(
        "pgqueuer",
        "pgqueuer",
        "postgres",
        Sizes(enqueue=6_000, bulk=100_000, drain=60_000, flow=6_000),
        worker=("python", "-m", "{app}", "work"),
        packages=("pgqueuer", "asyncpg", "uvloop"),
        setup=("pgq", "--pg-dsn", "{url}", "install"),
        history=True,
    ),
    System(
        "taskiq-nats",
        "taskiq_nats",
        "nats",
        Sizes(enqueue=60_000, bulk=0, drain=40_000, flow=30_000),
        worker=(
            *("taskiq", "worker", "{app}:broker", "--workers", "1", "--max-async-tasks", "100"),
            *("--no-parse", "--log-level", "WARNING"),
        ),
        packages=("taskiq-nats", "taskiq", "uvloop"),
    ),
    System(
        "bullmq",
        "bullmq",
        "redis",
        Sizes(enqueue=60_000, bulk=100_000, drain=50_000, flow=25_000),
        worker=("node", "{root}/benchmarks/adapters/bullmq.cjs", "work"),
        producer=("node", "{root}/benchmarks/adapters/bullmq.cjs", "produce"),
        packages=("bullmq", "ioredis"),
    ),
    System(
        "dramatiq",
        "dramatiq",
        "redis",
        Sizes(enqueue=15_000, bulk=0, drain=20_000, flow=12_000),
        worker=("dramatiq", "{app}", "--processes", "1", "--threads", "8"),
        packages=("dramatiq[redis]", "hiredis"),
        env=(("dramatiq_queue_prefetch", "1000"),),
        threads=True,
    ),
    System(
        "celery",
        "celery",
        "redis",
        Sizes(enqueue=8_000, bulk=0, drain=5_000, flow=5_000),
        worker=(
            *("celery", "-A", "{app}", "worker", "--pool", "solo"),
            *("--hostname", "bench{n}", "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        packages=("celery[redis]", "hiredis"),
    ),
    System(
        "arq",
        "arq",
        "redis",
        Sizes(enqueue=10_000, bulk=0, drain=4_000, flow=3_500),
        worker=("arq", "{app}.WorkerSettings", "--custom-log-dict", "{app}.LOGGING"),
        rounds=1,
        packages=("arq", "hiredis", "uvloop"),
    ),
    System(
        "saq-redis",
        "saq",
        "redis",
        Sizes(enqueue=15_000, bulk=0, drain=4_000, flow=3_500),
        worker=("saq", "{app}.settings", "--quiet"),
        rounds=1,
        packages=("saq[redis,postgres]", "hiredis", "psycopg[binary]", "uvloop"),
    ),
    System(
        "saq-postgres",
        "saq",
        "postgres",
        Sizes(enqueue=5_000, bulk=0, drain=1_500, flow=1_500),
        worker=("saq", "{app}.settings", "--quiet"),
        rounds=1,
        packages=("saq[redis,postgres]", "hiredis", "psycopg[binary]", "uvloop"),
    ),
    System(
        "procrastinate",
        "procrastinate",
        "postgres",
        Sizes(enqueue=4_000, bulk=6_000, drain=1_000, flow=1_000),
        worker=("python", "-m", "{app}", "work"),
        rounds=1,
        packages=("procrastinate", "psycopg[binary]", "uvloop"),
        setup=("procrastinate", "--app", "{app}.app", "schema", "--apply"),
        history=True,
    ),
    System(
        "huey",
        "huey",
        "none",
        Sizes(enqueue=13_000, bulk=0, drain=7_000, flow=4_000),
        worker=(
            *("huey_consumer", "{app}.huey", "--workers", "4", "--delay", "0.001"),
            *("--max-delay", "0.01", "--no-periodic", "--quiet"),
        ),
        packages=("huey",),
        threads=True,
    ),
)

_BARE = ("python", "-m", "{app}")

FLOORS = (
    System(
        "bare-nats",
        "bare_nats",
        "nats",
        Sizes(enqueue=300_000, bulk=500_000, drain=0, flow=0),
        worker=(*_BARE, "work"),
        setup=(*_BARE, "setup"),
        bare=True,
    ),
    System(
        "bare-postgres",
        "bare_postgres",
        "postgres",
        Sizes(enqueue=0, bulk=0, drain=0, flow=0),
        worker=(*_BARE, "work"),
        setup=(*_BARE, "setup"),
        bare=True,
    ),
)

SYSTEMS = {system.name: system for system in (*OURS, *PEERS, *FLOORS)}


def select(patterns: str) -> list[System]:
    """The systems whose names match any of the comma-separated globs, such as ``jobmesh-*``.

    Raises ``ValueError`` for a pattern that matches none.
    """
    wanted = patterns.split(",")
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in SYSTEMS):
            raise ValueError(f"no system is named '{pattern}' (known: {', '.join(SYSTEMS)})")
    return [
        system
        for system in SYSTEMS.values()
        if any(fnmatchcase(system.name, pattern) for pattern in wanted)
    ]
