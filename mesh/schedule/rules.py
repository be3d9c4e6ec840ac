"""From sets of wall times to instants: the daylight-saving policy.

Clocks forward: all slots in the gap fire once, at the first instant after it. Clocks back: a
fixed schedule fires at the first of the two passes, an interval in both. ``Dated`` applies this
to any set of wall times. ``Pace`` (in ``pace.py``) steps real time, so it needs little of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mesh.schedule.days import DaysLike, next_day
from mesh.schedule.times import TimesLike
from mesh.schedule.zones import Zone

__all__ = ["Dated", "Either", "Rule"]

_DAY = 86_400


class Rule(Protocol):
    """When a schedule fires, whatever its notation was."""

    def after(self, moment: int, zone: Zone) -> int | None:
        """The first slot strictly after ``moment``, both in microseconds since 1970 UTC.

        ``None``: there is none any more.
        """
        ...


class Dated:
    """Wall times: some times of the day on some days.

    ``fixed`` says how it takes clocks that go back: see the module.
    """

    __slots__ = ("days", "fixed", "times")

    def __init__(self, days: DaysLike, times: TimesLike, *, fixed: bool) -> None:
        self.days = days
        self.times = times
        self.fixed = fixed

    def after(self, moment: int, zone: Zone) -> int | None:
        """The first slot strictly after ``moment``."""
        instant = moment // 1_000_000
        offset = zone.offset(instant)
        wall = self._next_wall(instant + offset + 1)
        found = (self._fixed if self.fixed else self._interval)(wall, instant, offset, zone)
        return None if found is None else found * 1_000_000

    def _fixed(self, wall: int | None, instant: int, offset: int, zone: Zone) -> int | None:
        while wall is not None:
            found = zone.first(wall)
            if found > instant:
                return found
            # We are in the second pass of times shown twice: go on where it ends.
            before, after = zone.offsets(wall)
            wall = self._next_wall(max(wall, zone.change(wall - before, wall - after) + before))
        return None

    def _interval(self, wall: int | None, instant: int, offset: int, zone: Zone) -> int | None:
        found = None
        if wall is not None:
            before, after = zone.offsets(wall)
            if before < after:
                found = zone.change(wall - after, wall - before)
            else:
                found = wall - before if wall - before > instant else wall - after
        # Clocks that go back soon after may show again what they show now, or showed before.
        if zone.offset(instant + _DAY) < offset:
            change = zone.change(instant, instant + _DAY)
            again = self._next_wall(change + zone.offset(change))
            if again is not None and again < change + offset:
                second_pass = again - zone.offset(change)
                return second_pass if found is None else min(found, second_pass)
        return found

    def _next_wall(self, wall: int) -> int | None:
        """The first wall time of the set that is ``wall`` or later."""
        number, second = divmod(wall, _DAY)
        day = next_day(self.days, number)
        if day is None:
            return None
        if day == number:
            time = self.times.next(second)
            if time is not None:
                return day * _DAY + time
            day = next_day(self.days, number + 1)
            if day is None:
                return None
        return day * _DAY + self.times.first


class Either:
    """The slots of several rules together."""

    __slots__ = ("rules",)

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules

    def after(self, moment: int, zone: Zone) -> int | None:
        """The first slot strictly after ``moment``."""
        found = [slot for rule in self.rules if (slot := rule.after(moment, zone)) is not None]
        return min(found, default=None)
