"""The commands ``mesh master``, ``mesh jobs``, ``mesh workers`` and ``mesh db``; those of
``mesh schedules`` are in a module of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from mesh.app import Mesh
from mesh.codec import encode_json
from mesh.console import (
    AgentsOption,
    AppArgument,
    AppOption,
    JsonOption,
    MasterOption,
    find_app,
    load_app,
    moment,
    print_json,
    print_table,
    run,
    run_service,
    table,
)
from mesh.errors import ConfigError, InvalidArguments, JobNotFound, did_you_mean
from mesh.job import Priority, State, check_job_id
from mesh.ports import AttemptInfo, EventInfo, JobFilter, JobInfo, Master
from mesh.roles import RoleOptions, make_role
from mesh.wire import Heartbeat
from mesh_master.agent_commands import agents
from mesh_master.cluster_commands import cluster, lanes, settings
from mesh_master.schedule_commands import schedules

# What takes long to import (SQLAlchemy, Alembic, rich) is imported by the commands that need it:
# this module is imported for every ``mesh`` command there is.
if TYPE_CHECKING:
    from mesh_master.store import SqlMaster

__all__ = ["register"]

T = TypeVar("T")

jobs = typer.Typer(help="Look at jobs, and enqueue some.", no_args_is_help=True)
db = typer.Typer(help="The master's schema.", no_args_is_help=True)


def register(cli: typer.Typer) -> None:
    """Add this part's commands."""
    cli.command()(master)
    cli.command()(workers)
    cli.add_typer(jobs, name="jobs")
    cli.add_typer(schedules, name="schedules")
    cli.add_typer(lanes, name="lanes")
    cli.add_typer(agents, name="agents")
    cli.add_typer(settings, name="settings")
    cli.add_typer(cluster, name="cluster")
    cli.add_typer(db, name="db")


def master(app: AppArgument, agent: AgentsOption = None) -> None:
    """Run the master's duties (recorders, dispatcher, scheduler) until SIGTERM or Ctrl-C. Any
    number of processes may do so."""
    loaded = load_app(app)
    options = RoleOptions(agents=tuple(agent or ()))
    run_service(make_role("coordinator", loaded, options), loaded)


