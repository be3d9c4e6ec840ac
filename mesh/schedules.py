"""An app's schedules: those in its code, and those it makes at run time.

``app.schedule(...)`` notes a schedule in the code. Each process of the app declares what its
code has to the master, by ``Declaring``, and the scheduler there does what follows. The same
object, ``app.schedules``, creates and changes schedules in the master at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, get_args

import msgspec

from mesh.codecs.base import seal
from mesh.errors import ConfigError, MasterError, ScheduleExists, ScheduleNotFound, did_you_mean
from mesh.handler import Handler
from mesh.job import Priority, PriorityName, new_job_id
from mesh.options import Options
from mesh.ports import Master
from mesh.recurring import (
    Declaration,
    Definition,
    Missed,
    Overlap,
    ScheduleInfo,
    SlotOutcome,
)
from mesh.retry import Retry
from mesh.service import Backoff, Service

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.job_handle import JobHandle
    from mesh.schedule import Schedule

__all__ = ["AppSchedules", "Declaring", "Expression", "ScheduleOptions"]

Expression: TypeAlias = "str | timedelta | Schedule"
"""When: an expression, an interval, or what ``mesh.schedule`` makes of one."""

DECLARE_EVERY = 15.0
"""Seconds between two declarations of a process."""

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,200}\Z")


class ScheduleOptions(TypedDict, total=False):
    """What a schedule takes besides its expression and its jobs' arguments."""

    kwargs: Mapping[str, Any]
    """Arguments of the handler by name."""
    timezone: str
    start: datetime
    """No slot before this moment; intervals count from it."""
    end: datetime
    """No slot from this moment on."""
    jitter: float | timedelta
    """Jobs start up to so much later (seconds), the same for the same slot everywhere."""
    day_or: bool
    missed: Missed
    catch_up_limit: int
    overlap: Overlap
    disable_after_failures: int
    lane: str
    priority: PriorityName
    timeout: float
    expires: float
    """Seconds after a job is due, as for jobs."""
    deadline: float
    retry: Retry
    meta: Mapping[str, str]
    result_ttl: float


_OF_JOBS = ("lane", "priority", "timeout", "expires", "deadline", "retry", "meta", "result_ttl")
_OF_TIME = ("timezone", "start", "end", "jitter", "day_or")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "missed": get_args(Missed),
    "overlap": get_args(Overlap),
}
_COUNTS = {"catch_up_limit": 10_000, "disable_after_failures": 1_000}


