"""The scheduler: makes the jobs of schedules, a little ahead of their time.

One coordinator leads, by a lease. What it does is safe even if two believe that they lead: the
cursor of a schedule moves in the transaction that makes the jobs, and a slot has one job.

A **round** looks at the schedules whose cursor is due within half of ``ahead`` seconds, and at
those that were changed, and makes jobs for the whole of that time: so one that fires every second
takes a transaction in half a minute, not one a second. The jobs are held on the master; the
dispatcher, which moves held jobs to agents within the same time, does the rest, so that a job
starts at its second and not at a poll's. A schedule that minds overlaps gets its job at the slot
itself: before, nobody can know.

A schedule that names no zone is read in the cluster's. When that changes, or its cursor was moved
by a process that believed in another, the cursor is found anew and the schedule counts as changed.

A changed schedule first takes back what was made under its older revisions and has not started:
from the master at once, from an agent if that still has it. What cannot be taken back in
``PATIENCE`` seconds stays the job of its slot.

Slots that are late by more than ``LATE`` seconds were **missed**, and the schedule says what
then.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mesh.clock import Clock, SystemClock, to_datetime
from mesh.errors import AgentError, InvalidSchedule, MasterError
from mesh.job import State
from mesh.ports import Agent, Master
from mesh.recurring import ScheduleInfo, SlotOutcome, slot_job_id
from mesh.schedule import Schedule
from mesh.service import Backoff, Problems, Service
from mesh_master.leader import Term, lead
from mesh_master.reconcile import reconcile

__all__ = ["LATE", "Scheduler", "plan"]

log = logging.getLogger("mesh")

LATE = 30.0
"""Seconds after which a slot without a job was missed. A new leader takes over sooner: when a
lease has run out and a third of its time has passed (see ``lead``), and the master has answered."""
PATIENCE = 10.0
"""Seconds for which jobs are withdrawn after a change, before new ones are made regardless."""
_MOST_SLOTS = 500
"""Jobs made of one schedule at once."""
_BATCH = 1000
_RECONCILE_EVERY = 2.0
_INTERVAL = 1.0


def plan(
    schedule: ScheduleInfo, now: float, ahead: float, zone: str
) -> tuple[list[float], float | None]:
    """The slots to make jobs for, in order, and the cursor behind them, where ``zone`` is the
    cluster's.

    Slots that were missed are named in the log. Raises ``InvalidSchedule`` if the definition
    cannot be read.
    """
    rule, cursor = schedule.definition.schedule_in(zone), schedule.next_slot
    slots: list[float] = []
    if cursor is not None and cursor < now - LATE:
        since = now - LATE
        slots = _missed(schedule, rule, cursor, since)
        cursor = _next(rule, since - 1e-6)
    horizon = now if schedule.definition.overlap != "allow" else now + ahead
    while cursor is not None and cursor <= horizon and len(slots) < _MOST_SLOTS:
        slots.append(cursor)
        cursor = _next(rule, cursor)
    return slots, cursor


def _missed(schedule: ScheduleInfo, rule: Schedule, since: float, until: float) -> list[float]:
    """Those of the missed slots, from ``since`` on and before ``until``, that run after all."""
    definition = schedule.definition
    wanted = {"skip": 1, "ignore": 0, "catch_up": definition.catch_up_limit}[definition.missed]
    slots = _latest(rule, since, until, wanted)
    log.warning(
        "schedule %s: slots since %s were missed; missed='%s' makes %d of them run",
        schedule.name,
        _shown(since),
        definition.missed,
        len(slots),
    )
    return slots


def _latest(rule: Schedule, since: float, until: float, count: int) -> list[float]:
    """The last ``count`` slots of a time, without going through all of a long one."""
    window = 60.0
    while count:
        begin = max(since, until - window)
        slots = [slot.timestamp() for slot in rule.between(to_datetime(begin), to_datetime(until))]
        if len(slots) >= count or begin <= since:
            return slots[-count:]
        window *= 8
    return []


def _next(rule: Schedule, after: float) -> float | None:
    slot = rule.next_after(to_datetime(after))
    return None if slot is None else slot.timestamp()


def _shown(moment: float) -> str:
    return to_datetime(moment).isoformat(timespec="seconds")


class Scheduler(Service):
    """Makes jobs for the whole cluster, whenever it leads."""

    def __init__(
        self,
        master: Master,
        agents: Mapping[str, Agent],
        *,
        ahead: float,
        holder: str,
        timezone: str = "UTC",
        clock: Clock | None = None,
        interval: float = _INTERVAL,
    ) -> None:
        """``ahead`` is how many seconds before its slot a job is made, ``timezone`` the cluster's,
        ``interval`` how often, in seconds, the master is looked at."""
        super().__init__("scheduler")
        self._master = master
        self._store = master.schedules
        self._agents = agents
        self.ahead = ahead
        """May be set while it runs."""
        self.timezone = timezone
        """May be set while it runs."""
        self._look = max(ahead / 2, min(ahead, 2 * interval))
        self._holder = holder
        self._clock = clock or SystemClock()
        self._interval = interval
        self._reconciled_at = float("-inf")
        self._watched: list[ScheduleInfo] = []
        """Schedules whose jobs' ends matter."""
        self._problems = Problems(self.name)

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await lead(
            self._master,
            "scheduler",
            self._holder,
            self._duty,
            stopping=self.stopping,
            clock=self._clock,
        )

    async def _duty(self, term: Term) -> None:
        self._reconciled_at = float("-inf")
        backoff = Backoff(term.over, self._interval, self._interval, self._clock)
        while (pause := await backoff.retry(self.name, self.round, MasterError)) is not None:
            await self._clock.wait(term.over, pause)

    async def round(self) -> float:
        """Make what is to be made. Returns the seconds until the next round."""
        if self._clock.monotonic() - self._reconciled_at >= _RECONCILE_EVERY:
            schedules = await reconcile(self._store, self.timezone)
            self._reconciled_at = self._clock.monotonic()
            self._watched = [
                s
                for s in schedules
                if s.definition.overlap == "queue" or s.definition.disable_after_failures
            ]
            for schedule in schedules:
                if self._is_elsewhere(schedule):
                    await self._try(schedule, self._move)
        for schedule in self._watched:
            await self._try(schedule, self._watch)
        now = self._store.now()
        wake = now + self._interval
        for schedule in await self._store.due(now + self._look, _BATCH):
            if schedule.pending:
                await self._try(schedule, self._withdraw)
            elif self._is_elsewhere(schedule):
                await self._try(schedule, self._move)
            elif (next_slot := schedule.next_slot) is not None:
                if schedule.definition.overlap == "allow" or next_slot <= now:
                    await self._try(schedule, self._make)
                else:
                    wake = min(wake, next_slot)
        return max(0.005, wake - self._store.now())

    async def _try(
        self, schedule: ScheduleInfo, what: Callable[[ScheduleInfo], Awaitable[None]]
    ) -> None:
        """One schedule that this code cannot read stops no other."""
        try:
            await what(schedule)
        except InvalidSchedule as error:
            self._problems.say(error, schedule.name)

    # zones -----------------------------------------------------------------------------------

    def _is_elsewhere(self, schedule: ScheduleInfo) -> bool:
        """Whether its cursor was found by a zone that is not the cluster's now."""
        return (
            schedule.definition.cluster_zone
            and schedule.state == "active"
            and schedule.zone != self.timezone
        )

    async def _move(self, schedule: ScheduleInfo) -> None:
        now, zone = self._store.now(), self.timezone
        # Slots that have passed without a job may have been missed: they are not forgotten.
        since = min(now, now if schedule.next_slot is None else schedule.next_slot - 1e-6)
        next_slot = schedule.definition.next_slot(since, zone)
        if await self._store.update(
            schedule.name, schedule.revision, next_slot=next_slot, zone=zone
        ):
            log.info(
                "schedule %s: in the cluster's zone, %s now; next at %s",
                schedule.name,
                zone,
                "no time" if next_slot is None else _shown(next_slot),
            )

    # making ----------------------------------------------------------------------------------

    async def _make(self, schedule: ScheduleInfo) -> None:
        now = self._store.now()
        slots, next_slot = plan(schedule, now, self.ahead, self.timezone)
        states = await self._states(schedule, len(slots))
        jobs = [
            schedule.definition.job(
                schedule.name,
                slot_job_id(schedule.name, slot, schedule.revision),
                now=now,
                slot=slot,
            )
            for slot in slots
        ]
        await self._store.make(schedule, next_slot, jobs, states)

    async def _states(self, schedule: ScheduleInfo, count: int) -> list[State]:
        """How the jobs of the next slots begin."""
        overlap = schedule.definition.overlap
        if overlap == "allow" or not count:
            return [State.SCHEDULED] * count
        waiting = running = 0
        for job in await self._store.open_jobs(schedule.name):
            waiting += job.state is State.WAITING
            running += job.state is not State.WAITING
        states: list[State] = []
        for _ in range(count):
            if not running and not waiting:
                states.append(State.SCHEDULED)
                running = 1
            elif overlap == "queue" and not waiting:
                states.append(State.WAITING)
                waiting = 1
            else:
                states.append(State.SKIPPED)
        return states

    # watching --------------------------------------------------------------------------------

    async def _watch(self, schedule: ScheduleInfo) -> None:
        if schedule.definition.overlap == "queue":
            jobs = await self._store.open_jobs(schedule.name)
            waiting = [job for job in jobs if job.state is State.WAITING]
            if waiting and len(waiting) == len(jobs):
                await self._store.release(waiting[0].job_id)
        most = schedule.definition.disable_after_failures
        if most is not None and schedule.state == "active":
            since = schedule.failures_after
            ends = await self._store.outcomes(schedule.name, most, since, skipped=False)
            if len(ends) == most and all(job.state is State.FAILED for job in ends):
                await self._disable(schedule, f"its last {most} jobs failed")

    async def _disable(self, schedule: ScheduleInfo, reason: str) -> None:
        if await self._store.update(
            schedule.name, schedule.revision, state="disabled", reason=reason, next_slot=None
        ):
            log.error(
                "schedule %s is disabled: %s; see mesh schedules show %s, then resume it",
                schedule.name,
                reason,
                schedule.name,
            )

    # withdrawing -----------------------------------------------------------------------------

    async def _withdraw(self, schedule: ScheduleInfo) -> None:
        """Take back what older revisions made; then the schedule is no longer pending."""
        left = await self._take_back(schedule)
        overdue = self._store.now() - schedule.updated_at > PATIENCE
        if left and not overdue:
            return
        if schedule.state == "deleted":
            await self._store.remove(schedule.name, schedule.revision)
            return
        await self._store.update(schedule.name, schedule.revision, quietly=True, pending=False)

    async def _take_back(self, schedule: ScheduleInfo) -> bool:
        """Whether something that should be taken back may still start."""
        now = self._store.now()
        stale = [
            job
            for job in await self._store.open_jobs(schedule.name)
            if job.slot is not None
            and (job.slot > now or job.state is State.WAITING)
            and job.revision < schedule.revision
            and job.state in (State.SCHEDULED, State.WAITING, State.QUEUED)
        ]
        gone = [job.job_id for job in stale if job.agent is None and not job.claimed]
        gone += await self._from_agents([job for job in stale if job.agent is not None])
        count = 0
        if gone:
            words = {"active": "changed", "deleted": "deleted"}
            did = words.get(schedule.state, schedule.state)
            why = f"schedule {schedule.name} was {did} before it began"
            count = await self._store.withdraw(gone, why)
        return count < len(stale)

    async def _from_agents(self, jobs: Sequence[SlotOutcome]) -> list[str]:
        groups: defaultdict[tuple[str, str, int], list[str]] = defaultdict(list)
        for job in jobs:
            groups[str(job.agent), job.lane, job.priority].append(job.job_id)
        gone: list[str] = []
        for (name, lane, priority), job_ids in groups.items():
            agent = self._agents.get(name)
            if agent is None:
                continue
            try:
                gone += await agent.withdraw(lane, priority, job_ids)
            except AgentError as error:
                self._problems.say(error, name)
        return gone
