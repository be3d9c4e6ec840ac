"""Handlers: users' functions with a stable name.

A handler's types are resolved when it is first used, not when it is declared, so that
annotations may name classes that the module defines further down.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, reduce
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
)

from mesh.bound import Bound, Call, Submitter
from mesh.codec import ArgumentsCodec, RequestCodec, ValueCodec
from mesh.codecs.base import unseal_arguments
from mesh.definition import About, Definition
from mesh.depends import Depends, Injected, Plan, find_depends, make_plan
from mesh.errors import ConfigError
from mesh.job import PriorityName
from mesh.limits import LimitRules
from mesh.options import JobOptions, Options
from mesh.outcome import Failure
from mesh.request import DEFAULT_LANE, Job, check_handler_name, result_type
from mesh.signature import is_context, type_hints
from mesh.workflow import Draft

if TYPE_CHECKING:
    from mesh.context import Context
    from mesh.job_handle import JobHandle

__all__ = ["Handler"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a handler's signature says."""

    arguments: ArgumentsCodec | RequestCodec
    context: str | None
    """The name of the parameter that takes it."""
    depends: Mapping[str, Depends]
    """By parameter."""
    result: ValueCodec


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
        if request:
            self._request = self._find_request()
            kind = self._request[1]
            name, options = kind.mesh_name, kind.mesh_options
            limits, about = kind.mesh_limits, kind.mesh_about
        self.name = check_handler_name(app.prefix.of(name or own_name))
        options = (options or Options()).named_for(app.prefix)
        self.retry_when: Callable[[BaseException], bool] | None = None
        """Its policy's ``when``, which stays here while the policy travels."""
        if options.retry is not None:
            self.retry_when = options.retry.when
        self.defaults = options.that_travel()
        self.limits = limits and limits.named(self.name)
        self.about = about.described_by(function)
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @property
    def app(self) -> Submitter:
        return self._app

    @property
    def lane(self) -> str:
        """Where its jobs go unless an option says otherwise."""
        return self.defaults.lane or self._app.prefix.of(DEFAULT_LANE)

    def __call__(self, *args: Any, **kwargs: Any) -> C:
        """Call the function itself, here and now."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.name} lane={self.lane}>"

    # enqueuing -------------------------------------------------------------------------------

    def options(self, **options: Unpack[JobOptions]) -> Bound[P, R]:
        """The handler with options for the jobs enqueued through it."""
        given = Options.parse(options).for_one_job().named_for(self._app.prefix)
        return Bound(self._app, self, given)

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

    @property
    def definition(self) -> Definition:
        """What workers tell the cluster of it. Raises ``ConfigError`` as ``shape`` does."""
        options, limits, about = self.defaults, self.limits, self.about
        assert not isinstance(options.expires, datetime)
        assert not isinstance(options.deadline, datetime)
        return Definition(
            lane=self.lane,
            title=about.title,
            description=about.description,
            icon=about.icon,
            kind=about.kind,
            runs="process" if self.in_process else "async" if self.is_async else "thread",
            priority=cast(PriorityName, options.priority.word) if options.priority else None,
            retry=options.retry,
            timeout=options.timeout,
            expires=options.expires,
            deadline=options.deadline,
            result_ttl=options.result_ttl,
            concurrency=limits.concurrency if limits else None,
            rate=limits.rate if limits else None,
            arguments=self.shape.arguments.schema(),
            result=self.shape.result.schema(),
        )

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
