"""The command ``mesh``. Each installed part adds its own commands (entry points
``mesh.commands``); here are those that span the parts."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from mesh import __version__
from mesh.console import (
    AppArgument,
    HealthFileOption,
    HttpOption,
    ImportOption,
    JsonOption,
    LogJsonOption,
    MonitorOption,
    WithHttpOption,
    http_role,
    load_app,
    monitor_at,
    print_json,
    run,
    run_service,
)
from mesh.doctor import examine
from mesh.errors import MeshError
from mesh.health import health
from mesh.plugins import load, names
from mesh.roles import RoleOptions, make_role
from mesh.service import Group

__all__ = ["main"]

cli = typer.Typer(
    name="mesh",
    help="Background jobs with the speed of a message broker and the memory of a database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script. Exits 1 on errors that jobmesh raises, 2 on wrong usage."""
    _write_all()
    for name in names("mesh.commands"):
        try:
            load("mesh.commands", name)(cli)
        except ImportError as error:
            # One broken part must not take the others' commands away.
            sys.stderr.write(f"warning: the commands of part '{name}' are missing: {error}\n")
    try:
        cli()
    except MeshError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _write_all() -> None:
    """Let nothing that is printed be lost.

    Under PYTHONUNBUFFERED, which containers have, stdout hands each text to the system once, and
    drops what that did not take. A pipe takes a part if its writer is woken while it waits for the
    reader, as the end of uvloop's io_uring does. Here each line still goes out at once.
    """
    if isinstance(raw := sys.stdout.buffer, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=True,
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jobmesh {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


@cli.command()
def up(
    app: AppArgument,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", help="Jobs at once in each lane.")
    ] = 10,
    imports: ImportOption = None,
    log_json: LogJsonOption = False,
    monitor: MonitorOption = None,
    health_file: HealthFileOption = None,
    http: HttpOption = None,
    with_http: WithHttpOption = None,
) -> None:
    """Run everything in one process: the coordinator, a worker for all lanes, and the HTTP API
    with the dashboard."""
    loaded = load_app(app, imports)
    monitor_at(loaded, monitor, health_file)
    options = RoleOptions(concurrency=concurrency, http=http)
    roles = [make_role(name, loaded, options) for name in ("coordinator", "worker")]
    service = Group("mesh up", [*roles, *http_role(loaded, options, with_http)])
    run_service(service, loaded, log_json=log_json)


@cli.command()
def doctor(app: AppArgument, imports: ImportOption = None, as_json: JsonOption = False) -> None:
    """Check every connection, schema, stream and clock, and say what to do. Exits 1 if
    anything is wrong."""
    checks = run(examine(load_app(app, imports)))
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            mark = typer.style("ok  ", fg="green") if check.ok else typer.style("FAIL", fg="red")
            typer.echo(f"{mark}  {check.subject}: {check.detail}")
            if check.advice:
                typer.echo(f"      → {check.advice}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


cli.command()(health)


@cli.command()
def demo(
    agent: Annotated[
        str, typer.Option("--agent", help="'local' (a SQLite file) or 'nats' (a real server).")
    ] = "local",
    files: Annotated[
        int | None, typer.Option("--files", help="At most so many files. Default: all.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when the jobs have; else the dashboard stays open.")
    ] = False,
) -> None:
    """Run real jobs on real input: Python's own standard library, file by file; with the dashboard
    to look at."""
    from mesh.demo import demo as run_demo

    run_demo(agent, files, once)
