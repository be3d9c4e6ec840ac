"""Which days of a month a schedule names, as bits: bit 0 is the 1st.

Weekdays are numbered as in cron: Sunday is 0. A day of the month that depends on the month
(the last, the second Tuesday) is a ``DaySpec``. Days are counted from 1970-01-01, which is 0.
"""

from __future__ import annotations

from calendar import isleap
from collections.abc import Sequence
from datetime import date
from functools import reduce
from typing import Literal, NamedTuple, Protocol

__all__ = [
    "ALL_DAYS",
    "ALL_MONTHS",
    "ALL_WEEKDAYS",
    "UNIX",
    "DayRange",
    "DaySpec",
    "Days",
    "DaysLike",
    "Runs",
    "day_number",
    "length",
    "low_bit",
    "next_day",
]

UNIX = date(1970, 1, 1).toordinal()
ALL_MONTHS = 0b1_1111_1111_1110
ALL_WEEKDAYS = 0b111_1111
ALL_DAYS = 2**31 - 1
_LENGTHS = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EVERY_SEVENTH = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28
# The calendar repeats after 400 years.
_CYCLE = 400


def length(year: int, month: int) -> int:
    """How many days a month has."""
    return 29 if month == 2 and isleap(year) else _LENGTHS[month]


def low_bit(bits: int) -> int:
    """The place of the lowest bit that is set. ``bits`` must not be 0."""
    return (bits & -bits).bit_length() - 1


