"""What a schedule should do, by trying every second or minute. Shares no code with ``mesh``.

It looks at the clock of a zone at every instant of some days, one after the other, so it sees
gaps and repeated hours as somebody with a watch would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import strategies as st

EPOCH = datetime(1970, 1, 1)

# Not zones, but how some systems keep other sets of them, or what this machine's clock is.
ODD = ("posix", "right", "localtime", "posixrules", "Factory")
ZONES = sorted(name for name in available_timezones() if not name.startswith(ODD))


def wall(instant: int, zone: ZoneInfo) -> datetime:
    """What the clock shows, naive."""
    return datetime.fromtimestamp(instant, zone).replace(tzinfo=None, fold=0)


def offset(instant: int, zone: ZoneInfo) -> int:
    """Seconds ahead of UTC."""
    return int((wall(instant, zone) - EPOCH).total_seconds()) - instant


@lru_cache(maxsize=64)
def transitions(name: str, year: int) -> tuple[int, ...]:
    """The instants of a year at which a zone's clock changes."""
    zone = ZoneInfo(name)
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    found = []
    low, before = begin, offset(begin, zone)
    for high in range(begin + 21_600, begin + 366 * 86_400, 21_600):
        if (after := offset(high, zone)) != before:
            first, last = low, high
            while last - first > 1:
                middle = (first + last) // 2
                if offset(middle, zone) == before:
                    first = middle
                else:
                    last = middle
            found.append(last)
        low, before = high, after
    return tuple(found)


Watched = list[tuple[int, datetime]]
"""Instants, one after the other, and what the clock shows at each."""


def watch(zone: ZoneInfo, begin: int, end: int, step: int) -> Watched:
    """Look whenever the clock shows a multiple of ``step`` seconds, and at each change."""
    shown: Watched = []
    instant = begin
    while instant < end:
        now = wall(instant, zone)
        shown.append((instant, now))
        ahead = step - _second(now) % step
        if wall(instant + ahead, zone) - now != timedelta(seconds=ahead):
            # The clock is changed on the way: look at the second when it is.
            ahead = 1
            while wall(instant + ahead, zone) - now == timedelta(seconds=ahead):
                ahead += 1
        instant += ahead
    return shown


def _second(now: datetime) -> int:
    return now.hour * 3600 + now.minute * 60 + now.second


def slots(
    watched: Watched, matches: Callable[[datetime], bool], step: int, *, fixed: bool
) -> list[int]:
    """The instants at which a schedule fires that means these wall times."""
    found: list[int] = []
    latest = watched[0][1] - timedelta(seconds=1)
    expected = watched[0][1]
    for place, (instant, now) in enumerate(watched):
        if place:
            expected = watched[place - 1][1] + timedelta(seconds=instant - watched[place - 1][0])
        times = [*_skipped(expected, now, step), now]
        if any(
            matches(time)
            for time in times
            if _second(time) % step == 0 and not (fixed and time <= latest)
        ):
            found.append(instant)
        latest = max(latest, now)
    return found


def _skipped(expected: datetime, now: datetime, step: int) -> Iterator[datetime]:
    at = expected + timedelta(seconds=-_second(expected) % step)
    while at < now:
        yield at
        at += timedelta(seconds=step)


@dataclass(frozen=True)
class CronFields:
    """A cron expression, as the sets of numbers that it means and the text that says so."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """As Python's ``isoweekday() % 7``."""
    either: bool
    fixed: bool

    def matches(self, now: datetime) -> bool:
        """Whether the clock shows one of the times."""
        if now.hour not in self.hours or now.minute not in self.minutes:
            return False
        if now.second not in self.seconds or now.month not in self.months:
            return False
        of_month, of_week = now.day in self.days, now.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either else of_month and of_week


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, int]:
    """A zone and an instant at which its clock changes (or just some instant)."""
    zone = draw(st.sampled_from(ZONES))
    year = draw(st.integers(1970, 2037))
    found = transitions(zone, year)
    if found:
        return zone, draw(st.sampled_from(found))
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    return zone, begin + draw(st.integers(0, 366 * 86_400))
