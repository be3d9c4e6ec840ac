"""Every so many days, weeks, months or years.

A pace is counted from the first occurrence at or after the schedule's start (1970-01-01 if it has
none). Where a ``between`` or an ``on`` limits which days count, each run of such days has a pace
of its own, from its first occurrence.
"""

from __future__ import annotations

from datetime import date
from math import gcd

from mesh.schedule.days import UNIX, Days, DaysLike, Runs, length, low_bit, next_day

__all__ = ["FirstOfMonth", "FirstOfYear", "PacedDays", "PacedMonths", "PacedWeeks"]

# More months than this hold every case that the calendar has in store for any pace.
_PATIENCE = 5_000


class _Limited:
    """Some of the days of another set."""

    def __init__(self, days: DaysLike) -> None:
        self.days = days

    def mask(self, year: int, month: int) -> int:
        raise NotImplementedError

    def next_month(self, year: int, month: int) -> tuple[int, int] | None:
        """The first month, this one or a later one, that has a day of the set."""
        for _ in range(_PATIENCE):
            found = self.days.next_month(year, month)
            if found is None or self.mask(*found):
                return found
            year, month = found[0] + found[1] // 12, found[1] % 12 + 1
            if year > 9999:
                break
        return None


class FirstOfMonth(_Limited):
    """The first day of each month that is in the other set."""

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        bits = self.days.mask(year, month)
        return bits & -bits


class FirstOfYear(_Limited):
    """The first day of each year that is in the other set."""

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        bits = self.days.mask(year, month)
        if not bits or any(self.days.mask(year, earlier) for earlier in range(1, month)):
            return 0
        return bits & -bits


class PacedMonths(_Limited):
    """Every ``count`` months (``per_year`` 12) or years (1), from the one numbered ``phase``.

    ``months``, as bits, are those of each year that count, if not all: the pace begins anew with
    each run of them, but in the run with ``phase`` from there.
    """

    def __init__(
        self, days: DaysLike, count: int, phase: int, per_year: int, months: int | None = None
    ) -> None:
        super().__init__(days)
        self.count = count
        self.phase = phase
        self.per_year = per_year
        self.months = months

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        number = year if self.per_year == 1 else year * 12 + month - 1
        phase = self.phase
        if self.months is not None:
            begin = number
            while begin > number - 12 and self.months >> (begin - 1) % 12 + 1 & 1:
                begin -= 1
            if not begin <= self.phase <= number:
                phase = begin
        return self.days.mask(year, month) if (number - phase) % self.count == 0 else 0

    def next_month(self, year: int, month: int) -> tuple[int, int] | None:
        """The first month, this one or a later one, that has a day of the set."""
        if self.months is not None:
            return super().next_month(year, month)
        cycle = 400 * self.per_year
        # After so many steps the pace is back at the same place of the calendar.
        for _ in range(cycle // gcd(cycle, self.count) + 1):
            number = year if self.per_year == 1 else year * 12 + month - 1
            if wait := (self.phase - number) % self.count:
                number += wait
                year, month = (number, 1) if self.per_year == 1 else (number // 12, number % 12 + 1)
            if year > 9999:
                return None
            found = self.days.next_month(year, month)
            if found is None or self.mask(*found):
                return found
            year, month = found
        return None


class PacedDays(_Limited):
    """Every ``count`` days, counted from the day numbered ``phase``.

    With ``runs`` the pace begins anew with each run of consecutive days, but in the run with
    ``phase`` from there.
    """

    def __init__(self, days: DaysLike, count: int, phase: int, *, runs: bool) -> None:
        super().__init__(days)
        self.count = count
        self.phase = phase
        self.runs = Runs(days) if runs else None

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        bits = self.days.mask(year, month)
        if not bits:
            return 0
        zeroth = date(year, month, 1).toordinal() - UNIX
        phase = self.phase
        paced = 0
        previous = -2
        for day in range(length(year, month)):
            if not bits >> day & 1:
                continue
            if self.runs is not None and previous != day - 1:
                begin = self.runs.begin(zeroth + day)
                phase = self.phase if self._same_run(self.runs, begin) else begin
            previous = day
            if (zeroth + day - phase) % self.count == 0 and (
                not self.runs or zeroth + day >= phase
            ):
                paced |= 1 << day
        return paced

    def _same_run(self, runs: Runs, begin: int) -> bool:
        """Whether the phase lies in the run that begins on the day ``begin``."""
        if begin > self.phase or next_day(self.days, self.phase) != self.phase:
            return False
        return runs.begin(self.phase) == begin


class PacedWeeks(_Limited):
    """Every ``count`` weeks, which begin on Sundays, from the week of the day ``phase``.

    ``days`` are the weekdays that are meant, ``within`` the days that count, if not all: each
    run of them has a pace of its own.
    """

    def __init__(self, days: DaysLike, count: int, phase: int, within: Days | None) -> None:
        super().__init__(days)
        self.count = count
        self.phase = phase
        self.within = None if within is None else Runs(within)

    def mask(self, year: int, month: int) -> int:
        """The days of one month."""
        bits = self.days.mask(year, month)
        zeroth = date(year, month, 1).toordinal() - UNIX
        paced = 0
        while bits:
            day = low_bit(bits)
            bits &= bits - 1
            if (_week(zeroth + day) - _week(self._phase(zeroth + day))) % self.count == 0:
                paced |= 1 << day
        return paced

    def _phase(self, day: int) -> int:
        if self.within is None:
            return self.phase
        begin = self.within.begin(day)
        if begin <= self.phase <= day and self.within.begin(self.phase) == begin:
            return self.phase
        first = next_day(self.days, begin)
        return day if first is None else first


def _week(day: int) -> int:
    return (day + UNIX) // 7
