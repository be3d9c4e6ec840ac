"""What follows from the schedules that processes have in their code.

Of several definitions of one schedule, declared by living processes, the one that came up last
counts: while a new version of the code is rolled out, the old one's processes change nothing
back, even if they are started anew. When all processes of the new one have gone, the old one
counts again.

A schedule is orphaned when no living process of its app declares it, while the app lives.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from mesh.recurring import Declaration, ScheduleInfo, Schedules

__all__ = ["ALIVE", "reconcile"]

log = logging.getLogger("mesh")

ALIVE = 45.0
"""Seconds for which a declaration counts: three times the pause between two."""
_ORPHANED = "no living process of the app has it in its code any more"


async def reconcile(store: Schedules, zone: str) -> list[ScheduleInfo]:
    """Create, change and disable schedules as the code says, where ``zone`` is the cluster's.
    Returns all, as they were before."""
    now = store.now()
    living = [d for d in await store.declarations() if d.seen_at > now - ALIVE]
    schedules = await store.all()
    apps = {d.app: d for d in living if d.definition is None}
    winners = _winners(d for d in living if d.definition is not None)
    known = {schedule.name: schedule for schedule in schedules}
    for declaration in winners.values():
        schedule = known.get(declaration.name)
        if schedule is None:
            await _create(store, declaration, now, zone)
        elif schedule.source != "code":
            await _note(store, schedule, declaration, now, "it was made at run time, and stays so")
        elif schedule.state != "deleted":
            await _apply(store, schedule, declaration, now, zone)
    for schedule in known.values():
        app = apps.get(schedule.app)
        if app is not None and schedule.source == "code" and schedule.name not in winners:
            await _orphan(store, schedule, app)
    return schedules


def _winners(declarations: Iterable[Declaration]) -> dict[str, Declaration]:
    """For each schedule the definition that counts."""
    winners: dict[str, Declaration] = {}
    for one in declarations:
        other = winners.get(one.name)
        if other is None or (one.first_seen, one.hash) > (other.first_seen, other.hash):
            winners[one.name] = one
    return winners


async def _create(store: Schedules, declaration: Declaration, now: float, zone: str) -> None:
    definition = declaration.definition
    assert definition is not None
    schedule = ScheduleInfo(
        name=declaration.name,
        definition=definition,
        app=declaration.app,
        source="code",
        state="active",
        revision=1,
        created_at=now,
        updated_at=now,
        next_slot=definition.next_slot(now, zone),
        zone=zone,
        code_hash=declaration.hash,
        synced_at=now,
    )
    if await store.insert(schedule):
        log.info("schedule %s: new, '%s'", schedule.name, definition.expression)


async def _apply(
    store: Schedules, schedule: ScheduleInfo, declaration: Declaration, now: float, zone: str
) -> None:
    definition = declaration.definition
    assert definition is not None
    changes: dict[str, Any] = {}
    state = schedule.state
    if state == "disabled" and schedule.reason == _ORPHANED:
        state = "active"
        changes |= {"state": state, "reason": None}
        log.info("schedule %s: in the code again", schedule.name)
    is_news = schedule.code_hash != declaration.hash
    # Whoever starts brings its code; one that merely lives on brings nothing new.
    starts = declaration.declared_at > (schedule.synced_at or 0.0)
    differs = definition != schedule.definition
    if differs and (is_news or starts) and declaration.existing == "update_from_code":
        changes["definition"] = definition
        log.info(
            "schedule %s: updated from the code, '%s' → '%s'",
            schedule.name,
            schedule.definition.expression,
            definition.expression,
        )
    elif differs and is_news:
        log.info("schedule %s: stays as it is in the database, unlike the code", schedule.name)
    noted = {"code_hash": declaration.hash, "synced_at": now}
    if changes:
        next_slot = changes.get("definition", schedule.definition).next_slot(now, zone)
        changes |= {"next_slot": next_slot if state == "active" else None, "zone": zone}
        changes["failures_after"] = now
        await store.update(schedule.name, schedule.revision, **changes, **noted)
    elif is_news or starts:
        await store.update(schedule.name, schedule.revision, quietly=True, **noted)


async def _note(
    store: Schedules, schedule: ScheduleInfo, declaration: Declaration, now: float, why: str
) -> None:
    if schedule.code_hash != declaration.hash:
        log.warning("schedule %s is in the code too: %s", schedule.name, why)
        noted = {"code_hash": declaration.hash, "synced_at": now}
        await store.update(schedule.name, schedule.revision, quietly=True, **noted)


async def _orphan(store: Schedules, schedule: ScheduleInfo, app: Declaration) -> None:
    if app.orphaned == "delete" and schedule.state != "deleted":
        changes: dict[str, Any] = {"state": "deleted", "next_slot": None}
    elif app.orphaned == "disable" and schedule.state == "active":
        changes = {"state": "disabled", "reason": _ORPHANED, "next_slot": None}
    else:
        return
    if await store.update(schedule.name, schedule.revision, **changes):
        log.warning("schedule %s is %s: %s", schedule.name, changes["state"], _ORPHANED)
