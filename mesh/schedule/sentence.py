"""A plain English schedule, understood word by word, and its canonical spelling."""

from __future__ import annotations

from typing import NamedTuple

from mesh.schedule.days import DaySpec
from mesh.schedule.vocabulary import Unit, month_names, weekday_names

__all__ = ["DATE_UNITS", "TIME_UNITS", "Every", "On", "Point", "Sentence", "Window"]

DATE_UNITS = ("year", "month", "day", "weekday")
TIME_UNITS = ("hour", "minute", "second")


class Point(NamedTuple):
    """A time, a day, or a part of them: what it leaves open is ``None``."""

    year: int | None = None
    month: int | None = None
    day: DaySpec | None = None
    weekday: int | None = None
    hour: int | None = None
    minute: int | None = None
    second: int | None = None
    place: int = 0
    """The column it stands at, counted from 1. Not a part of its meaning."""

    @property
    def units(self) -> tuple[str, ...]:
        """The units that it says something of."""
        return tuple(unit for unit in (*DATE_UNITS, *TIME_UNITS) if getattr(self, unit) is not None)

    @property
    def text(self) -> str:
        """Its canonical spelling."""
        return " ".join(part for part in (self._date(), self._weekday(), self._time()) if part)

    def _date(self) -> str:
        year, month, day = self.year, self.month, self.day
        plain = day is not None and day.kind == "day" and not day.shift
        if plain and month is not None and day is not None:
            if year is not None:
                return f"{year:04}-{month:02}-{day.number:02}"
            return f"{month_names[month - 1]}-{day.number:02}"
        parts = [] if day is None else [_day_text(day)]
        if year is not None and month is not None:
            parts.append(f"{year:04}-{month_names[month - 1]}")
        elif month is not None:
            parts.append(month_names[month - 1])
        elif year is not None:
            parts.append(f"year {year}")
        return " ".join(parts)

    def _weekday(self) -> str:
        return "" if self.weekday is None else weekday_names[self.weekday]

    def _time(self) -> str:
        if self.hour is not None and self.minute is not None:
            seconds = "" if self.second is None else f":{self.second:02}"
            return f"{self.hour:02}:{self.minute:02}{seconds}"
        if self.hour is not None and self.second is None:
            # Not 14:00: as the end of a range an hour is all of its minutes.
            return f"{(self.hour - 1) % 12 + 1}{'am' if self.hour < 12 else 'pm'}"
        return " ".join(
            f"{unit} {value}" for unit in TIME_UNITS if (value := getattr(self, unit)) is not None
        )


def _ordinal(number: int) -> str:
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def _day_text(day: DaySpec) -> str:
    match day.kind:
        case "day" if day.shift:
            text = "FirstDay"
        case "day":
            return _ordinal(day.number)
        case "last":
            text = "LastDay"
        case "first_work":
            text = "FirstWeekday"
        case "last_work":
            text = "LastWeekday"
        case "nth":
            text = _ordinal(day.number) + weekday_names[day.weekday].capitalize()
        case "last_of":
            text = "Last" + weekday_names[day.weekday].capitalize()
        case _:
            text = f"ClosestWeekdayTo {_ordinal(day.number)}"
    if day.shift:
        text += f" {'-' if day.shift < 0 else '+'} {abs(day.shift)}"
    return text


class Every(NamedTuple):
    """``every 2 weeks anchored on sun``. ``weekday`` is for ``every monday``."""

    step: int
    unit: Unit
    weekday: int | None = None
    anchor: int | None = None
    duration: int | None = None
    """Microseconds, for ``every PT1.5S``; unit and step mean nothing then."""
    place: int = 0

    @property
    def text(self) -> str:
        """Its canonical spelling."""
        if self.duration is not None:
            from mesh.schedule.schedule import duration_text

            return f"every {duration_text(self.duration)}"
        if self.weekday is not None:
            return f"every {weekday_names[self.weekday]}"
        text = f"every {self.unit}" if self.step == 1 else f"every {self.step} {self.unit}s"
        if self.anchor is None:
            return text
        match self.unit:
            case "week":
                anchor = weekday_names[self.anchor]
            case "month":
                anchor = month_names[self.anchor - 1]
            case "day":
                anchor = _ordinal(self.anchor)
            case _:
                anchor = str(self.anchor)
        return f"{text} anchored on {anchor}"


class On(NamedTuple):
    """``on``, ``in`` or ``at``: any of some points."""

    points: tuple[Point, ...]
    place: int = 0

    @property
    def text(self) -> str:
        """Its canonical spelling."""
        units = {unit for point in self.points for unit in point.units}
        word = "at" if units <= {*TIME_UNITS} else "in" if units == {"month"} else "on"
        if len(self.points) == 1:
            return f"{word} {self.points[0].text}"
        return f"{word} [{', '.join(point.text for point in self.points)}]"


class Window(NamedTuple):
    """``between``, ``from`` (no high end) or ``upto`` (no low end): in any of some ranges."""

    ranges: tuple[tuple[Point | None, Point | None], ...]
    place: int = 0

    @property
    def text(self) -> str:
        """Its canonical spelling."""
        low, high = self.ranges[0]
        if high is None:
            assert low is not None
            return f"from {low.text}"
        if low is None:
            return f"upto {high.text}"
        ranges = [f"{low.text} and {high.text}" for low, high in self.ranges if low and high]
        return f"between {ranges[0]}" if len(ranges) == 1 else f"between [{', '.join(ranges)}]"


class Sentence(NamedTuple):
    """All of it."""

    every: Every | None
    ons: tuple[On, ...]
    windows: tuple[Window, ...]

    @property
    def text(self) -> str:
        """Its canonical spelling."""
        parts = [] if self.every is None else [self.every.text]
        parts += [on.text for on in self.ons] + [window.text for window in self.windows]
        return " ".join(parts)
