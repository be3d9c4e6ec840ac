"""``Schedule``, what every notation becomes, and ``parse``, which makes one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from mesh.errors import InvalidSchedule
from mesh.schedule.cron import MACROS, Cron, parse_cron
from mesh.schedule.rules import Rule
from mesh.schedule.zones import Zone, zone_named

__all__ = ["Notation", "Schedule", "build", "duration_text", "parse", "parse_duration"]

_S = TypeVar("_S", bound="Schedule")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Notation(Protocol):
    """How a schedule was written, understood: it knows its canonical text."""

    @property
    def text(self) -> str: ...


class Schedule:
    """When something happens again and again. Made by ``parse`` or ``every(...)``.

    Immutable, hashable, picklable; two are equal if their canonical texts are. Times are read on
    the clock of ``timezone``. When that clock goes forward, all slots in the gap fire once, at
    the first instant after it; when it goes back, a fixed schedule fires at the first of the two
    times, an interval in both hours. A slot is always strictly after the one before.
    """

    __slots__ = ("_end", "_jitter", "_notation", "_rule", "_start", "_text", "_zone", "_zoned")

    _notation: Notation
    _rule: Rule
    _zone: Zone
    _zoned: bool
    _start: int | None
    _end: int | None
    _jitter: int
    _text: str | None

    def __init__(self) -> None:
        raise TypeError(
            "a Schedule is made by mesh.schedule.parse(...) or mesh.schedule.every(...)"
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a schedule cannot be changed: {name}")

    @property
    def text(self) -> str:
        """The canonical text. ``parse(schedule.text)``, with nothing else, is equal to this."""
        if self._text is None:
            object.__setattr__(self, "_text", self._write())
        assert self._text is not None
        return self._text

    @property
    def timezone(self) -> str:
        """The IANA name of its zone; UTC if it names none."""
        return self._zone.name

    @property
    def names_zone(self) -> bool:
        """Whether it says in which zone it is, be it UTC. A schedule of a cluster that does not
        is read in the cluster's."""
        return self._zoned

    @property
    def start(self) -> datetime | None:
        """The earliest moment at which a slot may be, in UTC."""
        return None if self._start is None else _moment(self._start)

    @property
    def end(self) -> datetime | None:
        """The moment from which on there is no slot, in UTC."""
        return None if self._end is None else _moment(self._end)

    @property
    def jitter(self) -> timedelta:
        """How far ``delay`` spreads the slots."""
        return timedelta(microseconds=self._jitter)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first slot strictly after ``moment``, in the schedule's zone.

        ``None``: it never fires again. Slots are without jitter: they name what happens.
        Raises ``ValueError`` for a ``moment`` without a time zone.
        """
        slot = self._next(_microseconds(moment, "moment"))
        if slot is None:
            return None
        try:
            return self._zone.moment(slot)
        except OverflowError:  # the year 10000
            return None

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The slots from ``start`` on and before ``end``, in order.

        Like ``range``: a slot at ``start`` is included, one at ``end`` is not. Raises
        ``ValueError`` for a moment without a time zone.
        """
        return self._between(_microseconds(start, "start") - 1, _microseconds(end, "end"))

    def _between(self, after: int, end: int) -> Iterator[datetime]:
        # By instants: two datetimes of one zone are compared by what the clock shows.
        slot = self._next(after)
        while slot is not None and slot < end:
            try:
                yield self._zone.moment(slot)
            except OverflowError:  # the year 10000
                return
            slot = self._next(slot)

    def _next(self, after: int) -> int | None:
        if self._start is not None and after < self._start:
            after = self._start - 1
        slot = self._rule.after(after, self._zone)
        return None if slot is None or (self._end is not None and slot >= self._end) else slot

    def delay(self, slot: datetime, key: str = "") -> timedelta:
        """How long after ``slot`` to really start: 0 up to, but not, ``jitter``.

        The same for the same slot and ``key`` in every process and version of Python; use the
        schedule's name as the key, so that schedules of the same slot are spread.
        """
        if not self._jitter:
            return timedelta(0)
        seed = f"{key}\0{_microseconds(slot, 'slot')}".encode()
        number = int.from_bytes(sha256(seed).digest()[:8], "big")
        return timedelta(microseconds=number * self._jitter >> 64)

    def describe(self) -> str:
        """What it does, in plain English."""
        from mesh.schedule.describe import describe

        return describe(self._notation, self._zone.name, self.start, self.end, self.jitter)

    def _write(self) -> str:
        text = self._notation.text
        if self._zoned:
            text += f" tz {self._zone.name}"
        if self._start is not None:
            text += f" starting {_moment(self._start).isoformat()}"
        if self._end is not None:
            text += f" ending {_moment(self._end).isoformat()}"
        if self._jitter:
            text += f" jitter {duration_text(self._jitter)}"
        if isinstance(self._notation, Cron) and not self._notation.day_or:
            text += " both days"
        return text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"parse({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        return parse, (self.text,)


