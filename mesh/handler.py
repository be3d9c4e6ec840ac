"""Handlers: users' functions with a stable name, and typed requests.

A handler's types are resolved when it is first used, not when it is declared, so that
annotations may name classes that the module defines further down.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import re
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property, partial, reduce
from itertools import islice, repeat
from math import inf
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    Union,
    Unpack,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from mesh.clock import from_datetime
from mesh.codec import ArgumentsCodec, RequestCodec, ValueCodec
from mesh.codecs.base import unseal_arguments
from mesh.definition import About, Kind
from mesh.depends import Depends, Injected, Plan, find_depends, make_plan
from mesh.errors import (
    AgentUnavailable,
    ConfigError,
    InvalidArguments,
    InvalidJob,
    MeshError,
    PartlyStored,
    PublishOutcomeUnknown,
    did_you_mean,
    raised,
)
from mesh.held import After, Held, KeyRule, OnConflict, Outcome
from mesh.job import (
    LEAST_KEPT,
    Priority,
    PriorityName,
    check_job_id,
    check_name,
    new_job_id,
)
from mesh.limits import KeyFunction, LimitRules
from mesh.outcome import Failure
from mesh.retry import Retry
from mesh.signature import is_context, type_hints
from mesh.wire import Envelope, Limit
from mesh.workflow import Draft

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import JobHandle
    from mesh.codecs import Codec
    from mesh.context import Context
    from mesh.middleware import Hooks
    from mesh.sync import Sync

__all__ = ["Bound", "Call", "Handler", "Job", "JobOptions", "Options", "Submitter"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

DEFAULT_LANE = "default"

Durability = Literal["agent", "master"]

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}\Z")

Call = tuple[Any, ...] | Mapping[str, Any]
"""One call's arguments: a tuple of positional ones, or a mapping by name."""


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

    def merge(self, other: Options) -> Options:
        """These, overridden by what ``other`` gives."""
        given = {f: v for f in self.__slots__ if (v := getattr(other, f)) is not None}
        base = self
        if given.keys() & {"delay", "at"}:
            base = dataclasses.replace(self, delay=None, at=None)
        return dataclasses.replace(base, **given)


