"""What a ``Sentence`` means: the rule that says when it fires.

Below a day ``every`` is an interval. Anchored, or with a step that divides the hour and no start,
it falls on times of the clock; else it steps real time. From a day on it names days, at fixed
times. What it leaves open comes from the start, or is the least: Sunday, the 1st, 00:00.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from mesh.errors import InvalidSchedule
from mesh.schedule.choices import (
    DayChoice,
    Parts,
    Spans,
    TimeWindow,
    day_window,
    days_of,
    intersect,
    is_time,
    merged,
    month_bits,
    parts_of,
    spans,
    time_window,
)
from mesh.schedule.days import DayRange, Days, DaysLike, DaySpec, next_day
from mesh.schedule.pace import WHOLE_DAY, Pace, WindowedPace
from mesh.schedule.paced import FirstOfMonth, FirstOfYear, PacedDays, PacedMonths, PacedWeeks
from mesh.schedule.rules import Dated, Either, Rule
from mesh.schedule.sentence import Every, Point, Sentence
from mesh.schedule.times import Fields, Listed, Stepped, TimesLike, Windowed
from mesh.schedule.vocabulary import UNIT_SECONDS, fail
from mesh.schedule.zones import EPOCH, Zone

__all__ = ["meaning"]

_DAY = 86_400
_SECOND = 1_000_000
_ALL_HOURS = (1 << 24) - 1
_ALL_SIXTY = (1 << 60) - 1
# By this offset of a zone, steps that don't divide the hour are counted from its 1970-01-01T00:00:
# several zones kept odd ones in 1970 itself.
_MILLENNIUM = 946_684_800

Time = tuple[int | None, int | None, int | None]


def meaning(sentence: Sentence, zone: Zone, start: int | None, expression: str) -> Rule:
    """The rule of a sentence; ``start`` in microseconds. Raises ``InvalidSchedule``."""
    return _Meaning(sentence, zone, start, expression).rule()


class _Start(NamedTuple):
    """The wall time of a schedule's start."""

    day: int
    second: int
    year: int
    month: int
    of_month: int
    weekday: int


