"""What every command shares: finding the app, running services, showing errors."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import msgspec
import typer

from mesh.app import Mesh
from mesh.clock import to_datetime
from mesh.discovery import import_all
from mesh.errors import ConfigError, did_you_mean
from mesh.middleware import JsonFormatter
from mesh.monitor import doors
from mesh.place import Place
from mesh.roles import RoleOptions, make_role
from mesh.service import Group, Service

# rich takes long to import, and most commands print no table.
if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "AgentsOption",
    "AppArgument",
    "AppOption",
    "ImportOption",
    "HealthFileOption",
    "HttpOption",
    "JsonOption",
    "LogJsonOption",
    "MasterOption",
    "MonitorOption",
    "WithHttpOption",
    "ask",
    "fail",
    "find_app",
    "http_role",
    "load_app",
    "moment",
    "monitor_at",
    "print_json",
    "print_table",
    "run",
    "run_service",
    "table",
]

T = TypeVar("T")

log = logging.getLogger("mesh")

_LAST_MOMENT = 2.0

AppArgument = Annotated[
    str,
    typer.Argument(envvar="MESH_APP", help="Your app, as module:attribute, such as shop.jobs:app."),
]
AppOption = Annotated[
    str | None,
    typer.Option("--app", envvar="MESH_APP", help="Your app, as module:attribute."),
]
MasterOption = Annotated[
    str | None,
    typer.Option(
        "--master",
        help="The master's URL. Default: the app's, else MESH_MASTER or MESH_URL, else mesh.toml.",
    ),
]
AgentsOption = Annotated[
    list[str] | None,
    typer.Option("--agent", help="An agent to work on, by name. Repeatable. Default: all."),
]
ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="A module with handlers of the app, or a package of such, to import. Repeatable.",
    ),
]
LogJsonOption = Annotated[
    bool,
    typer.Option(
        "--log-json",
        envvar="MESH_LOG_JSON",
        help="Log a JSON object a line, with the job, attempt and lane that it is about.",
    ),
]
MonitorOption = Annotated[
    str | None,
    typer.Option(
        "--monitor",
        metavar="[HOST:]PORT",
        help="Answer /health/live, /health/ready and /metrics there, by HTTP. Default: the app's "
        "'monitor' setting, else nowhere.",
    ),
]
HealthFileOption = Annotated[
    Path | None,
    typer.Option(
        "--health-file",
        help="Write every 5 s to this file how the process is. Default: the app's 'health_file' "
        "setting, else none.",
    ),
]
HttpOption = Annotated[
    str | None,
    typer.Option(
        "--http",
        envvar="MESH_HTTP",
        metavar="HOST:PORT",
        help="Where the HTTP API and the dashboard listen, or 'off'. Default: 127.0.0.1:8642.",
    ),
]
WithHttpOption = Annotated[
    bool | None,
    typer.Option("--with-http/--no-http", help="Default: with it, if jobmesh[api] is installed."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def load_app(path: str, imports: Collection[str] | None = None) -> Mesh:
    """The app behind ``module:attribute``, looked for from the working directory too, with the
    handlers of ``imports``.

    Raises ``ConfigError``, saying what was not found.
    """
    app = _load_app(path)
    import_all(imports or (), "--import")
    return app


def _load_app(path: str) -> Mesh:
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"app '{path}' must be module:attribute, such as shop.jobs:app")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise ConfigError(
            f"app '{path}': there is no module '{error.name}' in {os.getcwd()} or on the Python "
            "path; run the command where 'import " + module_name + "' works"
        ) from None
    try:
        app = getattr(module, attribute)
    except AttributeError:
        apps = [name for name, value in vars(module).items() if isinstance(value, Mesh)]
        raise ConfigError(
            f"app '{path}': module '{module_name}' has no '{attribute}'"
            f"{did_you_mean(attribute, apps)}"
        ) from None
    if not isinstance(app, Mesh):
        raise ConfigError(f"app '{path}' is a {type(app).__name__}, not a mesh.Mesh")
    return app


def monitor_at(app: Mesh, place: str | None, file: Path | None) -> None:
    """What the command line says of how the process tells of itself. Raises ``ConfigError``."""
    if place is not None:
        app.monitor.place = Place.parse(place)
    if file is not None:
        app.monitor.file = file


def http_role(app: Mesh, options: RoleOptions, wanted: bool | None) -> list[Service]:
    """The HTTP API, if it is wanted; ``None`` is if it can be had. Raises ``ConfigError``."""
    if wanted is False or (options.http or app.config.http) == "off":
        return []
    is_asked_for = wanted or options.http is not None
    try:
        return [make_role("api", app, options)]
    except ConfigError as error:
        if is_asked_for:
            raise
        log.info("no dashboard: %s", error)
        return []


def find_app(app: str | None, master: str | None) -> Mesh:
    """The app for a command that needs a cluster but no handlers: an app, a master's URL, or
    what the environment and ``mesh.toml`` say. Raises ``ConfigError``."""
    if master is not None:
        return Mesh(master=master)
    return load_app(app) if app is not None else Mesh.from_env()


def ask(app: Mesh, question: Callable[[Mesh], Awaitable[T]]) -> T:
    """The answer that an app's cluster gives to a one-shot command; then it is disconnected."""

    async def asking() -> T:
        async with app:
            return await question(app)

    return run(asking())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a one-shot command's coroutine."""
    with _new_runner() as runner:
        return runner.run(work)


