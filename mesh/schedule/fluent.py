"""Plain English schedules, written in typed Python: ``every(30).minutes.on("mon")``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import overload

from mesh.errors import InvalidSchedule
from mesh.schedule.schedule import Schedule, build, duration_text, parse

__all__ = [
    "Every",
    "Fluent",
    "Value",
    "at",
    "daily",
    "every",
    "hourly",
    "minutely",
    "monthly",
    "on",
    "secondly",
    "weekly",
    "yearly",
]

Value = str | int | time | date
"""A point as in plain English, or a ``time``, a ``date``, or a number (a day of the month)."""


class Fluent(Schedule):
    """A ``Schedule`` with methods that each return one that says more.

    It is equal to ``parse`` of the same words. Every method raises ``InvalidSchedule`` as
    ``parse`` does.
    """

    __slots__ = ("_clauses", "_every")

    _every: str
    _clauses: str

    def at(self, *times: Value) -> Fluent:
        """Only at these times: ``.at("09:00", "17:30")``."""
        return self._with(f"at {_points(times)}")

    def on(self, *days: Value) -> Fluent:
        """Only on these days: ``.on("mon", "fri")``, ``.on("LastDay - 1")``."""
        return self._with(f"on {_points(days)}")

    def in_(self, *months: Value) -> Fluent:
        """Only in these months: ``.in_("jan", "jul")``."""
        return self._with(f"in {_points(months)}")

    # A datetime is a date too, so the first two overlap: the first one is meant for two of them.
    @overload
    def between(self, start: datetime, end: datetime) -> Iterator[datetime]: ...  # type: ignore[overload-overlap]
    @overload
    def between(self, start: Value, end: Value) -> Fluent: ...
    @overload
    def between(
        self, start: tuple[Value, Value], end: tuple[Value, Value], *more: tuple[Value, Value]
    ) -> Fluent: ...
    def between(
        self,
        start: Value | tuple[Value, Value],
        end: Value | tuple[Value, Value],
        *more: tuple[Value, Value],
    ) -> Iterator[datetime] | Fluent:
        """Only between two times or days, or in any of several ranges; ends are included.

        ``.between("09:00", "18:00")``; ``.between(("9:00", "12:00"), ("13:00", "18:00"))``. With
        two aware datetimes it is ``Schedule.between``: the slots from the one to the other.
        """
        if isinstance(start, datetime) and isinstance(end, datetime):
            return super().between(start, end)
        if isinstance(start, tuple) and isinstance(end, tuple):
            ranges = [f"{_point(low)} and {_point(high)}" for low, high in (start, end, *more)]
            return self._with(f"between [{', '.join(ranges)}]")
        if isinstance(start, tuple) or isinstance(end, tuple) or more:
            raise InvalidSchedule(f"between({start!r}, {end!r}): give two ends, or only pairs")
        return self._with(f"between {_point(start)} and {_point(end)}")

    def from_(self, point: Value) -> Fluent:
        """Only from a time of the day, a day of the month, … on."""
        return self._with(f"from {_point(point)}")

    def upto(self, point: Value) -> Fluent:
        """Only up to a time of the day, a day of the month, …; it is included."""
        return self._with(f"upto {_point(point)}")

    def anchored_on(self, value: str | int) -> Fluent:
        """Count from a minute of the hour, a weekday, a month, …: ``.anchored_on("sun")``."""
        return _fluent(f"{self._every} anchored on {value}", self._clauses, self)

    def in_tz(self, timezone: str) -> Fluent:
        """On the clock of an IANA time zone."""
        return _fluent(self._every, self._clauses, self, timezone=timezone)

    def starting(self, start: datetime) -> Fluent:
        """Not before an aware datetime, and counted from it."""
        return _fluent(self._every, self._clauses, self, start=start)

    def ending(self, end: datetime) -> Fluent:
        """Before an aware datetime."""
        return _fluent(self._every, self._clauses, self, end=end)

    def jittered(self, jitter: timedelta | float) -> Fluent:
        """Spread over a ``timedelta`` or seconds; see ``Schedule.delay``."""
        return _fluent(self._every, self._clauses, self, jitter=jitter)

    def _with(self, clause: str) -> Fluent:
        return _fluent(self._every, f"{self._clauses} {clause}", self)


def _fluent(
    every: str,
    clauses: str,
    before: Schedule | None = None,
    *,
    timezone: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    jitter: timedelta | float | None = None,
) -> Fluent:
    """Parse the words, with the options of ``before`` but those that are given."""
    if before is not None:
        timezone = before.timezone if timezone is None and before.names_zone else timezone
        start = before.start if start is None else start
        end = before.end if end is None else end
        jitter = before.jitter if jitter is None else jitter
    text = f"{every}{clauses}".strip()
    made = parse(text, timezone, start=start, end=end, jitter=jitter or 0)
    parts = (made._notation, made._rule, made._zone, made._start, made._end, made._jitter)
    fluent = build(*parts, Fluent, zoned=made.names_zone)
    object.__setattr__(fluent, "_every", every)
    object.__setattr__(fluent, "_clauses", clauses)
    return fluent


def _point(value: Value) -> str:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ", "seconds")
    if isinstance(value, time):
        return value.isoformat("seconds") if value.second else value.isoformat("minutes")
    if isinstance(value, date):
        return value.isoformat()
    return f"day {value}" if isinstance(value, int) else value


def _points(values: tuple[Value, ...]) -> str:
    if len(values) == 1:
        return _point(values[0])
    return f"[{', '.join(map(_point, values))}]"


class Every:
    """``every(30)``, which needs its unit: ``every(30).minutes``."""

    __slots__ = ("_count",)

    def __init__(self, count: int) -> None:
        self._count = count

    def __repr__(self) -> str:
        return f"every({self._count}), which needs a unit, such as .minutes"

    def _unit(self, unit: str) -> Fluent:
        return _fluent(f"every {self._count} {unit}", "")

    @property
    def seconds(self) -> Fluent:
        return self._unit("seconds")

    @property
    def minutes(self) -> Fluent:
        return self._unit("minutes")

    @property
    def hours(self) -> Fluent:
        return self._unit("hours")

    @property
    def days(self) -> Fluent:
        return self._unit("days")

    @property
    def weeks(self) -> Fluent:
        return self._unit("weeks")

    @property
    def months(self) -> Fluent:
        return self._unit("months")

    @property
    def years(self) -> Fluent:
        return self._unit("years")

    second, minute, hour, day = seconds, minutes, hours, days
    week, month, year = weeks, months, years


@overload
def every(interval: int = 1) -> Every: ...
@overload
def every(interval: timedelta) -> Fluent: ...
def every(interval: int | timedelta = 1) -> Every | Fluent:
    """``every(5).minutes``, ``every().day``, or real time: ``every(timedelta(minutes=90))``."""
    if isinstance(interval, timedelta):
        if interval <= timedelta(0):
            raise InvalidSchedule(f"every({interval!r}): must be longer than nothing")
        return _fluent(f"every {duration_text(interval // timedelta(microseconds=1))}", "")
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise InvalidSchedule(f"every({interval!r}): must be a whole number, 1 or more")
    return Every(interval)


def secondly() -> Fluent:
    """``every().second``"""
    return _fluent("every second", "")


def minutely() -> Fluent:
    """``every().minute``"""
    return _fluent("every minute", "")


def hourly() -> Fluent:
    """``every().hour``"""
    return _fluent("every hour", "")


def daily() -> Fluent:
    """``every().day``"""
    return _fluent("every day", "")


def weekly() -> Fluent:
    """``every().week``"""
    return _fluent("every week", "")


def monthly() -> Fluent:
    """``every().month``"""
    return _fluent("every month", "")


def yearly() -> Fluent:
    """``every().year``"""
    return _fluent("every year", "")


def at(*times: Value) -> Fluent:
    """At these times, each day, or just once: ``at("10:10")``, ``at("2027-01-23 14:00")``."""
    return _fluent("", f"at {_points(times)}")


def on(*days: Value) -> Fluent:
    """On these days, at 00:00: ``on("2ndTuesday").at("14:00")``."""
    return _fluent("", f"on {_points(days)}")