def day_number(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    return date(year, month, day).toordinal() - UNIX


class DaySpec(NamedTuple):
    """A day that is worked out for each month. ``shift`` days are added in the end.

    =============== ==================================================================
    ``day``         day ``number``; none in a month that is shorter
    ``upto``        day ``number``, or the last of a month that is shorter
    ``last``        the last day
    ``nearest``     the weekday (Monday to Friday) nearest to day ``number``, in the month
    ``nearest_in``  the same, counting from the last day where the month is shorter
    ``first_work``  the first weekday
    ``last_work``   the last weekday
    ``nth``         the ``number``-th ``weekday``; none where there is no fifth
    ``last_of``     the last ``weekday``
    =============== ==================================================================

    With ``clamp`` the shift stays in the month; without, a day outside of it is none.
    """

    kind: Literal[
        "day", "upto", "last", "nearest", "nearest_in", "first_work", "last_work", "nth", "last_of"
    ]
    number: int = 0
    weekday: int = 0
    shift: int = 0
    clamp: bool = True

    def resolve(self, first: int, days: int) -> int:
        """The day of a month that begins on weekday ``first`` and has ``days``; 0 for none."""
        found = self._resolve(first, days)
        if not found or not self.shift:
            return found
        found += self.shift
        if self.clamp:
            return max(1, min(found, days))
        return found if 1 <= found <= days else 0

    def _resolve(self, first: int, days: int) -> int:
        number = self.number
        match self.kind:
            case "day":
                return number if number <= days else 0
            case "upto":
                return min(number, days)
            case "last":
                return days
            case "nearest":
                return _weekday_near(number, first, days) if number <= days else 0
            case "nearest_in":
                return _weekday_near(min(number, days), first, days)
            case "first_work":
                return _weekday_near(1, first, days)
            case "last_work":
                return _weekday_near(days, first, days)
            case "nth":
                found = (self.weekday - first) % 7 + 7 * number - 6
                return found if found <= days else 0
            case "last_of":
                return days - (first + days - 1 - self.weekday) % 7


def _weekday_near(day: int, first: int, days: int) -> int:
    weekday = (first + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else 3
    if weekday == 0:
        return day + 1 if day < days else days - 2
    return day


class DayRange(NamedTuple):
    """Days from ``low`` to ``high``, both included; from high on and up to low if reversed.

    ``weekday``, ``month`` and ``year`` ranges hold numbers; ``day`` ranges hold ``DaySpec``;
    ``month_day`` ranges hold ``month * 100 + day``; ``date`` ranges hold ``year * 10000 +
    month * 100 + day`` (never reversed).
    """

    kind: Literal["weekday", "day", "month", "month_day", "date", "year"]
    low: int | DaySpec
    high: int | DaySpec

    def bits(self, year: int, month: int, first: int, days: int) -> int:
        """The days of one month that are in the range."""
        low, high = self.low, self.high
        if isinstance(low, DaySpec) or isinstance(high, DaySpec):
            assert isinstance(low, DaySpec)
            assert isinstance(high, DaySpec)
            begin, end = low.resolve(first, days), high.resolve(first, days)
            if begin:
                return _span(begin, end or days, days)
            # A month without its 30th has no days from the 30th on; some of 30th to 5th it has.
            reversed_ = low.kind == high.kind == "day" and high.number < low.number
            return (1 << end) - 1 if reversed_ else 0
        match self.kind:
            case "weekday":
                return weekday_bits(_weekdays(low, high), first)
            case "month":
                return ALL_DAYS if _inside(month, low, high) else 0
            case "year":
                return ALL_DAYS if low <= year <= high else 0
            case "month_day":
                here = month * 100
            case _:
                here = year * 10000 + month * 100
        if self.kind == "date" and (here + 31 < low or here + 1 > high):
            return 0
        if low <= here + 1 and here + days <= high:
            return ALL_DAYS
        bits = 0
        for day in range(1, days + 1):
            if _inside(here + day, low, high):
                bits |= 1 << day - 1
        return bits


def _inside(value: int, low: int, high: int) -> bool:
    return low <= value <= high if low <= high else value >= low or value <= high


def _weekdays(low: int, high: int) -> int:
    bits = 0
    for step in range((high - low) % 7 + 1):
        bits |= 1 << (low + step) % 7
    return bits


def _span(low: int, high: int, days: int) -> int:
    full = (1 << days) - 1
    if low <= high:
        return full >> (low - 1) << (low - 1) & (1 << high) - 1
    return full >> (low - 1) << (low - 1) | (1 << high) - 1


def weekday_bits(weekdays: int, first: int) -> int:
    """The days of a month that begins on ``first`` which fall on any of ``weekdays``."""
    bits = 0
    for weekday in range(7):
        if weekdays >> weekday & 1:
            bits |= _EVERY_SEVENTH << (weekday - first) % 7
    return bits


class DaysLike(Protocol):
    """A set of days."""

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        ...

    def next_month(self, year: int, month: int) -> tuple[int, int] | None:
        """The first month, this one or a later one, that has a day of the set.

        ``None``: there will be none any more. Takes a few milliseconds at most.
        """
        ...


class Days:
    """Days by month, day of the month and weekday, as cron's three fields name them.

    ``days`` and ``day_specs`` together are the days of the month, ``weekdays`` and
    ``weekday_specs`` the days of the week; a day must be in both, or with ``either`` in one of
    them. Each of ``ranges`` is a choice: a day must be in one range of each. None is before
    ``from_year`` or after ``upto_year``.
    """

    __slots__ = (
        "_shapes",
        "_some",
        "day_specs",
        "days",
        "either",
        "from_year",
        "months",
        "ranges",
        "upto_year",
        "weekday_specs",
        "weekdays",
        "years",
    )

    def __init__(
        self,
        months: int = ALL_MONTHS,
        days: int = ALL_DAYS,
        weekdays: int = ALL_WEEKDAYS,
        *,
        day_specs: Sequence[DaySpec] = (),
        weekday_specs: Sequence[DaySpec] = (),
        either: bool = False,
        years: frozenset[int] | None = None,
        from_year: int = 1,
        upto_year: int = 9999,
        ranges: Sequence[Sequence[DayRange]] = (),
    ) -> None:
        self.months = months
        self.days = days
        self.weekdays = weekdays
        self.day_specs = day_specs
        self.weekday_specs = weekday_specs
        self.either = either
        self.years = years
        self.from_year = from_year
        self.upto_year = upto_year
        self.ranges = ranges
        # What a month looks like depends on its first weekday and its length alone.
        self._shapes: dict[int, int] = {}
        self._some: bool | None = None

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        if not self.months >> month & 1 or (self.years is not None and year not in self.years):
            return 0
        first = date(year, month, 1).toordinal() % 7
        days = 29 if month == 2 and isleap(year) else _LENGTHS[month]
        bits = self._shapes.get(days << 3 | first)
        if bits is None:
            bits = self._shapes[days << 3 | first] = self._shape(first, days)
        for choice in self.ranges:
            if not bits:
                return 0
            within = 0
            for span in choice:
                within |= span.bits(year, month, first, days)
            bits &= within
        return bits

    def _shape(self, first: int, days: int) -> int:
        bits = self.days
        for spec in self.day_specs:
            if day := spec.resolve(first, days):
                bits |= 1 << day - 1
        if self.weekdays != ALL_WEEKDAYS or self.weekday_specs or self.either:
            of_week = weekday_bits(self.weekdays, first)
            for spec in self.weekday_specs:
                if day := spec.resolve(first, days):
                    of_week |= 1 << day - 1
            bits = bits | of_week if self.either else bits & of_week
        return bits & (1 << days) - 1

    def next_month(self, year: int, month: int) -> tuple[int, int] | None:
        """The first month, this one or a later one, that has a day of the set."""
        if year < self.from_year:
            year, month = self.from_year, 1
        last = min(year + _CYCLE, self.upto_year)
        if self.years is not None:
            last = min(last, max(self.years))
            year, month = (year, month) if year >= min(self.years) else (min(self.years), 1)
        else:
            if self._some is None:
                self._some = self._possible()
            if not self._some:
                return None
        while year <= last:
            months = self.months >> month
            if not months:
                year, month = year + 1, 1
                continue
            month += low_bit(months)
            if self.mask(year, month):
                return year, month
            month += 1
            if month > 12:
                year, month = year + 1, 1
        return None

    def _possible(self) -> bool:
        """Whether any month has such a day, if years were of no matter.

        Every month of every length begins on each weekday in some year.
        """
        # A range of dates may hold the day; whether it does, the search will tell.
        ranges = [
            choice
            for choice in self.ranges
            if not any(span.kind in ("date", "year") for span in choice)
        ]
        for month in range(1, 13):
            if not self.months >> month & 1:
                continue
            days = 29 if month == 2 else _LENGTHS[month]
            for size in range(days - (month == 2), days + 1):
                for first in range(7):
                    bits = self._shape(first, size)
                    for choice in ranges:
                        bits &= reduce(
                            int.__or__, (span.bits(0, month, first, size) for span in choice)
                        )
                    if bits:
                        return True
        return False


def next_day(days: DaysLike, number: int) -> int | None:
    """The first day of the set that is ``number`` or later; ``None`` when there is none."""
    try:
        start = date.fromordinal(number + UNIX)
    except (ValueError, OverflowError):
        if number + UNIX > 1:
            return None
        start = date.min
        number = 1 - UNIX
    bits = days.mask(start.year, start.month) >> (start.day - 1)
    if bits:
        return number + low_bit(bits)
    year, month = (start.year, start.month + 1) if start.month < 12 else (start.year + 1, 1)
    if year > 9999 or (found := days.next_month(year, month)) is None:
        return None
    year, month = found
    return date(year, month, 1).toordinal() - UNIX + low_bit(days.mask(year, month))


class Runs:
    """Where runs of consecutive days of a set begin. Remembers the months that it has seen."""

    __slots__ = ("_begins", "days")

    def __init__(self, days: DaysLike) -> None:
        self.days = days
        # By the number of a month's first day, for months that a run leads into.
        self._begins: dict[int, int] = {}

    def begin(self, day: int) -> int:
        """The first of the consecutive days that lead to ``day``, all of them in the set.

        Days before 1970 are not looked at, unless ``day`` is one.
        """
        at = date.fromordinal(day + UNIX)
        year, month, upto = at.year, at.month, at.day
        led_into: list[int] = []
        while True:
            first = date(year, month, 1).toordinal() - UNIX
            gaps = ~self.days.mask(year, month) & (1 << upto) - 1
            if gaps:
                found = first + gaps.bit_length()
                break
            if (first <= 0 and day >= 0) or year == 1:
                found = first
                break
            if first in self._begins:
                found = self._begins[first]
                break
            led_into.append(first)
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
            upto = length(year, month)
        self._begins.update(dict.fromkeys(led_into, found))
        return found