def _new_runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run_service(
    service: Service, app: Mesh, *, is_monitored: bool = True, log_json: bool = False
) -> None:
    """Run a service until it ends or SIGINT or SIGTERM comes; a second one ends it at once.
    ``is_monitored``: behind the doors that the app's monitor asks for.

    Does not return if handlers are still running then: the process exits, since Python would
    wait for them for ever.
    """
    output = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    output.setFormatter(JsonFormatter() if log_json else plain)
    logging.basicConfig(level=os.environ.get("MESH_LOG", "INFO").upper(), handlers=[output])
    # It tells of its plugins while it is imported, before anybody there can say otherwise.
    if (alembic := logging.getLogger("alembic")).level == logging.NOTSET:
        alembic.setLevel(logging.WARNING)
    if is_monitored and (members := doors(app.monitor)):
        # They open first and close last, so that they tell of the beginning and of the end.
        service = Group(service.name, [*members, service])
    status = 0
    # Closing the event loop waits for whatever handlers have left in it, perhaps for ever.
    overdue = threading.Timer(_LAST_MOMENT, lambda: _leave(status, "handlers"))
    overdue.daemon = True
    try:
        with _new_runner() as runner:
            try:
                runner.run(_serve(service, app))
            except BaseException:
                status = 1
                raise
            finally:
                overdue.start()
    except BaseException as error:
        if _only_stragglers() is None:
            raise
        log.error("%s", error)
    finally:
        overdue.cancel()
    if (stragglers := _only_stragglers()) is not None:
        _leave(status, f"{stragglers} threads of handlers")


def _leave(status: int, what: str) -> NoReturn:
    log.warning("exiting while %s still run", what)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _only_stragglers() -> int | None:
    alive = [t for t in threading.enumerate() if t.name.startswith("mesh-") and not t.daemon]
    # Idle threads of a pool that was shut down end by themselves.
    for thread in alive:
        thread.join(timeout=0.2)
    busy = [t for t in alive if t.is_alive()]
    return len(busy) or None


async def _serve(service: Service, app: Mesh) -> None:
    loop = asyncio.get_running_loop()
    signals = 0
    stops: set[asyncio.Task[None]] = set()

    def stop(name: str) -> None:
        nonlocal signals
        signals += 1
        log.info("%s: %s", name, "stopping" if signals == 1 else "stopping at once")
        stops.add(loop.create_task(service.stop() if signals == 1 else service.abort()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number.name)
    starting = asyncio.ensure_future(service.start())
    try:
        await starting
        await service.wait()
    finally:
        await service.stop()
        if stops:
            await asyncio.wait(stops)
        await app.close()


def print_json(value: Any) -> None:
    """Dataclasses, structs and containers of them as JSON on stdout. Payloads and results, JSON
    already, are put in as they are."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return json.loads(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in asdict(value).items()}
    if isinstance(value, msgspec.Struct):
        return {key: _plain(item) for key, item in msgspec.structs.asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def table(*columns: str) -> Table:
    """A table for ``print_table``."""
    from rich.table import Table

    rows = Table(box=None, pad_edge=False)
    for column in columns:
        rows.add_column(column, overflow="fold")
    return rows


def print_table(rows: Table) -> None:
    from rich.console import Console

    # Lines are cut for people; what is piped on stays whole.
    console = Console(soft_wrap=False)
    console.print(rows) if console.is_terminal else Console(width=1000).print(rows)


def moment(moment: float | None) -> str:
    """A moment as people read it, to the second, in UTC."""
    return "" if moment is None else to_datetime(moment).strftime("%Y-%m-%d %H:%M:%SZ")


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong on stderr, and exit."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)
