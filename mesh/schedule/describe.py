"""Schedules in plain English, for people who read no cron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import product

from mesh.schedule.cron import Cron, Field
from mesh.schedule.days import DaySpec
from mesh.schedule.sentence import Every, On, Point, Sentence, Window
from mesh.schedule.vocabulary import long_month_names, long_weekday_names

__all__ = ["describe"]

_MONTHS = [name.capitalize() for name in long_month_names]
_WEEKDAYS = [name.capitalize() for name in long_weekday_names]
_MANY = 6


def describe(
    notation: object,
    timezone: str,
    start: datetime | None = None,
    end: datetime | None = None,
    jitter: timedelta = timedelta(0),
) -> str:
    """A sentence or two about a schedule: ``At 09:00, on Monday to Friday, UTC.``"""
    if isinstance(notation, Cron):
        text = _cron(notation)
    elif isinstance(notation, Sentence):
        text = _sentence(notation)
    else:
        text = str(notation)
    text = f"{text}, {timezone if timezone == 'UTC' else f'{timezone} time'}"
    if start is not None:
        text += f", from {start.isoformat(' ')} on"
    if end is not None:
        text += f", before {end.isoformat(' ')}"
    if jitter:
        text += f", spread over {jitter.total_seconds():g} s"
    return f"{text[0].upper()}{text[1:]}."


def _and(words: Sequence[str], conjunction: str = "and") -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else endings.get(number % 10, 'th')}"


# Cron.


def _cron(cron: Cron) -> str:
    parts = [_cron_times(cron)]
    day, weekday = _cron_days(cron.day), _cron_weekdays(cron.weekday)
    if day and weekday:
        if cron.day_or and cron.both_restricted:
            parts.append(f"{day} or {weekday} (either is enough)")
        else:
            parts.append(f"{day} and {weekday} (both must match)")
    elif day or weekday:
        parts.append(day or weekday)
    if cron.month.text != "*":
        months = _list(cron.month, lambda number: _MONTHS[number - 1], "month")
        parts.append(f"in {months}")
    return ", ".join(parts)


def _cron_times(cron: Cron) -> str:
    second, minute, hour = cron.second, cron.minute, cron.hour
    if cron.fixed:
        seconds = [0] if second is None else _numbers(second)
        times = list(product(_numbers(hour), _numbers(minute), seconds))
        if len(times) <= _MANY:
            return f"at {_and([_time(*time, exact=second is not None) for time in times])}"
    parts = []
    if second is not None and second.text != "0":
        parts.append(_unit(second, "second"))
    if not (parts and minute.text == "*"):
        parts.append(_unit(minute, "minute"))
    on_the_hour = minute.text == "0" and len(parts) == 1
    if hour.text == "*":
        if on_the_hour:
            return "every hour"
        return " ".join(parts if minute.stepped else [*parts, "of every hour"])
    hours = _unit(hour, "hour")
    if on_the_hour and hours.startswith("every"):
        return hours
    if on_the_hour and hour.text.count("-") == 1 and "," not in hour.text:
        low, _, high = hour.text.partition("-")
        return f"every hour from {_time(int(low), 0)} to {_time(int(high), 0)}"
    return " ".join([*parts, f"in {hours}"])


def _unit(field: Field, unit: str) -> str:
    """``every 5 minutes``, ``at minutes 5 and 35``, ``hours 9 to 17``."""
    cell = {"second": "minute", "minute": "hour", "hour": "day"}[unit]
    size = 24 if unit == "hour" else 60
    values, _, step = field.text.partition("/")
    if "," in field.text or not (step or values == "*"):
        numbers = _list(field, str, unit)
        several = not numbers.isdigit()
        return f"{'' if unit == 'hour' else 'at '}{unit}{'s' if several else ''} {numbers}"
    if not step:
        return f"every {unit}"
    every = f"every {step} {unit}s"
    if values == "*":
        return every if size % int(step) == 0 else f"{every} of each {cell}"
    low, _, high = values.partition("-")
    return f"{every} from {unit} {low} {f'to {high}' if high else 'on'}"


def _list(field: Field, name: Callable[[int], str], unit: str) -> str:
    return _and([_item(item, name, unit) for item in field.text.split(",")])


def _item(item: str, name: Callable[[int], str], unit: str) -> str:
    values, _, step = item.partition("/")
    low, _, high = values.partition("-")
    every = f"every {_ordinal(int(step))} {unit}" if step else ""
    if low == "*":
        return every or f"every {unit}"
    if high:
        return f"{every + ' of ' if every else ''}{name(int(low))} to {name(int(high))}"
    return f"{every} from {name(int(low))} on" if every else name(int(low))


def _numbers(field: Field) -> list[int]:
    return sorted(int(number) for number in field.text.split(","))


def _time(hour: int, minute: int, second: int = 0, *, exact: bool = False) -> str:
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if exact or second else "")


def _cron_days(field: Field) -> str:
    if field.text == "*":
        return ""
    days = []
    for item in field.text.split(","):
        if item == "LW":
            days.append("the last weekday (Monday to Friday)")
        elif item.endswith("W"):
            days.append(f"the weekday nearest to the {_ordinal(int(item[:-1]))}")
        elif item.startswith("L"):
            days.append(_before_last(int(item[2:] or 0)))
        else:
            days.append(_item(item, lambda number: f"the {_ordinal(number)}", "day"))
    return f"on {_and(days)} of the month"


def _before_last(days: int) -> str:
    if not days:
        return "the last day"
    return f"the day {days} day{'s' if days > 1 else ''} before the last"


def _cron_weekdays(field: Field) -> str:
    if field.text == "*":
        return ""
    days = []
    for item in field.text.split(","):
        if "#" in item:
            weekday, _, number = item.partition("#")
            days.append(f"the {_ordinal(int(number))} {_WEEKDAYS[int(weekday)]} of the month")
        elif item.endswith("L"):
            days.append(f"the last {_WEEKDAYS[int(item[:-1])]} of the month")
        else:
            days.append(_item(item, lambda number: _WEEKDAYS[number % 7], "day of the week"))
    return f"on {_and(days)}"


# Plain English.


def _sentence(sentence: Sentence) -> str:
    parts = [] if sentence.every is None else [_every(sentence.every)]
    parts += [_on(on) for on in sentence.ons]
    named = {unit for on in sentence.ons for point in on.points for unit in point.units}
    if {"day", "weekday"} <= named:
        parts[-1] += " (both must match)"
    parts += [_window(window) for window in sentence.windows]
    return ", ".join(parts)


def _every(every: Every) -> str:
    if every.duration is not None:
        return f"every {timedelta(microseconds=every.duration)} of real time"
    if every.weekday is not None:
        return f"every {_WEEKDAYS[every.weekday]}"
    text = f"every {every.unit}" if every.step == 1 else f"every {every.step} {every.unit}s"
    match every.unit:
        case _ if every.anchor is None:
            return text
        case "week":
            return f"{text}, on {_WEEKDAYS[every.anchor]}"
        case "month":
            return f"{text}, counted from {_MONTHS[every.anchor - 1]}"
        case "day":
            return f"{text} of each month, counted from the {_ordinal(every.anchor)}"
        case "year":
            return f"{text}, counted from {every.anchor}"
        case "hour":
            return f"{text} of each day, counted from {every.anchor:02}:00"
        case _:
            cell = "hour" if every.unit == "minute" else "minute"
            return f"{text} of each {cell}, counted from {every.unit} {every.anchor}"


def _on(on: On) -> str:
    units = {unit for point in on.points for unit in point.units}
    word = "at" if units <= {"hour", "minute", "second"} else "in" if units == {"month"} else "on"
    return f"{word} {_and([_point(point) for point in on.points])}"


def _window(window: Window) -> str:
    texts = []
    for low, high in window.ranges:
        if low is None or high is None:
            end = low or high
            assert end is not None
            texts.append(f"{'from' if high is None else 'up to'} {_point(end)}")
        else:
            texts.append(f"between {_point(low)} and {_point(high)}")
    return _and(texts, "or")


def _point(point: Point) -> str:
    parts = []
    if point.weekday is not None:
        parts.append(_WEEKDAYS[point.weekday])
    if point.day is not None:
        parts.append(_day(point.day))
    if point.month is not None:
        parts.append(f"{'of ' if point.day is not None else ''}{_MONTHS[point.month - 1]}")
    if point.year is not None:
        parts.append(str(point.year))
    if point.hour is not None:
        parts.append(
            ("at " if parts else "") + _time(point.hour, point.minute or 0, point.second or 0)
        )
    else:
        for unit, value in (("minute", point.minute), ("second", point.second)):
            if value is not None:
                parts.append(f"{unit} {value}")
    return " ".join(parts)


def _day(day: DaySpec) -> str:
    match day.kind:
        case "day":
            text = f"the {_ordinal(day.number)}"
        case "last":
            text = "the last day"
        case "first_work":
            text = "the first weekday (Monday to Friday)"
        case "last_work":
            text = "the last weekday (Monday to Friday)"
        case "nth":
            text = f"the {_ordinal(day.number)} {_WEEKDAYS[day.weekday]}"
        case "last_of":
            text = f"the last {_WEEKDAYS[day.weekday]}"
        case _:
            text = f"the weekday nearest to the {_ordinal(day.number)}"
    if day.shift:
        days = f"{abs(day.shift)} day{'s' if abs(day.shift) > 1 else ''}"
        text = f"{days} {'after' if day.shift > 0 else 'before'} {text}"
    return text
