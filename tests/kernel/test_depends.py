"""Plans: what is made for a handler, in which order, and what is refused."""

# Annotations here name things inside of functions, so they must not be strings.

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import ConfigError, Context, Depends, Injected, InvalidArguments, Mesh
from mesh.context import DONE
from mesh.depends import Values, make_plan
from mesh.testing.conformance.agent import make_job

CONTEXT: Context[Any] = Context(make_job(), 1, 5, lambda kind, data, joins=False: DONE)


def new_app() -> Mesh:
    return Mesh(agents={"m": "memory://unused"})


def settings() -> str:
    return "settings"


class Pool:
    def __init__(self, settings: Annotated[str, Depends(settings)]) -> None:
        self.settings = settings


def session(pool: Annotated[Pool, Depends(Pool)], ctx: Context) -> Iterator[str]:
    yield f"session of {pool.settings} for {ctx.attempt}"


async def test_dependencies_may_be_functions_classes_generators_and_need_others() -> None:
    plan = make_plan("it", {"s": Depends(session), "text": Depends(settings)}, {})
    values: Values = {}
    with ExitStack() as stack:
        for step in plan.in_place:
            step.open_here(stack, values, CONTEXT)
    assert plan.pick(values) == {"s": "session of settings for 1", "text": "settings"}
    assert not plan.on_loop


async def test_any_callable_is_a_provider() -> None:
    class Callables:
        def __call__(self) -> str:
            return "called"

        async def waited(self) -> str:
            return "waited for"

    def add(a: int, b: int) -> int:
        return a + b

    targets = {
        "object": Depends(Callables()),
        "method": Depends(Callables().waited),
        "partial": Depends(partial(add, 1, b=2)),
        "builtin": Depends(dict),
        "lambda": Depends(lambda: "λ"),
    }
    plan, values = make_plan("it", targets, {}), cast(Values, {})
    async with AsyncExitStack() as stack:
        for step in plan.steps:
            await step.open(stack, values, CONTEXT)
    assert plan.pick(values) == {
        "object": "called",
        "method": "waited for",
        "partial": 3,
        "builtin": {},
        "lambda": "λ",
    }


def test_what_an_async_dependency_needs_is_made_on_the_event_loop_as_well() -> None:
    def plain() -> str:
        return ""

    async def connection(plain: Annotated[str, Depends(plain)]) -> AsyncIterator[str]:
        yield plain

    def session(connection: Annotated[str, Depends(connection)]) -> str:
        return connection

    def other() -> str:
        return ""

    plan = make_plan("it", {"a": Depends(session), "b": Depends(other)}, {})
    assert [step.asked for step in plan.on_loop] == [plain, connection]
    assert [step.asked for step in plan.in_place] == [session, other]


@given(st.lists(st.lists(st.integers(0, 11), max_size=4), min_size=1, max_size=12))
def test_each_is_made_once_after_all_that_it_needs(graph: list[list[int]]) -> None:
    """``graph[n]`` are the earlier ones that dependency ``n`` needs."""
    made: list[int] = []
    providers: list[Callable[..., int]] = []

    def provider(number: int, needs: set[int]) -> Callable[..., int]:
        def make(**given: int) -> int:
            assert sorted(given.values()) == sorted(needs)
            made.append(number)
            return number

        depends = {f"d{n}": Depends(providers[n]) for n in needs}
        make.__annotations__ = {name: Annotated[int, one] for name, one in depends.items()}
        names = ", ".join(make.__annotations__)
        scope: dict[str, Any] = {"make": make}
        arguments = ", ".join(f"{n}={n}" for n in make.__annotations__)
        exec(f"def named({names}): return make({arguments})", scope)
        named: Callable[..., int] = scope["named"]
        named.__annotations__ = make.__annotations__
        return named

    for number, needs in enumerate(graph):
        providers.append(provider(number, {n for n in needs if n < number}))
    plan = make_plan("it", {f"p{n}": Depends(p) for n, p in enumerate(providers)}, {})
    values: Values = {}
    with ExitStack() as stack:
        for step in plan.steps:
            step.open_here(stack, values, CONTEXT)
    assert sorted(made) == list(range(len(graph)))
    assert plan.pick(values) == {f"p{n}": n for n in range(len(graph))}


def test_an_override_stands_in_with_needs_of_its_own() -> None:
    def fake(ctx: Context) -> str:
        return f"fake {ctx.attempt}"

    plan, values = make_plan("it", {"s": Depends(session)}, {session: fake}), cast(Values, {})
    with ExitStack() as stack:
        for step in plan.steps:
            step.open_here(stack, values, CONTEXT)
    assert plan.pick(values) == {"s": "fake 1"}
    assert [step.provider for step in plan.steps] == [fake]


def test_circles_are_refused_and_drawn() -> None:
    def one(other: Annotated[int, Depends(lambda: two)]) -> int:
        return other

    def two(other: Annotated[int, Depends(one)]) -> int:
        return other

    one.__annotations__["other"] = Annotated[int, Depends(two)]
    with pytest.raises(ConfigError, match=r"it: its dependencies .* circle: .*one → .*two → .*one"):
        make_plan("it", {"x": Depends(one)}, {})


def takes_more(url: str) -> str:
    return url


@contextmanager
def managed() -> Iterator[int]:
    yield 1


@asynccontextmanager
async def managed_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        (takes_more, "'takes_more': nobody gives its parameter 'url': annotate it"),
        (managed, "'managed' is a context manager: leave out @contextmanager"),
        (managed_async, "'managed_async' is a context manager"),
    ],
)
def test_a_worker_is_told_of_a_provider_that_cannot_be_used(provider: Any, words: str) -> None:
    app = new_app()

    @app.job
    def needy(one: Annotated[Any, Depends(provider)]) -> None: ...

    with pytest.raises(ConfigError, match=words):
        _ = needy.plan


def test_mistakes_in_annotations_are_refused() -> None:
    app = new_app()
    with pytest.raises(ConfigError, match=r"Depends\(42\): must be a function"):
        Depends(42)  # type: ignore[arg-type]

    @app.job
    def as_default(one: Any = Depends(settings)) -> None: ...  # noqa: B008

    with pytest.raises(ConfigError, match=r"'one: Annotated\[YourType, Depends\(settings\)\]'"):
        _ = as_default.shape

    @app.job
    def bare(one: Annotated[Any, Depends]) -> None: ...

    with pytest.raises(ConfigError, match="parameter 'one' needs one provider"):
        _ = bare.shape

    @app.job
    def injected(one: int = Injected) -> None: ...

    with pytest.raises(ConfigError, match="'one' is no dependency, so nobody injects it"):
        _ = injected.shape


async def test_a_dependency_is_no_argument_of_the_job() -> None:
    app = new_app()

    @app.job
    async def charge(order: int, session: Annotated[str, Depends(session)] = Injected) -> None: ...

    assert charge.shape.arguments.names == ["order"]
    with pytest.raises(InvalidArguments, match="unknown argument 'session'"):
        await charge.enqueue(1, session="mine")
    await charge(1, session="mine")  # who calls the function gives it
    with pytest.raises(AttributeError, match=r"'commit' of a dependency that nobody injected"):
        Injected.commit()


def test_a_handler_without_dependencies_has_nothing_around_it() -> None:
    @new_app().job
    def plain(order: int) -> None: ...

    assert (plain.is_surrounded, plain.needs_context, plain.plan) == (False, False, None)