def _check_delay(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < inf:
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
    if not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(
            f"{option}={value!r}: must be a number of seconds above 0, or a datetime with a time "
            "zone"
        )
    return float(value)


def _check_timeout(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(f"timeout={value!r}: must be a number of seconds above 0")
    return float(value)


def _check_result_ttl(value: Any) -> float:
    if not isinstance(value, int | float) or not LEAST_KEPT <= value < inf:
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
    return dict(value)


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
    if "agent" in given and "session" in given:
        raise ConfigError("options(agent=..., session=...): the dispatcher chooses the agent")


def _check_key(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_KEY or "\0" in value:
        raise ConfigError(
            f"options(key={value!r}): must be a text of 1 to {_LONGEST_KEY} characters"
        )
    return value


def _check_scope(value: Any) -> float:
    if value in ("unfinished", "forever"):
        return 0.0 if value == "unfinished" else inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(
            f"options(key_scope={value!r}): must be 'unfinished', 'forever' or a number of seconds"
        )
    return float(value)


def _check_max_wait(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < inf:
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

_TOGETHER = 4096
"""Calls that are stored together by ``enqueue_each``."""

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


@dataclass_transform(frozen_default=True)
class Job(Generic[R]):
    """Base of typed requests: a frozen dataclass that names its handler and its result's type.

    ::

        class ExportUsers(Job[ExportResult], name="exports.users.v1", lane="exports"):
            tenant_id: UUID

    ``name`` is the handler's stable name (default: the class's own). All that ``@app.job`` takes
    is given here in the same words, but for ``process``, which is the handler's. A program that
    only enqueues needs the class and not the handler.
    """

    mesh_name: ClassVar[str]
    mesh_options: ClassVar[Options]
    mesh_limits: ClassVar[LimitRules | None]
    mesh_about: ClassVar[About]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        kind: Kind | None = None,
        concurrency: int | None = None,
        concurrency_key: KeyFunction | None = None,
        limit: str | None = None,
        limit_key: KeyFunction | None = None,
        burst: float | None = None,
        **options: Unpack[HandlerOptions],
    ) -> None:
        super().__init_subclass__()
        where = f"class {cls.__name__}"
        cls.mesh_name = check_handler_name(name or cls.__name__)
        parsed = Options.parse(options, DEFINED, where)
        cls.mesh_options = parsed.for_many_jobs(where)
        cls.mesh_limits = LimitRules.parse(
            *("job", cls.mesh_name, where),
            *(concurrency, concurrency_key, limit, limit_key, burst),
        )
        documented = None if cls.__doc__ is Job.__doc__ else cls
        about = About.parse(where, title, description, icon, kind)
        cls.mesh_about = about.described_by(documented)
        dataclass(frozen=True)(cls)


def check_handler_name(name: str) -> str:
    if not _NAME.match(name):
        raise ConfigError(
            f"handler name '{name}' is not valid: use 1 to 200 of letters, digits and '_.:-'"
        )
    return name


@dataclass(frozen=True, slots=True)
class Shape:
    """What a handler's signature says."""

    arguments: ArgumentsCodec | RequestCodec
    context: str | None
    """The name of the parameter that takes it."""
    depends: Mapping[str, Depends]
    """By parameter."""
    result: ValueCodec


class Submitter:
    """What a handler needs of its app, ``mesh.app.Mesh``."""

    def now(self) -> float:
        raise NotImplementedError

    @property
    def payload_limit(self) -> int:
        raise NotImplementedError

    async def submit(self, job: Envelope, agent: str | None, result: ValueCodec) -> JobHandle[Any]:
        raise NotImplementedError

    async def submit_many(
        self, jobs: Sequence[Envelope], agent: str | None, result: ValueCodec
    ) -> list[JobHandle[Any] | MeshError]:
        raise NotImplementedError

    async def submit_held(
        self,
        jobs: Sequence[Held],
        session: Any,
        results: Iterable[ValueCodec],
        *,
        together: bool = False,
    ) -> list[JobHandle[Any] | MeshError]:
        raise NotImplementedError

    def lane_limits(self, lane: str) -> LimitRules | None:
        raise NotImplementedError

    async def enqueue_child(
        self, parent: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> JobHandle[Any]:
        """What ``Context.enqueue`` does; ``parent`` is its job's id."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    sync: Sync
    hooks: Hooks
    codec: Codec | None
    dependency_overrides: dict[Callable[..., Any], Callable[..., Any]]


_NOTHING_SAID = About()


class Handler(Generic[P, R, C]):
    """A registered function. ``P``: its arguments, without a ``Context`` in front; ``R``: what
    the job results in; ``C``: what calling the function returns."""

    def __init__(
        self,
        app: Submitter,
        function: Callable[..., C],
        *,
        name: str | None = None,
        options: Options | None = None,
        request: bool = False,
        limits: LimitRules | None = None,
        process: bool = False,
        about: About = _NOTHING_SAID,
    ) -> None:
        """Raises ``ConfigError`` if it is no function, or its name cannot be a handler's."""
        own_name = getattr(function, "__name__", None)
        if not callable(function) or own_name is None:
            raise ConfigError(
                f"a handler must be a function, not {function!r}; "
                "options are given by name, as in @app.job(lane='mail')"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"{function.__qualname__} is a generator; a handler returns one result"
            )
        self._app = app
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        if not isinstance(process, bool):
            raise ConfigError(
                f"{function.__qualname__}: process={process!r}: must be True or False"
            )
        self.in_process = process
        """Each attempt runs in a process of its own, one of the worker's pool."""
        self._request: tuple[str, type[Job[Any]]] | None = None
        request_class: type[Job[Any]] | None = None
        if request:
            self._request = self._find_request()
            request_class = self._request[1]
            name, options = request_class.mesh_name, request_class.mesh_options
            limits, about = request_class.mesh_limits, request_class.mesh_about
        self.defaults = options or Options()
        self.limits = limits
        self.about = about.described_by(function)
        """What people are told of it."""
        self.retry_when: Callable[[BaseException], bool] | None = None
        """Its policy's ``when``, which stays here while the policy travels."""
        if (retry := self.defaults.retry) is not None:
            self.retry_when = retry.when
            self.defaults = self.defaults.that_travel()
        self.name = check_handler_name(name or own_name)
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @property
    def app(self) -> Submitter:
        return self._app

    @property
    def lane(self) -> str:
        """Where its jobs go unless an option says otherwise."""
        return self.defaults.lane or DEFAULT_LANE

    def __call__(self, *args: Any, **kwargs: Any) -> C:
        """Call the function itself, here and now."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.name} lane={self.lane}>"

    # enqueuing -------------------------------------------------------------------------------

    def options(self, **options: Unpack[JobOptions]) -> Bound[P, R]:
        """The handler with options for the jobs enqueued through it."""
        return Bound(self._app, self, Options.parse(options).for_one_job())

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, JobHandle[R]]:
        """Store a job durably; see ``Bound.enqueue``."""
        return self._bound.enqueue(*args, **kwargs)

    def enqueue_many(
        self, calls: Iterable[Call] | AsyncIterable[Call]
    ) -> Coroutine[Any, Any, list[JobHandle[R]]]:
        """Store a job for each call; see ``Bound.enqueue_many``."""
        return self._bound.enqueue_many(calls)

    def enqueue_each(
        self, calls: Iterable[Call] | AsyncIterable[Call]
    ) -> AsyncIterator[JobHandle[R]]:
        """Store a job for each of any number of calls; see ``Bound.enqueue_each``."""
        return self._bound.enqueue_each(calls)

    def draft(self, *args: Any, **kwargs: Any) -> Draft:
        """A call for a workflow: see ``mesh.workflow``."""
        return self._bound.draft(*args, **kwargs)

    def under(self, parent: str) -> Bound[P, R]:
        """The handler for jobs that the handler of job ``parent`` enqueues."""
        return self._bound.under(parent)

    @cached_property
    def _bound(self) -> Bound[P, R]:
        return Bound(self._app, self, Options())

    # the worker's side -----------------------------------------------------------------------

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The function's arguments by name, without a context. Raises
        ``msgspec.ValidationError``, or ``CannotDecrypt``."""
        return self.shape.arguments.decode(unseal_arguments(self._app.codec, payload))

    def encode_result(self, value: Any) -> bytes:
        """What the job results in, as JSON, not encrypted. Raises ``TypeError`` or
        ``ValueError``."""
        return self.shape.result.encode(value)

    @cached_property
    def is_surrounded(self) -> bool:
        """Something is to be done around its attempts: there are dependencies or middleware."""
        return bool(self.shape.depends) or self._app.hooks.at_attempts

    @cached_property
    def needs_context(self) -> bool:
        """For its function, or what surrounds it."""
        return self.shape.context is not None or self.is_surrounded

    @property
    def plan(self) -> Plan | None:
        """What is to be made for an attempt, if the function has dependencies. Raises
        ``ConfigError``."""
        if not self.shape.depends:
            return None
        if overrides := self._app.dependency_overrides:
            return make_plan(self._what, self.shape.depends, overrides)
        return self._plan

    @cached_property
    def _plan(self) -> Plan:
        return make_plan(self._what, self.shape.depends, {})

    @property
    def _what(self) -> str:
        return f"handler '{self.function.__qualname__}'"

    def bind(self, arguments: dict[str, Any], context: Context[Any] | None) -> dict[str, Any]:
        """The arguments with the context, if the function wants it."""
        name = self.shape.context
        return arguments if name is None else arguments | {name: context}

    # types -----------------------------------------------------------------------------------

    @cached_property
    def shape(self) -> Shape:
        """Raises ``ConfigError`` if the signature cannot be used."""
        parameters, context, depends, hints = self._signature()
        arguments: ArgumentsCodec | RequestCodec
        if self._request is not None:
            name, request = self._request
            arguments, result = RequestCodec(self.name, request, name), result_type(request)
        else:
            arguments = ArgumentsCodec(self.name, parameters, hints)
            result = _without_failure(hints.get("return", Any))
        result_codec = ValueCodec(result, f"result of '{self.name}'")
        return Shape(arguments, context, depends, result_codec)

    def _signature(
        self,
    ) -> tuple[dict[str, inspect.Parameter], str | None, dict[str, Depends], dict[str, Any]]:
        """The parameters that are the job's arguments, the name of the context's, those that are
        dependencies, and all types."""
        what = self._what
        hints = type_hints(self.function, what)
        parameters = dict(inspect.signature(self.function).parameters)
        contexts = [name for name in parameters if is_context(hints.get(name))]
        if len(contexts) > 1:
            raise ConfigError(f"{what} has two Context parameters: {', '.join(contexts)}")
        for name in contexts:
            if parameters.pop(name).kind is inspect.Parameter.POSITIONAL_ONLY:
                raise ConfigError(f"{what}: arguments are given by name, so remove the '/'")
        found = {name: find_depends(what, p, hints.get(name)) for name, p in parameters.items()}
        depends = {name: one for name, one in found.items() if one is not None}
        parameters = {name: p for name, p in parameters.items() if name not in depends}
        for name, parameter in parameters.items():
            if parameter.default is Injected:
                raise ConfigError(
                    f"{what}: parameter '{name}' is no dependency, so nobody injects it: annotate "
                    "it with Annotated[..., Depends(...)], or give it another default"
                )
        return parameters, contexts[0] if contexts else None, depends, hints

    def _find_request(self) -> tuple[str, type[Job[Any]]]:
        parameters, _, _, hints = self._signature()
        if len(parameters) == 1:
            (name,) = parameters
            kind = hints.get(name)
            if isinstance(kind, type) and issubclass(kind, Job) and kind is not Job:
                return name, kind
        raise ConfigError(
            f"handler '{self.function.__qualname__}' must take exactly one request, "
            "a subclass of mesh.Job, and may take a Context and dependencies"
        )


def _without_failure(hint: Any) -> Any:
    """What a job results in whose handler returns this: a ``Failure`` is no result."""
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not Failure]
        return reduce(operator.or_, parts) if parts else None
    return None if hint is Failure else hint


def result_type(request: type[Job[Any]]) -> Any:
    """The ``R`` of a request class's ``Job[R]``. Raises ``ConfigError``."""
    for kind in request.__mro__:
        for base in vars(kind).get("__orig_bases__", ()):
            if get_origin(base) is Job:
                # It may be the name of a class that the module defines further down.
                found = {"__annotations__": {"R": get_args(base)[0]}, "__module__": kind.__module__}
                return type_hints(type("found", (), found), f"request '{request.mesh_name}'")["R"]
    return Any


@cache
def request_codecs(kind: type[Job[Any]]) -> tuple[RequestCodec, ValueCodec]:
    """For a request and its result, without its handler. Raises ``ConfigError``."""
    name = kind.mesh_name
    return RequestCodec(name, kind), ValueCodec(result_type(kind), f"result of '{name}'")


class Bound(Generic[P, R]):
    """A handler with options: what ``handler.options(...)`` returns."""

    def __init__(self, app: Submitter, handler: Handler[P, R, Any], options: Options) -> None:
        self._app = app
        self._handler = handler
        self._options = handler.defaults.merge(options)
        self._rules = [
            rules
            for rules in (handler.limits, app.lane_limits(self._options.lane or handler.lane))
            if rules is not None
        ]
        self._is_held = self._options.conditional or bool(self._rules)
        """The master stores its jobs first."""

    def under(self, parent: str) -> Bound[P, R]:
        """The same for jobs that the handler of job ``parent`` enqueues."""
        child = copy(self)
        child._options = dataclasses.replace(self._options, parent=parent)
        return child

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store a job durably and return its handle.

        Raises ``InvalidArguments`` or ``PayloadTooLarge`` before anything is stored;
        ``AgentUnavailable`` if no agent and no master took it (it is not stored);
        ``PublishOutcomeUnknown``, with the id, if that cannot be known.
        """
        job = self._envelope(self._encode(args, kwargs), self._app.now())
        if self._is_held:
            return raised(*await self._store_held([job]))
        return await self._app.submit(job, self._options.agent, self._handler.shape.result)

    async def enqueue_many(self, calls: Iterable[Call] | AsyncIterable[Call]) -> list[JobHandle[R]]:
        """Store a job for each call, in bulk; handles in the same order.

        Of a collection all calls are checked before any is stored; of an iterator, so many as
        are stored together. Raises as ``enqueue`` does if nothing was stored, else
        ``PartlyStored``, which says what became of which call.
        """
        if isinstance(calls, Collection):
            payloads = [self._encode_call(index, call) for index, call in enumerate(calls)]
            self._check_several(len(payloads))
            handles: list[JobHandle[R]] = []
            for start in range(0, len(payloads), _TOGETHER):
                handles += await self._store(payloads[start : start + _TOGETHER], start)
            return handles
        return [handle async for handle in self.enqueue_each(calls)]

    async def enqueue_each(
        self, calls: Iterable[Call] | AsyncIterable[Call]
    ) -> AsyncIterator[JobHandle[R]]:
        """The same for any number of calls, in bounded memory: yields each handle when its job
        is stored, and takes more calls when the last was used."""
        start = 0
        async for several in _together(calls):
            self._check_several(start + len(several))
            try:
                payloads = [self._encode_call(start + n, call) for n, call in enumerate(several)]
            except InvalidJob as error:
                if not start:
                    raise
                message = f"the first {start} calls are stored, no others: {error}"
                raise PartlyStored(message, tried=start) from error
            for handle in await self._store(payloads, start):
                yield handle
            start += len(several)

    def _check_several(self, count: int) -> None:
        if self._options.id is not None and count > 1:
            raise ConfigError("options(id=...) names one job; enqueue_many was given several")

    async def _store(self, payloads: list[bytes], start: int) -> list[JobHandle[R]]:
        """Store jobs of the calls that begin with number ``start``."""
        now = self._app.now()
        jobs = [self._envelope(payload, now) for payload in payloads]
        if not jobs:
            return []
        if self._is_held:
            outcomes = await self._store_held(jobs)
        else:
            outcomes = await self._app.submit_many(
                jobs, self._options.agent, self._handler.shape.result
            )
        handles = [outcome for outcome in outcomes if not isinstance(outcome, MeshError)]
        if len(handles) < len(outcomes):
            raise _partly([job.id for job in jobs], outcomes, start)
        return handles

    async def _store_held(self, jobs: Sequence[Envelope]) -> list[JobHandle[Any] | MeshError]:
        held = [self._held(job) for job in jobs]
        results = repeat(self._handler.shape.result)
        return await self._app.submit_held(held, self._options.session, results)

    # workflows -------------------------------------------------------------------------------

    def draft(self, *args: Any, **kwargs: Any) -> Draft:
        """A call for a workflow: see ``mesh.workflow``."""
        return Draft(self, args, kwargs)

    @property
    def name(self) -> str:
        return self._handler.name

    @property
    def app(self) -> Submitter:
        return self._app

    @property
    def result_codec(self) -> ValueCodec:
        return self._handler.shape.result

    def check_draft(self) -> None:
        """Raises ``ConfigError`` if one of the options cannot be a workflow's job's."""
        for option in ("key", "after", "session", "id"):
            if getattr(self._options, option) is not None:
                raise ConfigError(
                    f"{self.name}.options({option}=...).draft(): a job of a workflow cannot have "
                    f"{option}; a session is given to the workflow's enqueue"
                )

    def first_parameter(self, given: Mapping[str, Any]) -> str | None:
        """The argument that a chain's result becomes: the first, unless ``given`` by name."""
        names = self._handler.shape.arguments.names
        return names[0] if names and names[0] not in given else None

    def draft_held(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], fed: set[str]) -> Held:
        """The job of a draft that gives all arguments but the ``fed`` ones."""
        arguments = self._handler.shape.arguments.without(fed)
        payload = arguments.encode(args, kwargs, self._app.payload_limit)
        job = self._envelope(payload, self._app.now())
        fields: dict[str, Any] = {}
        if any(rules.needs_arguments for rules in self._rules):
            fields = arguments.fields(payload)
        return make_held(job, self._options, self._rules, fields)

    def _encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        return self._handler.shape.arguments.encode(args, kwargs, self._app.payload_limit)

    def _encode_call(self, index: int, call: Call) -> bytes:
        try:
            if isinstance(call, tuple):
                return self._encode(call, {})
            if isinstance(call, Mapping):
                return self._encode((), call)
        except InvalidJob as error:
            raise type(error)(f"call {index}: {error}") from error
        raise InvalidArguments(
            f"call {index} is a {type(call).__name__}: give a tuple of positional arguments, "
            "such as (1,), or a mapping by name"
        )

    def _envelope(self, payload: bytes, now: float) -> Envelope:
        return make_envelope(self._handler.name, self._handler.lane, payload, self._options, now)

    def _held(self, job: Envelope) -> Held:
        arguments: dict[str, Any] = {}
        if any(rules.needs_arguments for rules in self._rules):
            arguments = self._handler.shape.arguments.fields(job.payload)
        return make_held(job, self._options, self._rules, arguments)


def make_envelope(name: str, lane: str, payload: bytes, options: Options, now: float) -> Envelope:
    """A job for ``payload``, as the options say."""
    due_at = options.at or 0.0
    if options.delay:
        due_at = now + options.delay
    expires_at = deadline = 0.0
    if options.expires is not None:
        expires_at = _until("expires", options.expires, now, due_at)
    if options.deadline is not None:
        deadline = _until("deadline", options.deadline, now, due_at)
    return Envelope(
        id=options.id or new_job_id(),
        name=name,
        payload=payload,
        lane=options.lane or lane,
        priority=options.priority or Priority.NORMAL,
        enqueued_at=now,
        due_at=due_at if due_at > now else 0.0,
        timeout=options.timeout,
        retry=options.retry,
        meta=options.meta,
        result_ttl=options.result_ttl,
        given_id=options.id is not None,
        key=options.key,
        expires_at=expires_at,
        deadline=deadline,
        parent=options.parent,
    )


def _partly(
    job_ids: Sequence[str], outcomes: Sequence[JobHandle[Any] | MeshError], start: int
) -> MeshError:
    """What to raise for calls from number ``start`` on of which not all were stored."""
    errors = {n: error for n, error in enumerate(outcomes) if isinstance(error, MeshError)}
    unknown = [n for n, error in errors.items() if isinstance(error, PublishOutcomeUnknown)]
    first, stored = next(iter(errors.values())), start + len(outcomes) - len(errors)
    tried = start + len(outcomes)
    text = f"{stored} of {tried} jobs are stored, {len(errors) - len(unknown)} are not"
    if unknown:
        text += f", of {len(unknown)} that is not known"
    if not stored and not unknown:
        if not isinstance(first, AgentUnavailable):
            return first
        return AgentUnavailable(f"{tried} of {tried} jobs were not stored: {first}")
    return PartlyStored(
        f"{text}: {first}",
        tried=tried,
        not_stored=[start + n for n in errors if n not in unknown],
        unknown=[start + n for n in unknown],
        job_ids=[job_ids[n] for n in unknown],
    )


async def _together(calls: Iterable[Call] | AsyncIterable[Call]) -> AsyncIterator[list[Call]]:
    """The calls, so many at a time as are stored together."""
    several: list[Call] = []
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            several.append(call)
            if len(several) == _TOGETHER:
                yield several
                several = []
        if several:
            yield several
        return
    each = iter(calls)
    while several := list(islice(each, _TOGETHER)):
        yield several


def make_held(
    job: Envelope, options: Options, rules: Iterable[LimitRules], arguments: Mapping[str, Any]
) -> Held:
    """The job with its conditions; ``arguments`` are for the functions of ``rules``."""
    limits: list[Limit] = [limit for each in rules for limit in each.limits(arguments)]
    if limits:
        job = msgspec.structs.replace(job, limits=limits)
    rule = None
    if options.key is not None:
        rule = KeyRule(options.on_conflict or "keep", options.key_scope or None, options.max_wait)
    return Held(
        job,
        rule,
        [After(job_id, options.on or "success") for job_id in options.after or ()],
        # What may be replaced must not be on an agent before it is due.
        firm=options.on_conflict in ("replace", "debounce"),
    )


def _until(option: str, value: float | datetime, now: float, due_at: float) -> float:
    """The moment that is meant. Raises ``ConfigError`` if the job could not start before it."""
    start = max(now, due_at)
    if not isinstance(value, datetime):
        return start + value
    moment = from_datetime(value)
    if moment <= start:
        when = "past already" if moment <= now else "before the job is due"
        raise ConfigError(f"options({option}={value.isoformat()}): is {when}")
    return moment
