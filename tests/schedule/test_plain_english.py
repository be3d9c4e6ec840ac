"""Plain English schedules: what each word means, and what is said about wrong ones."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest

from mesh.errors import InvalidSchedule
from mesh.schedule import parse

START = datetime(2027, 1, 1, tzinfo=UTC)  # a Friday


def slots(text: str, count: int, *, start: datetime | None = None) -> list[str]:
    schedule = parse(text, start=start)
    assert parse(schedule.text) == schedule
    found = islice(schedule.between(START, START.replace(year=2200)), count)
    texts = [slot.strftime("%y-%m-%d %H:%M:%S").removesuffix(":00") for slot in found]
    return [text.removesuffix(" 00:00") for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("every 5 minutes", "27-01-01, 27-01-01 00:05"),
        ("every day at 18:00", "27-01-01 18:00, 27-01-02 18:00"),
        ("every day between mon and fri at 18:00", "27-01-01 18:00, 27-01-04 18:00"),
        ("every 30 minutes in feb between 09:00 and 18:00", "27-02-01 09:00, 27-02-01 09:30"),
        ("every 5 minutes anchored on 7", "27-01-01 00:02, 27-01-01 00:07"),
        ("every 2 months anchored on nov on 1st", "27-01-01, 27-03-01"),
        ("hourly between 09:00 and 10:00", "27-01-01 09:00, 27-01-01 10:00, 27-01-02 09:00"),
        ("at [10:10, 11:10]", "27-01-01 10:10, 27-01-01 11:10, 27-01-02 10:10"),
        ("on [feb-01, jan-01]", "27-01-01, 27-02-01, 28-01-01"),
        ("on 2ndTuesday at 2pm", "27-01-12 14:00, 27-02-09 14:00"),
        ("on LastDay - 1", "27-01-30, 27-02-27"),
        ("on ClosestWeekdayTo 31st", "27-01-29, 27-02-26, 27-03-31"),
        ("on FirstWeekday", "27-01-01, 27-02-01, 27-03-01"),
        ("on LastWeekday", "27-01-29, 27-02-26"),
        (
            "every 20 secs between [1:00pm and 01:00pm, 6:00pm and 6:00pm]",
            "27-01-01 13:00, 27-01-01 13:00:20, 27-01-01 13:00:40, 27-01-01 18:00",
        ),
        ("every minute from 23:59", "27-01-01 23:59, 27-01-02 23:59"),
        ("every day upto 2nd", "27-01-01, 27-01-02, 27-02-01"),
        ("every 12 hours between 09:00 and 22:00 on [mon, fri]", "27-01-01 09:00, 27-01-01 21:00"),
        # An end takes in all of its smallest unit: 12pm the hour, 12:00 the minute.
        (
            "every 30 minutes between 11am and 12pm",
            "27-01-01 11:00, 27-01-01 11:30, 27-01-01 12:00, 27-01-01 12:30",
        ),
        (
            "every 30 minutes between 11:00 and 12:00",
            "27-01-01 11:00, 27-01-01 11:30, 27-01-01 12:00, 27-01-02 11:00",
        ),
        (
            "every 15 minutes between 8hr and 8hr",
            "27-01-01 08:00, 27-01-01 08:15, 27-01-01 08:30, 27-01-01 08:45, 27-01-02 08:00",
        ),
        # A pace begins anew with each window.
        (
            "every 40 minutes on [sat, sun] between 9:00 and 10:00",
            "27-01-02 09:00, 27-01-02 09:40, 27-01-03 09:00",
        ),
        ("every 2 days between mon and fri", "27-01-01, 27-01-04, 27-01-06, 27-01-08"),
        (
            "every 10 days between [feb and feb, apr and apr]",
            "27-02-01, 27-02-11, 27-02-21, 27-04-01",
        ),
        (
            "every 5 hours anchored at 1",
            "27-01-01 01:00, 27-01-01 06:00, 27-01-01 11:00, 27-01-01 16:00, "
            "27-01-01 21:00, 27-01-02 01:00",
        ),
        ("every 10 days anchored on 5th", "27-01-05, 27-01-15, 27-01-25, 27-02-05"),
        ("every 3 hours at minute 30 on sat", "27-01-02 00:30, 27-01-02 03:30"),
        # What is smaller than the step is where in it the slot is.
        ("every 5 minutes between sec 10 and 20", "27-01-01 00:00:10, 27-01-01 00:05:10"),
        ("every week between tue and thu", "27-01-05, 27-01-12"),
        ("every month between 10th and 15th", "27-01-10, 27-02-10"),
        ("every year between jun and dec", "27-06-01, 28-06-01"),
        ("every mon between 10:10am and 10:30am", "27-01-04 10:10, 27-01-11 10:10"),
        ("every day between 30th and LastDay", "27-01-30, 27-01-31, 27-03-30"),
        ("every day between 30th and 1st", "27-01-01, 27-01-30, 27-01-31, 27-02-01, 27-03-01"),
        ("every day between LastDay - 1 and 1st", "27-01-01, 27-01-30, 27-01-31, 27-02-01"),
        ("every day between dec-31 and jan-02", "27-01-01, 27-01-02, 27-12-31"),
        ("every day between 2027-01-30 and 2027-02-01", "27-01-30, 27-01-31, 27-02-01"),
        ("every day from 2028-02-29", "28-02-29, 28-03-01"),
        ("every day from fri at 9:00", "27-01-01 09:00, 27-01-02 09:00, 27-01-08 09:00"),
        ("every month on 13th on fri at 13:13", "27-08-13 13:13, 28-10-13 13:13"),
        ("every 4 years on feb-29", "28-02-29, 32-02-29"),
        ("every 3 years anchored on 2028", "28-01-01, 31-01-01"),
        ("every 24 months anchored on jul", "28-07-01, 30-07-01"),
        ("every 2 months between feb and jul", "27-02-01, 27-04-01, 27-06-01, 28-02-01"),
        ("every 2 weeks on [sat, sun] in feb", "27-02-06, 27-02-14, 27-02-20"),
        ("on [mon 9:00, 15th 10pm]", "27-01-04 09:00, 27-01-11 09:00, 27-01-15 22:00"),
        ("at minute 30", "27-01-01 00:30, 27-01-01 01:30"),
        ("on fri at minute 30", "27-01-01 00:30, 27-01-01 01:30"),
        ("in 2027-feb at 10:00", "27-02-01 10:00, 27-02-02 10:00"),
        ("at hour 10 at minute 30", "27-01-01 10:30, 27-01-02 10:30"),
        ("on third fri", "27-01-15, 27-02-19"),
        ("on last fri", "27-01-29, 27-02-26"),
        ("on FifthFri", "27-01-29, 27-04-30"),
        ("on FirstDay + 31", "27-01-31, 27-02-28"),
        ("on 1st, January", "27-01-01, 28-01-01"),
        ("@every 2 days, @at 9 pm", "27-01-02 21:00, 27-01-04 21:00"),
        ("EVERY 2 HRS UPTO 2AM", "27-01-01, 27-01-01 02:00, 27-01-02"),
    ],
)
def test_what_it_means(text: str, expected: str) -> None:
    wanted = expected.split(", ")
    assert slots(text, len(wanted)) == wanted


@pytest.mark.parametrize(
    "text", ["at 2027-01-23 14:00", "on 23rd Jan 2027 2pm", "at 2027-01-23T14:00"]
)
def test_a_date_with_its_year_fires_once(text: str) -> None:
    assert slots(text, 9) == ["27-01-23 14:00"]


@pytest.mark.parametrize(
    "word",
    ["anchored on", "anchored at", "AnchoredOn", "AnchoredAt", "BasedOn", "BasedAt", "@BasedOn"],
)
def test_anchors_are_one_word(word: str) -> None:
    assert parse(f"every 2 weeks {word} sun") == parse("every 2 weeks anchored on sun")


@pytest.mark.parametrize(
    ("unit", "aliases"),
    {
        "second": "sec secs second seconds",
        "minute": "min mins minute minutes",
        "hour": "hr hrs hour hours",
        "day": "dy dys day days",
        "week": "wk wks week weeks",
        "month": "mth mths month months",
        "year": "yr yrs year years",
    }.items(),
)
def test_units_have_many_names(unit: str, aliases: str) -> None:
    for alias in aliases.split():
        assert parse(f"every 3 {alias}").text == f"every 3 {unit}s"
    shortcut = {"day": "daily"}.get(unit, f"{unit}ly")
    assert parse(shortcut) == parse(f"every {unit}") == parse(f"every 1 {unit}")


def test_a_pace_begins_with_the_first_occurrence_after_the_start() -> None:
    assert slots("every 2 weeks on [mon, sat]", 4, start=START) == [
        "27-01-02",
        "27-01-11",
        "27-01-16",
        "27-01-25",
    ]
    noon = START.replace(hour=12)
    assert slots("every 3 days at 9:00", 2, start=noon) == ["27-01-02 09:00", "27-01-05 09:00"]
    assert slots("every 2 weeks anchored on sun", 2, start=START)[0] == "27-01-03"


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("every 5 minuts", "unknown unit 'minuts' at 9; did you mean 'minutes'?", 9),
        ("every 0 days", "every 0 at 7: must be 1 or more", 7),
        ("every 5", "a unit is missing before the end at 8", 8),
        ("every day att 10:00", "unknown word 'att' at 11; did you mean 'at'?", 11),
        ("every week @foo bar", "unknown word 'foo' at 13; clauses begin with every, on, at", 13),
        ("every day at 25:00", "hour 25 at 14 is out of range: 0-23", 14),
        ("at 13pm", "'13pm' at 4: with pm the hour is 1-12", 4),
        ("on mondy", "unknown word 'mondy' at 4; did you mean 'monday'?", 4),
        ("on feb-30", "day 30 at 4 is not in February, which has 29", 4),
        ("on 29th feb 2027", "day 29 at 4 is not in February 2027, which has 28", 4),
        ("at [10:00, 11:00", "',' or ']' is missing before the end at 17", 17),
        ("every day between mon", "'and' is missing before the end at 22", 22),
        ("every day at", "a time or a day is missing before the end at 13", 13),
        ("every 2 days on 5th", "a choice of day at 17 goes against every 2 days", 17),
        ("every 30 minutes at 10:00", "a time at 21 goes against every 30 minutes; use 'from'", 21),
        ("on mon on tue", "a second choice of weekday at 8; name all in brackets", 8),
        ("every week anchored on fri on mon", "a second weekday at 31", 31),
        ("on mon between 1st and 5th", "a range at 8 needs an 'every', such as 'every day'", 8),
        ("every day every week", "a second 'every' at 11; only one can be", 11),
        ("every 70 minutes anchored on 3", "cannot be anchored on a minute of the hour", 1),
        ("every 2 weeks anchored on 3", "the anchor of weeks must be a weekday, not '3' at 27", 27),
        ("every hour between mon 9:00 and fri 10:00", "give days and times a range each", 20),
        ("every day between mon and 5th", "mixes units; name both ends alike", 11),
        ("every day at 13:00 between 10:00 and 12:00", "is outside of the range of times", 14),
        ("every minute between 9:00 and 10:00 upto 8:00", "have nothing in common", None),
        ("every year on fri", "say the month too", 15),
        ("every day at 10:00 tz", "what 'tz' is to be is missing before the end at 22", 22),
        ("every day tz UTC tz UTC", "'tz' at 18 is said twice", 18),
        ("every 5 minutes é", "unexpected 'é' at 17", 17),
        ("sometimes", "unknown word 'sometimes' at 1", 1),
        ("", "the expression is empty", None),
    ],
)
def test_errors_point_at_the_word(text: str, message: str, position: int | None) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        parse(text)
    assert message in str(caught.value)
    assert caught.value.position == position
    assert caught.value.expression == text
