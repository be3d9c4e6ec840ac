"""Intervals: real time from an anchor, or in windows of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schedule_oracle import ZONES, changes, wall, watch

from mesh.errors import InvalidSchedule
from mesh.schedule import Schedule, parse

DAY = 86_400


def at(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)


def shown(schedule: Schedule, after: datetime, count: int = 4) -> list[str]:
    slots = schedule.between(after, datetime(2100, 1, 1, tzinfo=UTC))
    return [slot.strftime("%m-%d %H:%M") for slot in islice(slots, count)]


def in_windows(zone: ZoneInfo, begin: int, end: int, low: int, high: int, step: int) -> list[int]:
    """Each day from minute ``low`` to before ``high``, as the docs say it, by the watch."""
    found = set()
    watched = watch(zone, begin - 3 * DAY, end, 60)
    day = watched[0][1].date() + timedelta(1)
    while day <= watched[-1][1].date():
        opens = datetime.combine(day, datetime.min.time()) + timedelta(minutes=low)
        closes = opens + timedelta(minutes=high - low)
        first = next((instant for instant, now in watched if now >= opens), None)
        if first is not None:
            found.add(first)
            later = range(first + step * 60, first + 2 * DAY, step * 60)
            found.update(slot for slot in later if opens <= wall(slot, zone) < closes)
        day += timedelta(1)
    return sorted(slot for slot in found if begin <= slot < end)


@settings(max_examples=30, deadline=None)
@given(changes(), st.integers(0, 300), st.integers(1, 400), st.sampled_from([7, 25, 45, 90, 150]))
@example(("America/Adak", 25704000), 0, 66, 25)  # over, and open again
def test_a_window_has_a_pace_of_its_own(
    change: tuple[str, int], low: int, size: int, step: int
) -> None:
    zone, instant = change
    begin, end = instant - DAY, instant + DAY
    high = min(low + size, 1440)
    last = high - 1
    text = (
        f"every {step} minutes between {low // 60:02}:{low % 60:02} and "
        f"{last // 60:02}:{last % 60:02}"
    )
    found = [int(slot.timestamp()) for slot in parse(text, zone).between(at(begin), at(end))]
    assert found == in_windows(ZoneInfo(zone), begin, end, low, high, step)


@given(
    st.sampled_from(ZONES),
    st.integers(1, 2_000_000_000),
    st.integers(1, 10**12) | st.integers(60_000_000, 86_400_000_000),
)
def test_a_timedelta_steps_real_time(zone: str, moment: int, step: int) -> None:
    interval = timedelta(microseconds=step)
    schedule = parse(interval, zone)
    slots = list(islice(schedule.between(at(moment), at(moment) + 5 * interval), 9))
    assert len(slots) == 5
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert all((slot - epoch) % interval == timedelta(0) for slot in slots)
    started = parse(interval, zone, start=at(moment))
    assert started.next_after(at(0)) == at(moment)
    assert started.next_after(at(moment)) == at(moment) + interval


@pytest.mark.parametrize("zone", ["Europe/Amsterdam", "Australia/Lord_Howe", "America/New_York"])
@pytest.mark.parametrize("text", ["every 90 minutes", "every 2 hours", "every 7 seconds"])
def test_steps_that_do_not_divide_the_hour_are_even(zone: str, text: str) -> None:
    for month in (3, 4, 10, 11):
        begin = datetime(2026, month, 1, tzinfo=UTC)
        found = parse(text, zone).between(begin, begin.replace(year=2027))
        slots = [slot.astimezone(UTC) for slot in islice(found, 600)]
        assert len({later - slot for slot, later in pairwise(slots)}) == 1


def test_hours_are_counted_from_midnight_in_the_standard_time_of_today() -> None:
    january = datetime(2026, 1, 15, tzinfo=UTC)
    for zone in ("America/New_York", "Asia/Kolkata", "Asia/Singapore", "Europe/London"):
        assert parse("every 6 hours", zone).next_after(january).strftime("%H:%M") in (  # type: ignore[union-attr]
            "00:00",
            "06:00",
            "12:00",
            "18:00",
        )


def test_hourly_is_on_the_hour_in_zones_of_half_hours() -> None:
    july = datetime(2026, 7, 1, tzinfo=UTC)
    for zone in ("Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Kolkata"):
        slot = parse("hourly", zone).next_after(july)
        assert slot is not None
        assert slot.minute == 0


def test_a_start_is_the_anchor() -> None:
    start = datetime(2027, 1, 1, 10, 2, 30, tzinfo=UTC)
    schedule = parse("every 5 minutes", start=start)
    assert list(islice(schedule.between(start, start.replace(year=2028)), 3)) == [
        start,
        start + timedelta(minutes=5),
        start + timedelta(minutes=10),
    ]


def test_what_is_left_open_comes_from_the_start() -> None:
    start = datetime(2027, 1, 31, 14, 30, tzinfo=UTC)
    assert shown(parse("every month", start=start), start) == [
        "01-31 14:30",
        "02-28 14:30",
        "03-31 14:30",
        "04-30 14:30",
    ]
    assert shown(parse("every 2 weeks", start=start), start, 2) == ["01-31 14:30", "02-14 14:30"]
    assert shown(parse("every year", start=start), start, 1) == ["01-31 14:30"]


def test_a_window_restarts_the_pace_but_not_a_window_over_midnight() -> None:
    after = datetime(2027, 3, 1, 21, tzinfo=UTC)
    assert shown(parse("every 50 minutes between 22:00 and 01:00"), after, 6) == [
        "03-01 22:00",
        "03-01 22:50",
        "03-01 23:40",
        "03-02 00:30",
        "03-02 22:00",
        "03-02 22:50",
    ]
    # On one day alone, the hours after midnight are a window before the other.
    assert shown(parse("every 50 minutes between 22:00 and 01:00 on tue"), after, 6) == [
        "03-02 00:00",
        "03-02 00:50",
        "03-02 22:00",
        "03-02 22:50",
        "03-02 23:40",
        "03-09 00:00",
    ]


def test_a_window_in_the_gap_opens_after_it() -> None:
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    schedule = parse("every 25 minutes between 02:00 and 02:50", "Europe/Amsterdam")
    assert shown(schedule, after, 2) == ["03-29 03:00", "03-30 02:00"]


def test_a_window_that_is_shown_twice_goes_on_with_its_pace() -> None:
    after = datetime(2026, 10, 24, 12, tzinfo=UTC)
    schedule = parse("every 25 minutes between 02:00 and 03:10", "Europe/Amsterdam")
    slots = list(islice(schedule.between(after, after + timedelta(days=1)), 9))
    assert [slot.strftime("%H:%M%z") for slot in slots] == [
        "02:00+0200",
        "02:25+0200",
        "02:50+0200",
        "02:15+0100",
        "02:40+0100",
        "03:05+0100",
    ]


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(seconds=-1)])
def test_nothing_is_no_interval(interval: timedelta) -> None:
    with pytest.raises(InvalidSchedule, match="longer than nothing"):
        parse(interval)
