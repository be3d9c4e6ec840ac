"""Cron expressions, on a calendar without clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from mesh.errors import InvalidSchedule
from mesh.schedule import parse

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)  # a Friday


def slots(text: str, count: int = 3, *, day_or: bool = True) -> list[str]:
    schedule = parse(text, day_or=day_or)
    found = islice(schedule.between(NOON, NOON.replace(year=2400)), count)
    return [slot.strftime("%y-%m-%d %H:%M:%S").removesuffix(":00") for slot in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/20 * * * *", ["27-01-01 12:00", "27-01-01 12:20", "27-01-01 12:40"]),
        ("*/20 0 13 * * *", ["27-01-01 13:00", "27-01-01 13:00:20", "27-01-01 13:00:40"]),
        ("50/5 * * * *", ["27-01-01 12:50", "27-01-01 12:55", "27-01-01 13:50"]),
        ("0 22-2/2 * * *", ["27-01-01 22:00", "27-01-02 00:00", "27-01-02 02:00"]),
        ("0 0 * jan MON", ["27-01-04 00:00", "27-01-11 00:00", "27-01-18 00:00"]),
        ("0 0 * * FRI-MON", ["27-01-02 00:00", "27-01-03 00:00", "27-01-04 00:00"]),
        ("0 0 * NOV-FEB *", ["27-01-02 00:00", "27-01-03 00:00", "27-01-04 00:00"]),
        ("0 0 1 NOV-FEB *", ["27-02-01 00:00", "27-11-01 00:00", "27-12-01 00:00"]),
        ("0 0 L * ?", ["27-01-31 00:00", "27-02-28 00:00", "27-03-31 00:00"]),
        ("0 0 L-3 * *", ["27-01-28 00:00", "27-02-25 00:00", "27-03-28 00:00"]),
        ("0 0 15W * *", ["27-01-15 00:00", "27-02-15 00:00", "27-03-15 00:00"]),
        ("0 0 1W 5,8 *", ["27-05-03 00:00", "27-08-02 00:00", "28-05-01 00:00"]),
        ("0 0 31W * *", ["27-01-29 00:00", "27-03-31 00:00", "27-05-31 00:00"]),
        ("0 0 LW * *", ["27-01-29 00:00", "27-02-26 00:00", "27-03-31 00:00"]),
        ("0 0 * * 2#1", ["27-01-05 00:00", "27-02-02 00:00", "27-03-02 00:00"]),
        ("0 0 * * MON#2,FRIL", ["27-01-11 00:00", "27-01-29 00:00", "27-02-08 00:00"]),
        ("0 0 * * 5L", ["27-01-29 00:00", "27-02-26 00:00", "27-03-26 00:00"]),
        ("0 0 * * 0", ["27-01-03 00:00", "27-01-10 00:00", "27-01-17 00:00"]),
        ("0 0 * * 7", ["27-01-03 00:00", "27-01-10 00:00", "27-01-17 00:00"]),
        ("0 0 * * 5-7", ["27-01-02 00:00", "27-01-03 00:00", "27-01-08 00:00"]),
        ("0 0 29 2 *", ["28-02-29 00:00", "32-02-29 00:00", "36-02-29 00:00"]),
        # Either of two restricted fields; but one that begins with a star is not restricted.
        ("0 0 13 * FRI", ["27-01-08 00:00", "27-01-13 00:00", "27-01-15 00:00"]),
        ("0 0 */2 * SAT", ["27-01-09 00:00", "27-01-23 00:00", "27-02-13 00:00"]),
    ],
)
def test_what_a_field_means(text: str, expected: list[str]) -> None:
    assert slots(text) == expected


def test_both_days() -> None:
    expected = ["27-08-13 00:00", "28-10-13 00:00", "29-04-13 00:00"]
    assert slots("0 0 13 * FRI", day_or=False) == expected
    assert slots("0 0 13 * FRI both days") == expected
    assert "both must match" in parse("0 0 13 * FRI", day_or=False).describe()
    assert "either is enough" in parse("0 0 13 * FRI").describe()
    # Without both restricted there is nothing to choose.
    assert parse("0 0 13 * *", day_or=False) == parse("0 0 13 * *")


@pytest.mark.parametrize(
    ("macro", "cron"),
    [
        ("@every_minute", "* * * * *"),
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@Yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_macros(macro: str, cron: str) -> None:
    assert parse(macro) == parse(cron)
    assert parse(f"{macro} tz Asia/Tokyo") == parse(cron, "Asia/Tokyo")


@pytest.mark.parametrize(
    "text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 L-30 2 *", "0 0 31W 2 *", "* * 30,31 2 ?"]
)
def test_what_never_fires_says_so(text: str) -> None:
    assert parse(text, "Europe/Amsterdam").next_after(NOON) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 29 2 MON", "2044-02-29"),
        ("0 0 29 2 MON#5", "2044-02-29"),
        ("0 0 31 12 SUN", "2028-12-31"),
        ("0 0 1 * MON#2", None),
    ],
)
def test_far_away_or_never_when_both_must_match(text: str, expected: str | None) -> None:
    slot = parse(text, day_or=False).next_after(NOON)
    assert (None if slot is None else f"{slot:%Y-%m-%d}") == expected


def test_a_century_that_is_no_leap_year_is_crossed() -> None:
    schedule = parse("0 0 29 2 *")
    assert schedule.next_after(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(
        2104, 2, 29, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("61 * * * *", "minute 61 at 1 is out of range: 0-59", 1),
        ("30 30 30 * *", "hour 30 at 4 is out of range: 0-23", 4),
        ("0 0 * * MOM", "unknown weekday 'MOM' at 9; did you mean 'MON'?", 9),
        ("0  0 1 1,DCE *", "unknown month 'DCE' at 10; did you mean 'DEC'?", 10),
        ("*/0 * * * *", "the step '0' at 3 must be a number, 1 or more", 3),
        ("0 0 L-31 * *", "'L-31' at 5 is before the month: L-30 is the furthest", 5),
        ("0 0 1-5W * *", "'1-5W' at 5: W follows one day, as in 15W", 5),
        ("0 0 * * 2#6", "'2#6' at 9: a month has weekdays #1 to #5; use 2L for the last", 9),
        ("0 0 * * L", "'L' at 9 needs its weekday, as in 5L or FRIL, the last Friday", 9),
        ("? 0 * * *", "'?' at 1 is no minute; use 0-59, ranges such as 1-5, lists", 1),
        ("1,,2 0 * * *", "an empty value at 3 is no minute", 3),
        ("0 9 * *", "cron has 5 fields, or 6 with seconds first; '0 9 * *' has 4", None),
        ("0 0 9 * * * 2027", "has 7", None),
    ],
)
def test_errors_point_at_the_word(text: str, message: str, position: int | None) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.position == position
    assert caught.value.expression == text


def test_moments_between_seconds() -> None:
    schedule = parse("* * * * * *")
    assert schedule.next_after(NOON + timedelta(microseconds=1)) == NOON + timedelta(seconds=1)
    assert schedule.next_after(NOON - timedelta(microseconds=1)) == NOON


def test_the_ends_of_time() -> None:
    for zone in ("UTC", "America/New_York", "Asia/Tokyo"):
        for text in ("* * * * * *", "0 0 1 1 *", "every 7 minutes", "every 7 minutes from 9:00"):
            schedule = parse(text, zone)
            assert schedule.next_after(datetime.max.replace(tzinfo=UTC)) is None
            assert schedule.next_after(datetime.min.replace(tzinfo=UTC) + timedelta(2)) is not None
