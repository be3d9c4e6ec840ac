"""The commands ``mesh schedules …``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

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
from mesh.recurring import ScheduleInfo, SlotOutcome
from mesh.schedule import Schedule, parse
from mesh_master.redacting import shown_schedule

__all__ = ["schedules"]

T = TypeVar("T")

schedules = typer.Typer(help="Look at schedules, and stop or run some.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
CountOption = Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")]
TimezoneOption = Annotated[
    str | None,
    typer.Option("--tz", help="An IANA time zone. Default: the cluster's, if you name one."),
]


@schedules.command("ls")
def list_schedules(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List schedules: what they do, when next, and how it went last."""

    async def look(mesh: Mesh) -> tuple[str, list[tuple[ScheduleInfo, Sequence[SlotOutcome]]]]:
        return await mesh.schedules.timezone(), [
            (shown_schedule(mesh.redactor, schedule), await mesh.schedules.outcomes(schedule.name))
            for schedule in await mesh.schedules.list()
        ]

    zone, found = _ask(app, master, look)
    if as_json:
        print_json([_facts(schedule, zone, ends) for schedule, ends in found])
        return
    rows = table("name", "when", "handler", "state", "next", "last", "outcome", "failures")
    for schedule, ends in found:
        facts = _facts(schedule, zone, ends)
        rows.add_row(
            schedule.name,
            schedule.definition.schedule_in(zone).text,
            schedule.definition.handler,
            schedule.state,
            moment(facts["upcoming"]),
            moment(facts["last_slot"]),
            str(facts["last_outcome"] or ""),
            _failures(facts["consecutive_failures"]),
        )
    print_table(rows)


