"""What ``mesh doctor`` looks at."""

from __future__ import annotations

import asyncio

from mesh.app import Mesh
from mesh.clock import to_datetime
from mesh.errors import MeshError
from mesh.ports import Agent, AgentInfo, Check, Master
from mesh.settings import AgentState, Mode

__all__ = ["examine"]

OVERDUE = 30.0
"""Seconds after a slot by when a coordinator has surely made its job."""
LONG_AGO = 24 * 3600.0
"""Seconds after which a loss is history."""


async def examine(app: Mesh) -> list[Check]:
    """The findings of ``mesh doctor``."""
    checks = [_check_handlers(app)]
    usable = checks[0].ok
    """Whether all that was asked so far can be asked more."""
    master: Master | None = None
    if app.config.master is None:
        checks.append(
            Check("master", False, "none is configured", "give master=..., or set MESH_MASTER")
        )
    else:
        master = app.connect_master()
        found, opened = await _check_part("master", master)
        checks += found
        usable = usable and opened
    agents = [app.connect_agent(name) for name in app.config.agents]
    if master is not None and usable:
        added = await master.added_agents()
        agents += [app.connect_agent_of(a) for n, a in added.items() if n not in app.config.agents]
    for found, opened in await asyncio.gather(
        *(_check_part(f"agent {agent.name}", agent) for agent in agents)
    ):
        checks += found
        usable = usable and opened
    if master is not None and usable:
        checks += await _check_cluster(master, app.now())
        checks += await _check_lanes(app, master)
        zone = app.cluster.under(await master.cluster_settings()).timezone
        checks += await _check_schedules(master, zone)
    for agent in agents:
        await agent.close()
    if master is not None:
        await master.close()
    return checks


def _check_handlers(app: Mesh) -> Check:
    for handler in app.handlers.values():
        try:
            _ = handler.shape
        except MeshError as error:
            return Check("app", False, str(error), "change the handler's signature")
    lanes = ", ".join(app.lanes) or "no lanes"
    return Check("app", True, f"{len(app.handlers)} handlers in {lanes}")


async def _check_part(subject: str, part: Agent | Master) -> tuple[list[Check], bool]:
    """The findings, and whether it could be opened."""
    try:
        await part.open()
    except MeshError as error:
        return [Check(subject, False, str(error), "then run mesh doctor again")], False
    return await part.check() + _check_wakes(subject, part), True


def _check_wakes(subject: str, part: Agent | Master) -> list[Check]:
    """Says so where others' work is found by looking alone."""
    able = part.capabilities
    if able.wakes or not able.several_machines:
        return []
    detail = f"none: {able.why_not['wakes']}; processes look, up to a second late"
    return [Check(f"{subject}: wake-ups", True, detail)]


async def _check_cluster(master: Master, now: float) -> list[Check]:
    """Whether anything keeps all jobs, or some lane's or agent's, from running."""
    checks: list[Check] = []
    settings = await master.cluster_settings()
    if settings.mode is not Mode.ACTIVE:
        advice = "mesh cluster mode active"
        checks.append(Check("cluster", False, f"is {settings.mode}: no job starts", advice))
    for lane, state in settings.lanes.items():
        checks.append(Check(f"lane {lane}", False, f"is {state}", f"mesh lanes resume {lane}"))
    for name, status in settings.agents.items():
        if status.state is not AgentState.ACTIVE:
            advice = (
                f"to use it again: mesh agents add {name} URL; once it is removed (mesh agents "
            )
            advice += f"rm {name}), take it out of the configuration too"
            checks.append(Check(f"agent {name}", False, f"is {status.state}", advice))
    agents = await master.agents()
    checks += [_check_loss(agent, now) for agent in agents if agent.lost_at is not None]
    if leases := await master.leases():
        count = len(set(leases.values()))
        checks.append(Check("coordinators", True, f"{count} of them do the master's duties"))
    else:
        nobody = "none runs: what the master holds stays there, and it hears of nothing"
        checks.append(Check("coordinators", False, nobody, "start one: mesh master APP"))
    return checks


def _check_loss(agent: AgentInfo, now: float) -> Check:
    moment = to_datetime(agent.lost_at or 0.0).isoformat(timespec="seconds")
    found = f"has lost {agent.lost} jobs, which were dispatched again; last found at {moment}"
    if (agent.lost_at or 0.0) < now - LONG_AGO:
        return Check(f"agent {agent.name}", True, found)
    advice = "was its stream deleted, its data restored, or did its machine lose power?"
    return Check(f"agent {agent.name}", False, found, advice)


async def _check_lanes(app: Mesh, master: Master) -> list[Check]:
    """Whether each lane has a living worker."""
    alive = await master.workers(seen_after=app.now() - app.config.silence)
    served = {lane.lane for worker in alive if worker.state == "running" for lane in worker.lanes}
    return [
        Check(f"lane {lane}", True, "has a worker")
        if lane in served
        else Check(
            f"lane {lane}",
            False,
            "no worker has been heard of lately",
            f"start one: mesh worker APP --lane {lane}; if one runs, check that a coordinator "
            "runs too (mesh master APP): heartbeats reach the master through it",
        )
        for lane in app.lanes
    ]


async def _check_schedules(master: Master, zone: str) -> list[Check]:
    """Whether jobs are made, in the cluster's time zone, and no schedule was given up."""
    found = [s for s in await master.schedules.all() if s.state != "deleted"]
    if not found:
        return []
    now = master.schedules.now()
    checks: list[Check] = []
    for schedule in found:
        subject = f"schedule {schedule.name}"
        if schedule.state == "disabled":
            advice = f"then: mesh schedules resume {schedule.name}"
            checks.append(Check(subject, False, f"is disabled: {schedule.reason}", advice))
        elif schedule.next_slot is not None and schedule.next_slot < now - OVERDUE:
            late = f"has made no job for {now - schedule.next_slot:.0f} s"
            advice = "start a coordinator: mesh master APP; if one runs, see its log"
            checks.append(Check(subject, False, late, advice))
        elif (
            schedule.state == "active"
            and schedule.definition.cluster_zone
            and schedule.zone != zone
        ):
            where = f"is made in the zone {schedule.zone}, and timezone is {zone} here"
            advice = "tell all: mesh settings set timezone ZONE; a coordinator must run to hear it"
            checks.append(Check(subject, False, where, advice))
    if not checks:
        active = sum(schedule.state == "active" for schedule in found)
        checks.append(Check("schedules", True, f"{active} active, {len(found) - active} paused"))
    return checks
