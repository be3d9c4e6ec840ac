"""What every schedule can do, whatever its notation."""

from __future__ import annotations

import pickle
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_oracle import ZONES

from mesh import schedule as language
from mesh.errors import InvalidSchedule
from mesh.schedule import Schedule, at, daily, every, hourly, monthly, on, parse, weekly

NOW = datetime(2027, 1, 1, tzinfo=UTC)

ITEMS = st.sampled_from(
    ["mon", "sat", "15th", "LastDay - 1", "2ndTue", "jan-01", "feb", "FirstWeekday"]
)
TIMES = st.sampled_from(["09:00", "2pm", "minute 30", "18:15:30"])
RANGES = st.sampled_from(
    ["mon and fri", "9am and 5pm", "22:00 and 02:00", "feb and jul", "30th and LastDay"]
)
TEXTS = st.one_of(
    st.sampled_from(["*/5 * * * *", "0 9 L-2,15W * MON#2", "5 4 3 * * *", "0 0 13 * 5 both days"]),
    st.builds(
        "every {} {}{}{}{}".format,
        st.integers(1, 40),
        st.sampled_from(["seconds", "minutes", "hours", "days", "weeks", "months", "years"]),
        st.just("") | ITEMS.map(" on {}".format),
        st.just("") | TIMES.map(" at {}".format),
        st.just("") | RANGES.map(" between {}".format),
    ),
    st.builds("on [{}, {}] at {}".format, ITEMS, ITEMS, TIMES),
)
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2037, 12, 31), timezones=st.just(UTC))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(ZONES), MOMENTS, st.none() | MOMENTS, st.integers(0, 10**7))
def test_every_schedule_keeps_its_promises(
    text: str, zone: str, moment: datetime, start: datetime | None, jitter: int
) -> None:
    try:
        schedule = parse(text, zone, start=start, jitter=timedelta(microseconds=jitter))
    except InvalidSchedule:
        return
    again = parse(schedule.text)
    assert again == schedule
    assert (again.text, hash(again), again.jitter, again.names_zone) == (
        schedule.text,
        hash(schedule),
        schedule.jitter,
        True,
    )
    assert schedule.describe().endswith(".")
    previous = moment
    for _ in range(5):
        slot = schedule.next_after(previous)
        assert slot == again.next_after(previous)
        if slot is None:
            break
        assert slot.astimezone(UTC) > previous
        assert slot.utcoffset() == slot.astimezone(UTC).astimezone(ZoneInfo(zone)).utcoffset()
        assert start is None or slot.astimezone(UTC) >= start
        # Nothing was passed over: from just before the slot it is the next one too.
        assert schedule.next_after(slot.astimezone(UTC) - timedelta(microseconds=1)) == slot
        assert timedelta(0) <= schedule.delay(slot) <= schedule.jitter
        previous = slot.astimezone(UTC)


def test_between_includes_its_start_and_not_its_end() -> None:
    schedule = parse("0 * * * *")
    assert list(schedule.between(NOW, NOW + timedelta(hours=2))) == [NOW, NOW + timedelta(hours=1)]
    assert list(schedule.between(NOW, NOW)) == []


def test_between_goes_by_instants_where_hours_are_shown_twice() -> None:
    zone = ZoneInfo("Europe/Amsterdam")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=zone)
    schedule = parse("30 * * * *", "Europe/Amsterdam")
    assert len(list(schedule.between(first, first.replace(fold=1)))) == 1
    assert len(list(schedule.between(first, first.replace(hour=3)))) == 2


def test_start_is_included_and_end_is_not() -> None:
    schedule = parse("0 9 * * *", start=NOW.replace(hour=9), end=NOW.replace(hour=9, day=3))
    assert [
        slot.day for slot in schedule.between(NOW.replace(year=2020), NOW.replace(year=2030))
    ] == [1, 2]
    assert schedule.next_after(NOW.replace(day=2, hour=9)) is None
    with pytest.raises(InvalidSchedule, match="is not after start"):
        parse("0 9 * * *", start=NOW, end=NOW)