def parse(
    expression: str | timedelta | Schedule,
    timezone: str | None = None,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    jitter: timedelta | float = 0,
    day_or: bool = True,
) -> Schedule:
    """Understand a cron expression, a macro, plain English or an interval.

    ``timezone`` is an IANA name; one in the expression (``… tz Europe/London``) goes before it.
    With neither it is UTC, and does not say so: see ``Schedule.names_zone``.
    ``start`` (inclusive) and ``end`` (exclusive) are aware datetimes. An interval counts from
    ``start``, and plain English takes from it what it leaves open: ``every week`` happens on
    the weekday and at the time of ``start``. ``jitter``, a ``timedelta`` or seconds, is for
    ``Schedule.delay``. ``day_or=False`` wants a cron expression's day of the month and weekday
    both to match; else either is enough, where both are restricted.

    A ``timedelta`` steps real time from ``start``, or from 1970-01-01 UTC.

    Raises ``InvalidSchedule``, which is a ``ValueError``, and says what is wrong and where.
    """
    if isinstance(expression, str):
        return _parse_text(expression, timezone, start, end, jitter, day_or)
    if isinstance(expression, timedelta):
        if expression <= timedelta(0):
            raise InvalidSchedule(f"{expression!r}: an interval must be longer than nothing")
        text = f"every {duration_text(expression // timedelta(microseconds=1))}"
        return _parse_text(text, timezone, start, end, jitter, day_or)
    if isinstance(expression, Schedule):
        if timezone is None and start is end is None and not jitter and day_or:
            return expression
        raise InvalidSchedule(f"{expression!r} is a schedule already; give its options to it")
    raise InvalidSchedule(
        f"{expression!r} is no schedule: use a cron expression, 'every 5 minutes' or a timedelta"
    )


_OPTIONS = re.compile(
    r"(?<!\S)@?(?:"
    r"(?:tz|timezone)\s+(?P<tz>[^\s,\]]+)|"
    r"starting\s+(?P<starting>\S+)|ending\s+(?P<ending>\S+)|jitter\s+(?P<jitter>\S+)|"
    r"(?P<both>both\s+days))(?!\S)",
    re.IGNORECASE,
)


def _parse_text(
    expression: str,
    timezone: str | None,
    start: datetime | None,
    end: datetime | None,
    jitter: timedelta | float,
    day_or: bool,
) -> Schedule:
    words = expression.split()
    options: dict[str, tuple[str, int]] = {}
    body = expression
    # Five or six words that begin like cron hold no option: each option has two words.
    if not (4 < len(words) < 7 and words[0][0] in "0123456789*"):
        # Blanked out, not cut out: columns must stay what they are.
        for found in _OPTIONS.finditer(expression):
            name = str(found.lastgroup)
            if name in options:
                word = found[0].split()[0]
                raise InvalidSchedule(
                    f"'{word}' at {found.start() + 1} is said twice", expression, found.start() + 1
                )
            options[name] = (found[name], found.start(name) + 1)
            body = body[: found.start()] + " " * len(found[0]) + body[found.end() :]
        words = body.split()
    if "tz" in options:
        timezone = options["tz"][0]
    if "starting" in options:
        start = _option_moment(options["starting"], expression)
    if "ending" in options:
        end = _option_moment(options["ending"], expression)
    spread = _jitter(jitter)
    if "jitter" in options:
        spread = _option_jitter(options["jitter"], expression)
    return _make(
        body, words, expression, timezone, start, end, spread, day_or and "both" not in options
    )


