"""Routes: schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Router, delete, get, post
from litestar.params import FromPath, JSONBody

from mesh.recurring import ScheduleInfo
from mesh.sign_in import Scope
from mesh_master.api.context import Api, GivenApi, SignedIn, require
from mesh_master.api.jobs import Enqueued
from mesh_master.api.problems import PROBLEMS
from mesh_master.api.views import moment
from mesh_master.redacting import shown_schedule

__all__ = ["router"]

_AHEAD = 5
"""Slots that are told."""


class Slot(msgspec.Struct, kw_only=True):
    """A moment of a schedule."""

    at: datetime
    """In UTC."""
    local: str
    """On the schedule's own clock, with its offset from UTC."""


class Ended(msgspec.Struct, kw_only=True):
    """A job of the schedule that has ended."""

    slot: datetime | None
    state: str
    job_id: str


class Schedule(msgspec.Struct, kw_only=True):
    name: str
    expression: str
    explain: str
    """In plain English."""
    timezone: str
    handler: str
    lane: str
    payload: Any = None
    state: str
    reason: str | None = None
    source: str
    missed: str
    overlap: str
    last_at: datetime | None = None
    next: list[Slot] = []
    ended: list[Ended] = []
    """The latest first."""


class Expression(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    expression: Annotated[str, msgspec.Meta(max_length=1000)]
    timezone: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class Explained(msgspec.Struct, kw_only=True):
    expression: str
    """In the one way in which it is kept."""
    explain: str
    next: list[Slot]


class NewSchedule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    handler: str
    expression: Annotated[str, msgspec.Meta(max_length=1000)]
    timezone: str | None = None
    payload: dict[str, Any] = {}
    missed: Literal["skip", "catch_up", "ignore"] | None = None
    overlap: Literal["allow", "skip", "queue"] | None = None


@get("/", guards=[require(Scope.READ)], responses=PROBLEMS)
async def list_schedules(api: GivenApi) -> list[Schedule]:
    """All schedules, by name."""
    return [await _shown(api, schedule) for schedule in await api.mesh.schedules.list()]


@get("/{name:str}", guards=[require(Scope.READ)], responses=PROBLEMS)
async def show_schedule(api: GivenApi, name: FromPath[str]) -> Schedule:
    """One schedule, with its next slots and how the last ones went."""
    shown = await _shown(api, await api.mesh.schedules.get(name))
    shown.ended = [
        Ended(slot=moment(end.slot), state=str(end.state), job_id=end.job_id)
        for end in (await api.mesh.schedules.outcomes(name))[:20]
    ]
    return shown


@post("/", guards=[require(Scope.ADMIN)], status_code=201, responses=PROBLEMS)
async def create_schedule(api: GivenApi, data: JSONBody[NewSchedule]) -> Schedule:
    """Make a schedule of a handler's jobs at run time."""
    options: dict[str, Any] = {
        "timezone": data.timezone,
        "missed": data.missed,
        "overlap": data.overlap,
    }
    given = {key: value for key, value in options.items() if value is not None}
    made = await api.mesh.schedules.create(
        data.handler, data.expression, name=data.name, kwargs=data.payload, **given
    )
    return await _shown(api, made)


@delete("/{name:str}", guards=[require(Scope.ADMIN)], responses=PROBLEMS)
async def remove_schedule(api: GivenApi, name: FromPath[str]) -> None:
    """Remove a schedule; its jobs stay in the history. One that is in the code comes back."""
    await api.mesh.schedules.delete(name)


@post("/explain", guards=[require(Scope.READ)], status_code=200, responses=PROBLEMS)
async def explain(api: GivenApi, data: JSONBody[Expression]) -> Explained:
    """What an expression means, and when it would be."""
    from mesh.schedule import parse

    zone = data.timezone or await api.mesh.schedules.timezone()
    parsed = parse(data.expression, timezone=zone)
    return Explained(expression=parsed.text, explain=parsed.describe(), next=_slots(parsed))


@post("/{name:str}/pause", guards=[require(Scope.OPERATE)], status_code=200, responses=PROBLEMS)
async def pause(api: GivenApi, name: FromPath[str]) -> Schedule:
    """Make no more jobs; those made ahead are withdrawn."""
    return await _shown(api, await api.mesh.schedules.pause(name))


@post("/{name:str}/resume", guards=[require(Scope.OPERATE)], status_code=200, responses=PROBLEMS)
async def resume(api: GivenApi, name: FromPath[str]) -> Schedule:
    """Go on, from now."""
    return await _shown(api, await api.mesh.schedules.resume(name))


@post("/{name:str}/run", guards=[require(Scope.OPERATE)], status_code=202, responses=PROBLEMS)
async def run_now(api: GivenApi, request: SignedIn, name: FromPath[str]) -> Enqueued:
    """A job of the schedule at once, out of turn; of a handler that they may enqueue."""
    schedule = await api.mesh.schedules.get(name)
    kind = await api.door.kind(schedule.definition.handler)
    api.door.check_job(request.user, "enqueue", kind)
    handle = await api.mesh.schedules.run_now(name)
    return Enqueued(id=handle.id)


async def _shown(api: Api, info: ScheduleInfo) -> Schedule:
    shown = shown_schedule(api.mesh.redactor, info)
    definition = shown.definition
    parsed = definition.schedule_in(await api.mesh.schedules.timezone())
    return Schedule(
        name=shown.name,
        expression=definition.expression,
        explain=parsed.describe(),
        timezone=str(parsed.timezone),
        handler=definition.handler,
        lane=definition.lane,
        payload=msgspec.json.decode(definition.payload),
        state=shown.state,
        reason=shown.reason,
        source=shown.source,
        missed=definition.missed,
        overlap=definition.overlap,
        last_at=moment(shown.last_slot),
        next=_slots(parsed) if shown.state == "active" else [],
    )


def _slots(schedule: Any) -> list[Slot]:
    found: list[Slot] = []
    slot = schedule.next_after(datetime.now(UTC))
    while slot is not None and len(found) < _AHEAD:
        found.append(Slot(at=slot.astimezone(UTC), local=slot.isoformat()))
        slot = schedule.next_after(slot)
    return found


router = Router(
    "/schedules",
    tags=["schedules"],
    route_handlers=[
        *(list_schedules, show_schedule, create_schedule, remove_schedule, explain),
        *(pause, resume, run_now),
    ],
)
