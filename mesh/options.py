"""What a job can be told: ``options(...)``, ``@app.job(...)`` and typed requests, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import msgspec

from mesh.clock import from_datetime
from mesh.errors import ConfigError, did_you_mean
from mesh.held import OnConflict, Outcome
from mesh.job import LEAST_KEPT, Priority, PriorityName, check_job_id, check_name
from mesh.prefix import Prefix
from mesh.retry import Retry

if TYPE_CHECKING:
    from mesh.job_handle import JobHandle

__all__ = ["DEFINED", "HandlerOptions", "JobOptions", "Options"]

Durability = Literal["agent", "master"]


class JobOptions(TypedDict, total=False):
    """What ``options(...)`` takes."""

    id: str
    """A UUID of your choice: enqueuing it again stores nothing twice."""
    delay: float
    """Seconds from now until it may start."""
    at: datetime
    """The moment, with a time zone, from which it may start."""
    priority: PriorityName
    lane: str
    timeout: float
    """Seconds an attempt may take."""
    expires: float | datetime
    """Not started by then (seconds after it is due, or a moment with a time zone): the job ends
    ``expired``."""
    deadline: float | datetime
    """The end of all attempts together (seconds after it is due, or a moment with a time zone):
    none starts or runs later, and the job ends ``failed``."""
    retry: Retry
    meta: Mapping[str, str]
    """Tags, kept with the job, by which it can be found."""
    result_ttl: float
    """Seconds for which the history keeps the job after its end, a minute at least."""
    agent: str
    """The agent to use, instead of any that serves the lane."""
    durability: Durability
    """Where it is stored first: ``agent`` (default), the fastest way; or ``master``."""
    session: Any
    """A transaction of yours on the master's database (a SQLAlchemy session or connection, or
    asyncpg's): the job is there if that commits."""
    key: str
    """An idempotency key: while it stands for a job, further enqueues get that one."""
    key_scope: Literal["unfinished", "forever"] | float
    """How long the key stands for the job: until that has ended (default), for so many seconds,
    or for ever."""
    on_conflict: OnConflict
    """What becomes of the job that the key stands for already: ``keep`` (default), ``replace``,
    ``debounce`` or ``raise``."""
    max_wait: float
    """Of ``debounce``: seconds after which the start is not pushed back any more."""
    after: JobHandle[Any] | str | Iterable[JobHandle[Any] | str]
    """Run after these jobs, or their ids."""
    on: Outcome
    """How those must have ended: ``success`` (default), ``failure`` or ``finished``."""


class HandlerOptions(TypedDict, total=False):
    """Those of the same words that a handler, or a typed request, says for all its jobs."""

    lane: str
    priority: PriorityName
    retry: Retry
    timeout: float
    expires: float
    deadline: float
    result_ttl: float


DEFINED = (
    *("name", "title", "description", "icon", "kind"),
    *("concurrency", "concurrency_key", "limit", "limit_key", "burst"),
    *HandlerOptions.__annotations__,
)
"""The words of a definition."""