@schedules.command("show")
def show_schedule(
    name: NameArgument,
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a schedule: its jobs' arguments, its options, its last and next slots."""

    async def look(mesh: Mesh) -> tuple[ScheduleInfo, str, Sequence[SlotOutcome]]:
        return *await _find(mesh, name), await mesh.schedules.outcomes(name)

    schedule, zone, ends = _ask(app, master, look)
    facts = _facts(schedule, zone, ends)
    if as_json:
        print_json(facts | {"outcomes": ends[:10]})
        return
    definition = schedule.definition
    rule = definition.schedule_in(zone)
    follows = ", the cluster's" if definition.cluster_zone else ""
    shown = {
        "name": schedule.name,
        "when": definition.expression,
        "means": rule.describe(),
        "zone": rule.timezone + follows,
        "state": f"{schedule.state}: {schedule.reason}" if schedule.reason else schedule.state,
        "handler": f"{definition.handler}, lane {definition.lane}",
        "arguments": definition.payload,
        "missed": definition.missed,
        "overlap": definition.overlap,
        "from": {"code": "the code", "api": "run time"}[schedule.source]
        + (f", app '{schedule.app}'" if schedule.app else ""),
        "last slot": moment(facts["last_slot"]),
        "outcome": str(facts["last_outcome"] or ""),
        "failures": _failures(facts["consecutive_failures"]),
    }
    for fact, value in shown.items():
        if value:
            typer.echo(f"{fact:<10} {value}")
    for end in ends[:5]:
        typer.echo(f"ended      {moment(end.slot)} {end.state} {end.job_id}")
    if schedule.state == "active":
        _print_next(rule, 3)


@schedules.command("next")
def next_slots(
    name: NameArgument,
    count: CountOption = 5,
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a schedule's next slots, in its own time zone."""
    schedule, zone = _ask(app, master, lambda mesh: _find(mesh, name))
    rule = schedule.definition.schedule_in(zone)
    if as_json:
        print_json([slot.isoformat() for slot in _next(rule, count)])
        return
    _print_next(rule, count)
    if schedule.state != "active":
        typer.echo(f"but the schedule is {schedule.state}: mesh schedules resume {schedule.name}")


@schedules.command()
def pause(name: NameArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Make no more jobs, and take back those made ahead, until it is resumed."""
    schedule = _ask(app, master, lambda mesh: mesh.schedules.pause(name))
    typer.echo(f"{schedule.name} is paused")


@schedules.command()
def resume(name: NameArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Go on from now: slots of the pause are not made up for."""

    async def go_on(mesh: Mesh) -> tuple[ScheduleInfo, str]:
        return await mesh.schedules.resume(name), await mesh.schedules.timezone()

    schedule, zone = _ask(app, master, go_on)
    typer.echo(f"{schedule.name} is active")
    _print_next(schedule.definition.schedule_in(zone), 1)


@schedules.command("run-now")
def run_now(name: NameArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Run a job of the schedule at once, out of turn; prints its id."""
    typer.echo(_ask(app, master, lambda mesh: mesh.schedules.run_now(name)).id)


@schedules.command("rm")
def remove(name: NameArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Remove a schedule. Its jobs stay in the history."""

    async def delete(mesh: Mesh) -> ScheduleInfo:
        schedule = await mesh.schedules.get(name)
        await mesh.schedules.delete(name)
        return schedule

    schedule = _ask(app, master, delete)
    typer.echo(f"{schedule.name} is removed")
    if schedule.source == "code":
        typer.echo("it is in the code, too, and so comes back: remove it there, or pause it")


@schedules.command()
def explain(
    expression: Annotated[str, typer.Argument(metavar="EXPRESSION")],
    timezone: TimezoneOption = None,
    count: CountOption = 10,
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an expression means, and when it fires next. Needs no cluster; with --app or
    --master, it is read in that one's time zone."""
    schedule = parse(expression, timezone)
    if not schedule.names_zone and (app or master):
        schedule = parse(expression, _ask(app, master, lambda mesh: mesh.schedules.timezone()))
    if as_json:
        print_json(
            {
                "expression": schedule.text,
                "description": schedule.describe(),
                "next": [slot.isoformat() for slot in _next(schedule, count)],
            }
        )
        return
    typer.echo(schedule.describe())
    _print_next(schedule, count)


def _ask(app: str | None, master: str | None, question: Callable[[Mesh], Awaitable[T]]) -> T:
    return ask(find_app(app, master), question)


async def _find(mesh: Mesh, name: str) -> tuple[ScheduleInfo, str]:
    """A schedule, and the cluster's zone."""
    schedule = shown_schedule(mesh.redactor, await mesh.schedules.get(name))
    return schedule, await mesh.schedules.timezone()


def _next(schedule: Schedule, count: int) -> list[datetime]:
    slots: list[datetime] = []
    slot = schedule.next_after(datetime.now(UTC))
    while slot is not None and len(slots) < count:
        slots.append(slot)
        slot = schedule.next_after(slot)
    return slots


def _print_next(schedule: Schedule, count: int) -> None:
    slots = _next(schedule, count)
    for slot in slots:
        typer.echo(f"next       {slot:%a %Y-%m-%d %H:%M:%S %z} {slot.tzname()}")
    if len(slots) < count:
        typer.echo("next       never" if not slots else "           and never again")


def _facts(schedule: ScheduleInfo, zone: str, ends: Sequence[SlotOutcome]) -> dict[str, Any]:
    """What there is to know of a schedule, what its jobs tell included; ``zone`` is the
    cluster's."""
    rule = schedule.definition.schedule_in(zone)
    failures = 0
    for end in ends:
        if end.state == "failed":
            failures += 1
        elif end.state != "skipped":
            break
    upcoming = None
    if schedule.state == "active":
        slots = _next(rule, 1)
        upcoming = slots[0].timestamp() if slots else None
    return {
        "name": schedule.name,
        "state": schedule.state,
        "reason": schedule.reason,
        "source": schedule.source,
        "app": schedule.app,
        "definition": schedule.definition,
        "timezone": rule.timezone,
        "upcoming": upcoming,
        "last_slot": ends[0].slot if ends else None,
        "last_outcome": ends[0].state if ends else None,
        "consecutive_failures": failures,
    }


def _failures(count: int) -> str:
    return "" if not count else "100 or more" if count >= 100 else str(count)
