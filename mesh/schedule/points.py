"""Reads the times and days of plain English schedules: ``2nd Tuesday 14:00``, ``LastDay - 1``."""

from __future__ import annotations

import re
from datetime import date

from mesh.errors import InvalidSchedule
from mesh.schedule.days import DaySpec, length
from mesh.schedule.sentence import Point
from mesh.schedule.vocabulary import (
    MONTHS,
    ORDINALS,
    POINT_WORDS,
    SPECIALS,
    UNITS,
    WEEKDAYS,
    Token,
    fail,
    nearest,
    tokens,
)

__all__ = ["PointReader"]

_STOP = frozenset(
    ("every", "on", "in", "at", "between", "from", "upto", "and", "tz", "timezone", "@", "]", "")
)
_BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "year": (1, 9999),
}


class PointReader:
    """A place in the tokens of a text, and the reading of one ``Point`` from there."""

    def __init__(self, text: str, expression: str) -> None:
        self.expression = expression
        self.end = len(text.rstrip()) + 1
        self.tokens = tokens(text, expression)
        self.at = 0

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or a later one; of kind ``end`` after the last."""
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else Token("end", "", self.end)

    def take(self) -> Token:
        """The next token, and go on."""
        token = self.peek()
        self.at += 1
        return token

    def take_if(self, *texts: str) -> bool:
        """Go on if the next token is one of ``texts``."""
        if self.peek().kind != "end" and self.peek().text in texts:
            self.at += 1
            return True
        return False

    def fail(self, what: str, token: Token, hint: str = "") -> InvalidSchedule:
        """The error about what stands at a token."""
        return fail(what, token.place, hint, self.expression)

    def missing(self, what: str) -> InvalidSchedule:
        """The error about what should stand here."""
        token = self.peek()
        said = "the end" if token.kind == "end" else f"'{token.text}'"
        return self.fail(f"{what} is missing before {said}", token)

    def point(self, unit: str = "") -> Point:
        """Everything up to the next clause, ``and``, or (in brackets) comma.

        ``unit``, if any, is what a bare number counts.
        """
        start = self.peek()
        said: dict[str, int | DaySpec] = {}
        while self.peek().text not in _STOP:
            if self.peek().text == ",":
                if self._in_brackets() or not said or self.peek(1).text in (*_STOP, ","):
                    break
                self.at += 1
                continue
            token = self.peek()
            for name, value in self._atom(unit, said).items():
                if name in said:
                    raise self.fail(f"a second {name} '{token.text}'", token, " in one place")
                said[name] = value
        if not said:
            raise self.missing("a time or a day")
        self._check(said, start)
        return Point(**said, place=start.place)  # type: ignore[arg-type]

    def _in_brackets(self) -> bool:
        before = [token.text for token in self.tokens[: self.at]]
        return before.count("[") > before.count("]")

    def _check(self, said: dict[str, int | DaySpec], token: Token) -> None:
        """No such day as 31 Feb."""
        day, month = said.get("day"), said.get("month")
        if not (isinstance(day, DaySpec) and day.kind == "day" and isinstance(month, int)):
            return
        year = said.get("year")
        days = length(year if isinstance(year, int) else 2000, month)
        if day.number > days:
            of = f"{date(2000, month, 1):%B}" + (f" {year}" if year else "")
            raise self.fail(f"day {day.number}", token, f" is not in {of}, which has {days}")

    def _atom(self, unit: str, said: dict[str, int | DaySpec]) -> dict[str, int | DaySpec]:
        """One word of a point, and what it says of which unit."""
        token = self.take()
        match token.kind:
            case "time":
                return dict(self._time(token))
            case "date":
                return dict(self._date(token))
            case "ordinal":
                return self._ordinal(token)
            case "number":
                return self._number(token, unit, said)
            case "word":
                return self._word(token, unit)
            case _:
                raise self.fail(f"unexpected '{token.text}'", token)

    def _time(self, token: Token) -> dict[str, int]:
        half = re.search(r"[ap]m$", token.text)
        numbers = [int(number) for number in re.findall(r"\d+", token.text)]
        if half is None and self.peek().text in ("am", "pm"):
            half = re.search(r"[ap]m$", self.take().text)
        if half is not None:
            if not 1 <= numbers[0] <= 12:
                raise self.fail(f"'{token.text}'", token, f": with {half[0]} the hour is 1-12")
            numbers[0] = numbers[0] % 12 + (12 if half[0] == "pm" else 0)
        units: tuple[str, ...] = ("hour", "minute", "second")
        said: dict[str, int] = dict(zip(units, numbers, strict=False))
        for name, value in said.items():
            self._bounded(name, value, token)
        return said

    def _date(self, token: Token) -> dict[str, int | DaySpec]:
        parts = token.text.split("-")
        if len(parts[0]) == 4 and parts[0].isdigit():
            year, month, *day = parts
        else:
            month, first, *rest = parts
            day, year = [first], rest[0] if rest else ""
        said: dict[str, int | DaySpec] = {}
        if year:
            said["year"] = self._bounded("year", int(year), token)
        said["month"] = MONTHS.get(month) or self._bounded("month", int(month), token)
        if day:
            said["day"] = DaySpec("day", self._bounded("day", int(day[0]), token))
        return said

    def _ordinal(self, token: Token) -> dict[str, int | DaySpec]:
        found = re.fullmatch(r"(\d+)(?:st|nd|rd|th)([a-z]*)", token.text)
        assert found is not None
        number, name = int(found[1]), found[2]
        if not name and number <= 5 and self.peek().text in WEEKDAYS:
            name = self.take().text
        if not name:
            return {"day": self._shifted(DaySpec("day", self._bounded("day", number, token)))}
        if name in WEEKDAYS:
            return {"day": self._shifted(DaySpec("nth", number, WEEKDAYS[name]))}
        if name == "weekday" and number == 1:
            return {"day": self._shifted(DaySpec("first_work"))}
        hint = nearest(name, tuple(WEEKDAYS), "; as in 2ndTuesday")
        raise self.fail(f"unknown weekday '{name}' in '{token.text}'", token, hint)

    def _number(
        self, token: Token, unit: str, said: dict[str, int | DaySpec]
    ) -> dict[str, int | DaySpec]:
        number = int(token.text)
        if self.peek().text in UNITS and self.peek(1).kind not in ("number",):
            unit = UNITS[self.take().text]  # 8hr
        elif not unit:
            long = len(token.text) == 4
            unit = "year" if long and ("month" in said or "year" not in said) else "day"
        if unit == "week":
            raise self.fail(f"week {number}", token, "; weeks have no numbers here, use months")
        self._bounded(unit, number, token)
        return {unit: self._shifted(DaySpec("day", number)) if unit == "day" else number}

    def _word(self, token: Token, unit: str) -> dict[str, int | DaySpec]:
        word = token.text
        if unit == "day" and word in ("first", "last"):
            return {"day": self._shifted(DaySpec("day", 1) if word == "first" else DaySpec("last"))}
        if word in MONTHS:
            return {"month": MONTHS[word]}
        if word in WEEKDAYS:
            return {"weekday": WEEKDAYS[word]}
        if word in ORDINALS and self.peek().kind == "word":
            following = self.peek().text
            if following in WEEKDAYS or following == "weekday" or UNITS.get(following) == "day":
                self.at += 1
                word += "day" if following in UNITS else following
        if (day := self._special(word)) is not None:
            return {"day": self._shifted(day)}
        if word in UNITS:
            return self._of_unit(token, UNITS[word])
        hint = nearest(word, POINT_WORDS, "; expected a time, a day, a weekday or a month")
        raise self.fail(f"unknown word '{word}'", token, hint)

    def _of_unit(self, token: Token, unit: str) -> dict[str, int | DaySpec]:
        """``day 10``, ``hour 9``, ``day last``."""
        if unit == "day" and self.peek().text in ("first", "last"):
            first = self.take().text == "first"
            return {"day": self._shifted(DaySpec("day", 1) if first else DaySpec("last"))}
        value = self.take()
        if unit == "month" and value.text in MONTHS:
            return {"month": MONTHS[value.text]}
        if unit == "week" and value.text in WEEKDAYS:
            return {"weekday": WEEKDAYS[value.text]}
        number = re.match(r"\d+", value.text)
        if number is None or value.kind not in ("number", "ordinal") or unit == "week":
            self.at -= 1
            raise self.missing(f"the number of '{token.text}'")
        self._bounded(unit, int(number[0]), value)
        if unit == "day":
            return {"day": self._shifted(DaySpec("day", int(number[0])))}
        return {unit: int(number[0])}

    def _special(self, word: str) -> DaySpec | None:
        match SPECIALS.get(word):
            case "first":
                return DaySpec("day", 1)
            case "last":
                return DaySpec("last")
            case "first_work":
                return DaySpec("first_work")
            case "last_work":
                return DaySpec("last_work")
            case "nearest_in":
                token = self.take()
                number = re.fullmatch(r"(\d+)(?:st|nd|rd|th)?", token.text)
                if number is None:
                    self.at -= 1
                    raise self.missing("a day, as in ClosestWeekdayTo 15th,")
                return DaySpec("nearest_in", self._bounded("day", int(number[1]), token))
        for ordinal, place in ORDINALS.items():
            name = word.removeprefix(ordinal)
            if name != word and name in WEEKDAYS:
                weekday = WEEKDAYS[name]
                if place < 0:
                    return DaySpec("last_of", weekday=weekday)
                return DaySpec("nth", place, weekday)
        return None

    def _shifted(self, day: DaySpec) -> DaySpec:
        """With the ``+ 2`` or ``- 1`` that follows."""
        sign = self.peek().text
        if sign not in ("+", "-"):
            return day
        self.at += 1
        token = self.take()
        if token.kind != "number":
            self.at -= 1
            raise self.missing(f"the number of days after '{sign}'")
        shift = min(int(token.text), 31)
        return day._replace(shift=-shift if sign == "-" else shift)

    def _bounded(self, unit: str, value: int, token: Token) -> int:
        low, high = _BOUNDS[unit]
        if not low <= value <= high:
            raise self.fail(f"{unit} {value}", token, f" is out of range: {low}-{high}")
        return value
