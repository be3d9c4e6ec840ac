"""The commands ``mesh jobs …``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import typer

from mesh import feed, history
from mesh.app import Mesh
from mesh.console import (
    AppOption,
    JsonOption,
    MasterOption,
    ask,
    find_app,
    moment,
    print_json,
    print_table,
    table,
)
from mesh.errors import ConfigError, InvalidArguments, JobNotFound, MeshError
from mesh.filter import JobFilter
from mesh.history import cancellable, removable, retryable
from mesh.job import TERMINAL, State, check_job_id
from mesh.ports import AttemptInfo, EventInfo, JobInfo
from mesh_master.circumstances import find_standing
from mesh_master.enqueue_command import enqueue_job
from mesh_master.failure_commands import show_failures
from mesh_master.job_display import duration, print_event, show_reasons, show_story, show_troubles
from mesh_master.job_options import Chosen, takes_where
from mesh_master.redacting import shown_event, shown_job
from mesh_master.why import Reason, Standing, why

__all__ = ["jobs"]

jobs = typer.Typer(
    help="Look at jobs, enqueue some, do some again, forget some.", no_args_is_help=True
)

_NOT_BOTH = "give the jobs' ids, or say which jobs, not both"

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


_LOOK = 0.1
"""Seconds between two looks at jobs that are to end."""
_UNKNOWN = "not known to the master yet"


# looking -------------------------------------------------------------------------------------


@jobs.command("ls")
@takes_where
def list_jobs(
    chosen: Chosen,
    app: AppOption = None,
    master: MasterOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="Where the page before ended, for the next one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, the newest first; and what keeps those that wait, if it does not go away by
    itself."""
    mesh = find_app(app, master)
    where = replace(chosen.filter(mesh), limit=limit, before=before)

    async def look(mesh: Mesh) -> tuple[list[JobInfo], Standing | None]:
        found = await (await mesh.master()).list_jobs(where)
        unfinished = [job for job in found if job.state not in TERMINAL]
        if as_json or not unfinished:
            return found, None
        return found, await find_standing(mesh, unfinished, thorough=False)

    found, standing = ask(mesh, look)
    found = [shown_job(mesh.redactor, job) for job in found]
    if as_json:
        print_json(found)
        return
    rows = table("id", "name", "lane", "state", "attempt", "enqueued", "took", "error")
    for job in found:
        rows.add_row(
            job.id,
            job.name,
            job.lane,
            f"{job.state}, done again" if job.retried_as else job.state,
            str(job.attempt),
            moment(job.enqueued_at),
            duration(job.started_at, job.finished_at),
            job.error_type or "",
        )
    print_table(rows)
    if standing is not None:
        show_troubles(found, standing)
    if len(found) == limit:
        typer.echo(f"more: --before {where.next_page(found[-1]).before}")


@jobs.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job: its arguments, its attempts, its result or error, what it said; and why it does
    not run, if it has not ended."""
    wanted = check_job_id(job_id)

    async def look(
        mesh: Mesh,
    ) -> tuple[JobInfo, list[AttemptInfo], list[EventInfo], list[Reason]]:
        m = await mesh.master()
        job = await _get(mesh, wanted)
        is_over = job.state in TERMINAL
        reasons = [] if is_over else why(job, await find_standing(mesh, [job], thorough=True))
        return job, await m.attempts(wanted), await feed.page(m, wanted), reasons

    mesh = find_app(app, master)
    job, attempts, events, reasons = ask(mesh, look)
    job = shown_job(mesh.redactor, job)
    events = [shown_event(mesh.redactor, event) for event in events]
    if as_json:
        print_json({"job": job, "attempts": attempts, "events": events, "waits": reasons})
    else:
        show_story(job, attempts, events)
        show_reasons(reasons)


@jobs.command("tail")
@takes_where
def tail_jobs(
    chosen: Chosen,
    job_id: Annotated[str | None, typer.Argument(metavar="ID", show_default=False)] = None,
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a job until it has ended; or jobs, until Ctrl-C: what becomes of them, and what
    they say. With --json a line for each."""
    mesh = find_app(app, master)
    where = chosen.filter(mesh)
    if job_id is not None:
        if chosen:
            raise ConfigError("tail: give one job's id, or say which jobs, not both")
        job_id = check_job_id(job_id)

    async def follow(mesh: Mesh) -> None:
        m = await mesh.master()
        if job_id is None:
            async with aclosing(feed.watch(m, mesh.clock, where)) as news:
                async for one in news:
                    print_event(one.job, shown_event(mesh.redactor, one.event), as_json)
        else:
            job = await _get(mesh, job_id)
            async with aclosing(feed.follow(m, mesh.clock, job_id)) as events:
                async for event in events:
                    print_event(job, shown_event(mesh.redactor, event), as_json)

    try:
        ask(mesh, follow)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _get(mesh: Mesh, job_id: str) -> JobInfo:
    m = await mesh.master()
    job = (await m.get_jobs([job_id])).get(job_id)
    if job is None:
        raise JobNotFound(
            job_id, f" at {m.url} (yet: jobs appear there once their ledger is recorded)"
        )
    return job


# doing ---------------------------------------------------------------------------------------

jobs.command("enqueue")(enqueue_job)
jobs.command("failures")(show_failures)


