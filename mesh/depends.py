"""Dependencies: what a handler needs besides its arguments, made for one attempt.

::

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    @app.job
    def charge(order: int, session: Annotated[Session, Depends(get_session)] = Injected) -> None:

A *provider* is a function, ``async`` or not, a class, or a generator that yields once, whose
rest runs when the attempt is over, however it ended. It may need others, and a ``Context``.
Each is called once an attempt, whoever needs it; what was opened last is closed first.

A provider runs where the handler does: on the event loop, in the handler's own thread, in its
process. Those that are ``async`` run on the event loop, with all that they need, and so do their
ends. (That a session of a thread is opened and closed in that thread is why this is no library:
of those without a web framework none does so. What is left to do is a list in the right order;
``contextlib`` has the rest.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NoReturn, get_args, get_origin

from mesh.context import Context
from mesh.errors import ConfigError
from mesh.scoped import Scoped, scoped
from mesh.signature import is_context, type_hints

__all__ = ["Depends", "Injected", "Plan", "find_depends", "make_plan"]

Provider = Callable[..., Any]
Overrides = Mapping[Provider, Provider]
Values = dict[Provider, Any]
"""What the providers of an attempt have made, by those that were asked for."""


class Depends:
    """In an annotation: ``Annotated[Session, Depends(get_session)]``."""

    __slots__ = ("provider",)

    def __init__(self, provider: Provider) -> None:
        """Raises ``ConfigError`` if ``provider`` cannot be called."""
        if not callable(provider):
            raise ConfigError(
                f"Depends({provider!r}): must be a function, a class or a generator function, "
                "such as Depends(get_session)"
            )
        self.provider = provider

    def __repr__(self) -> str:
        return f"Depends({_name(self.provider)})"


class _Injected:
    """Says what is wrong when a handler that was called by hand uses it."""

    def __repr__(self) -> str:
        return "Injected"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"'{name}' of a dependency that nobody injected: who calls a handler's function "
            "directly gives its dependencies as arguments"
        )


Injected: Any = _Injected()
"""The default of a parameter that is a dependency. Not needed at run time; it tells type checkers
that callers leave the parameter out."""


def find_depends(what: str, parameter: inspect.Parameter, hint: Any) -> Depends | None:
    """What the parameter depends on, if it does. Raises ``ConfigError``, which begins with
    ``what``."""
    if isinstance(parameter.default, Depends):
        raise ConfigError(
            f"{what}: {parameter.name}={parameter.default!r}: dependencies stand in the "
            f"annotation: '{parameter.name}: Annotated[YourType, {parameter.default!r}]'"
        )
    if get_origin(hint) is not Annotated:
        return None
    found = [part for part in get_args(hint)[1:] if isinstance(part, Depends) or part is Depends]
    if not found:
        return None
    depends = found[0]
    if len(found) > 1 or not isinstance(depends, Depends):
        raise ConfigError(
            f"{what}: parameter '{parameter.name}' needs one provider: Depends(get_session)"
        )
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigError(f"{what}: dependency '{parameter.name}' must be given by its name")
    return depends


@dataclass(frozen=True, slots=True)
class Step:
    """One provider of a plan."""

    asked: Provider
    """The one that was asked for, which another may stand in for."""
    provider: Provider
    is_async: bool
    scope: Scoped | None
    """If it is a generator."""
    needs: Mapping[str, Provider]
    """By parameter."""
    contexts: tuple[str, ...]
    """The parameters that take the context."""

    def _arguments(self, values: Values, context: Context[Any]) -> dict[str, Any]:
        given: dict[str, Any] = {name: values[asked] for name, asked in self.needs.items()}
        return given | dict.fromkeys(self.contexts, context)

    async def open(self, stack: AsyncExitStack, values: Values, context: Context[Any]) -> None:
        """On the event loop."""
        arguments = self._arguments(values, context)
        if self.scope is not None:
            made = await self.scope.enter(stack, **arguments)
        else:
            made = self.provider(**arguments)
            if self.is_async:
                made = await made
        values[self.asked] = made

    def open_here(self, stack: ExitStack, values: Values, context: Context[Any]) -> None:
        """Where no event loop runs; for one that is not async."""
        arguments = self._arguments(values, context)
        if self.scope is not None:
            values[self.asked] = self.scope.enter_here(stack, **arguments)
        else:
            values[self.asked] = self.provider(**arguments)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a handler depends on."""

    targets: Mapping[str, Provider]
    """By the handler's parameters."""
    steps: tuple[Step, ...]
    """In an order in which each finds what it needs."""
    on_loop: tuple[Step, ...] = field(init=False)
    """Of a handler that does not run on the event loop: those that do."""
    in_place: tuple[Step, ...] = field(init=False)
    """Of such a handler: the others."""

    def __post_init__(self) -> None:
        on_loop: set[Provider] = set()
        for step in reversed(self.steps):
            if step.is_async or step.asked in on_loop:
                on_loop |= {step.asked, *step.needs.values()}
        split = (
            tuple(step for step in self.steps if step.asked in on_loop),
            tuple(step for step in self.steps if step.asked not in on_loop),
        )
        object.__setattr__(self, "on_loop", split[0])
        object.__setattr__(self, "in_place", split[1])

    def pick(self, values: Values) -> dict[str, Any]:
        """The handler's arguments, of what its providers have made."""
        return {name: values[asked] for name, asked in self.targets.items()}


