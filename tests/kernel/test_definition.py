"""What a handler tells of itself: words for people, options, and schemas of its types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import ConfigError, Context, Failure, Job, Mesh, Retry
from mesh.definition import MOST_BYTES, About, Definition
from mesh.schema import json_schema
from mesh.wire import Envelope

from .conftest import MemoryMesh


class Part(pydantic.BaseModel):
    count: int


class Order(pydantic.BaseModel):
    number: int = pydantic.Field(alias="orderNumber")
    parts: list[Part] = []


@dataclass(frozen=True)
class Tree:
    children: list[Tree]


@dataclass(frozen=True)
class Receipt:
    number: int


class Odd:
    pass


class Resize(Job[None], lane="images", priority="high", timeout=7, retry=Retry(3), deadline=50):
    path: str


class Export(
    Job[Receipt],
    name="exports.v1",
    title="Export",
    icon="📦",
    kind="system",
    lane="exports",
    priority="low",
    retry=Retry(2, when=lambda error: False),
    timeout=5,
    expires=60,
    deadline=600,
    result_ttl=3600,
    concurrency=2,
):
    """Export all orders of a day.

    The rest is for programmers.
    """

    day: date


def test_a_function_is_described_by_its_docstring() -> None:
    app = Mesh(agents={"m": "memory://definitions"})

    @app.job(lane="mail", title="Send mail", timeout=3, limit="60/minute")
    async def send(user_id: int, ctx: Context, *, copies: tuple[str, ...] = ("a",)) -> int:
        """Send a mail
        to a user.

        Never twice.
        """
        return user_id

    definition = send.definition
    assert definition == Definition(
        lane="mail",
        title="Send mail",
        description="Send a mail to a user.",
        runs="async",
        timeout=3.0,
        rate=1.0,
        arguments={
            "title": "send",
            "type": "object",
            "properties": {
                "user_id": {"type": "integer"},
                "copies": {"type": "array", "items": {"type": "string"}, "default": ["a"]},
            },
            "required": ["user_id"],
        },
        result={"type": "integer"},
    )
    assert Definition.decode(definition.encode()) == definition


def test_a_request_class_says_all_that_a_function_can() -> None:
    app = Mesh(agents={"m": "memory://definitions"})

    @app.handler
    def export(request: Export) -> Receipt | Failure:
        """Not this: the class is what others know."""
        return Receipt(1)

    definition = export.definition
    assert (definition.title, definition.icon, definition.kind) == ("Export", "📦", "system")
    assert definition.description == "Export all orders of a day."
    assert (definition.lane, definition.priority, definition.runs) == ("exports", "low", "thread")
    assert (definition.timeout, definition.expires, definition.deadline) == (5.0, 60.0, 600.0)
    assert (definition.result_ttl, definition.concurrency) == (3600.0, 2)
    assert definition.retry == Retry(2)
    assert export.retry_when is not None
    assert definition.arguments is not None
    assert definition.arguments["properties"] == {"day": {"type": "string", "format": "date"}}
    assert definition.result is not None
    assert definition.result["required"] == ["number"]


async def test_a_producer_with_the_class_alone_enqueues_as_the_class_says(
    app: MemoryMesh,
) -> None:
    await app.enqueue(Resize("a"))
    await app.enqueue(Resize("b"), priority="low", timeout=1)

    def said(job: Envelope) -> tuple[Any, ...]:
        return job.priority, job.timeout, job.retry, job.deadline - job.enqueued_at

    jobs = {job.payload: said(job) for job in await app.taken("images")}
    assert jobs == {
        b'{"path":"a"}': (4, 7.0, Retry(3), 50.0),
        b'{"path":"b"}': (2, 1.0, Retry(3), 50.0),
    }

    @app.handler
    async def resize(request: Resize) -> None: ...

    await resize.enqueue(Resize("a"))
    (job,) = await app.taken("images")
    assert said(job) == (4, 7.0, Retry(3), 50.0)


def test_wrong_words_are_refused_wherever_they_stand() -> None:
    app = Mesh(agents={"m": "memory://definitions"})
    with pytest.raises(ConfigError, match=r"^class A: unknown option 'titel'; did you mean 'tit"):

        class A(Job[None], titel="x"):  # type: ignore[call-arg]
            n: int

    with pytest.raises(ConfigError, match=r"^class B: title='': must be a text of 1 to 100"):

        class B(Job[None], title=""):
            n: int

    with pytest.raises(ConfigError, match=r"^app.job\(\): kind='sistem': .*did you mean 'system'"):
        app.job(kind="sistem")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"^class C: process is its handler's: @app.handler"):

        class C(Job[None], process=True):  # type: ignore[call-arg]
            n: int

    with pytest.raises(ConfigError, match=r"timeout=0: must be"):

        class D(Job[None], timeout=0):
            n: int


# schemas -----------------------------------------------------------------------------------------


def test_pydantic_models_are_described_by_the_names_they_are_stored_under() -> None:
    class Both(msgspec.Struct):
        one: Order
        many: list[Order]

    schema = json_schema(Both)
    assert schema is not None
    order = schema["properties"]["one"]
    assert order["properties"].keys() == {"number", "parts"}
    assert order["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}
    assert schema["$defs"].keys() == {"Part"}


def test_a_type_that_holds_itself_stays_a_reference() -> None:
    assert json_schema(Tree) == {
        "$ref": "#/$defs/Tree",
        "$defs": {
            "Tree": {
                "title": "Tree",
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
                "required": ["children"],
            }
        },
    }


def test_two_types_of_one_name_have_no_schema() -> None:
    def make(field: type) -> Any:
        part = pydantic.create_model("Part", n=(field, ...))
        return pydantic.create_model("Whole", part=(part, ...))

    assert json_schema(msgspec.defstruct("S", [("a", make(int))])) is not None
    assert json_schema(msgspec.defstruct("S", [("a", make(int)), ("b", make(str))])) is None


@pytest.mark.parametrize("kind", [complex, Odd, dict[int, Odd], object()])
def test_what_cannot_be_derived_is_left_out(kind: Any) -> None:
    assert json_schema(kind) is None


def test_a_default_that_is_no_json_is_left_out() -> None:
    app = Mesh(agents={"m": "memory://definitions"})

    @app.job
    def odd(n: Any = Odd, m: int = 3): ...  # type: ignore[no-untyped-def]

    assert odd.definition.result is None
    assert odd.definition.arguments is not None
    assert odd.definition.arguments["properties"] == {
        "n": {},
        "m": {"type": "integer", "default": 3},
    }


def test_a_definition_that_is_too_large_goes_without_its_schemas() -> None:
    large = Definition(lane="a", title="Large", arguments={"enum": ["x" * MOST_BYTES]})
    assert Definition.decode(large.encode()) == Definition(lane="a", title="Large")


kinds = st.recursive(
    st.sampled_from([int, str, bool, float, None, date, bytes, Receipt, Order, Tree]),
    lambda inner: st.one_of(
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: dict[str, kind]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),  # type: ignore[valid-type]
    ),
    max_leaves=5,
)


@given(kinds)
def test_every_reference_leads_somewhere(kind: Any) -> None:
    schema = json_schema(kind)
    assert schema is not None

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(reference := part.get("$ref"), str):
                assert reference.removeprefix("#/$defs/") in schema["$defs"]
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(schema)
    assert json.loads(json.dumps(schema)) == schema


@given(st.text(max_size=300))
def test_any_docstring_makes_a_description_or_none(text: str) -> None:
    def function() -> None: ...

    function.__doc__ = text
    described = About().described_by(function).description
    assert described is None or (described == " ".join(described.split()) and "\0" not in described)
    assert About(description="given").described_by(function).description == "given"
