"""What an app is told of its handlers: ``@app.job``, ``@app.handler``, ``@app.schedule``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from mesh.bound import Submitter
from mesh.context import Context
from mesh.definition import About, Kind
from mesh.discovery import import_all
from mesh.errors import ConfigError, UnknownHandler, did_you_mean
from mesh.handler import Handler
from mesh.job import PriorityName
from mesh.limits import KeyFunction, LimitRules
from mesh.options import DEFINED, Options
from mesh.outcome import Failure
from mesh.retry import Retry
from mesh.schedules import AppSchedules, Expression, ScheduleOptions

__all__ = ["Registry"]

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=Handler[..., Any, Any])


class Registry(Submitter):
    """The half of ``Mesh`` that registers handlers; it stores and connects nothing."""

    handlers: dict[str, Handler[..., Any, Any]]
    """The registered handlers by their names in the cluster, with the app's prefix."""
    schedules: AppSchedules
    """Create, change, list and run schedules."""

    @overload
    def job(
        self, function: Callable[Concatenate[Context[Any], P], Awaitable[R | Failure]], /
    ) -> Handler[P, R, Awaitable[R]]: ...
    @overload
    def job(
        self, function: Callable[P, Awaitable[R | Failure]], /
    ) -> Handler[P, R, Awaitable[R]]: ...
    @overload
    def job(
        self, function: Callable[Concatenate[Context[Any], P], R | Failure], /
    ) -> Handler[P, R, R]: ...
    @overload
    def job(self, function: Callable[P, R | Failure], /) -> Handler[P, R, R]: ...
    @overload
    def job(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        lane: str | None = None,
        priority: PriorityName | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        concurrency_key: KeyFunction | None = None,
        limit: str | None = None,
        limit_key: KeyFunction | None = None,
        burst: float | None = None,
        expires: float | None = None,
        deadline: float | None = None,
        process: bool = False,
        result_ttl: float | None = None,
        title: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        kind: Kind | None = None,
    ) -> JobDecorator: ...

    def job(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        concurrency: int | None = None,
        concurrency_key: KeyFunction | None = None,
        limit: str | None = None,
        limit_key: KeyFunction | None = None,
        burst: float | None = None,
        process: bool = False,
        title: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        kind: Kind | None = None,
        **options: Any,
    ) -> Any:
        """Register a function as a handler.

        ``name`` is stable, stored with each job (default: the function's name). ``lane``,
        ``priority``, ``retry``, ``timeout`` (seconds per attempt), ``expires`` and ``deadline``
        (seconds after a job is due) and ``result_ttl`` (seconds in the history after the end)
        are the defaults of its jobs. ``async def`` functions run on
        the worker's event loop, ``def`` functions in threads; with ``process=True`` either runs
        in a process of the worker's pool, which is killed when its time is over. A parameter
        annotated ``Context`` is the worker's to give; put it first for type checkers to know. So
        is one that is a dependency, ``Annotated[..., Depends(...)]``.

        ``title``, ``description`` (default: the first paragraph of the docstring), ``icon`` and
        ``kind``, which is ``"user"`` or ``"system"``, are for people, in CLI, API and dashboard.

        Across the cluster, ``concurrency`` is how many of its jobs may be under way at once, of
        those for which ``concurrency_key``, called with the arguments by name, returns the same;
        ``limit``, such as ``"100/minute"``, how many may begin in a time, alike by ``limit_key``,
        up to ``burst`` of them together.

        Raises ``ConfigError`` for a duplicate name or a wrong option.
        """
        limits = {
            "concurrency": concurrency,
            "concurrency_key": concurrency_key,
            "limit": limit,
            "limit_key": limit_key,
            "burst": burst,
        }
        known = (*DEFINED, "process")
        parsed = Options.parse(options, known, "app.job()").for_many_jobs("app.job()")
        about = About.parse("app.job()", title, description, icon, kind)
        decorate = JobDecorator(self, name, parsed, limits, process, about)
        return decorate if function is None else decorate(function)

    @overload
    def handler(self, function: Callable[..., R], /) -> Handler[..., Any, R]: ...
    @overload
    def handler(
        self, function: None = None, /, *, process: bool = False
    ) -> Callable[[Callable[..., R]], Handler[..., Any, R]]: ...

    def handler(
        self, function: Callable[..., Any] | None = None, /, *, process: bool = False
    ) -> Any:
        """Register the handler of a typed request: a function of one ``Job`` subclass.
        ``process`` as for ``job``. Raises ``ConfigError``."""

        def decorate(function: Callable[..., Any]) -> Handler[..., Any, Any]:
            return self._register(Handler(self, function, request=True, process=process))

        return decorate if function is None else decorate(function)

    @overload
    def schedule(
        self,
        handler: Handler[..., Any, Any],
        expression: Expression,
        /,
        *args: Any,
        name: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> None: ...
    @overload
    def schedule(
        self,
        expression: Expression,
        /,
        *args: Any,
        name: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Callable[[H], H]: ...

    def schedule(self, *args: Any, name: str | None = None, **options: Any) -> Any:
        """Make jobs of a handler again and again: ``app.schedule(nightly, "0 2 * * *")``, or
        above the handler, ``@app.schedule("every 5 minutes")``.

        Further arguments are the jobs' (by name: ``kwargs={...}``); ``name`` is the schedule's
        (default: the handler's). ``docs/schedules.md`` says what the options mean.

        Raises ``InvalidSchedule``, ``InvalidArguments`` or ``ConfigError`` at once.
        """
        if args and isinstance(args[0], Handler):
            if len(args) < 2:
                raise ConfigError("app.schedule(handler, ...): say when, such as 'every day'")
            return self.schedules.declare(args[0], args[1], args[2:], name, options)
        if not args or callable(args[0]):
            raise ConfigError(
                f"app.schedule({', '.join(map(repr, args[:1]))}): give a handler (a function under "
                "@app.job) and an expression, or an expression alone as a decorator"
            )

        def decorate(handler: Any) -> Any:
            if not isinstance(handler, Handler):
                raise ConfigError(
                    f"@app.schedule({args[0]!r}) must stand above @app.job, on a handler"
                )
            self.schedules.declare(handler, args[0], args[1:], name, options)
            return handler

        return decorate

    def _register(self, handler: Handler[P, Any, Any]) -> Handler[P, Any, Any]:
        other = self.handlers.get(handler.name)
        if other is not None:
            raise ConfigError(
                f"two handlers are named '{handler.name}': "
                f"{other.function.__module__}.{other.function.__qualname__} and "
                f"{handler.function.__module__}.{handler.function.__qualname__}; "
                "give one of them another name=..."
            )
        self.handlers[handler.name] = handler
        return handler

    def autodiscover(self, *packages: str) -> list[str]:
        """Import modules, and of packages all that is within, so that their handlers and
        schedules register: ``app.autodiscover("shop.jobs")``, after ``app`` is there for them to
        import. Returns the names of the modules.

        Raises ``ConfigError``, naming the module that cannot be imported, with the cause.
        """
        return import_all(packages, "app.autodiscover()")

    def get_handler(self, name: str) -> Handler[..., Any, Any]:
        """Raises ``UnknownHandler``."""
        full = self.prefix.of(name)
        try:
            return self.handlers[full]
        except KeyError:
            raise UnknownHandler(
                f"no handler is named '{full}'{did_you_mean(full, self.handlers)}"
            ) from None

    @property
    def lanes(self) -> list[str]:
        """The lanes that the registered handlers name."""
        return sorted({handler.lane for handler in self.handlers.values()})


class JobDecorator:
    """What ``app.job(...)`` with options returns."""

    def __init__(
        self,
        app: Registry,
        name: str | None,
        options: Options,
        limits: Mapping[str, Any],
        process: bool,
        about: About,
    ) -> None:
        self._app = app
        self._name = name
        self._options = options
        self._limits = limits
        self._process = process
        self._about = about

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[Any], P], Awaitable[R | Failure]], /
    ) -> Handler[P, R, Awaitable[R]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Awaitable[R | Failure]], /
    ) -> Handler[P, R, Awaitable[R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[Any], P], R | Failure], /
    ) -> Handler[P, R, R]: ...
    @overload
    def __call__(self, function: Callable[P, R | Failure], /) -> Handler[P, R, R]: ...

    def __call__(self, function: Callable[..., Any], /) -> Handler[..., Any, Any]:
        name = self._name or str(getattr(function, "__name__", ""))
        rules = LimitRules.parse("job", name, "app.job()", **self._limits)
        handler: Handler[..., Any, Any] = Handler(
            self._app,
            function,
            name=self._name,
            options=self._options,
            limits=rules,
            process=self._process,
            about=self._about,
        )
        return self._app._register(handler)
