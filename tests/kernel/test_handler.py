"""Declaring handlers and typed requests, and what enqueuing them stores, or refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Annotated, Any, Union
from uuid import UUID, uuid4

import msgspec
import pytest

from mesh import (
    ConfigError,
    Context,
    Failure,
    InvalidArguments,
    Job,
    Mesh,
    PayloadTooLarge,
    Retry,
    UnknownHandler,
)
from mesh.context import DONE
from mesh.job import Priority, new_job_id
from mesh.options import Options

from . import later
from .conftest import MemoryMesh


@dataclass
class Receipt:
    number: int


class Export(Job[Receipt], name="exports.users.v1", lane="exports"):
    tenant: UUID
    columns: tuple[str, ...] = ("id",)


class Bare(Job):  # type: ignore[type-arg]
    x: int


async def add(a: int, b: int = 2) -> int:
    return a + b


# declaring ---------------------------------------------------------------------------------------


def test_a_handler_is_still_a_function(app: MemoryMesh) -> None:
    @app.job
    def double(x: int) -> int:
        """Twice as much."""
        return x * 2

    assert double(4) == 8
    assert double.__doc__ == "Twice as much."
    assert app.get_handler("double") is double
    assert repr(double) == "<Handler double lane=default>"


def test_options_of_a_handler(app: MemoryMesh) -> None:
    retry = Retry(3)
    handler = app.job(name="sums.v1", lane="math", priority="high", retry=retry, timeout=5)(add)
    assert (handler.name, handler.lane) == ("sums.v1", "math")
    assert handler.defaults == Options(
        lane="math", priority=Priority.HIGH, retry=retry, timeout=5.0
    )
    assert app.lanes == ["math"]


def test_is_async(app: MemoryMesh) -> None:
    assert app.job(add).is_async
    assert not app.job(name="sync")(lambda: None).is_async


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda app: app.job("mail"), "a handler must be a function, not 'mail'"),
        (lambda app: app.job(app.job(add)), "a handler must be a function, not <Handler add"),
        (lambda app: app.job(partial(add, b=1)), "a handler must be a function, not functools"),
        (lambda app: app.job(generator), "generator is a generator; a handler returns one result"),
        (lambda app: app.job(lambda: 1), "handler name '<lambda>' is not valid"),
        (lambda app: app.job(name="a b")(add), "handler name 'a b' is not valid"),
        (lambda app: app.job(nmae="x"), "app.job(): unknown option 'nmae'; did you mean 'name'?"),
        (lambda app: app.job(id="x"), "app.job(): unknown option 'id'"),
        (lambda app: app.job(delay=5), "app.job(): unknown option 'delay'"),
        (lambda app: app.job(lane="a b"), "lane 'a b' is not a valid name"),
        (lambda app: app.job(lane=5), "lane '5' is not a valid name"),
        (lambda app: app.job(timeout=0), "timeout=0: must be a number of seconds above 0"),
        (lambda app: app.job(timeout=math.inf), "timeout=inf: must be a number of seconds"),
        (lambda app: app.job(expires=datetime.now(UTC)), "app.job(): expires=datetime"),
        (lambda app: app.job(process=1)(add), "add: process=1: must be True or False"),
        (lambda app: app.job(retry=3), "retry=3: must be a Retry, such as Retry(5, delay=2)"),
        (lambda app: app.job(priority="urgent"), "unknown priority 'urgent'"),
        (lambda app: app.handler(add), "handler 'add' must take exactly one request"),
        (lambda app: (app.job(add), app.job(name="add")(generator_free)), "two handlers are named"),
    ],
)
def test_wrong_declarations(app: MemoryMesh, declare: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        declare(app)
    assert str(error.value).startswith(says)


def generator_free() -> None: ...


def test_both_of_two_namesakes_are_named(app: MemoryMesh) -> None:
    app.job(add)
    with pytest.raises(ConfigError, match=r"test_handler\.add and .*generator_free; give one"):
        app.job(name="add")(generator_free)


def test_unknown_handler(app: MemoryMesh) -> None:
    app.job(add)
    with pytest.raises(UnknownHandler, match="no handler is named 'ad'; did you mean 'add'"):
        app.get_handler("ad")


# contexts ----------------------------------------------------------------------------------------


def first(ctx: Context[int], x: int) -> None: ...
def last(x: int, ctx: Context) -> None: ...
def keyword(x: int, *, ctx: Context[Any]) -> None: ...
def optional(x: int, ctx: Context[Any] | None = None) -> None: ...
def annotated(x: int, ctx: Annotated[Context[Any], "mine"]) -> None: ...


@pytest.mark.parametrize("function", [first, last, keyword, optional, annotated])
async def test_the_context_is_no_argument(app: MemoryMesh, function: Callable[..., None]) -> None:
    handler = app.job(function)
    await handler.enqueue(x=3)
    await handler.options().enqueue(4)
    jobs = await app.taken()
    assert [msgspec.json.decode(job.payload) for job in jobs] == [{"x": 3}, {"x": 4}]
    context: Context[Any] = Context(jobs[0], 1, 5, lambda kind, data, joins=False: DONE)
    assert handler.bind(handler.decode(jobs[0].payload), context) == {"x": 3, "ctx": context}
    with pytest.raises(InvalidArguments, match="unknown argument 'ctx'"):
        await handler.enqueue(x=1, ctx=context)


async def test_two_contexts_are_too_many(app: MemoryMesh) -> None:
    def two(a: Context[Any], b: Context[Any]) -> None: ...

    handler = app.job(two)
    with pytest.raises(ConfigError, match="two Context parameters: a, b"):
        await handler.enqueue()


async def test_a_nameless_context_is_refused(app: MemoryMesh) -> None:
    def nameless(ctx: Context[Any], /) -> None: ...

    handler = app.job(nameless)
    with pytest.raises(ConfigError, match="given by name, so remove the '/'"):
        await handler.enqueue()


# enqueuing ---------------------------------------------------------------------------------------


async def test_what_is_stored(app: MemoryMesh) -> None:
    handler = app.job(lane="math", retry=Retry(2), timeout=9)(add)
    handle = await handler.enqueue(1)
    (job,) = await app.taken("math")
    assert (job.id, job.name, job.lane) == (handle.id, "add", "math")
    assert msgspec.json.decode(job.payload) == {"a": 1, "b": 2}
    assert (job.priority, job.attempt, job.due_at) == (Priority.NORMAL, 1, 0.0)
    assert (job.retry, job.timeout) == (Retry(2), 9.0)
    assert (job.enqueued_at, job.given_id) == (app.now(), False)
    assert repr(handle) == f"<JobHandle add {handle.id}>"


async def test_options_override_those_of_the_handler(app: MemoryMesh) -> None:
    handler = app.job(lane="math", retry=Retry(2), timeout=9, priority="low")(add)
    job_id = new_job_id()
    await handler.options(
        id=job_id.upper(), lane="other", retry=Retry(7), timeout=1, priority="highest",
        meta={"tenant": "a"},
    ).enqueue(1)  # fmt: skip
    (job,) = await app.taken("other")
    assert (job.id, job.given_id) == (job_id, True)
    assert (job.retry, job.timeout, job.priority) == (Retry(7), 1.0, Priority.HIGHEST)
    assert job.meta == {"tenant": "a"}
    await handler.options(priority=None).enqueue(1)  # type: ignore[arg-type]
    (job,) = await app.taken("math")
    assert job.priority == Priority.LOW


async def test_delays(app: MemoryMesh) -> None:
    handler = app.job(add)
    now = datetime.fromtimestamp(app.now(), timezone(timedelta(hours=5)))
    await handler.options(delay=10).enqueue(1)
    await handler.options(at=now + timedelta(seconds=20)).enqueue(2)
    assert await app.stored() == 2
    await handler.options(at=now - timedelta(days=1)).enqueue(3)
    await handler.options(delay=0).enqueue(4)
    assert [job.due_at for job in await app.taken()] == [0.0, 0.0]
    app.clock.advance(10)  # type: ignore[attr-defined]
    (job,) = await app.taken()
    assert job.due_at == app.now()


async def test_limits_in_time_count_from_when_a_job_is_due(app: MemoryMesh) -> None:
    handler = app.job(expires=60, deadline=600)(add)
    now = app.now()
    moment = datetime.fromtimestamp(now + 50, timezone(timedelta(hours=5)))
    await handler.enqueue(1)
    await handler.options(delay=10).enqueue(2)
    await handler.options(expires=moment, deadline=5).enqueue(3)
    app.clock.advance(10)  # type: ignore[attr-defined]
    jobs = await app.taken()
    limits = sorted((job.expires_at - now, job.deadline - now) for job in jobs)
    assert limits == [(50, 5), (60, 600), (70, 610)]


async def test_a_job_that_could_never_start_is_refused(app: MemoryMesh) -> None:
    handler = app.job(add)
    moment = datetime.fromtimestamp(app.now() + 50, UTC)
    for option in ("expires", "deadline"):
        until: Any = {option: moment}
        with pytest.raises(ConfigError, match=f"{option}=.*: is before the job is due"):
            await handler.options(delay=50, **until).enqueue(1)
        until = {option: moment - timedelta(seconds=50)}
        with pytest.raises(ConfigError, match=f"{option}=.*: is past already"):
            await handler.options(**until).enqueue(1)
    assert await app.stored() == 0


def test_a_predicate_stays_with_its_handler(app: MemoryMesh) -> None:
    handler = app.job(retry=Retry(3, when=callable))(add)
    assert handler.retry_when is callable
    assert handler.defaults.retry == Retry(3)


@pytest.mark.parametrize(
    ("annotation", "result"),
    [
        (int | Failure, b"5"),
        (Failure | int | None, b"null"),
        (Union[int, Failure], b"5"),  # noqa: UP007 - both are written
        (Failure, b"null"),
    ],
)
async def test_a_failure_is_no_result(app: MemoryMesh, annotation: Any, result: bytes) -> None:
    def handler() -> None: ...

    handler.__annotations__["return"] = annotation
    codec = app.job(handler).shape.result
    assert codec.encode(codec.decode(result)) == result
    with pytest.raises(msgspec.ValidationError):
        codec.decode(b'{"reason":"x","retry":true}')


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dely": 5}, "options(): unknown option 'dely'; did you mean 'delay'?"),
        ({"delay": 5, "at": datetime.now(UTC)}, "options(): give either delay or at, not both"),
        ({"delay": -1}, "options(delay=-1): must be a number of seconds, 0 or more"),
        ({"delay": math.nan}, "options(delay=nan)"),
        ({"delay": math.inf}, "options(delay=inf)"),
        ({"delay": "5"}, "options(delay='5')"),
        ({"delay": timedelta(1)}, "options(delay=datetime.timedelta(days=1))"),
        ({"at": datetime(2030, 1, 1)}, "options(at=...): 2030-01-01T00:00:00 has no time zone"),
        ({"at": 5}, "options(at=5): must be a datetime with a time zone"),
        ({"id": "42"}, "job id '42' is not a UUID, such as "),
        ({"lane": "a b"}, "lane 'a b' is not a valid name"),
        ({"agent": "a b"}, "agent 'a b' is not a valid name"),
        ({"agent": "nowhere"}, "no agent is named 'nowhere'"),
        ({"meta": {"a": 1}}, "options(meta={'a': 1}): must map strings to strings"),
        (
            {"meta": {"a": "x" * 20_000}},
            "options(meta=...): the tags take 20001 bytes",
        ),
        ({"meta": {"a": "\ud800"}}, "options(meta='\\ud800'): cannot be stored"),
        ({"key": "a\ud800"}, "options(key='a\\ud800'): cannot be stored"),
        ({"delay": True}, "options(delay=True): must be a number"),
        ({"timeout": True}, "timeout=True: must be a number"),
        ({"expires": True}, "expires=True: must be a number"),
        ({"timeout": "5"}, "timeout='5': must be a number of seconds above 0"),
        ({"expires": 0}, "expires=0: must be a number of seconds above 0, or a datetime"),
        ({"expires": datetime(2030, 1, 1)}, "options(expires=...): 2030-01-01T00:00:00 has no"),
        ({"deadline": math.inf}, "deadline=inf: must be a number of seconds above 0"),
        ({"process": True}, "options(): unknown option 'process'"),
        ({"retry": Retry(when=callable)}, "options(retry=Retry(when=...)): a function cannot"),
    ],
)
async def test_wrong_options(app: MemoryMesh, options: dict[str, Any], says: str) -> None:
    handler = app.job(add)
    with pytest.raises(ConfigError) as error:
        await handler.options(**options).enqueue(1)
    assert str(error.value).startswith(says)
    assert await app.stored() == 0


async def test_none_is_not_given(app: MemoryMesh) -> None:
    handler = app.job(add)
    options: Any = {"delay": None, "at": datetime(2020, 1, 1, tzinfo=UTC), "lane": None}
    await handler.options(**options).enqueue(1)
    assert len(await app.taken()) == 1


def test_merging() -> None:
    base = Options(delay=5.0, lane="a", timeout=1.0)
    assert base.merge(Options()) == base
    assert base.merge(Options(at=7.0)) == Options(at=7.0, lane="a", timeout=1.0)
    assert base.merge(Options(delay=0.0, lane="b")) == Options(delay=0.0, lane="b", timeout=1.0)


async def test_nothing_is_stored_when_an_argument_is_wrong(app: MemoryMesh) -> None:
    handler: Any = app.job(add)
    for args, kwargs, says in (
        (("1",), {}, "argument 'a': Expected `int`"),
        ((), {}, "missing argument 'a'"),
        ((1,), {"c": 1}, "unknown argument 'c'"),
        ((object(),), {}, "argument 'a' cannot be encoded"),
    ):
        with pytest.raises(InvalidArguments, match=says):
            await handler.enqueue(*args, **kwargs)
    with pytest.raises(PayloadTooLarge, match="argument 'a' takes 3000"):
        await handler.enqueue(10**2999)
    assert await app.stored() == 0


async def test_enqueue_many(app: MemoryMesh) -> None:
    handler = app.job(add)
    handles = await handler.enqueue_many([(1,), {"a": 2}, (3, 4), {"b": 6, "a": 5}])
    jobs = {job.id: msgspec.json.decode(job.payload) for job in await app.taken()}
    assert [jobs[handle.id] for handle in handles] == [
        {"a": 1, "b": 2},
        {"a": 2, "b": 2},
        {"a": 3, "b": 4},
        {"a": 5, "b": 6},
    ]
    assert await handler.enqueue_many([]) == []


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([(1,), ("2",)], "call 1: add(): argument 'a': Expected `int`, got `str`"),
        ([(1,), {}], "call 1: add(): missing argument 'a'"),
        ([(1,), "ab"], "call 1 is a str: give a tuple of positional arguments, such as (1,)"),
        ([1, 2], "call 0 is a int: give a tuple"),
    ],
)
async def test_all_calls_are_checked_before_any_is_stored(
    app: MemoryMesh, calls: Any, says: str
) -> None:
    handler = app.job(add)
    with pytest.raises(InvalidArguments) as error:
        await handler.enqueue_many(calls)
    assert str(error.value).startswith(says)
    assert await app.stored() == 0


async def test_one_id_names_one_job(app: MemoryMesh) -> None:
    handler = app.job(add).options(id=new_job_id())
    with pytest.raises(ConfigError, match="names one job; enqueue_many was given several"):
        await handler.enqueue_many([(1,), (2,)])
    assert await app.stored() == 0
    assert len(await handler.enqueue_many([(1,)])) == 1


async def test_an_id_is_stored_once(app: MemoryMesh) -> None:
    handler = app.job(add).options(id=new_job_id())
    first, second = await handler.enqueue(1), await handler.enqueue(1)
    assert first.id == second.id
    assert await app.stored() == 1


# types -------------------------------------------------------------------------------------------


async def test_types_may_be_defined_further_down() -> None:
    async with later.app:
        early: Any = later.early  # whose context is not in front, for checkers to know
        handle = await early.enqueue(later.Later(later.Later()))
        request = later.EarlyRequest(value=later.Later())
        assert (await later.app.enqueue(request)).name == "early.request"
    payload = b'{"value": {"inner": {"inner": null}}}'
    assert later.early.decode(payload) == {"value": later.Later(later.Later())}
    assert handle.name == "early"


async def test_an_annotation_that_cannot_be_resolved() -> None:
    with pytest.raises(
        ConfigError, match=r"handler 'broken': .*'Nowhere' is not defined; its types"
    ):
        await later.broken.enqueue(1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"request 'BrokenRequest': .*'Nowhere' is not defined"):
        await later.app.enqueue(later.BrokenRequest())


async def test_a_result_type_that_cannot_be_stored_is_refused_at_enqueue(app: MemoryMesh) -> None:
    def odd() -> set[int] | list[int]:
        return []

    handler = app.job(odd)
    with pytest.raises(ConfigError, match=r"^result of 'odd': Type unions may not contain"):
        await handler.enqueue()
    assert await app.stored() == 0


# typed requests ----------------------------------------------------------------------------------


def test_requests_are_frozen_dataclasses() -> None:
    tenant = uuid4()
    assert Export(tenant) == Export(tenant=tenant, columns=("id",))
    with pytest.raises(AttributeError):
        Export(tenant).tenant = uuid4()  # type: ignore[misc]
    assert (Export.mesh_name, Export.mesh_options.lane) == ("exports.users.v1", "exports")
    assert (Bare.mesh_name, Bare.mesh_options.lane) == ("Bare", None)


async def test_a_producer_needs_no_handler(app: MemoryMesh) -> None:
    tenant = uuid4()
    handle = await app.enqueue(Export(tenant), priority="low", meta={"a": "b"})
    (job,) = await app.taken("exports")
    assert (job.id, job.name, job.priority) == (handle.id, "exports.users.v1", Priority.LOW)
    assert msgspec.json.decode(job.payload) == {"tenant": str(tenant), "columns": ["id"]}
    assert job.meta == {"a": "b"}


async def test_the_handler_of_a_request(app: MemoryMesh) -> None:
    @app.handler
    async def export(request: Export, ctx: Context[Any]) -> Receipt:
        return Receipt(1)

    assert (export.name, export.lane) == ("exports.users.v1", "exports")
    request = Export(uuid4(), ("a", "b"))
    await export.enqueue(request)
    await export.enqueue(request=request)
    await export.options(priority="low").enqueue(request)
    await app.enqueue(request)
    jobs = await app.taken("exports")
    assert [export.decode(job.payload) for job in jobs] == [{"request": request}] * 4
    assert export.shape.result.decode(b'{"number": 3}') == Receipt(3)


@pytest.mark.parametrize(
    "args", [(), (1,), (Bare(1),), ({"tenant": "x"},), (Export(UUID(int=0)), 1)]
)
async def test_a_handler_takes_its_own_request_only(app: MemoryMesh, args: tuple[Any]) -> None:
    @app.handler
    async def export(request: Export) -> Receipt:
        return Receipt(1)

    with pytest.raises(
        InvalidArguments, match=r"exports.users.v1\(\) takes one argument, a Export"
    ):
        await export.enqueue(*args)
    assert await app.stored() == 0


@pytest.mark.parametrize("wrong", [5, None, Export, Receipt(1)])
async def test_only_requests_can_be_enqueued_by_themselves(app: MemoryMesh, wrong: Any) -> None:
    with pytest.raises(InvalidArguments, match=r"takes a typed request, a subclass of mesh.Job"):
        await app.enqueue(wrong)


async def test_fields_of_a_request_are_checked(app: MemoryMesh) -> None:
    wrong: Any = "not a uuid"
    with pytest.raises(InvalidArguments, match="argument 'tenant': Invalid UUID"):
        await app.enqueue(Export(wrong))
    with pytest.raises(InvalidArguments, match="argument 'columns' cannot be encoded"):
        await app.enqueue(Export(uuid4(), (object(),)))  # type: ignore[arg-type]
    with pytest.raises(PayloadTooLarge, match="argument 'columns' takes"):
        await app.enqueue(Export(uuid4(), ("x" * 3000,)))
    with pytest.raises(ConfigError, match="unknown option 'prioritty'; did you mean 'priority'"):
        await app.enqueue(Export(uuid4()), prioritty="low")  # type: ignore[call-arg]
    assert await app.stored() == 0


class Base(Job[Receipt]):
    tenant: int


class Special(Base, name="special"):
    more: str = ""


def test_a_request_may_inherit() -> None:
    app = Mesh(agents={"m": "memory://x"})

    @app.handler
    def special(request: Special) -> Receipt:
        return Receipt(request.tenant)

    assert special.name == "special"
    assert special.decode(b'{"tenant": 1, "more": "x"}') == {"request": Special(1, "x")}
    assert special.shape.result.decode(b'{"number": 3}') == Receipt(3)


def test_wrong_requests() -> None:
    with pytest.raises(ConfigError, match="handler name 'a b' is not valid"):
        type("Wrong", (Job,), {}, name="a b")
    with pytest.raises(ConfigError, match="lane 'a b' is not a valid name"):
        type("Wrong", (Job,), {}, lane="a b")


@pytest.mark.parametrize("function", [lambda: None, lambda a, b: None])
def test_wrong_handlers_of_requests(app: MemoryMesh, function: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match="must take exactly one request"):
        app.handler(function)