@jobs.command("retry")
@takes_where
def retry_jobs(
    chosen: Chosen,
    job_ids: IdsArgument = None,
    app: AppOption = None,
    master: MasterOption = None,
    payload: Annotated[
        str | None, typer.Option(metavar="JSON", help="Other arguments, by name, for all of them.")
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do ended jobs again, as new jobs: these, or all that failed or expired and fit the
    options; --state names others. Prints the old and the new ids."""
    mesh = find_app(app, master)
    arguments = None if payload is None else _parse_payload(payload)

    async def one(mesh: Mesh, job_id: str) -> str:
        return (await (await mesh.get_job(job_id)).retry(arguments)).id

    if job_ids:
        _each(mesh, job_ids, chosen, one, as_json)
        return
    where = retryable(chosen.filter(mesh))
    if not _confirmed(mesh, where, "Do {} again?", yes):
        return
    made: dict[str, str] = {}

    async def all_of_them(mesh: Mesh) -> None:
        async for old, new, _ in mesh.retry_each(where, arguments):
            made[old] = new
            if not as_json:
                typer.echo(f"{old} → {new}")

    ask(mesh, all_of_them)
    if as_json:
        print_json(made)


@jobs.command("cancel")
@takes_where
def cancel_jobs(
    chosen: Chosen,
    job_ids: IdsArgument = None,
    app: AppOption = None,
    master: MasterOption = None,
    reason: Annotated[str, typer.Option(help="Kept with each job.")] = "cancelled by hand",
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for their ends, all together.")
    ] = 5.0,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel jobs: these, and print the state that each is in then (cancelled; how it ended, if
    that came first; or one in which the request stands), or all that have not ended and fit the
    options. Those that have not started never do. Ids that the master does not know are asked for
    too: such jobs may be on their way."""
    mesh = find_app(app, master)
    if job_ids:
        if chosen:
            raise ConfigError(_NOT_BOTH)
        wanted = list(dict.fromkeys(map(check_job_id, job_ids)))
        found = ask(mesh, lambda mesh: _cancel(mesh, wanted, reason, wait))
        if as_json:
            print_json(found)
            return
        for job_id, state in found.items():
            typer.echo(f"{job_id} {state}")
        return
    where = cancellable(chosen.filter(mesh))
    if not _confirmed(mesh, where, "Cancel {}?", yes):
        return

    async def all_of_them(mesh: Mesh) -> int:
        return await history.cancel(await mesh.master(), where, reason)

    count = ask(mesh, all_of_them)
    if as_json:
        print_json({"asked": count})
    else:
        typer.echo(f"{count} asked to end")


async def _cancel(mesh: Mesh, job_ids: Sequence[str], reason: str, wait: float) -> dict[str, str]:
    """The states that the jobs are in after a while."""
    store = await mesh.master()
    states = await store.cancel(job_ids, reason)
    deadline = mesh.clock.monotonic() + wait
    while not TERMINAL.issuperset(states.get(job_id, State.QUEUED) for job_id in job_ids):
        if mesh.clock.monotonic() >= deadline:
            break
        await mesh.clock.sleep(_LOOK)
        states = {i: job.state for i, job in (await store.get_jobs(job_ids)).items()}
    return {job_id: states.get(job_id, _UNKNOWN) for job_id in job_ids}


@jobs.command("rm")
@takes_where
def remove_jobs(
    chosen: Chosen,
    job_ids: IdsArgument = None,
    app: AppOption = None,
    master: MasterOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget ended jobs, with all that there is of them: these, or all that fit the options."""
    mesh = find_app(app, master)

    async def one(mesh: Mesh, job_id: str) -> str:
        await (await mesh.get_job(job_id)).remove()
        return "removed"

    if job_ids:
        _each(mesh, job_ids, chosen, one, as_json)
        return
    where = removable(chosen.filter(mesh))
    if not _confirmed(mesh, where, "Forget {} for ever?", yes):
        return

    async def all_of_them(mesh: Mesh) -> int:
        return await history.remove(await mesh.master(), where)

    count = ask(mesh, all_of_them)
    if as_json:
        print_json({"removed": count})
    else:
        typer.echo(f"{count} removed")


def _each(
    mesh: Mesh,
    job_ids: Sequence[str],
    chosen: Chosen,
    what: Callable[[Mesh, str], Awaitable[str]],
    as_json: bool,
) -> None:
    """Do something with each job by itself. Exits 1 if that failed for any, after all."""
    if chosen:
        raise ConfigError(_NOT_BOTH)
    wanted = [check_job_id(job_id) for job_id in job_ids]
    failed: dict[str, MeshError] = {}

    async def do(mesh: Mesh) -> dict[str, str]:
        done: dict[str, str] = {}
        for job_id in wanted:
            try:
                done[job_id] = await what(mesh, job_id)
            except MeshError as error:
                failed[job_id] = error
        return done

    done = ask(mesh, do)
    if as_json:
        print_json(done)
    else:
        for job_id, outcome in done.items():
            typer.echo(f"{job_id} → {outcome}")
    for error in failed.values():
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _confirmed(mesh: Mesh, where: JobFilter, question: str, yes: bool) -> bool:
    """Say how many jobs it is about, and ask."""

    async def look(mesh: Mesh) -> dict[State, int]:
        return await (await mesh.master()).count_jobs(where)

    counts = ask(mesh, look)
    if not counts:
        typer.echo("there are no such jobs", err=True)
        return False
    parts = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    total = sum(counts.values())
    shown = f"{total} job{'s' if total > 1 else ''} ({parts})"
    if yes:
        typer.echo(shown, err=True)
    else:
        typer.confirm(question.format(shown), abort=True, err=True)
    return True


def _parse_payload(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidArguments(
            f"--payload {text}: {error}; write the arguments by name, as a JSON object"
        ) from None
