"""Points and ranges of a sentence, as sets of days and of times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

from mesh.schedule.days import ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, DayRange, Days, DaySpec
from mesh.schedule.sentence import DATE_UNITS, TIME_UNITS, On, Point, Window
from mesh.schedule.vocabulary import fail

__all__ = [
    "DayChoice",
    "Parts",
    "Spans",
    "TimeWindow",
    "day_window",
    "days_of",
    "intersect",
    "is_time",
    "merged",
    "month_bits",
    "parts_of",
    "spans",
    "time_window",
]

Spans = tuple[tuple[int, int], ...]
DayChoice = tuple[DayRange, ...]
_SECONDS = {"hour": 3600, "minute": 60, "second": 1}
# What a time's first unit counts within: seconds of the day, of the hour, of the minute.
_CELLS = {"hour": 86_400, "minute": 3600, "second": 60}


class Parts(NamedTuple):
    """One reading of all ``on`` clauses: every choice must be met, by one of its points."""

    days: tuple[tuple[Point, ...], ...]
    times: tuple[tuple[Point, ...], ...]


def parts_of(ons: Sequence[On], expression: str) -> list[Parts]:
    """All readings: more than one where points join days and times, as [1st 3am, 3rd 10pm]."""
    readings = [Parts((), ())]
    seen: dict[str, On] = {}
    for on in ons:
        units = {unit for point in on.points for unit in point.units}
        for unit in sorted(units & seen.keys()):
            what = f"a second choice of {unit}"
            raise fail(what, on.place, "; name all in brackets, as in [mon, fri]", expression)
        seen |= dict.fromkeys(units, on)
        points = [_split(point) for point in on.points]
        if all(time is None for _, time in points) and (
            len(points) == 1 or all(day and _as_range(day) for day, _ in points)
        ):
            together = tuple(day for day, _ in points if day)
            readings = [Parts((*one.days, together), one.times) for one in readings]
        elif all(day is None for day, _ in points):
            times = tuple(time for _, time in points if time)
            readings = [Parts(one.days, (*one.times, times)) for one in readings]
        else:
            readings = [
                Parts(
                    one.days if day is None else (*one.days, (day,)),
                    one.times if time is None else (*one.times, (time,)),
                )
                for one in readings
                for day, time in points
            ]
    return readings


def _split(point: Point) -> tuple[Point | None, Point | None]:
    """The day and the time of a point."""
    day = point._replace(hour=None, minute=None, second=None)
    time = point._replace(year=None, month=None, day=None, weekday=None)
    return (day if day.units else None), (time if time.units else None)


def _as_range(point: Point) -> DayRange | None:
    """A day point as the range of just it, where one range can say it."""
    plain = point.day is None or (point.day.kind == "day" and not point.day.shift)
    match point.units:
        case ("weekday",):
            return DayRange("weekday", point.weekday or 0, point.weekday or 0)
        case ("day",) if point.day is not None:
            return DayRange("day", point.day, point.day)
        case ("month",):
            return DayRange("month", point.month or 1, point.month or 1)
        case ("year",):
            return DayRange("year", point.year or 1, point.year or 1)
        case ("month", "day") if plain:
            return DayRange("month_day", _month_day(point), _month_day(point))
        case ("year", "month"):
            low = _date(point._replace(day=DaySpec("day", 1)))
            return DayRange("date", low, low + 30)
        case ("year", "month", "day") if plain:
            return DayRange("date", _date(point), _date(point))
    return None


def _month_day(point: Point) -> int:
    assert point.month is not None
    assert point.day is not None
    return point.month * 100 + point.day.number


def _date(point: Point) -> int:
    return (point.year or 0) * 10_000 + _month_day(point)


def days_of(choices: Iterable[Sequence[Point]], windows: Iterable[DayChoice] = ()) -> Days:
    """The days that meet one point of every choice and one range of every window."""
    ranges: list[DayChoice] = []
    for choice in choices:
        if len(choice) > 1:
            ranges.append(tuple(span for point in choice if (span := _as_range(point))))
            continue
        for unit in choice[0].units:
            alone = Point()._replace(**{unit: getattr(choice[0], unit)})
            if (span := _as_range(alone)) is not None:
                ranges.append((span,))
    return _narrowed([*ranges, *windows])


def _narrowed(ranges: list[DayChoice]) -> Days:
    """What can be said as bits is: it costs next to nothing to look up."""
    months, days, weekdays = ALL_MONTHS, ALL_DAYS, ALL_WEEKDAYS
    years: frozenset[int] | None = None
    from_year, upto_year = 1, 9999
    specs: list[DaySpec] = []
    rest: list[DayChoice] = []
    for choice in ranges:
        kinds = {span.kind for span in choice}
        if kinds == {"month"}:
            months &= month_bits(choice)
        elif kinds == {"weekday"}:
            weekdays &= reduce(int.__or__, (_bits(span, 0, 7) for span in choice))
        elif (
            kinds == {"day"}
            and all(span.low == span.high for span in choice)
            and (days == ALL_DAYS and not specs)
        ):
            named = [span.low for span in choice if isinstance(span.low, DaySpec)]
            plain = [day.number for day in named if day.kind == "day" and not day.shift]
            days = reduce(int.__or__, (1 << day - 1 for day in plain), 0)
            specs = [day for day in named if day.kind != "day" or day.shift]
        else:
            rest.append(choice)
            if kinds == {"month_day"}:
                months &= reduce(int.__or__, (_bits(span, 1, 12, 100) for span in choice))
        if kinds <= {"date", "year"}:
            from_year = max(from_year, min(_year(span, span.low) for span in choice))
            upto_year = min(upto_year, max(_year(span, span.high) for span in choice))
        if kinds <= {"date", "year"} and (named_years := _years(choice)) is not None:
            years = named_years if years is None else years & named_years
    if years is not None and not years:
        months = 0
        years = None
    return Days(
        months,
        days,
        weekdays,
        day_specs=tuple(specs),
        years=years,
        ranges=tuple(rest),
        from_year=from_year,
        upto_year=upto_year,
    )


def _bits(span: DayRange, first: int, size: int, unit: int = 1) -> int:
    """The numbers from low to high, round the end if need be, as bits."""
    low, high = span.low, span.high
    assert isinstance(low, int)
    assert isinstance(high, int)
    low, high, wraps = low // unit, high // unit, high < low
    if not wraps:
        return (1 << high + 1) - (1 << low)
    return (1 << size + first) - (1 << low) | (1 << high + 1) - (1 << first)


def month_bits(choice: DayChoice) -> int:
    """The months of a choice of month ranges, as bits."""
    return reduce(int.__or__, (_bits(span, 1, 12) for span in choice))


def _year(span: DayRange, end: int | DaySpec) -> int:
    assert isinstance(end, int)
    return end // 10_000 if span.kind == "date" else end


def _years(choice: DayChoice) -> frozenset[int] | None:
    """The years of ranges of dates or years, if they are few."""
    years: set[int] = set()
    for span in choice:
        low, high = _year(span, span.low), _year(span, span.high)
        if high - low > 1_000:
            return None
        years.update(range(low, high + 1))
    return frozenset(years)


def is_time(window: Window) -> bool:
    """Whether a window is of times, not of days."""
    ends = [end for pair in window.ranges for end in pair if end is not None]
    return any(unit in TIME_UNITS for end in ends for unit in end.units)


def day_window(window: Window, expression: str) -> DayChoice:
    """The ranges of a window of days; none if every day is in it, as in ``upto 31st``."""
    choice = tuple(_day_range(low, high, window, expression) for low, high in window.ranges)
    return () if any(_is_all(span) for span in choice) else choice


def _is_all(span: DayRange) -> bool:
    low, high = span.low, span.high
    if isinstance(low, DaySpec) or isinstance(high, DaySpec):
        return low == DaySpec("day", 1) and high in (DaySpec("last"), DaySpec("day", 31))
    if span.kind == "weekday":
        return (high - low) % 7 == 6
    return (low, high) in {"month": [(1, 12)], "month_day": [(101, 1231)]}.get(span.kind, [])


_LEAST = {
    ("weekday",): Point(weekday=0),
    ("day",): Point(day=DaySpec("day", 1)),
    ("month",): Point(month=1),
    ("month", "day"): Point(month=1, day=DaySpec("day", 1)),
    ("year",): Point(year=1),
    ("year", "month"): Point(year=1, month=1),
    ("year", "month", "day"): Point(year=1, month=1, day=DaySpec("day", 1)),
}
_MOST = {
    ("weekday",): Point(weekday=6),
    ("day",): Point(day=DaySpec("last")),
    ("month",): Point(month=12),
    ("month", "day"): Point(month=12, day=DaySpec("day", 31)),
    ("year",): Point(year=9999),
    ("year", "month"): Point(year=9999, month=12),
    ("year", "month", "day"): Point(year=9999, month=12, day=DaySpec("day", 31)),
}


def _day_range(low: Point | None, high: Point | None, window: Window, expression: str) -> DayRange:
    units = (low or high or Point()).units
    if units not in _LEAST:
        what = f"'{(low or high or Point()).text}'"
        raise fail(
            what, window.place, " is no end of a range; use a day, a month or a date", expression
        )
    low, high = low or _LEAST[units], high or _MOST[units]
    if high.units != units:
        raise fail(
            f"the range from '{low.text}' to '{high.text}'",
            window.place,
            " mixes units; name both ends alike",
            expression,
        )
    first, last = _as_range(low), _as_range(high)
    if first is None or last is None:
        odd = low if first is None else high
        raise fail(f"'{odd.text}'", window.place, " is no end of a range", expression)
    if first.kind in ("date", "year") and first.low > last.high:  # type: ignore[operator]
        raise fail(f"'{high.text}'", high.place, f" is before '{low.text}'", expression)
    return DayRange(first.kind, first.low, last.high)


class TimeWindow(NamedTuple):
    """Spans of seconds within the ``cell`` that the window's first ``unit`` counts in."""

    unit: str
    cell: int
    spans: Spans