def make_plan(what: str, targets: Mapping[str, Depends], overrides: Overrides) -> Plan:
    """Where ``overrides`` has another provider for one, that is used. Raises ``ConfigError``,
    which begins with ``what``, for providers that need something which nobody can give."""
    steps: dict[Provider, Step] = {}
    way: list[Provider] = []

    def visit(asked: Provider) -> None:
        if asked in steps:
            return
        if asked in way:
            circle = " → ".join(_name(each) for each in [*way[way.index(asked) :], asked])
            raise ConfigError(f"{what}: its dependencies go in a circle: {circle}")
        way.append(asked)
        step = _make_step(what, asked, overrides.get(asked, asked))
        for needed in step.needs.values():
            visit(needed)
        way.pop()
        steps[asked] = step

    for depends in targets.values():
        visit(depends.provider)
    return Plan({name: d.provider for name, d in targets.items()}, tuple(steps.values()))


def _make_step(what: str, asked: Provider, provider: Provider) -> Step:
    what = f"{what}: dependency '{_name(provider)}'"
    if not inspect.isroutine(provider) and not isinstance(provider, type | partial):
        provider = _method(provider)  # an object that can be called
    function = _function(provider)
    scope = scoped(provider)
    if scope is None and scoped(inspect.unwrap(function)) is not None:
        raise ConfigError(
            f"{what} is a context manager: leave out @contextmanager, a generator that yields once "
            "is opened and closed"
        )
    needs: dict[str, Provider] = {}
    contexts: list[str] = []
    hints = type_hints(function, what)
    for parameter in _parameters(provider):
        hint = hints.get(parameter.name)
        depends = find_depends(what, parameter, hint)
        if depends is not None:
            needs[parameter.name] = depends.provider
        elif is_context(hint):
            contexts.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ConfigError(
                f"{what}: nobody gives its parameter '{parameter.name}': annotate it with "
                "Depends(...) or Context, or give it a default"
            )
    is_async = inspect.iscoroutinefunction(function) or (scope is not None and scope.is_async)
    return Step(asked, provider, is_async, scope, needs, tuple(contexts))


def _parameters(provider: Provider) -> Iterator[inspect.Parameter]:
    try:
        yield from inspect.signature(provider).parameters.values()
    except ValueError:
        return  # a class of C that does not say; it is called without arguments


def _function(provider: Provider) -> Callable[..., Any]:
    """The function whose body runs when the provider is called."""
    while isinstance(provider, partial):
        provider = provider.func
    if isinstance(provider, type):
        initializer: Callable[..., Any] = provider.__init__  # type: ignore[misc]
        return initializer
    return provider


def _method(provider: Any) -> Provider:
    method: Provider = provider.__call__
    return method


def _name(provider: Provider) -> str:
    name: str = getattr(provider, "__qualname__", None) or repr(provider)
    return name
