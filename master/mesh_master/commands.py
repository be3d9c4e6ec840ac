"""The commands ``mesh master``, ``mesh workers`` and ``mesh db``; those of ``mesh jobs`` and
``mesh schedules`` are in modules of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.app import Mesh
from mesh.console import (
    AgentsOption,
    AppArgument,
    AppOption,
    HealthFileOption,
    HttpOption,
    ImportOption,
    JsonOption,
    LogJsonOption,
    MasterOption,
    MonitorOption,
    WithHttpOption,
    ask,
    find_app,
    http_role,
    load_app,
    monitor_at,
    print_json,
    print_table,
    run,
    run_service,
    table,
)
from mesh.errors import ConfigError
from mesh.roles import RoleOptions, make_role
from mesh.service import Group
from mesh.wire import Heartbeat
from mesh_master.access_commands import api_keys, sign_in, users
from mesh_master.agent_commands import agents
from mesh_master.cluster_commands import cluster, lanes, settings
from mesh_master.handler_commands import handlers
from mesh_master.job_commands import jobs
from mesh_master.schedule_commands import schedules
from mesh_master.top import top
from mesh_master.worker_work import drain_worker, state_of

# What takes long to import (SQLAlchemy, Alembic, rich) is imported by the commands that need it:
# this module is imported for every ``mesh`` command there is.
if TYPE_CHECKING:
    from mesh_master.store import SqlMaster

__all__ = ["register"]

workers = typer.Typer(help="List the workers that were heard of lately; drain single ones.")
db = typer.Typer(help="The master's schema.", no_args_is_help=True)


def register(cli: typer.Typer) -> None:
    """Add this part's commands."""
    cli.command()(master)
    cli.add_typer(workers, name="workers")
    cli.command()(top)
    cli.add_typer(jobs, name="jobs")
    cli.add_typer(handlers, name="handlers")
    cli.add_typer(schedules, name="schedules")
    cli.add_typer(lanes, name="lanes")
    cli.add_typer(agents, name="agents")
    cli.add_typer(settings, name="settings")
    cli.add_typer(cluster, name="cluster")
    cli.add_typer(api_keys, name="api-keys")
    cli.add_typer(users, name="users")
    cli.add_typer(sign_in, name="sign-in")
    cli.add_typer(db, name="db")


def master(
    app: AppArgument,
    agent: AgentsOption = None,
    imports: ImportOption = None,
    http: HttpOption = None,
    with_http: WithHttpOption = None,
    monitor: MonitorOption = None,
    health_file: HealthFileOption = None,
    log_json: LogJsonOption = False,
) -> None:
    """Run the master's duties (recorders, dispatcher, scheduler, janitor), and the HTTP API with
    the dashboard, until SIGTERM or Ctrl-C. Any number of processes may do so."""
    loaded = load_app(app, imports)
    monitor_at(loaded, monitor, health_file)
    options = RoleOptions(agents=tuple(agent or ()), http=http)
    duties = make_role("coordinator", loaded, options)
    service = Group("mesh master", [duties, *http_role(loaded, options, with_http)])
    run_service(service, loaded, log_json=log_json)


@workers.callback(invoke_without_command=True)
def list_workers(
    context: typer.Context,
    app: AppOption = None,
    master: MasterOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that ended long ago.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the workers that were heard of lately; or drain one."""
    if context.invoked_subcommand is not None:
        return
    mesh = find_app(app, master)
    after = 0.0 if all_ else mesh.now() - 6 * mesh.config.heartbeat

    async def look(mesh: Mesh) -> list[Heartbeat]:
        return await (await mesh.master()).workers(seen_after=after)

    found = ask(mesh, look)
    if as_json:
        print_json(found)
    else:
        _show_workers(found, mesh.now(), mesh.config.silence)


@workers.command("drain")
def drain(
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="As mesh workers names it.")],
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Let a worker take no more jobs. It finishes what it has, and can then be stopped."""
    _set_worker(find_app(app, master), worker, drained=True)
    typer.echo(f"{worker} takes no more jobs: mesh workers resume {worker}")


@workers.command("resume")
def resume(
    worker: Annotated[str, typer.Argument(metavar="WORKER")],
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Let a drained worker take jobs again."""
    _set_worker(find_app(app, master), worker, drained=False)
    typer.echo(f"{worker} takes jobs again")


def _set_worker(mesh: Mesh, worker: str, *, drained: bool) -> None:
    async def work(mesh: Mesh) -> None:
        await drain_worker(mesh, await mesh.master(), worker, drained=drained)

    ask(mesh, work)


# db ------------------------------------------------------------------------------------------


@db.command()
def upgrade(
    app: AppOption = None,
    master: MasterOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if code is at work that cannot go on.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the master's schema up to date, while the cluster works. Harmless if it is."""
    _show_schema(find_app(app, master), as_json, upgrade=True, force=force)


@db.command()
def current(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """Show the revision of the master's schema, and whether it is this code's."""
    _show_schema(find_app(app, master), as_json, upgrade=False)


@db.command()
def sql(app: AppOption = None, master: MasterOption = None) -> None:
    """Print the statements that make the schema in an empty database, and run nothing."""
    from mesh_master import schema

    store = _sql_master(find_app(app, master))
    typer.echo(schema.migrations(store.database, store.settings).sql())


def _show_schema(mesh: Mesh, as_json: bool, *, upgrade: bool, force: bool = False) -> None:
    from mesh_master import schema

    store = _sql_master(mesh)
    migrations = schema.migrations(store.database, store.settings)

    async def look() -> dict[str, str | None]:
        try:
            await store.database.open()
            if upgrade:
                await schema.upgrade(store.database, store.tables, store.settings, force=force)
            return {
                "master": store.url,
                "revision": await migrations.current(),
                "needed": migrations.head,
                "standing": await migrations.standing(),
            }
        finally:
            await store.close()

    found = run(look())
    if as_json:
        print_json(found)
    else:
        word = "knows" if found["standing"] == "newer" else "needs"
        needed = f" (this code {word} {found['needed']})" if found["standing"] != "current" else ""
        revision = found["revision"] or "none"
        typer.echo(f"{found['master']}: revision {revision}, {found['standing']}{needed}")


def _sql_master(mesh: Mesh) -> SqlMaster:
    from mesh_master.store import SqlMaster

    store = mesh.connect_master()
    if not isinstance(store, SqlMaster):
        raise ConfigError(f"the master at {store.url} is no SQL database: it has no schema")
    return store


def _show_workers(found: list[Heartbeat], now: float, silence: float) -> None:
    rows = table("worker", "state", "agent", "host", "pid", "lanes", "finished", "seen")
    for worker in found:
        lanes = ", ".join(f"{x.lane} {x.running}/{x.concurrency}" for x in worker.lanes)
        rows.add_row(
            worker.worker,
            state_of(worker, now - silence),
            worker.agent,
            worker.host,
            str(worker.pid),
            lanes,
            str(worker.finished),
            f"{max(0.0, now - worker.at):.0f} s ago",
        )
    print_table(rows)
