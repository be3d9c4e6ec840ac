"""Cron expressions: five fields, or six with seconds first.

``parse_cron`` makes a rule of the fields. A field is parsed once and kept: the same few come
again and again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from mesh.errors import InvalidSchedule, did_you_mean
from mesh.schedule.days import ALL_DAYS, ALL_WEEKDAYS, Days, DaySpec
from mesh.schedule.rules import Dated
from mesh.schedule.times import Fields
from mesh.schedule.vocabulary import month_names, weekday_names

__all__ = ["MACROS", "Cron", "Field", "parse_cron"]

MACROS = {
    "@every_minute": "* * * * *",
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_MONTHS = {name.upper(): number for number, name in enumerate(month_names, 1)}
_WEEKDAYS = {name.upper(): number for number, name in enumerate(weekday_names)}


class _Kind:
    """One of cron's fields. Compared by identity, so it costs nothing as a key."""

    def __init__(self, name: str, low: int, high: int, names: dict[str, int]) -> None:
        self.name = name
        self.low = low
        self.high = high
        self.names = names


_SECOND = _Kind("second", 0, 59, {})
_MINUTE = _Kind("minute", 0, 59, {})
_HOUR = _Kind("hour", 0, 23, {})
_DAY = _Kind("day of the month", 1, 31, {})
_MONTH = _Kind("month", 1, 12, _MONTHS)
_WEEKDAY = _Kind("weekday", 0, 7, _WEEKDAYS)


class Field(NamedTuple):
    """One field, understood. ``star``: it begins with ``*`` or is ``?``."""

    text: str
    bits: int
    star: bool
    stepped: bool
    specs: tuple[DaySpec, ...] = ()


class Cron(NamedTuple):
    """The fields; ``second`` is ``None`` where the expression had five."""

    second: Field | None
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field
    day_or: bool

    @property
    def text(self) -> str:
        """The fields in their canonical spelling."""
        seconds = f"{self.second.text} " if self.second is not None else ""
        return (
            f"{seconds}{self.minute.text} {self.hour.text} "
            f"{self.day.text} {self.month.text} {self.weekday.text}"
        )

    @property
    def fixed(self) -> bool:
        """Whether it fires at fixed times: no ``*``, range or step in its time fields."""
        stepped = self.minute.stepped or self.hour.stepped
        return not (stepped or (self.second is not None and self.second.stepped))

    @property
    def both_restricted(self) -> bool:
        """Whether the day of the month and the weekday are both restricted."""
        return not (self.day.star or self.weekday.star)

    def rule(self) -> Dated:
        """When it fires."""
        days = Days(
            self.month.bits,
            self.day.bits,
            self.weekday.bits,
            day_specs=self.day.specs,
            weekday_specs=self.weekday.specs,
            either=self.day_or and self.both_restricted,
        )
        seconds = 1 if self.second is None else self.second.bits
        return Dated(days, Fields(self.hour.bits, self.minute.bits, seconds), fixed=self.fixed)


def parse_cron(words: list[str], expression: str, *, day_or: bool = True) -> Cron:
    """Understand five or six fields. Raises ``InvalidSchedule``; ``expression`` is for its text."""
    second: Field | None = None
    shift = 0
    try:
        if len(words) == 6:
            second = _field(words[0], _SECOND)
            shift = 1
        elif len(words) != 5:
            raise InvalidSchedule(
                f"cron has 5 fields, or 6 with seconds first; '{' '.join(words)}' has {len(words)}",
                expression,
            )
        minute = _field(words[shift], _MINUTE)
        hour = _field(words[shift + 1], _HOUR)
        day = _field(words[shift + 2], _DAY)
        month = _field(words[shift + 3], _MONTH)
        weekday = _field(words[shift + 4], _WEEKDAY)
    except _BadField as error:
        place = _column(_FIELDS.index(error.kind) - 1 + shift, expression) + error.place
        raise InvalidSchedule(
            error.message.replace("{at}", f"at {place}"), expression, place
        ) from None
    return Cron(second, minute, hour, day, month, weekday, day_or)