def _make(
    body: str,
    words: list[str],
    expression: str,
    timezone: str | None,
    start: datetime | None,
    end: datetime | None,
    jitter: int,
    day_or: bool,
) -> Schedule:
    if not words:
        raise InvalidSchedule(
            "the expression is empty; try '0 9 * * MON-FRI' or 'every 5 minutes'", expression
        )
    try:
        zone = zone_named("UTC" if timezone is None else timezone)
    except InvalidSchedule as error:
        place = expression.find(str(timezone)) + 1 or None
        raise InvalidSchedule(str(error), expression, place) from None
    begins = None if start is None else _microseconds(start, "start")
    ends = None if end is None else _microseconds(end, "end")
    if begins is not None and ends is not None and ends <= begins:
        raise InvalidSchedule(f"end={end} is not after start={start}: it would never fire")
    first = words[0][0]
    if len(words) == 1 and words[0].lower() in MACROS:
        words = MACROS[words[0].lower()].split()
        first = "0"
    if first.isalpha() or first == "@":
        from mesh.schedule.grammar import parse_sentence
        from mesh.schedule.meaning import meaning

        sentence = parse_sentence(body, expression)
        return build(
            sentence,
            meaning(sentence, zone, begins, expression),
            zone,
            begins,
            ends,
            jitter,
            Schedule,
            zoned=timezone is not None,
        )
    cron = parse_cron(words, expression, day_or=day_or)
    if not day_or and not cron.both_restricted:
        cron = cron._replace(day_or=True)
    zoned = timezone is not None
    return build(cron, cron.rule(), zone, begins, ends, jitter, Schedule, zoned=zoned)


def build(
    notation: Notation,
    rule: Rule,
    zone: Zone,
    start: int | None,
    end: int | None,
    jitter: int,
    kind: type[_S],
    *,
    zoned: bool,
) -> _S:
    """A schedule of its parts; moments and ``jitter`` in microseconds; ``zoned``: it names its
    zone."""
    made = object.__new__(kind)
    put = object.__setattr__
    put(made, "_notation", notation)
    put(made, "_rule", rule)
    put(made, "_zone", zone)
    put(made, "_zoned", zoned)
    put(made, "_start", start)
    put(made, "_end", end)
    put(made, "_jitter", jitter)
    put(made, "_text", None)
    return made


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _microseconds(moment: datetime, name: str) -> int:
    if not isinstance(moment, datetime):
        raise InvalidSchedule(f"{name}={moment!r}: must be an aware datetime")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidSchedule(
            f"{name}={moment.isoformat()} has no time zone; use an aware datetime, "
            "such as datetime(..., tzinfo=UTC)"
        )
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _jitter(jitter: timedelta | float) -> int:
    if isinstance(jitter, timedelta):
        microseconds = jitter // timedelta(microseconds=1)
    elif isinstance(jitter, int | float) and not isinstance(jitter, bool):
        if not -1e12 < jitter < 1e12:
            raise InvalidSchedule(f"jitter={jitter}: must be seconds, 0 or more, or a timedelta")
        microseconds = round(jitter * 1_000_000)
    else:
        raise InvalidSchedule(f"jitter={jitter!r}: must be seconds or a timedelta")
    if microseconds < 0:
        raise InvalidSchedule(f"jitter={jitter}: must not be negative")
    return microseconds


def _option_moment(option: tuple[str, int], expression: str) -> datetime:
    text, place = option
    moment: datetime | None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidSchedule(
            f"'{text}' at {place} must be a moment with its offset, such as 2027-01-31T09:00Z",
            expression,
            place,
        )
    return moment


def _option_jitter(option: tuple[str, int], expression: str) -> int:
    text, place = option
    microseconds = parse_duration(text)
    if microseconds is None:
        raise InvalidSchedule(
            f"'{text}' at {place} must be a duration, such as PT30S or PT5M", expression, place
        )
    return microseconds


_DURATION = re.compile(
    r"P(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,6}))?S)?)?", re.IGNORECASE
)


def parse_duration(text: str) -> int | None:
    """The microseconds of an ISO 8601 duration of days and shorter; ``None`` for other text."""
    found = _DURATION.fullmatch(text)
    if found is None or text[-1] in "PpTt":
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups()[:4])
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return whole * 1_000_000 + int((found[5] or "").ljust(6, "0"))


def duration_text(microseconds: int) -> str:
    """ISO 8601, in hours, minutes and seconds: ``PT1H30M``."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours}H" if hours else ""
    text += f"{minutes}M" if minutes else ""
    if fraction:
        text += f"{seconds}.{fraction:06}".rstrip("0") + "S"
    elif seconds or not text:
        text += f"{seconds}S"
    return f"PT{text}"