class AppSchedules:
    """``app.schedules``. Names are shown with the app's ``prefix``, and may be given without.

    Coroutines raise ``MasterError`` if the master cannot be asked, and ``ConfigError`` if there
    is none.
    """

    def __init__(self, app: Mesh) -> None:
        self._app = app
        self._prefix = app.prefix
        self.declared: dict[str, Definition] = {}
        """Those in the code, by name."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.declared)

    def declare(
        self,
        handler: Handler[..., Any, Any],
        expression: Expression,
        args: tuple[Any, ...],
        name: str | None,
        options: Mapping[str, Any],
    ) -> None:
        """Note a schedule in the code, with its arguments as they stand there: not encrypted, so
        that all processes declare the same. Raises ``ConfigError``, ``InvalidSchedule`` or
        ``InvalidArguments``, now rather than at night."""
        full = self._named(name or handler.name)
        if full in self.declared:
            raise ConfigError(
                f"two schedules are named '{full}'; give one of them another name=..."
            )
        self.declared[full] = self._define(handler, expression, args, options)

    def _named(self, name: str) -> str:
        full = self._prefix.of(name)
        if not _NAME.match(full):
            raise ConfigError(
                f"schedule name '{full}' is not valid: use 1 to 200 of letters, digits and '_.:/-'"
            )
        return full

    def _define(
        self,
        handler: Handler[..., Any, Any],
        expression: Expression,
        args: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> Definition:
        given = {key: value for key, value in options.items() if value is not None}
        payload = handler.shape.arguments.encode(
            args, given.pop("kwargs", {}), self._app.payload_limit
        )
        values = _checked(given)
        time = {key: values.pop(key) for key in _OF_TIME if key in values}
        jobs = handler.defaults.merge(_job_options(values).named_for(self._prefix))
        assert not isinstance(jobs.expires, datetime)
        assert not isinstance(jobs.deadline, datetime)
        return Definition(
            handler=handler.name,
            **_when(expression, time),
            payload=payload.decode(),
            lane=jobs.lane or handler.lane,
            priority=int(jobs.priority or Priority.NORMAL),
            timeout=jobs.timeout,
            expires=jobs.expires,
            deadline=jobs.deadline,
            retry=jobs.retry,
            meta=jobs.meta,
            result_ttl=jobs.result_ttl,
            **values,
        )

    # at run time -----------------------------------------------------------------------------

    async def create(
        self,
        handler: Handler[..., Any, Any] | str,
        expression: Expression,
        *args: Any,
        name: str,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleInfo:
        """A schedule of the handler's jobs, with these arguments.

        Raises ``ScheduleExists`` if the name is taken; else as ``app.schedule`` does.
        """
        if isinstance(handler, str):
            handler = self._app.get_handler(handler)
        definition = self._define(handler, expression, args, options)
        payload = seal(self._app.codec, definition.payload.encode()).decode()
        definition = msgspec.structs.replace(definition, payload=payload)
        zone = await self.timezone()
        store = (await self._app.master()).schedules
        now = store.now()
        schedule = ScheduleInfo(
            name=self._named(name),
            definition=definition,
            app=self._prefix.text,
            source="api",
            state="active",
            revision=1,
            created_at=now,
            updated_at=now,
            next_slot=definition.next_slot(now, zone),
            zone=zone,
        )
        if not await store.insert(schedule):
            raise ScheduleExists(schedule.name)
        return schedule

    async def update(
        self,
        name: str,
        *args: Any,
        expression: Expression | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleInfo:
        """Change what is given, and leave the rest. ``args`` or ``kwargs`` replace all
        arguments; a new ``expression`` comes with its own time zone, start, end and jitter.

        Jobs made ahead and not started are withdrawn, and made anew.
        """

        zone = await self.timezone()

        def change(schedule: ScheduleInfo, now: float) -> dict[str, Any]:
            definition = self._changed(schedule.definition, expression, args, options)
            is_active = schedule.state == "active"
            next_slot = definition.next_slot(now, zone) if is_active else None
            return {"definition": definition, "next_slot": next_slot, "zone": zone}

        return await self._change(name, change)

    def _changed(
        self,
        definition: Definition,
        expression: Expression | None,
        args: tuple[Any, ...],
        options: ScheduleOptions,
    ) -> Definition:
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        changes: dict[str, Any] = {}
        kwargs = given.pop("kwargs", {})
        if args or kwargs:
            shape = self._app.get_handler(definition.handler).shape
            limit = self._app.payload_limit
            payload = shape.arguments.encode(args, kwargs, limit)
            changes["payload"] = seal(self._app.codec, payload).decode()
        values = _checked(given)
        time = {key: values.pop(key) for key in _OF_TIME if key in values}
        if expression is not None:
            changes |= _when(expression, time)
        elif time:
            raise ConfigError(
                f"update({', '.join(time)}=...): say the expression too, it is "
                f"'{definition.expression}' now"
            )
        jobs = _job_options(values).named_for(self._prefix)
        changes |= {k: v for k in _OF_JOBS if (v := getattr(jobs, k)) is not None}
        if "priority" in changes:
            changes["priority"] = int(changes["priority"])
        return msgspec.structs.replace(definition, **(changes | values))

    async def pause(self, name: str) -> ScheduleInfo:
        """No more jobs; what was made ahead and has not started is withdrawn, within about a
        second."""
        return await self._change(name, lambda *_: {"state": "paused", "next_slot": None})

    async def resume(self, name: str) -> ScheduleInfo:
        """From now on again: slots of the pause are not missed. A disabled one too."""
        zone = await self.timezone()
        return await self._change(
            name,
            lambda schedule, now: {
                "state": "active",
                "reason": None,
                "next_slot": schedule.definition.next_slot(now, zone),
                "zone": zone,
            },
        )

    async def delete(self, name: str) -> None:
        """Withdraw what was made ahead, and remove the schedule. Its jobs stay in the history.
        One that the code has comes back: remove it there, or pause it."""
        await self._change(name, lambda *_: {"state": "deleted", "next_slot": None})

    async def run_now(self, name: str) -> JobHandle[Any]:
        """A job of the schedule at once, whatever its state. It has no slot, and the schedule
        goes on as it would have."""
        schedule = await self.get(name)
        store = (await self._app.master()).schedules
        job = schedule.definition.job(schedule.name, new_job_id(), now=store.now())
        await store.add(job)
        return self._app.handle_of(job)

    async def get(self, name: str) -> ScheduleInfo:
        """Raises ``ScheduleNotFound``."""
        store = (await self._app.master()).schedules
        found = await store.get(name)
        if found is None and (full := self._prefix.of(name)) != name:
            found = await store.get(full)
        if found is None or found.state == "deleted":
            known = [s.name for s in await store.all() if s.state != "deleted"]
            raise ScheduleNotFound(name, did_you_mean(name, known))
        return found

    async def list(self) -> list[ScheduleInfo]:
        """All of the cluster, other apps' too, by name."""
        found = await (await self._app.master()).schedules.all()
        return [schedule for schedule in found if schedule.state != "deleted"]

    async def outcomes(self, name: str, limit: int = 100) -> Sequence[SlotOutcome]:
        """Ended jobs of the schedule's slots, the latest slot first."""
        schedule = await self.get(name)
        return await (await self._app.master()).schedules.outcomes(schedule.name, limit)

    async def timezone(self) -> str:
        """The zone in which schedules that name none are read: this process's own, if its
        configuration has one, else the cluster's as it is now."""
        settings = await (await self._app.master()).cluster_settings()
        return self._app.cluster.under(settings).timezone

    async def _change(
        self, name: str, change: Callable[[ScheduleInfo, float], dict[str, Any]]
    ) -> ScheduleInfo:
        store = (await self._app.master()).schedules
        while True:
            schedule = await self.get(name)
            now = store.now()
            changes = {"failures_after": now, **change(schedule, now)}
            if await store.update(schedule.name, schedule.revision, **changes):
                return replace(schedule, revision=schedule.revision + 1, **changes)
            # Somebody else changed it between: look again.