def test_delays_are_the_same_everywhere() -> None:
    schedule = parse("0 9 * * *", jitter=60)
    slot = NOW.replace(hour=9)
    # Written down: another process, version or machine must come to the same.
    assert schedule.delay(slot, "nightly") == timedelta(seconds=21.065652)
    assert schedule.delay(slot.astimezone(ZoneInfo("Asia/Tokyo")), "nightly") == schedule.delay(
        slot, "nightly"
    )
    delays = {schedule.delay(slot + timedelta(days=day), "nightly") for day in range(200)}
    assert len(delays) == 200
    assert min(delays) < timedelta(seconds=3)
    assert timedelta(seconds=57) < max(delays) < timedelta(seconds=60)
    assert schedule.delay(slot, "other") != schedule.delay(slot, "nightly")
    assert parse("0 9 * * *").delay(slot) == timedelta(0)


@pytest.mark.parametrize("jitter", [-1, timedelta(seconds=-1), float("nan"), "1"])
def test_a_jitter_is_a_length_of_time(jitter: float) -> None:
    with pytest.raises(InvalidSchedule, match="jitter"):
        parse("@daily", jitter=jitter)


@pytest.mark.parametrize(
    "text", ["*/5 * * * * tz Asia/Tokyo", "every 2 weeks on mon jitter PT30S", "every PT1H30M"]
)
def test_a_schedule_is_a_value(text: str) -> None:
    schedule = parse(text)
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert hash(copy) == hash(schedule)
    assert str(copy) == schedule.text == text
    assert eval(repr(schedule), {"parse": parse}) == schedule
    assert schedule != parse("@daily")
    assert schedule != text
    with pytest.raises(AttributeError, match="cannot be changed"):
        schedule.timezone = "UTC"  # type: ignore[misc]
    with pytest.raises(TypeError, match="parse"):
        Schedule()


def test_moments_without_a_zone_are_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone; use an aware datetime"):
        parse("@daily").next_after(datetime(2027, 1, 1))
    with pytest.raises(ValueError, match="end=2027-01-01T00:00:00 has no time zone"):
        parse("@daily").between(NOW, datetime(2027, 1, 1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("W. Europe Standard Time", "is a Windows name; the IANA name is 'Europe/Berlin'"),
        ("Eastern Standard Time", "is a Windows name; the IANA name is 'America/New_York'"),
        ("Amsterdam", "did you mean 'Europe/Amsterdam'?"),
        ("New York", "did you mean 'America/New_York'?"),
        ("Europe/Amsterdm", "did you mean 'Europe/Amsterdam'?"),
        ("Europe", "is unknown"),
        ("xyzzy", "is unknown, use an IANA name like 'Europe/London'"),
    ],
)
def test_unknown_zones(name: str, says: str) -> None:
    with pytest.raises(InvalidSchedule, match=f"time zone '{name}'") as caught:
        parse("@daily", name)
    assert says in str(caught.value)


def test_a_zone_in_the_text_goes_first_in_any_case() -> None:
    schedule = parse("every day at 9:00 TZ europe/london", "Asia/Tokyo")
    assert schedule.timezone == "Europe/London"
    with pytest.raises(InvalidSchedule) as caught:
        parse("every day at 9:00 tz Europe/Lndon")
    assert caught.value.position == 22


def test_a_schedule_knows_whether_it_names_a_zone() -> None:
    silent, utc = parse("@daily"), parse("@daily", "utc")
    assert (silent.timezone, utc.timezone) == ("UTC", "UTC")
    assert (silent.names_zone, utc.names_zone) == (False, True)
    assert (silent.text, utc.text) == ("0 0 * * *", "0 0 * * * tz UTC")
    assert silent != utc
    assert parse(str(utc)) == pickle.loads(pickle.dumps(utc)) == utc
    assert parse(str(silent)) == pickle.loads(pickle.dumps(silent)) == silent
    built = every().day.at("9:00")
    assert not built.on("mon").names_zone
    assert built.in_tz("UTC").on("mon").names_zone
    with pytest.raises(InvalidSchedule, match="give its options to it"):
        parse(built, "UTC")


def test_the_windows_names_are_of_real_zones() -> None:
    from mesh.schedule.zones import WINDOWS

    assert {zone for zone in WINDOWS.values() if zone not in ZONES} <= {
        # Newer than the time zone data of older systems.
        "America/Nuuk",
        "Asia/Qyzylorda",
        "Europe/Kyiv",
    }


