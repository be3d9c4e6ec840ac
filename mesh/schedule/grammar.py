"""From the text of a plain English schedule to a ``Sentence``.

The grammar is NaturalCron's: ``every``, then any number of ``on``/``in``/``at``, ``between``,
``from`` and ``upto``, with ``@`` before a keyword and commas between clauses as one likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from mesh.errors import InvalidSchedule
from mesh.schedule.points import PointReader
from mesh.schedule.sentence import Every, On, Point, Sentence, Window
from mesh.schedule.vocabulary import (
    ANCHORS,
    MONTHS,
    SHORTCUTS,
    UNITS,
    WEEKDAYS,
    Token,
    Unit,
    nearest,
)

__all__ = ["parse_sentence"]

_KEYWORDS = (
    *("every", "between", "from", "upto", "on", "in", "at", "timezone", "tz"),
    *("anchoredon", "starting", "ending", "jitter", *SHORTCUTS),
)
_T = TypeVar("_T")
_MOST = 10**9


def parse_sentence(text: str, expression: str) -> Sentence:
    """Understand ``text``, which has ``expression``'s columns. Raises ``InvalidSchedule``."""
    return _Parser(text, expression).sentence()


class _Parser(PointReader):
    def sentence(self) -> Sentence:
        every: Every | None = None
        ons: list[On] = []
        windows: list[Window] = []
        while self.peek().kind != "end":
            if self.take_if(",", "@"):
                continue
            token = self.take()
            if token.text == "every" or token.text in SHORTCUTS:
                if every is not None:
                    raise self.fail(f"a second '{token.text}'", token, "; only one can be")
                every = self.every(token)
            elif token.text in ("on", "in", "at"):
                ons.append(On(tuple(self.listed(self.point)), token.place))
            elif token.text == "between":
                windows.append(Window(tuple(self.listed(self.range)), token.place))
            elif token.text == "from":
                windows.append(Window(((self.point(""), None),), token.place))
            elif token.text == "upto":
                windows.append(Window(((None, self.point("")),), token.place))
            else:
                raise self.unknown_clause(token)
        if every is None and not ons:
            token = Token("word", "", windows[0].place if windows else 1)
            raise self.fail("'every', 'on' or 'at' is missing", token, "")
        if every is None and windows:
            token = Token("word", "", windows[0].place)
            raise self.fail("a range", token, " needs an 'every', such as 'every day'")
        return Sentence(every, tuple(ons), tuple(windows))

    def unknown_clause(self, token: Token) -> InvalidSchedule:
        if token.text in ("tz", "timezone", "starting", "ending", "jitter"):
            return self.missing(f"what '{token.text}' is to be")
        if token.kind == "word":
            hint = nearest(token.text, _KEYWORDS, "; clauses begin with every, on, at, between, …")
            return self.fail(f"unknown word '{token.text}'", token, hint)
        return self.fail(
            f"'{token.text}'", token, " follows no 'every', 'on', 'at', 'between', 'from' or 'upto'"
        )

    def every(self, word: Token) -> Every:
        if word.text in SHORTCUTS:
            return self.anchored(1, SHORTCUTS[word.text], word)
        token = self.take()
        if token.kind == "duration":
            from mesh.schedule.schedule import parse_duration

            duration = parse_duration(token.text)
            if not duration:
                raise self.fail(f"unknown duration '{token.text}'", token, "; write PT1H30M")
            return Every(1, "second", duration=duration, place=word.place)
        if token.kind == "word" and token.text in WEEKDAYS:
            return Every(1, "week", WEEKDAYS[token.text], place=word.place)
        count = 1
        if token.kind == "number":
            count = int(token.text)
            if not 0 < count < _MOST:
                raise self.fail(f"every {token.text}", token, ": must be 1 or more, and sensible")
            token = self.take()
        if token.kind == "end":
            self.at -= 1
            raise self.missing("a unit")
        if token.text not in UNITS:
            words = tuple(UNITS) if count > 1 else (*UNITS, *WEEKDAYS)
            hint = nearest(token.text, words, "; use seconds, minutes, hours, days, weeks, …")
            raise self.fail(f"unknown unit '{token.text}'", token, hint)
        return self.anchored(count, UNITS[token.text], word)

    def anchored(self, count: int, unit: Unit, word: Token) -> Every:
        if self.peek().text == "@" and self.peek(1).text in ANCHORS:
            self.at += 1
        two = self.peek().text + self.peek(1).text
        if self.peek().text in ANCHORS:
            self.at += 1
        elif two in ANCHORS:
            self.at += 2
        else:
            return Every(count, unit, place=word.place)
        return Every(count, unit, anchor=self.anchor(unit), place=word.place)

    def anchor(self, unit: Unit) -> int:
        """The number that an anchor names: a minute of the hour, a weekday, a month, …"""
        token = self.take()
        if token.text in UNITS and UNITS[token.text] == unit:
            token = self.take()
        low, high = {
            "second": (0, 59),
            "minute": (0, 59),
            "hour": (0, 23),
            "day": (1, 31),
            "week": (0, 6),
            "month": (1, 12),
            "year": (1, 9999),
        }[unit]
        if unit == "week" and token.text in WEEKDAYS:
            return WEEKDAYS[token.text]
        if unit == "month" and token.text in MONTHS:
            return MONTHS[token.text]
        number = re.match(r"\d+", token.text)
        if number is None or unit == "week" or token.kind not in ("number", "ordinal"):
            kind = {"week": "weekday", "month": "month"}.get(unit, f"number of {unit}s")
            known = tuple(WEEKDAYS if unit == "week" else MONTHS if unit == "month" else ())
            what = f"'{token.text}'" if token.text else "the end"
            hint = nearest(token.text, known, "") if token.kind == "word" else ""
            raise self.fail(f"the anchor of {unit}s must be a {kind}, not {what}", token, hint)
        value = int(number[0])
        if not low <= value <= high:
            raise self.fail(f"{unit} {value}", token, f" is out of range: {low}-{high}")
        return value

    def listed(self, one: Callable[[str], _T]) -> list[_T]:
        """One point or range, or several in brackets; a unit before the bracket is for all."""
        unit: str = ""
        if self.peek().text in UNITS and self.peek(1).text == "[":
            unit = UNITS[self.take().text]
        if not self.take_if("["):
            return [one(unit)]
        found = [one(unit)]
        while self.take_if(","):
            found.append(one(unit))
        if not self.take_if("]"):
            raise self.missing("',' or ']'")
        return found

    def range(self, unit: str) -> tuple[Point, Point]:
        """``X and Y``; a unit before X is for both."""
        if not unit and self.peek().text in UNITS:
            unit = UNITS[self.peek().text]
        low = self.point(unit if self.peek().text not in UNITS else "")
        if not self.take_if("and"):
            raise self.missing("'and'")
        return low, self.point(unit if self.peek().text not in UNITS else "")
