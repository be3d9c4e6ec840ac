"""Real time, step by step: ``every 90 minutes``, also within windows.

Without windows the steps are counted from an anchor and nothing else matters: clocks that change
change no step. With windows (``between 09:00 and 18:00 on mon``) each window has a pace of its
own. Its first slot is a wall time, the window's beginning, and follows the policy for clocks that
go forward; from there on the steps are real time, and those count at which the clock shows a time
in the window. A window that clocks going back open a second time goes on with its first pace.
"""

from __future__ import annotations

from bisect import bisect_right

from mesh.schedule.days import Days, DaysLike, Runs, next_day
from mesh.schedule.zones import Zone

__all__ = ["WHOLE_DAY", "Pace", "WindowedPace"]

_DAY = 86_400
_SECOND = 1_000_000
WHOLE_DAY: tuple[tuple[int, int], ...] = ((0, _DAY),)
# How many windows in a row may hold no slot at all before we believe that none ever will.
_PATIENCE = 400


class Pace:
    """Every ``step`` microseconds, for ever, before and after the instant ``anchor``."""

    __slots__ = ("anchor", "step")

    def __init__(self, step: int, anchor: int) -> None:
        self.step = step
        self.anchor = anchor

    def after(self, moment: int, zone: Zone) -> int | None:
        """The first slot strictly after ``moment``."""
        return moment + self.step - (moment - self.anchor) % self.step


class WindowedPace:
    """Every ``step`` microseconds in each window.

    A window is a run of wall time: the seconds of the day in ``spans`` (each from its first to
    before its second, sorted, apart from each other) on ``days``; spans that meet at midnight
    make one window. ``start``, an instant in microseconds, is where the pace of the window
    begins that it lies in. ``cell`` and ``phase`` say where in a window the first slot may be:
    at the first wall time whose rest by ``cell`` seconds is ``phase``.
    """

    __slots__ = ("_runs", "cell", "days", "phase", "spans", "start", "step", "window_of_start")

    def __init__(
        self,
        step: int,
        zone: Zone,
        *,
        days: DaysLike | None = None,
        spans: tuple[tuple[int, int], ...] = WHOLE_DAY,
        start: int | None = None,
        cell: int = 1,
        phase: int = 0,
    ) -> None:
        self.step = step
        self.days: DaysLike = Days() if days is None else days
        self._runs = Runs(self.days)
        self.spans = spans
        self.start = start
        self.cell = cell
        self.phase = phase
        self.window_of_start: int | None = None
        if start is not None:
            wall = start // _SECOND + zone.offset(start // _SECOND)
            if self._open_from(wall) == wall:
                self.window_of_start = self._begin(wall)

    def after(self, moment: int, zone: Zone) -> int | None:
        """The first slot strictly after ``moment``."""
        here = moment + 1
        for _ in range(_PATIENCE):
            instant = here // _SECOND
            offset = zone.offset(instant)
            wall = instant + offset
            opens = self._open_from(wall)
            if opens is None:
                return None
            begin = self._begin(opens)
            first = self._first_slot(begin, zone)
            if first is not None and first > moment:
                back = self._opened_again(instant, offset, first, zone) if opens > wall else None
                if back is None:
                    return first
                here = back * _SECOND
                continue
            if first is None:
                here = self._leave(opens, here, here + _DAY * _SECOND, offset, zone)
            elif opens > wall:
                # Thrown back out of the window by clocks that went back: it will open again.
                here = (opens - offset) * _SECOND
            else:
                slot = here + -(here - first) % self.step
                if self._in_window(slot, begin, zone):
                    return slot
                here = self._leave(opens, here, slot, offset, zone)
        return None

    def _opened_again(self, instant: int, offset: int, first: int, zone: Zone) -> int | None:
        """When clocks go back, between a window that is over and the ``first`` slot of the next,
        into the one that is over."""
        last = first // _SECOND
        if zone.offset(last) >= offset:
            return None
        change = zone.change(instant, last)
        wall = change + zone.offset(change)
        is_open = change > instant and self._open_from(wall) == wall
        return change if is_open else None

    def _first_slot(self, begin: int, zone: Zone) -> int | None:
        """The first slot of the window that begins at the wall time ``begin``, if it has any."""
        if begin == self.window_of_start and self.start is not None:
            instant = -(-self.start // _SECOND)
            wall = instant + zone.offset(instant)
            away = (self.phase - wall) % self.cell
            first = self.start if self.cell == 1 else (instant + away) * _SECOND
            if first >= zone.first(begin) * _SECOND:
                return first if not away or self._begins_at(wall + away, begin) else None
        aligned = begin + (self.phase - begin) % self.cell
        if aligned != begin and not self._begins_at(aligned, begin):
            return None
        return zone.first(aligned) * _SECOND

    def _in_window(self, slot: int, begin: int, zone: Zone) -> bool:
        instant = slot // _SECOND
        return self._begins_at(instant + zone.offset(instant), begin)

    def _begins_at(self, wall: int, begin: int) -> bool:
        """Whether ``wall`` is in the window that begins at ``begin``."""
        return wall >= begin and self._open_from(wall) == wall and self._begin(wall) == begin

    def _leave(self, wall: int, here: int, slot: int, offset: int, zone: Zone) -> int:
        """The first instant, after ``here``, out of the window that ``wall`` lies in.

        Or that of clocks going back before ``slot``: either way a place to look anew from.
        """
        end = self._end(wall)
        left = max(zone.first(end), here // _SECOND + 1)
        last = min(left, slot // _SECOND)
        if zone.offset(last) < offset and last > here // _SECOND:
            left = min(left, zone.change(here // _SECOND, last))
        elif left <= here // _SECOND + 1:
            left = max(left, end - offset)
        return max(left * _SECOND, here + 1)

    def _open_from(self, wall: int) -> int | None:
        """The first wall time in any window, ``wall`` or later."""
        number, second = divmod(wall, _DAY)
        day = next_day(self.days, number)
        if day is None:
            return None
        if day == number:
            for low, high in self.spans[max(bisect_right(self.spans, (second,)) - 1, 0) :]:
                if second < high:
                    return day * _DAY + max(low, second)
            day = next_day(self.days, number + 1)
            if day is None:
                return None
        return day * _DAY + self.spans[0][0]

    def _begin(self, wall: int) -> int:
        """Where the window begins that ``wall`` lies in."""
        day, second = divmod(wall, _DAY)
        low = self.spans[bisect_right(self.spans, (second, _DAY + 1)) - 1][0]
        if low > 0 or self.spans[-1][1] < _DAY:
            return day * _DAY + low
        if self.spans == WHOLE_DAY:
            return self._runs.begin(day) * _DAY
        if next_day(self.days, day - 1) == day - 1:
            return (day - 1) * _DAY + self.spans[-1][0]
        return day * _DAY

    def _end(self, wall: int) -> int:
        """The first wall time after the window that ``wall`` lies in."""
        day, second = divmod(wall, _DAY)
        high = self.spans[bisect_right(self.spans, (second, _DAY + 1)) - 1][1]
        while high == _DAY and self.spans[0][0] == 0 and next_day(self.days, day + 1) == day + 1:
            day += 1
            high = self.spans[0][1]
        return day * _DAY + high