@dataclass(frozen=True, slots=True)
class Options:
    """Checked ``JobOptions``."""

    id: str | None = None
    delay: float | None = None
    at: float | None = None
    priority: Priority | None = None
    lane: str | None = None
    timeout: float | None = None
    expires: float | datetime | None = None
    deadline: float | datetime | None = None
    retry: Retry | None = None
    meta: dict[str, str] | None = None
    result_ttl: float | None = None
    agent: str | None = None
    durability: Durability | None = None
    session: Any = None
    key: str | None = None
    key_scope: float | None = None
    """Seconds; ``inf`` is for ever, 0 until the job has ended."""
    on_conflict: OnConflict | None = None
    max_wait: float | None = None
    after: tuple[str, ...] | None = None
    on: Outcome | None = None
    parent: str | None = None
    """Not to be given: ``Context.enqueue`` says it."""

    @classmethod
    def parse(
        cls,
        given: Mapping[str, Any],
        known: Collection[str] = JobOptions.__annotations__,
        where: str = "options()",
    ) -> Options:
        """``None`` means not given. Raises ``ConfigError``, naming the option."""
        for key in given:
            if key not in known:
                raise ConfigError(f"{where}: unknown option '{key}'{did_you_mean(key, known)}")
        given = {key: value for key, value in given.items() if value is not None}
        if "delay" in given and "at" in given:
            raise ConfigError("options(): give either delay or at, not both")
        _check_together(given)
        return cls(**{key: _CHECKS[key](value) for key, value in given.items()})

    @property
    def has_rare(self) -> bool:
        """Something is given that few jobs are told."""
        rare = (self.result_ttl, self.key, self.agent, self.parent, self.expires, self.deadline)
        return any(value is not None for value in rare)

    @property
    def conditional(self) -> bool:
        """They are the master's to see to."""
        return (
            self.key is not None
            or self.after is not None
            or self.durability == "master"
            or self.session is not None
        )

    def for_one_job(self) -> Options:
        """These, if one job can be told them: a function cannot travel. Raises ``ConfigError``."""
        if self.retry is not None and self.retry.when is not None:
            raise ConfigError(
                "options(retry=Retry(when=...)): a function cannot travel with a job; give it to "
                "the handler, @app.job(retry=Retry(when=...)), where all its jobs are asked, or "
                "name exceptions with on= and give_up_on="
            )
        return self

    def that_travel(self) -> Options:
        """These without what stays with the handler's code."""
        if self.retry is None or self.retry.when is None:
            return self
        return dataclasses.replace(self, retry=msgspec.structs.replace(self.retry, when=None))

    def for_many_jobs(self, where: str) -> Options:
        """These, if jobs to come can be told them: a moment is for one job. Raises
        ``ConfigError``, which begins with ``where``."""
        for option in ("expires", "deadline"):
            if isinstance(value := getattr(self, option), datetime):
                raise ConfigError(
                    f"{where}: {option}={value!r}: give seconds, counted for each job from when it "
                    f"is due; a moment is for one job, options({option}=...)"
                )
        return self

    def named_for(self, prefix: Prefix) -> Options:
        """These with the cluster's names. Raises ``ConfigError`` if one is too long."""
        changes: dict[str, Any] = {}
        if prefix and self.lane is not None:
            changes["lane"] = check_name("lane", prefix.of(self.lane))
        if prefix and self.key is not None:
            changes["key"] = prefix.of_key(self.key)
        return dataclasses.replace(self, **changes) if changes else self

    def merge(self, other: Options) -> Options:
        """These, overridden by what ``other`` gives."""
        given = {f: v for f in self.__slots__ if (v := getattr(other, f)) is not None}
        if not given:
            return self
        base = self
        if given.keys() & {"delay", "at"}:
            base = dataclasses.replace(self, delay=None, at=None)
        return dataclasses.replace(base, **given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < inf


def _check_delay(value: Any) -> float:
    if not _is_number(value) or not value >= 0:
        raise ConfigError(f"options(delay={value!r}): must be a number of seconds, 0 or more")
    return float(value)


def _check_at(value: Any) -> float:
    if not isinstance(value, datetime):
        raise ConfigError(f"options(at={value!r}): must be a datetime with a time zone")
    try:
        return from_datetime(value)
    except ValueError as error:
        raise ConfigError(f"options(at=...): {error}") from None


def _check_until(option: str, value: Any) -> float | datetime:
    if isinstance(value, datetime):
        try:
            from_datetime(value)
        except ValueError as error:
            raise ConfigError(f"options({option}=...): {error}") from None
        return value
    if not _is_number(value) or not value > 0:
        raise ConfigError(
            f"{option}={value!r}: must be a number of seconds above 0, or a datetime with a time "
            "zone"
        )
    return float(value)


def _check_timeout(value: Any) -> float:
    if not _is_number(value) or not value > 0:
        raise ConfigError(f"timeout={value!r}: must be a number of seconds above 0")
    return float(value)


def _check_result_ttl(value: Any) -> float:
    if not _is_number(value) or not value >= LEAST_KEPT:
        raise ConfigError(
            f"result_ttl={value!r}: must be a number of seconds, {LEAST_KEPT:g} or more: who waits "
            "for the result must have time to read it"
        )
    return float(value)


def _check_retry(value: Any) -> Retry:
    if not isinstance(value, Retry):
        raise ConfigError(f"retry={value!r}: must be a Retry, such as Retry(5, delay=2)")
    return value


def _check_meta(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    ):
        raise ConfigError(f"options(meta={value!r}): must map strings to strings")
    tags = dict(value)
    size = sum(_size("meta", text) for item in tags.items() for text in item)
    if size > _MOST_META:
        raise ConfigError(
            f"options(meta=...): the tags take {size} bytes, the limit is {_MOST_META}: they are "
            "for finding jobs; give the handler arguments for what it is to know"
        )
    return tags


def _size(option: str, text: str) -> int:
    """In bytes. Raises ``ConfigError`` if it cannot be stored."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"options({option}={text!r}): cannot be stored: {error}") from None


_NEEDS = {
    "key_scope": "key",
    "on_conflict": "key",
    "max_wait": "on_conflict",
    "on": "after",
}


def _check_together(given: Mapping[str, Any]) -> None:
    """Refuse options that say nothing, or contradict, in the company of the others."""
    for option, other in _NEEDS.items():
        if option in given and other not in given:
            raise ConfigError(f"options({option}=...) says nothing without {other}=...")
    debounces = given.get("on_conflict") == "debounce"
    if "max_wait" in given and not debounces:
        raise ConfigError("options(max_wait=...) is for on_conflict='debounce'")
    if debounces and "delay" not in given:
        raise ConfigError(
            "options(on_conflict='debounce'): give delay=..., the seconds without a further "
            "enqueue after which the job starts"
        )
    if given.get("durability") == "agent":
        for option in ("key", "after", "session"):
            if option in given:
                raise ConfigError(
                    f"options({option}=..., durability='agent'): {option} is the master's to see "
                    "to; leave durability out"
                )


def _check_key(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_KEY or "\0" in value:
        raise ConfigError(
            f"options(key={value!r}): must be a text of 1 to {_LONGEST_KEY} characters"
        )
    _size("key", value)
    return value


def _check_scope(value: Any) -> float:
    if value in ("unfinished", "forever"):
        return 0.0 if value == "unfinished" else inf
    if not _is_number(value) or not value > 0:
        raise ConfigError(
            f"options(key_scope={value!r}): must be 'unfinished', 'forever' or a number of seconds"
        )
    return float(value)


def _check_max_wait(value: Any) -> float:
    if not _is_number(value) or not value > 0:
        raise ConfigError(f"options(max_wait={value!r}): must be a number of seconds above 0")
    return float(value)


def _check_after(value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    found = tuple(check_job_id(str(getattr(one, "id", one))) for one in several)
    if not found:
        raise ConfigError("options(after=[]): name at least one job to run after")
    return tuple(dict.fromkeys(found))


def _check_word(option: str, words: Any, value: Any) -> Any:
    known = get_args(words)
    if value not in known:
        raise ConfigError(f"options({option}={value!r}){did_you_mean(str(value), known)}")
    return value


_LONGEST_KEY = 200
_MOST_META = 16_384
"""Bytes. It travels outside the payload and its limit, and agents bound a message."""

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "id": lambda value: check_job_id(str(value)),
    "delay": _check_delay,
    "at": _check_at,
    "priority": Priority.parse,
    "lane": lambda value: check_name("lane", value),
    "timeout": _check_timeout,
    "expires": partial(_check_until, "expires"),
    "deadline": partial(_check_until, "deadline"),
    "retry": _check_retry,
    "meta": _check_meta,
    "result_ttl": _check_result_ttl,
    "agent": lambda value: check_name("agent", value),
    "durability": partial(_check_word, "durability", Durability),
    "session": lambda value: value,
    "key": _check_key,
    "key_scope": _check_scope,
    "on_conflict": partial(_check_word, "on_conflict", OnConflict),
    "max_wait": _check_max_wait,
    "after": _check_after,
    "on": partial(_check_word, "on", Outcome),
}
