"""Slots where clocks change: every zone, against somebody who looks at the clock all the time."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_oracle import ZONES, CronFields, changes, offset, slots, transitions, watch

from mesh.schedule import Schedule, parse

DAY = 86_400
EXHAUSTIVE = bool(os.environ.get("MESH_EXHAUSTIVE"))
SUN_TO_SAT = frozenset(range(7))


def at(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)


def instants(schedule: Schedule, begin: int, end: int) -> list[int]:
    return [int(slot.timestamp()) for slot in schedule.between(at(begin), at(end))]


def field(numbers: range, *, single: bool) -> st.SearchStrategy[tuple[str, frozenset[int], bool]]:
    """A field of cron's: its text, what it means, and whether it makes an interval."""
    value = st.sampled_from(numbers)
    lists = st.lists(value, min_size=1, max_size=3, unique=True).map(
        lambda values: (",".join(map(str, values)), frozenset(values), False)
    )
    if single:
        return lists
    steps = st.integers(1, len(numbers)).map(
        lambda step: (f"*/{step}", frozenset(numbers[::step]), True)
    )
    ranges = st.tuples(value, value).map(
        lambda ends: (
            f"{ends[0]}-{ends[1]}",
            frozenset(
                n
                for n in numbers
                if (ends[0] <= n <= ends[1])
                or (ends[0] > ends[1] and (n >= ends[0] or n <= ends[1]))
            ),
            True,
        )
    )
    return st.one_of(lists, steps, ranges, st.just(("*", frozenset(numbers), True)))


@st.composite
def cron_fields(draw: st.DrawFn, seconds: bool = False) -> CronFields:
    fixed_times = draw(st.booleans())
    second = draw(field(range(60), single=True)) if seconds else ("", frozenset({0}), False)
    minute = draw(field(range(60), single=fixed_times))
    # Clocks change at night.
    hour = draw(
        field(range(24), single=fixed_times)
        | st.just(("0,1,2,3,23", frozenset({0, 1, 2, 3, 23}), False))
    )
    day = draw(st.just(("*", frozenset(range(1, 32)), True)) | field(range(1, 32), single=False))
    weekday = draw(st.just(("*", SUN_TO_SAT, True)) | field(range(7), single=False))
    parts = ([second] if seconds else []) + [minute, hour, day]
    return CronFields(
        text=" ".join([part[0] for part in parts] + ["*", weekday[0]]),
        seconds=second[1],
        minutes=minute[1],
        hours=hour[1],
        days=day[1],
        months=frozenset(range(1, 13)),
        weekdays=weekday[1],
        either=day[0][0] != "*" and weekday[0][0] != "*",
        fixed=not (second[2] or minute[2] or hour[2]),
    )


@settings(max_examples=40, deadline=None)
@given(changes(), cron_fields(), st.integers(-DAY, DAY))
def test_cron_around_a_change_is_what_the_clock_says(
    change: tuple[str, int], fields: CronFields, moment: int
) -> None:
    zone, instant = change
    begin, end = instant - DAY - 3600, instant + DAY + 3600
    # Two days more before: what was shown once already must be known.
    watched = watch(ZoneInfo(zone), begin - 2 * DAY, end, 60)
    expected = [
        slot
        for slot in slots(watched, fields.matches, 60, fixed=fields.fixed)
        if begin <= slot < end
    ]
    schedule = parse(fields.text, zone)
    assert instants(schedule, begin, end) == expected
    following = schedule.next_after(at(instant + moment))
    later = [slot for slot in expected if slot > instant + moment]
    if later:
        assert following is not None
        assert int(following.timestamp()) == later[0]


@settings(max_examples=40, deadline=None)
@given(changes(), cron_fields(seconds=True))
def test_every_second_of_a_change(change: tuple[str, int], fields: CronFields) -> None:
    zone, instant = change
    begin, end = instant - 2000, instant + 4000
    watched = watch(ZoneInfo(zone), begin - 7200, end, 1)
    expected = [
        slot for slot in slots(watched, fields.matches, 1, fixed=fields.fixed) if slot >= begin
    ]
    assert instants(parse(fields.text, zone), begin, end) == expected


NATURAL = [
    ("every 5 minutes", 60, lambda now: now.minute % 5 == 0, False),
    ("hourly", 60, lambda now: now.minute == 0, False),
    ("every day at 02:30", 60, lambda now: (now.hour, now.minute) == (2, 30), True),
    (
        "at [00:00, 00:30, 01:30]",
        60,
        lambda now: (now.hour, now.minute) in {(0, 0), (0, 30), (1, 30)},
        True,
    ),
    (
        "every hour at minute 30 between 1am and 2am",
        60,
        lambda now: now.hour in (1, 2) and now.minute == 30,
        False,
    ),
    (
        "every 20 minutes between 01:10 and 02:30",
        60,
        lambda now: (now.hour, now.minute) in {(1, 10), (1, 30), (1, 50), (2, 10), (2, 30)},
        False,
    ),
    ("every 7 minutes anchored on 3", 60, lambda now: now.minute % 7 == 3, False),
    ("every day between sun and sat", 60, lambda now: (now.hour, now.minute) == (0, 0), True),
]