_FIELDS = (_SECOND, _MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


class _BadField(Exception):
    def __init__(self, kind: _Kind, message: str, place: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.place = place


def _column(index: int, expression: str) -> int:
    """The column at which a field stands, counted from 1."""
    starts = [found.start() + 1 for found in re.finditer(r"\S+", expression)]
    return starts[max(index, 0)] if index < len(starts) else 1


@lru_cache(maxsize=2048)
def _field(text: str, kind: _Kind) -> Field:
    if text == "*" or (text == "?" and (kind is _DAY or kind is _WEEKDAY)):
        if kind is _WEEKDAY:
            return Field("*", ALL_WEEKDAYS, True, True)
        return Field("*", (1 << kind.high + 1) - (1 << kind.low) >> (kind is _DAY), True, True)
    bits = 0
    specs: list[DaySpec] = []
    texts: list[str] = []
    stepped = False
    place = 0
    for item in text.split(","):
        try:
            canonical, values, spec, steps = _item(item.upper(), kind)
        except _BadItem as error:
            raise _BadField(kind, str(error), place + error.place) from None
        texts.append(canonical)
        bits |= values
        stepped = stepped or steps
        if spec is not None:
            specs.append(spec)
        place += len(item) + 1
    if kind is _DAY:
        bits = bits >> 1 & ALL_DAYS
    return Field(",".join(dict.fromkeys(texts)), bits, text[0] == "*", stepped, tuple(specs))


class _BadItem(Exception):
    def __init__(self, message: str, place: int = 0) -> None:
        super().__init__(message)
        self.place = place


_ITEM = re.compile(
    r"(?:(?P<star>\*)|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:(?P<slash>/)(?P<step>\w*))?"
)
_LAST = re.compile(r"L(?:-(\d+))?")
_NEAREST = re.compile(r"(\d+)W|LW|WL")
_NTH = re.compile(r"(\w+)#(\w*)")
_LAST_OF = re.compile(r"(\w+)L")


def _item(item: str, kind: _Kind) -> tuple[str, int, DaySpec | None, bool]:
    """One item of a list: its canonical text, its bits, or its day, and whether it is a range."""
    if kind is _DAY and (special := _day_of_month(item)):
        return special
    if kind is _WEEKDAY and (special := _day_of_week(item)):
        return special
    found = _ITEM.fullmatch(item)
    if found is None:
        what = f"'{item}' {{at}}" if item else "an empty value {at}"
        raise _BadItem(f"{what} is no {kind.name}{_example(kind)}")
    step = 1
    if found["slash"]:
        if not found["step"].isdigit() or not int(found["step"]):
            raise _BadItem(
                f"the step '{found['step']}' {{at}} must be a number, 1 or more",
                found.start("step"),
            )
        step = int(found["step"])
    if found["star"]:
        top = 6 if kind is _WEEKDAY else kind.high
        text = "*" if step == 1 else f"*/{step}"
        return text, _bits(kind.low, top, step), None, True
    low = _value(found["low"], kind, 0)
    if found["high"] is None:
        if not found["slash"]:
            if kind is _WEEKDAY:
                low %= 7
            return str(low), 1 << low, None, False
        top = 6 if kind is _WEEKDAY else kind.high
        return f"{low}/{step}", _bits(low % 7 if top == 6 else low, top, step), None, True
    high = _value(found["high"], kind, found.start("high"))
    text = f"{low}-{high}" + (f"/{step}" if step > 1 else "")
    if kind is _WEEKDAY:
        return text, _weekday_bits(low, high, step), None, True
    if low <= high:
        return text, _bits(low, high, step), None, True
    # A reversed range goes on past the end: 22-2 is 22, 23, 0, 1, 2.
    size = kind.high - kind.low + 1
    bits = 0
    for value in range(low, high + size + 1, step):
        bits |= 1 << (value - kind.low) % size + kind.low
    return text, bits, None, True


def _weekday_bits(low: int, high: int, step: int) -> int:
    """Sunday is 0 and 7: 0-7 and 1-7 and 5-1 all mean what they look like."""
    if high < low:
        high += 7
    bits = 0
    for value in range(low, high + 1, step):
        bits |= 1 << value % 7
    return bits


def _bits(low: int, high: int, step: int) -> int:
    if step == 1:
        return (1 << high + 1) - (1 << low)
    bits = 0
    for value in range(low, high + 1, step):
        bits |= 1 << value
    return bits


def _day_of_month(item: str) -> tuple[str, int, DaySpec | None, bool] | None:
    if found := _LAST.fullmatch(item):
        back = int(found[1] or 0)
        if back > 30:
            raise _BadItem(f"'{item}' {{at}} is before the month: L-30 is the furthest")
        return (f"L-{back}" if back else "L"), 0, DaySpec("last", shift=-back, clamp=False), False
    if found := _NEAREST.fullmatch(item):
        if found[1] is None:
            return "LW", 0, DaySpec("last_work"), False
        day = _value(found[1], _DAY, 0)
        return f"{day}W", 0, DaySpec("nearest", day), False
    if item.endswith("W") and item[:-1].replace("-", "").isdigit():
        raise _BadItem(f"'{item}' {{at}}: W follows one day, as in 15W")
    return None


def _day_of_week(item: str) -> tuple[str, int, DaySpec | None, bool] | None:
    if found := _NTH.fullmatch(item):
        weekday = _value(found[1], _WEEKDAY, 0) % 7
        if found[2] not in ("1", "2", "3", "4", "5"):
            raise _BadItem(
                f"'{item}' {{at}}: a month has weekdays #1 to #5; use {found[1]}L for the last"
            )
        return f"{weekday}#{found[2]}", 0, DaySpec("nth", int(found[2]), weekday), False
    if item == "L":
        raise _BadItem("'L' {at} needs its weekday, as in 5L or FRIL, the last Friday")
    if (found := _LAST_OF.fullmatch(item)) and "-" not in item:
        weekday = _value(found[1], _WEEKDAY, 0) % 7
        return f"{weekday}L", 0, DaySpec("last_of", weekday=weekday), False
    return None


def _value(text: str, kind: _Kind, place: int) -> int:
    if text.isdigit() and text.isascii():
        value = int(text)
        if kind.low <= value <= kind.high:
            return value
        raise _BadItem(f"{kind.name} {text} {{at}} is out of range: {kind.low}-{kind.high}", place)
    if text in kind.names:
        return kind.names[text]
    if text == "?":
        raise _BadItem(f"'?' {{at}} is for days only; use '*' for any {kind.name}", place)
    hint = did_you_mean(text, kind.names) if kind.names else _example(kind)
    raise _BadItem(f"unknown {kind.name} '{text}' {{at}}{hint}", place)


def _example(kind: _Kind) -> str:
    if kind is _DAY:
        return "; use 1-31, ranges, steps, L, L-3, 15W or LW"
    if kind is _WEEKDAY:
        return "; use 0-7, SUN-SAT, ranges, steps, 2#1 or 5L"
    return f"; use {kind.low}-{kind.high}, ranges such as 1-5, lists or steps such as */5"
