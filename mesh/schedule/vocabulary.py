"""The words of plain English schedules, and how a text falls into them."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from mesh.errors import InvalidSchedule, did_you_mean

__all__ = [
    "ANCHORS",
    "MONTHS",
    "ORDINALS",
    "POINT_WORDS",
    "SHORTCUTS",
    "SPECIALS",
    "UNITS",
    "UNIT_SECONDS",
    "WEEKDAYS",
    "Token",
    "Unit",
    "fail",
    "long_month_names",
    "long_weekday_names",
    "month_names",
    "nearest",
    "tokens",
    "weekday_names",
]

month_names = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
weekday_names = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

long_month_names = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
long_weekday_names = (
    *("sunday", "monday", "tuesday", "wednesday"),
    *("thursday", "friday", "saturday"),
)

MONTHS = {name: number + 1 for number, name in enumerate(month_names)}
MONTHS |= {name: number + 1 for number, name in enumerate(long_month_names)}
MONTHS["sept"] = 9
WEEKDAYS = {name: number for number, name in enumerate(weekday_names)}
WEEKDAYS |= {name: number for number, name in enumerate(long_weekday_names)}
WEEKDAYS |= {"tues": 2, "weds": 3, "thur": 4, "thurs": 4}

Unit = Literal["second", "minute", "hour", "day", "week", "month", "year"]
_ALIASES: dict[Unit, str] = {
    "second": "second seconds sec secs",
    "minute": "minute minutes min mins",
    "hour": "hour hours hr hrs",
    "day": "day days dy dys",
    "week": "week weeks wk wks",
    "month": "month months mth mths",
    "year": "year years yr yrs",
}
UNITS: dict[str, Unit] = {
    alias: unit for unit, aliases in _ALIASES.items() for alias in aliases.split()
}
UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
SHORTCUTS: dict[str, Unit] = {
    "secondly": "second",
    "minutely": "minute",
    "hourly": "hour",
    "daily": "day",
    "weekly": "week",
    "monthly": "month",
    "yearly": "year",
    "annually": "year",
}
ANCHORS = frozenset({"anchoredon", "anchoredat", "basedon", "basedat"})
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "last": -1}
SPECIALS = {
    **dict.fromkeys(
        ["firstday", "firstdayofmonth", "firstdayofthemonth", "firstofmonth", "firstofthemonth"],
        "first",
    ),
    "lastday": "last",
    "lastdayofmonth": "last",
    "lastdayofthemonth": "last",
    "lastofmonth": "last",
    "lastofthemonth": "last",
    "firstweekday": "first_work",
    "lastweekday": "last_work",
    "closestweekdayto": "nearest_in",
}
POINT_WORDS = (
    *MONTHS,
    *WEEKDAYS,
    *UNITS,
    *SPECIALS,
    *(ordinal + day for ordinal in ORDINALS for day in WEEKDAYS if len(day) != 4),
)


class Token(NamedTuple):
    """A piece of the text. ``kind``: word, number, ordinal, time, date, duration or symbol."""

    kind: str
    text: str
    place: int
    """The column, counted from 1."""


_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_TOKEN = re.compile(
    rf"""
    (?P<date> \d{{4}}-(?:\d{{1,2}}|(?:{_MONTH})(?![a-z]))(?:-\d{{1,2}})?(?:(?=t\d)|(?![\w-]))
            | (?:{_MONTH})-\d{{1,2}}(?:-\d{{4}})?(?![\w-])
            | \d{{1,2}}-\d{{1,2}}(?![\w-]) )
    | (?P<time> t?\d{{1,2}}:\d\d(?::\d\d)?(?:\s*[ap]m(?![a-z]))? | \d{{1,2}}\s*[ap]m(?![a-z]) )
    | (?P<ordinal> \d+(?:st|nd|rd|th)(?![a-z]) | [1-5](?:st|nd|rd|th)[a-z]+ )
    | (?P<number> \d+ )
    | (?P<duration> p(?=t?\d)[\dtdhms.]+(?![\w]) )
    | (?P<word> [a-z]+ )
    | (?P<symbol> [\[\],+@-] )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SPACE = re.compile(r"\s*")


def tokens(text: str, expression: str) -> list[Token]:
    """The pieces of ``text``, in lower case. Raises ``InvalidSchedule`` at a strange letter."""
    found: list[Token] = []
    place = 0
    while (place := _space(text, place)) < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise fail(f"unexpected '{text[place]}'", place + 1, "", expression)
        found.append(Token(str(match.lastgroup), match[0].lower(), place + 1))
        place = match.end()
    return found


def _space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def fail(what: str, place: int, hint: str, expression: str) -> InvalidSchedule:
    """The error about what stands at a column."""
    return InvalidSchedule(f"{what} at {place}{hint}", expression, place)


def nearest(word: str, known: tuple[str, ...], otherwise: str) -> str:
    """ "did you mean", or another hint where nothing is near (never a list of all the words)."""
    hint = did_you_mean(word, known)
    return hint if hint.startswith(";") else otherwise