CRON = [
    CronFields(
        text,
        frozenset({0}),
        frozenset(minutes),
        frozenset(hours),
        frozenset(range(1, 32)),
        frozenset(range(1, 13)),
        SUN_TO_SAT,
        False,
        fixed,
    )
    for text, minutes, hours, fixed in [
        ("*/5 * * * *", range(0, 60, 5), range(24), False),
        ("30 * * * *", [30], range(24), False),
        ("15,45 0,1,2,3 * * *", [15, 45], [0, 1, 2, 3], True),
        ("0 0 * * *", [0], [0], True),
        ("30 2 * * *", [30], [2], True),
        ("*/20 22-3 * * *", [0, 20, 40], [22, 23, 0, 1, 2, 3], False),
    ]
]


def check_battery(zone: str, instant: int) -> None:
    begin, end = instant - DAY - 3600, instant + DAY + 3600
    watched = watch(ZoneInfo(zone), begin - DAY, end, 60)
    for fields in CRON:
        expected = slots(watched, fields.matches, 60, fixed=fields.fixed)
        found = instants(parse(fields.text, zone), begin, end)
        assert found == [slot for slot in expected if slot >= begin], (
            zone,
            at(instant),
            fields.text,
        )
    for text, step, matches, fixed in NATURAL:
        expected = slots(watched, matches, step, fixed=fixed)
        found = instants(parse(text, zone), begin, end)
        assert found == [slot for slot in expected if slot >= begin], (zone, at(instant), text)


@settings(max_examples=15, deadline=None)
@given(changes())
def test_what_is_usual_around_a_change(change: tuple[str, int]) -> None:
    check_battery(*change)


YEARS = [
    ("Europe/Amsterdam", 2026),
    ("America/New_York", 2026),
    ("Australia/Lord_Howe", 2026),  # half an hour
    ("America/Santiago", 2026),  # at midnight
    ("Pacific/Apia", 2011),  # and a day that never was
]


@pytest.mark.parametrize(("zone", "year"), YEARS)
def test_a_year_across_its_changes(zone: str, year: int) -> None:
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = begin + 365 * DAY
    watched = watch(ZoneInfo(zone), begin - DAY, end, 900)
    quarters = set(range(0, 60, 15))
    for text, matches, fixed in [
        ("*/15 * * * *", lambda now: True, False),
        ("30 * * * *", lambda now: now.minute == 30, False),
        ("0 0 * * *", lambda now: (now.hour, now.minute) == (0, 0), True),
        ("30 2 * * *", lambda now: (now.hour, now.minute) == (2, 30), True),
        ("0,15,30,45 0,1,2 * * *", lambda now: now.hour < 3 and now.minute in quarters, True),
        (
            "0 */2 * * SUN",
            lambda now: not (now.hour % 2 or now.minute or now.weekday() != 6),
            False,
        ),
        ("every 30 minutes", lambda now: now.minute in (0, 30), False),
        (
            "every day at [01:30, 02:15]",
            lambda now: (now.hour, now.minute) in {(1, 30), (2, 15)},
            True,
        ),
    ]:
        expected = [slot for slot in slots(watched, matches, 900, fixed=fixed) if slot >= begin]
        assert instants(parse(text, zone), begin, end) == expected, text


def test_the_policy_in_one_night_each() -> None:
    """What the docs say, spelt out."""

    def night(text: str, day: str) -> list[str]:
        begin = datetime.fromisoformat(f"{day}T00:00+01:00")
        slots = parse(text, "Europe/Amsterdam").between(begin, begin + timedelta(hours=4))
        return [slot.strftime("%H:%M%z")[:8] for slot in slots]

    assert night("30 2 * * *", "2026-03-29") == ["03:00+02"]
    assert night("0,20,40 2 * * *", "2026-03-29") == ["03:00+02"]
    assert night("*/20 2 * * *", "2026-03-29") == ["03:00+02"]
    assert night("30 2 * * *", "2026-10-25") == ["02:30+02"]
    assert night("*/30 2 * * *", "2026-10-25") == ["02:00+02", "02:30+02", "02:00+01", "02:30+01"]
    assert night("every 90 minutes", "2026-10-25") == ["01:00+02", "02:30+02", "03:00+01"]


@pytest.mark.skipif(not EXHAUSTIVE, reason="takes minutes: set MESH_EXHAUSTIVE=1")
@pytest.mark.timeout(0)
def test_what_is_usual_around_every_kind_of_change() -> None:
    """All zones and years; changes of the same size at the same time of day only once."""
    seen = set()
    for zone in ZONES:
        found = [change for year in range(1970, 2038) for change in transitions(zone, year)]
        for place, instant in enumerate(found):
            near = tuple(
                other - instant
                for other in found[max(0, place - 3) : place + 4]
                if abs(other - instant) < 5 * DAY
            )
            before, after = offset(instant - 1, ZoneInfo(zone)), offset(instant, ZoneInfo(zone))
            kind = (before, after, (instant + before) % DAY, near)
            if kind not in seen:
                seen.add(kind)
                check_battery(zone, instant)
    assert len(seen) > 200