class _Meaning:
    def __init__(self, sentence: Sentence, zone: Zone, start: int | None, expression: str) -> None:
        self.every = sentence.every
        self.zone = zone
        self.start = start
        self.expression = expression
        self.readings = parts_of(sentence.ons, expression)
        self.times: list[TimeWindow] = []
        self.days: list[DayChoice] = []
        for window in sentence.windows:
            if is_time(window):
                self.times.append(time_window(window, expression))
            else:
                choice = day_window(window, expression)
                self.days += [choice] if choice else []
        self.begins = None if start is None else self._begins(start)

    def _begins(self, start: int) -> _Start:
        instant = -(-start // _SECOND)
        wall = instant + self.zone.offset(instant)
        day, second = divmod(wall, _DAY)
        at = EPOCH.fromordinal(EPOCH.toordinal() + day)
        return _Start(day, second, at.year, at.month, at.day, at.isoweekday() % 7)

    def fail(self, what: str, place: int, hint: str = "") -> InvalidSchedule:
        return fail(what, place, hint, self.expression)

    def rule(self) -> Rule:
        rules: list[Rule] = []
        for parts in self.readings:
            if self.every is None:
                rules += self._plain(parts)
            elif self.every.unit in UNIT_SECONDS:
                rules += self._interval(parts, self.every)
            else:
                rules += self._dates(parts, self.every)
        if not rules:
            raise InvalidSchedule("the ranges leave no time at all", self.expression)
        return rules[0] if len(rules) == 1 else Either(tuple(rules))

    # Without every.

    def _plain(self, parts: Parts) -> list[Rule]:
        days = days_of(parts.days)
        return [
            Dated(days, times, fixed=fixed)
            for times, fixed in _clocks(parts.times, open_is_any=True)
        ]

    # Every day, week, month or year.

    def _dates(self, parts: Parts, every: Every) -> list[Rule]:
        clocks = [times for times, _ in _clocks(parts.times, open_is_any=False)]
        allowed = self._spans(self.times)
        if not parts.times:
            second = allowed[0][0]
            if self.begins and any(low <= self.begins.second < high for low, high in allowed):
                second = self.begins.second
            clocks = [Listed((second,))]
        elif allowed != WHOLE_DAY:
            try:
                windows = tuple((low, high - 1) for low, high in allowed)
                clocks = [Windowed(times, windows) for times in clocks]
            except ValueError:
                place = parts.times[0][0].place
                raise self.fail("the time", place, " is outside of the range of times") from None
        return [Dated(self._days(parts, every, times), times, fixed=True) for times in clocks]

    def _days(self, parts: Parts, every: Every, times: TimesLike) -> DaysLike:
        said = {unit: point for choice in parts.days for point in choice for unit in point.units}
        if every.step > 1 and every.unit in said:
            raise self.fail(
                f"a choice of {every.unit}",
                said[every.unit].place,
                f" goes against every {every.step} {every.unit}s",
            )
        match every.unit:
            case "day":
                return self._by_days(parts, every, times)
            case "week":
                return self._by_weeks(parts, every, times, said)
            case "month":
                return self._by_months(parts, every, times, said)
            case _:
                return self._by_years(parts, every, times, said)

    def _by_days(self, parts: Parts, every: Every, times: TimesLike) -> DaysLike:
        base = days_of(parts.days, self.days)
        if every.anchor is not None:
            return days_of(parts.days, [*self.days, self._anchored_days(every, every.anchor)])
        if every.step == 1:
            return base
        runs = bool(parts.days or self.days)
        return PacedDays(base, every.step, self._first(base, times), runs=runs)

    def _anchored_days(self, every: Every, anchor: int) -> DayChoice:
        if every.step > 31:
            raise self._too_long(every, "day of the month")
        days = range((anchor - 1) % every.step + 1, 32, every.step)
        return tuple(DayRange("day", DaySpec("day", day), DaySpec("day", day)) for day in days)

    def _too_long(self, every: Every, anchor: str) -> InvalidSchedule:
        what = f"every {every.step} {every.unit}s"
        return self.fail(
            what, every.place, f" cannot be anchored on a {anchor}; give a start instead"
        )

    def _by_weeks(
        self, parts: Parts, every: Every, times: TimesLike, said: dict[str, Point]
    ) -> DaysLike:
        named = every.anchor if every.anchor is not None else every.weekday
        if named is not None and "weekday" in said:
            raise self.fail(
                "a second weekday", said["weekday"].place, "; name one, or use on alone"
            )
        if every.step > 1 and "day" in said:
            hint = f" goes against every {every.step} weeks; use every month"
            raise self.fail("a day of the month", said["day"].place, hint)
        choices = parts.days
        if named is None and "weekday" not in said and "day" not in said:
            named = self._open_weekday()
        if named is not None:
            choices = (*choices, (Point(weekday=named),))
        base = days_of(choices, self.days)
        if every.step == 1:
            return base
        others = [choice for choice in parts.days if choice[0].units != ("weekday",)]
        ranges = [choice for choice in self.days if {span.kind for span in choice} != {"weekday"}]
        within = days_of(others, ranges) if others or ranges else None
        return PacedWeeks(base, every.step, self._first(base, times), within)

    def _open_weekday(self) -> int:
        """The start's weekday, or else Sunday; the first that the ranges allow."""
        ranges = [choice for choice in self.days if {span.kind for span in choice} == {"weekday"}]
        allowed = days_of((), ranges).weekdays
        wanted = ([] if self.begins is None else [self.begins.weekday]) + [*range(7)]
        return next((day for day in wanted if allowed >> day & 1), 0)

    def _by_months(
        self, parts: Parts, every: Every, times: TimesLike, said: dict[str, Point]
    ) -> DaysLike:
        base = self._in_months(parts.days, said)
        if every.step == 1:
            return base
        ranges = [choice for choice in self.days if {span.kind for span in choice} == {"month"}]
        months = None
        for choice in ranges:
            months = month_bits(choice) & (-1 if months is None else months)
        if every.anchor is not None:
            year, month = (1970, 1) if self.begins is None else self.begins[2:4]
            phase = (year + (every.anchor < month)) * 12 + every.anchor - 1
            return PacedMonths(base, every.step, phase, 12)
        at = EPOCH.fromordinal(EPOCH.toordinal() + self._first(base, times))
        return PacedMonths(base, every.step, at.year * 12 + at.month - 1, 12, months)

    def _in_months(self, choices: Sequence[Sequence[Point]], said: dict[str, Point]) -> DaysLike:
        """The days of each month: those that are named, or else one."""
        if "day" in said or "weekday" in said:
            return days_of(choices, self.days)
        if any({span.kind for span in choice} & {"day", "weekday"} for choice in self.days):
            return FirstOfMonth(days_of(choices, self.days))
        day = DaySpec("upto", 1 if self.begins is None else self.begins.of_month)
        return days_of((*choices, (Point(day=day),)), self.days)

    def _by_years(
        self, parts: Parts, every: Every, times: TimesLike, said: dict[str, Point]
    ) -> DaysLike:
        base: DaysLike
        kinds = {span.kind for choice in self.days for span in choice} - {"year"}
        if "month" in said:
            base = self._in_months(parts.days, said)
        elif "weekday" in said and not kinds:
            hint = "; say the month too, as in 'in jan', or use every week"
            raise self.fail("a weekday of the year", said["weekday"].place, hint)
        elif kinds:
            base = days_of(parts.days, self.days)
            base = base if "day" in said or "weekday" in said else FirstOfYear(base)
        else:
            month = Point(month=1 if self.begins is None else self.begins.month)
            base = self._in_months((*parts.days, (month,)), said)
        if every.step == 1:
            return base
        if every.anchor is not None:
            return PacedMonths(base, every.step, every.anchor, 1)
        at = EPOCH.fromordinal(EPOCH.toordinal() + self._first(base, times))
        return PacedMonths(base, every.step, at.year, 1)

    def _first(self, days: DaysLike, times: TimesLike) -> int:
        """The day of the first occurrence, from which a pace is counted."""
        day = 0
        if self.begins is not None:
            day = self.begins.day + (times.next(self.begins.second) is None)
        found = next_day(days, day)
        return day if found is None else found

    # Every second, minute or hour.

    def _interval(self, parts: Parts, every: Every) -> list[Rule]:
        size = UNIT_SECONDS[every.unit]
        step = every.step * size
        cell = 1 if every.duration is not None else size
        coarse = [window for window in self.times if window.cell > cell]
        fine = [window for window in self.times if window.cell <= cell]
        allowed = self._spans(coarse)
        within = self._spans(fine, cell)
        days = days_of(parts.days, self.days) if parts.days or self.days else None
        found: dict[int | None, list[tuple[int, int]]] = {}
        for time, place in _times(parts.times):
            span, phase = self._of_cell(time, place, every, cell)
            if phase is None and fine:
                phase = within[0][0] if within else None
            if not within or (phase is not None and not _inside(phase, within)):
                continue
            found.setdefault(phase, []).extend(span)
        rules: list[Rule] = []
        for phase, limits in found.items():
            if narrowed := intersect(allowed, merged(limits)):
                rules += self._paced(every, step, cell, phase, days, narrowed)
        return rules

    def _of_cell(self, time: Time, place: int, every: Every, cell: int) -> tuple[Spans, int | None]:
        """What a time below ``every`` says: which part of the day, and where in each cell."""
        hour, minute, second = time
        clash = {
            3600: hour is not None,
            60: minute is not None,
            1: second is not None,
        }[cell]
        if clash:
            hint = f" goes against {every.text}; use 'from', 'upto' or 'between'"
            raise self.fail("a time", place, hint)
        phase: int | None = None
        if cell == 3600 and (minute is not None or second is not None):
            phase = (minute or 0) * 60 + (second or 0)
        elif cell == 60 and second is not None:
            phase = second
        limits: Spans = WHOLE_DAY
        if hour is not None:
            limits = ((hour * 3600, hour * 3600 + 3600),)
        if cell == 1 and minute is not None:
            minutes = spans(TimeWindow("minute", 3600, ((minute * 60, minute * 60 + 60),)))
            limits = intersect(limits, minutes)
        return limits, phase

    def _paced(
        self,
        every: Every,
        step: int,
        cell: int,
        phase: int | None,
        days: Days | None,
        limits: Spans,
    ) -> list[Rule]:
        if every.anchor is not None:
            return self._anchored(every, every.anchor, phase or 0, days, limits)
        if every.duration is None and self.start is None and 3600 % step == 0:
            firsts = [
                (low if phase is None else low + (phase - low) % cell, high - 1)
                for low, high in limits
            ]
            firsts = [(low, high) for low, high in firsts if low <= high]
            over_midnight = len(limits) > 1 and limits[0][0] == 0 and limits[-1][1] == _DAY
            if firsts and not (over_midnight and (firsts[-1][0] - firsts[0][0]) % step):
                return [Dated(days or Days(), Stepped(step, tuple(firsts)), fixed=False)]
        micro = every.duration if every.duration is not None else step * _SECOND
        if days is None and limits == WHOLE_DAY:
            return [Pace(micro, self._pace_anchor(every, cell, phase))]
        return [
            WindowedPace(
                micro,
                self.zone,
                days=days,
                spans=limits,
                start=self.start,
                cell=1 if phase is None else cell,
                phase=phase or 0,
            )
        ]

    def _pace_anchor(self, every: Every, cell: int, phase: int | None) -> int:
        if self.start is not None:
            if phase is None:
                return self.start
            instant = -(-self.start // _SECOND)
            wall = instant + self.zone.offset(instant)
            return (instant + (phase - wall) % cell) * _SECOND
        if every.duration is not None:
            return 0
        return ((phase or 0) - self.zone.offset(_MILLENNIUM)) * _SECOND

    def _anchored(
        self, every: Every, anchor: int, phase: int, days: Days | None, limits: Spans
    ) -> list[Rule]:
        size = 24 if every.unit == "hour" else 60
        if every.step > size:
            names = {"hour": "hour of the day", "minute": "minute of the hour"}
            raise self._too_long(every, names.get(every.unit, "second of the minute"))
        bits = sum(1 << value for value in range(anchor % every.step, size, every.step))
        match every.unit:
            case "hour":
                fields = Fields(bits, 1 << phase // 60, 1 << phase % 60)
            case "minute":
                fields = Fields(_ALL_HOURS, bits, 1 << phase)
            case _:
                fields = Fields(_ALL_HOURS, _ALL_SIXTY, bits)
        times: TimesLike = fields
        if limits != WHOLE_DAY:
            try:
                times = Windowed(fields, tuple((low, high - 1) for low, high in limits))
            except ValueError:
                return []
        return [Dated(days or Days(), times, fixed=False)]

    def _spans(self, windows: Sequence[TimeWindow], within: int = _DAY) -> Spans:
        """What all windows allow of a day, or of a smaller cell."""
        allowed: Spans = ((0, within),)
        for window in windows:
            allowed = intersect(allowed, spans(window, within))
        if not allowed:
            raise InvalidSchedule("the ranges of times have nothing in common", self.expression)
        return allowed


def _inside(second: int, spans: Spans) -> bool:
    return any(low <= second < high for low, high in spans)


def _times(choices: Sequence[Sequence[Point]]) -> list[tuple[Time, int]]:
    """Every combination of one point of each choice, and a column to point at."""
    found = []
    for points in product(*choices):
        hour = next((point.hour for point in points if point.hour is not None), None)
        minute = next((point.minute for point in points if point.minute is not None), None)
        second = next((point.second for point in points if point.second is not None), None)
        found.append(((hour, minute, second), points[0].place if points else 0))
    return found


def _clocks(
    choices: Sequence[Sequence[Point]], *, open_is_any: bool
) -> list[tuple[TimesLike, bool]]:
    """The times of day, and whether they are fixed: ``at minute 30`` alone means every hour's."""
    listed: list[int] = []
    fields: dict[tuple[bool, int], int] = {}
    for (hour, minute, second), _ in _times(choices):
        if hour is None and open_is_any and (minute is not None or second is not None):
            key = (minute is None, second or 0)
            fields[key] = fields.get(key, 0) | 1 << (minute or 0)
        else:
            listed.append((hour or 0) * 3600 + (minute or 0) * 60 + (second or 0))
    clocks: list[tuple[TimesLike, bool]] = [(Listed(tuple(listed)), True)] if listed else []
    for (any_minute, second), minutes in fields.items():
        times = Fields(_ALL_HOURS, _ALL_SIXTY if any_minute else minutes, 1 << second)
        clocks.append((times, False))
    return clocks