def _when(expression: Expression, time: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``Definition`` says of when."""
    # Not above: programs that only enqueue start faster without the language.
    from mesh.schedule import parse

    schedule = parse(expression, **time)
    return {"expression": schedule.text, "cluster_zone": not schedule.names_zone}


def _job_options(values: dict[str, Any]) -> Options:
    """What a schedule says of its jobs, taken out of ``values``."""
    given = {key: values.pop(key) for key in _OF_JOBS if key in values}
    return Options.parse(given, _OF_JOBS).for_one_job().for_many_jobs("schedule")


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ``ConfigError`` for an option that is unknown, or a value that it cannot have."""
    known = ScheduleOptions.__annotations__
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"schedule: unknown option '{key}'{did_you_mean(key, known)}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(
                f"schedule: {key}={value!r}: must be one of {', '.join(_CHOICES[key])}"
                f"{did_you_mean(str(value), _CHOICES[key])}"
            )
        most = _COUNTS.get(key)
        if most is not None and (type(value) is not int or not 1 <= value <= most):
            raise ConfigError(f"schedule: {key}={value!r}: must be a number from 1 to {most:,}")
    return dict(given)


class Declaring(Service):
    """Tells the master what schedules this process has in its code, while it lives.

    States: *declaring* (again every ``interval`` seconds), *waiting* (the master is not there:
    nothing else of the process waits for it).
    """

    def __init__(self, app: Mesh, master: Master, interval: float = DECLARE_EVERY) -> None:
        """``master`` is this service's own: it opens and closes it."""
        super().__init__("schedules of the code")
        self._app = app
        self._master = master
        self._interval = interval

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        starting = True
        backoff = Backoff(self.stopping, clock=self._app.clock)
        try:
            while not self.stopping.is_set():
                declare = partial(self._declare, starting)
                if await backoff.retry(self.name, declare, MasterError):
                    starting = False
                    await self._app.clock.wait(self.stopping, self._interval)
        finally:
            await self._master.close()

    async def _declare(self, starting: bool) -> bool:
        await self._master.open()
        await self._master.schedules.declare(declarations(self._app), starting=starting)
        return True


def declarations(app: Mesh) -> list[Declaration]:
    """What a process of the app declares."""
    prefix, config = app.prefix.text, app.config
    existing, orphaned = config.schedules_existing, config.schedules_orphaned
    return [
        Declaration("", prefix, None, existing, orphaned),
        *(
            Declaration(name, prefix, definition, existing, orphaned)
            for name, definition in app.schedules.declared.items()
        ),
    ]