def time_window(window: Window, expression: str) -> TimeWindow:
    """The spans of a window of times. Its last minute (hour, second) is in it as a whole."""
    found: list[tuple[int, int]] = []
    unit = ""
    for low, high in window.ranges:
        for end in (low, high):
            if end is None:
                continue
            if any(part in DATE_UNITS for part in end.units):
                hint = (
                    "; give days and times a range each: between mon and fri between 9:00 and 17:00"
                )
                raise fail(f"'{end.text}'", end.place or window.place, hint, expression)
            if unit and end.units[0] != unit:
                hint = f" is of another unit than the {unit} before"
                raise fail(f"'{end.text}'", end.place or window.place, hint, expression)
            unit = end.units[0]
        cell = _CELLS[unit]
        begin = 0 if low is None else _second(low)
        until = cell if high is None else _second(high) + _SECONDS[high.units[-1]]
        found += [(begin, until)] if begin < until else [(0, until), (begin, cell)]
    return TimeWindow(unit, _CELLS[unit], merged(found))


def _second(point: Point) -> int:
    return (point.hour or 0) * 3600 + (point.minute or 0) * 60 + (point.second or 0)


def merged(found: Iterable[tuple[int, int]]) -> Spans:
    """Sorted, and joined where they meet."""
    whole: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if whole and low <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], high))
        else:
            whole.append((low, high))
    return tuple(whole)


def spans(window: TimeWindow, within: int = 86_400) -> Spans:
    """The window's spans in each of its cells within ``within`` seconds."""
    return merged(
        (begin + low, begin + high)
        for begin in range(0, within, window.cell)
        for low, high in window.spans
    )


def intersect(one: Spans, other: Spans) -> Spans:
    """What is in both."""
    found = []
    here = there = 0
    while here < len(one) and there < len(other):
        low, high = max(one[here][0], other[there][0]), min(one[here][1], other[there][1])
        if low < high:
            found.append((low, high))
        if one[here][1] < other[there][1]:
            here += 1
        else:
            there += 1
    return tuple(found)