def workers(
    app: AppOption = None,
    master: MasterOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that ended long ago.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the workers that were heard of lately."""
    mesh = find_app(app, master)
    after = 0.0 if all_ else mesh.now() - 6 * mesh.config.heartbeat
    found = _ask(mesh, lambda m: m.workers(seen_after=after))
    if as_json:
        print_json(found)
    else:
        _show_workers(found, mesh.now())


# jobs ----------------------------------------------------------------------------------------


@jobs.command("ls")
def list_jobs(
    app: AppOption = None,
    master: MasterOption = None,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this handler.")] = None,
    lane: Annotated[str | None, typer.Option(help="Only jobs of this lane.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Only jobs of this schedule.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="The last id of the page before, for the next one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, the newest first."""
    where = JobFilter(
        state=None if state is None else _parse_state(state),
        name=name,
        lane=lane,
        schedule=schedule,
        limit=limit,
        before=None if before is None else check_job_id(before),
    )
    found = _ask(find_app(app, master), lambda m: m.list_jobs(where))
    if as_json:
        print_json(found)
        return
    rows = table("id", "name", "lane", "state", "attempt", "enqueued", "took")
    for job in found:
        rows.add_row(
            job.id,
            job.name,
            job.lane,
            job.state,
            str(job.attempt),
            moment(job.enqueued_at),
            _duration(job.started_at, job.finished_at),
        )
    print_table(rows)
    if len(found) == limit:
        typer.echo(f"more: --before {found[-1].id}")


@jobs.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job: its arguments, its attempts, its result or error, what it said."""
    wanted = check_job_id(job_id)

    async def ask(m: Master) -> tuple[JobInfo, list[AttemptInfo], list[EventInfo]]:
        job = (await m.get_jobs([wanted])).get(wanted)
        if job is None:
            raise JobNotFound(
                wanted, f" at {m.url} (yet: jobs appear there once their ledger is recorded)"
            )
        return job, await m.attempts(wanted), await m.events(wanted)

    job, attempts, events = _ask(find_app(app, master), ask)
    if as_json:
        print_json({"job": job, "attempts": attempts, "events": events})
    else:
        _show_job(job, attempts, events)


@jobs.command("enqueue")
def enqueue_job(
    name: Annotated[str, typer.Argument(help="The handler's name.")],
    arguments: Annotated[
        str, typer.Argument(help="Its arguments by name, as a JSON object.")
    ] = "{}",
    app: AppOption = None,
    lane: Annotated[str | None, typer.Option(help="Another lane than the handler's.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="lowest, low, normal, high, highest.")
    ] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until it may start.")] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="A UUID of your choice: stored once at most.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Wait so many seconds for the result, and print it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Enqueue a job; prints its id."""
    if app is None:
        raise ConfigError("say which app has the handler: --app module:attribute, or MESH_APP")
    mesh = load_app(app)
    handler = mesh.get_handler(name)
    options: Any = {
        key: value
        for key, value in {
            "lane": lane,
            "priority": priority,
            "delay": delay,
            "id": job_id,
        }.items()
        if value is not None
    }
    try:
        values = handler.decode(arguments.encode())
    except msgspec.MsgspecError as error:
        raise InvalidArguments(f"handler '{name}', arguments {arguments}: {error}") from None

    async def enqueue() -> tuple[str, Any]:
        async with mesh:
            job = await handler.options(**options).enqueue(**values)
            return job.id, None if wait is None else await job.result(timeout=wait)

    enqueued, result = run(enqueue())
    if as_json:
        print_json({"id": enqueued} | ({} if wait is None else {"result": _encoded(result)}))
    else:
        typer.echo(enqueued)
        if wait is not None:
            typer.echo(_encoded(result).decode())


# db ------------------------------------------------------------------------------------------


@db.command()
def upgrade(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """Bring the master's schema up to date. Harmless if it is."""
    _show_schema(find_app(app, master), as_json, upgrade=True)


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


def _show_schema(mesh: Mesh, as_json: bool, *, upgrade: bool) -> None:
    from mesh_master import schema

    store = _sql_master(mesh)
    migrations = schema.migrations(store.database, store.settings)

    async def look() -> dict[str, str | None]:
        try:
            await store.database.open()
            if upgrade:
                await migrations.upgrade()
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
        needed = f" (this code needs {found['needed']})" if found["standing"] != "current" else ""
        revision = found["revision"] or "none"
        typer.echo(f"{found['master']}: revision {revision}, {found['standing']}{needed}")


def _sql_master(mesh: Mesh) -> SqlMaster:
    from mesh_master.store import SqlMaster

    store = mesh.connect_master()
    if not isinstance(store, SqlMaster):
        raise ConfigError(f"the master at {store.url} is no SQL database: it has no schema")
    return store


# shared --------------------------------------------------------------------------------------


def _ask(mesh: Mesh, question: Callable[[Master], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with mesh:
            return await question(await mesh.master())

    return run(ask())


def _parse_state(text: str) -> State:
    try:
        return State(text.lower())
    except ValueError:
        raise ConfigError(f"unknown state '{text}'{did_you_mean(text.lower(), State)}") from None


def _encoded(result: Any) -> bytes:
    return encode_json(result)


def _duration(begin: float | None, end: float | None) -> str:
    return "" if begin is None or end is None else f"{end - begin:.3f} s"


def _show_workers(found: list[Heartbeat], now: float) -> None:
    rows = table("worker", "state", "agent", "host", "pid", "lanes", "finished", "seen")
    for worker in found:
        lanes = ", ".join(f"{x.lane} {x.running}/{x.concurrency}" for x in worker.lanes)
        rows.add_row(
            worker.worker,
            worker.state,
            worker.agent,
            worker.host,
            str(worker.pid),
            lanes,
            str(worker.finished),
            f"{max(0.0, now - worker.at):.0f} s ago",
        )
    print_table(rows)


def _show_job(job: JobInfo, attempts: list[AttemptInfo], events: list[EventInfo]) -> None:
    facts = {
        "id": job.id,
        "name": job.name,
        "lane": f"{job.lane}, priority {Priority(job.priority).word}",
        "state": f"{job.state}, attempt {job.attempt}",
        "enqueued": moment(job.enqueued_at),
        "due": moment(job.due_at),
        "schedule": job.schedule or "",
        "slot": moment(job.slot),
        "agent": job.agent or "",
        "arguments": _shown(job.payload),
        "result": _shown(job.result),
        "meta": ", ".join(f"{key}={value}" for key, value in (job.meta or {}).items()),
    }
    for fact, value in facts.items():
        if value:
            typer.echo(f"{fact:<10} {value}")
    for attempt in attempts:
        error = f": {attempt.error_type}: {attempt.error_message}" if attempt.error_type else ""
        typer.echo(
            f"attempt {attempt.attempt:<2} {attempt.outcome} by {attempt.worker or 'unknown'}, "
            f"{moment(attempt.started_at)} "
            f"{_duration(attempt.started_at, attempt.finished_at)}{error}"
        )
    for event in events:
        typer.echo(f"event {event.seq:<4} {moment(event.at)} {event.kind} {_shown(event.data)}")
    if job.error_traceback:
        typer.echo(job.error_traceback.rstrip())


def _shown(data: bytes | None) -> str:
    return "" if data is None else data.decode(errors="replace")
