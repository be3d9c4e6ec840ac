"""Which times of a day a schedule names, in seconds after midnight."""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

from mesh.schedule.days import low_bit

__all__ = ["Fields", "Listed", "Stepped", "TimesLike", "Windowed"]


class TimesLike(Protocol):
    """A set of times of the day. Never empty."""

    @property
    def first(self) -> int:
        """The earliest."""
        ...

    def next(self, second: int) -> int | None:
        """The earliest that is not before ``second``."""
        ...


class Fields:
    """Every combination of some hours, minutes and seconds; each of them is a set of bits."""

    __slots__ = ("first", "hours", "minutes", "seconds")

    def __init__(self, hours: int, minutes: int, seconds: int = 1) -> None:
        self.hours = hours
        self.minutes = minutes
        self.seconds = seconds
        self.first = low_bit(hours) * 3600 + low_bit(minutes) * 60 + low_bit(seconds)

    def next(self, second: int) -> int | None:
        """The earliest that is not before ``second``."""
        hour, rest = divmod(second, 3600)
        if self.hours >> hour & 1:
            minute, rest = divmod(rest, 60)
            if self.minutes >> minute & 1 and (bits := self.seconds >> rest):
                return second + low_bit(bits)
            if bits := self.minutes >> minute + 1:
                minute += 1 + low_bit(bits)
                return hour * 3600 + minute * 60 + low_bit(self.seconds)
        if bits := self.hours >> hour + 1:
            return self.first + (hour + 1 + low_bit(bits) - low_bit(self.hours)) * 3600
        return None


class Listed:
    """Just these times."""

    __slots__ = ("first", "times")

    def __init__(self, times: tuple[int, ...]) -> None:
        self.times = tuple(sorted(set(times)))
        self.first = self.times[0]

    def next(self, second: int) -> int | None:
        """The earliest that is not before ``second``."""
        place = bisect_left(self.times, second)
        return self.times[place] if place < len(self.times) else None


class Stepped:
    """Every ``step`` seconds in each of some spans, from its first second to its last.

    The spans are sorted and don't overlap; there is a slot at the beginning of each.
    """

    __slots__ = ("first", "spans", "step")

    def __init__(self, step: int, spans: tuple[tuple[int, int], ...]) -> None:
        self.step = step
        self.spans = spans
        self.first = spans[0][0]

    def next(self, second: int) -> int | None:
        """The earliest that is not before ``second``."""
        for low, high in self.spans[bisect_left(self.spans, second, key=_end) :]:
            found = low if second <= low else second + (low - second) % self.step
            if found <= high:
                return found
        return None


class Windowed:
    """Those of other times that are in one of some windows ``(low, high)``, both included.

    The windows are sorted and don't overlap. Raises ``ValueError`` if no time is left.
    """

    __slots__ = ("first", "times", "windows")

    def __init__(self, times: TimesLike, windows: tuple[tuple[int, int], ...]) -> None:
        self.times = times
        self.windows = windows
        first = self.next(0)
        if first is None:
            raise ValueError("no time is in any of the windows")
        self.first = first

    def next(self, second: int) -> int | None:
        """The earliest that is not before ``second``."""
        place = bisect_left(self.windows, second, key=_end)
        for low, high in self.windows[place:]:
            found = self.times.next(max(second, low))
            if found is None:
                return None
            if found <= high:
                return found
        return None


def _end(window: tuple[int, int]) -> int:
    return window[1]