FLUENT = [
    (
        lambda: every(30).minutes.between("09:00", "18:00").on("mon", "fri").in_tz("Europe/London"),
        "every 30 minutes between 09:00 and 18:00 on [mon, fri] tz Europe/London",
    ),
    (lambda: every(2).months.on("1st").anchored_on("nov"), "every 2 months anchored on nov on 1st"),
    (lambda: every().day.at(time(9, 30)), "every day at 09:30"),
    (lambda: daily().at("9:00", time(17, 0, 5)), "every day at [9:00, 17:00:05]"),
    (lambda: monthly().on(1, 15), "every month on [1st, 15th]"),
    (lambda: weekly().on("mon").in_("jan"), "every week on mon in jan"),
    (
        lambda: hourly().between(("9:00", "12:00"), ("13:00", "17:00")),
        "hourly between [9:00 and 12:00, 13:00 and 17:00]",
    ),
    (lambda: every(5).minutes.from_("9:00").upto("18:00"), "every 5 minutes from 9:00 upto 18:00"),
    (lambda: at("10:10", "11:10"), "at [10:10, 11:10]"),
    (lambda: at(datetime(2027, 1, 23, 14)), "at 2027-01-23 14:00:00"),
    (lambda: on("2ndTuesday").at("2pm"), "on 2ndTuesday at 2pm"),
    (lambda: on(date(2027, 1, 23)), "on 2027-01-23"),
    (lambda: every(timedelta(minutes=90)), "every PT1H30M"),
    (
        lambda: every(3).days.starting(NOW).ending(NOW.replace(year=2028)).jittered(30),
        "every 3 days starting 2027-01-01T00:00Z ending 2028-01-01T00:00Z jitter PT30S",
    ),
]


@pytest.mark.parametrize(("build", "text"), FLUENT, ids=[text for _, text in FLUENT])
def test_the_builder_builds_what_the_text_says(build: object, text: str) -> None:
    assert callable(build)
    built = build()
    assert isinstance(built, Schedule)
    expected = parse(text)
    assert built == expected
    assert hash(built) == hash(expected)
    assert list(islice(built.between(NOW, NOW.replace(year=2029)), 5)) == list(
        islice(expected.between(NOW, NOW.replace(year=2029)), 5)
    )
    assert pickle.loads(pickle.dumps(built)) == built


def test_the_builder_says_what_is_wrong_where_it_is() -> None:
    with pytest.raises(InvalidSchedule, match="must be a whole number, 1 or more"):
        every(0)
    with pytest.raises(InvalidSchedule, match="goes against every 5 minutes"):
        every(5).minutes.at("10:00")
    with pytest.raises(InvalidSchedule, match="give two ends, or only pairs"):
        every(5).minutes.between("9:00", ("10:00", "11:00"))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("*/5 * * * *", "Every 5 minutes, UTC."),
        ("0 9 * * MON-FRI", "At 09:00, on Monday to Friday, UTC."),
        ("0 9-17 * * *", "Every hour from 09:00 to 17:00, UTC."),
        ("15,45 8 L * *", "At 08:15 and 08:45, on the last day of the month, UTC."),
        ("0 0 15W 6 *", "At 00:00, on the weekday nearest to the 15th of the month, in June, UTC."),
        ("*/30 * * * * *", "Every 30 seconds, UTC."),
        ("*/7 2 * * *", "Every 7 minutes of each hour in hour 2, UTC."),
        (
            "every 30 minutes between 9:00 and 18:00 on [mon, fri] tz Asia/Tokyo",
            "Every 30 minutes, on Monday and Friday, between 09:00 and 18:00, Asia/Tokyo time.",
        ),
        ("at 2027-01-23 14:00", "On the 23rd of January 2027 at 14:00, UTC."),
        (
            "every month on 13th on fri",
            "Every month, on the 13th, on Friday (both must match), UTC.",
        ),
        ("every 2 weeks anchored on sun", "Every 2 weeks, on Sunday, UTC."),
    ],
)
def test_describe(text: str, says: str) -> None:
    assert parse(text).describe() == says


@pytest.mark.parametrize("wrong", [5, None, 1.5, b"* * * * *"])
def test_what_is_no_schedule_at_all(wrong: str) -> None:
    with pytest.raises(InvalidSchedule, match="is no schedule"):
        parse(wrong)
    schedule = parse("@daily")
    assert parse(schedule) is schedule


def test_the_language_needs_nothing_of_the_mesh() -> None:
    assert language.__all__ == sorted(language.__all__)
    code = "import sys, mesh; print('mesh.schedule' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
