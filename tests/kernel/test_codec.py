"""What may be an argument or a result, and what is said of the rest."""

from __future__ import annotations

import enum
import inspect
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import ConfigError, InvalidArguments, PayloadTooLarge
from mesh.codec import ArgumentsCodec, ValueCodec, encode_json

LIMIT = 2000


def codec_for(function: Callable[..., Any]) -> ArgumentsCodec:
    return ArgumentsCodec(
        function.__name__,
        inspect.signature(function).parameters,
        inspect.get_annotations(function, eval_str=True),
    )


def one(kind: Any) -> ArgumentsCodec:
    """For a function of one argument ``x``."""
    parameter = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return ArgumentsCodec("f", {"x": parameter}, {"x": kind})


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Address:
    street: str
    zip_code: str | None = None


@dataclass(frozen=True)
class Person:
    name: str
    addresses: list[Address] = field(default_factory=list)
    born: date | None = None


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Movie(TypedDict, total=False):
    title: str
    year: int


class Pair(NamedTuple):
    left: int
    right: str


class Model(pydantic.BaseModel):
    name: str
    at: datetime
    data: bytes = b""
    inner: list[Model] = []


class AliasedModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    user_id: int = pydantic.Field(alias="userId")
    other: int = pydantic.Field(validation_alias="o1", serialization_alias="o2")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.user_id * 2


class StrictModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    at: datetime
    key: UUID
    tags: set[str]
    price: Decimal


class Numbers(pydantic.RootModel[list[int]]):
    pass


NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, UTC)
KEY = UUID("01890000-0000-7000-8000-000000000000")

GOOD: list[tuple[Any, Any]] = [
    (int, 5),
    (int, -(2**63)),
    (int, 2**70),
    (float, 1.5),
    (float, 1),
    (bool, True),
    (str, "zażółć 🦊\0"),
    (bytes, b"\x00\xff"),
    (None, None),
    (Any, {"a": [1, None, "x"]}),
    (int | None, None),
    (int | None, 3),
    (int | str, "x"),
    (list[int] | dict[str, int], {"a": 1}),
    (list[int], [1, 2]),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[str, Any], {"a": {"b": 1}}),
    (dict[int, str], {1: "a"}),
    (dict[UUID, Decimal], {KEY: Decimal("1.10")}),
    (datetime, NOW),
    (datetime, datetime(2026, 1, 1)),
    (date, date(2026, 3, 1)),
    (time, time(12, 30)),
    (timedelta, timedelta(days=1, seconds=2)),
    (UUID, KEY),
    (Decimal, Decimal("0.10")),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Literal["a", "b"], "b"),
    (Annotated[int, msgspec.Meta(ge=0)], 0),
    (Address, Address("Main St")),
    (Person, Person("Ada", [Address("a"), Address("b", "1")], date(1815, 12, 10))),
    (list[Person], [Person("Ada")]),
    (Point, Point(1, 2.5)),
    (Cat | Dog, Dog("Rex")),
    (dict[str, Cat | Dog | None], {"a": Cat(9), "b": None}),
    (Movie, {"title": "Metropolis"}),
    (Pair, Pair(1, "x")),
    (Model, Model(name="m", at=NOW, data=b"text", inner=[Model(name="i", at=NOW)])),
    (Model | None, None),
    (Model | None, Model(name="m", at=NOW)),
    (list[Model], [Model(name="m", at=NOW)]),
    (dict[str, Model], {"k": Model(name="m", at=NOW)}),
    (AliasedModel, AliasedModel.model_validate({"userId": 1, "o1": 2})),
    (StrictModel, StrictModel(at=NOW, key=KEY, tags={"t"}, price=Decimal("1.5"))),
    (Numbers, Numbers([1, 2])),
]


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_what_the_worker_gets_is_what_was_given(kind: Any, value: Any) -> None:
    codec = one(kind)
    decoded = codec.decode(codec.encode((value,), {}, LIMIT))
    assert decoded == {"x": value}
    if kind is not float:
        assert type(decoded["x"]) is type(value)


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_results_come_back_as_they_were(kind: Any, value: Any) -> None:
    codec = ValueCodec(kind, "result of 'f'")
    assert codec.decode(codec.encode(value)) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_any_json_value_is_kept(value: Any) -> None:
    codec = one(Any)
    assert codec.decode(codec.encode((value,), {}, 10**6)) == {"x": value}


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


BAD: list[tuple[Any, Any, str]] = [
    (int, "5", "argument 'x': Expected `int`, got `str`"),
    (int, 5.5, "argument 'x': Expected `int`, got `float`"),
    (int, True, "argument 'x': Expected `int`, got `bool`"),
    (int, None, "argument 'x': Expected `int`, got `null`"),
    (bool, 1, "argument 'x': Expected `bool`, got `int`"),
    (str, 5, "argument 'x': Expected `str`, got `int`"),
    (str, b"x", "argument 'x': Expected `str`, got `bytes`"),
    (str, KEY, "argument 'x': Expected `str`, got `UUID`"),
    (str | None, b"x", "argument 'x': Expected `str`, got `bytes`"),
    (bytes, "aGk=", "argument 'x': Expected `bytes`, got `str`"),
    (float, math.nan, "argument 'x': nan cannot be stored as JSON"),
    (float | None, math.inf, "argument 'x': inf cannot be stored as JSON"),
    (Any, -math.inf, "argument 'x': -inf cannot be stored as JSON"),
    (list[float], [math.nan], "argument 'x[0]': Expected `float`, got `null`"),
    (list[int], [1, "a"], "argument 'x[1]': Expected `int`, got `str`"),
    (list[int], 5, "argument 'x': Expected `array`, got `int`"),
    (datetime, date(2026, 1, 1), "argument 'x': Invalid RFC3339"),
    (UUID, "not one", "argument 'x': Invalid UUID"),
    (Colour, "green", "argument 'x': Invalid enum value 'green'"),
    (Literal["a"], "b", "argument 'x': Invalid enum value 'b'"),
    (Annotated[int, msgspec.Meta(ge=0)], -1, "argument 'x': Expected `int` >= 0"),
    (Person, Person("Ada", [Address(5)]), "argument 'x.addresses[0].street': Expected `str`"),  # type: ignore[arg-type]
    (Person, {"nam": "Ada"}, "argument 'x': Object missing required field `name`"),
    (Movie, {"year": "1927"}, "argument 'x.year': Expected `int`, got `str`"),
    (Model, {"name": "m"}, "argument 'x': 1 validation error for Model"),
    (list[Model], [5], "argument 'x[0]': 1 validation error for Model"),
    (Opaque, {"a": 1}, "argument 'x': type Opaque is not supported"),
    (Opaque, Opaque(), "argument 'x' cannot be encoded: objects of type Opaque cannot be encoded"),
    (Any, Opaque(), "argument 'x' cannot be encoded: objects of type Opaque"),
    (Any, [1, object()], "argument 'x' cannot be encoded: objects of type object"),
    (Any, deque([1]), "argument 'x' cannot be encoded: objects of type deque"),
    (str, "\ud800", "argument 'x' cannot be encoded: "),
    (dict[Any, int], {(1, 2): 3}, "argument 'x' cannot be encoded: "),
    (Any, deep(100_000), "argument 'x' cannot be encoded: maximum recursion"),
]


@pytest.mark.parametrize(("kind", "value", "says"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_what_cannot_be_stored_is_refused_by_name(kind: Any, value: Any, says: str) -> None:
    with pytest.raises(InvalidArguments) as error:
        one(kind).encode((value,), {}, LIMIT)
    assert str(error.value).startswith(f"f(): {says}")


def test_any_depth_is_kept_or_refused() -> None:
    codec = one(Any)
    for levels in range(100, 3000, 7):
        try:
            payload = codec.encode((deep(levels),), {}, 10**6)
        except InvalidArguments:
            continue
        assert codec.decode(payload)


# binding -----------------------------------------------------------------------------------------


def send(user_id: int, template: str = "hello", *, tags: list[str] = [], limit: int = 3) -> None:  # noqa: B006
    pass


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((1,), {}, (1, "hello", [], 3)),
        ((1, "x"), {"tags": ["a"]}, (1, "x", ["a"], 3)),
        ((), {"template": "x", "user_id": 1, "limit": 4}, (1, "x", [], 4)),
    ],
)
def test_binding(args: tuple[Any, ...], kwargs: dict[str, Any], expected: tuple[Any, ...]) -> None:
    codec = codec_for(send)
    decoded = codec.decode(codec.encode(args, kwargs, LIMIT))
    assert tuple(decoded[name] for name in ("user_id", "template", "tags", "limit")) == expected


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "send(): missing argument 'user_id'"),
        ((1,), {"tempalte": "x"}, "send(): unknown argument 'tempalte'; did you mean 'template'?"),
        ((1,), {"user_id": 1}, "send(): argument 'user_id' is given twice"),
        ((1, "x", ["a"]), {}, "send() takes 2 positional arguments, 3 were given"),
        (("1",), {}, "send(): argument 'user_id': Expected `int`, got `str`"),
        ((1,), {5: 1}, "send(): unknown argument '5' (known: limit, tags, template, user_id)"),
    ],
)
def test_wrong_calls(args: tuple[Any, ...], kwargs: Any, says: str) -> None:
    with pytest.raises(InvalidArguments) as error:
        codec_for(send).encode(args, kwargs, LIMIT)
    assert str(error.value).startswith(says)


def test_arguments_that_are_left_out_are_stored_as_well() -> None:
    """So that a later change of a default does not change jobs that are under way."""
    payload = codec_for(send).encode((1,), {}, LIMIT)
    assert msgspec.json.decode(payload) == {
        "user_id": 1,
        "template": "hello",
        "tags": [],
        "limit": 3,
    }


def test_arguments_that_a_newer_handler_added_take_their_default() -> None:
    decoded = codec_for(send).decode(b'{"user_id": 1, "removed_since": true}')
    assert decoded == {"user_id": 1, "template": "hello", "tags": [], "limit": 3}


@pytest.mark.parametrize(
    "default", [[], [1], {}, {"a": 1}, {1}, bytearray(b"x"), Address("a"), Point(1), None, (1, [2])]
)
def test_any_default_will_do(default: Any) -> None:
    def function(x: Any = default) -> None: ...

    codec = codec_for(function)
    payload = codec.encode((), {}, LIMIT)
    assert payload == encode_json({"x": default})


def test_a_default_that_cannot_be_stored_is_named_too() -> None:
    def function(x: Any = Opaque()) -> None: ...  # noqa: B008

    with pytest.raises(InvalidArguments, match="argument 'x' cannot be encoded"):
        codec_for(function).encode((), {}, LIMIT)


def positional_only(x: int, /, y: int) -> None: ...
def variadic(*numbers: int) -> None: ...
def keywords(**options: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            positional_only,
            "handler 'positional_only': arguments are stored by name, so remove the '/'",
        ),
        (variadic, "handler 'variadic': *numbers cannot be checked; take a list"),
        (keywords, "handler 'keywords': **options cannot be checked; name each argument"),
    ],
)
def test_parameters_without_a_name_of_their_own_are_refused(
    function: Callable[..., Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        codec_for(function)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("kind", [Cat | Point | Address, set[dict[str, int]] | list[int]])
def test_types_that_cannot_be_told_apart_are_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"^handler 'f': .*is not supported"):
        one(kind)


# size --------------------------------------------------------------------------------------------


def test_the_limit_is_exact() -> None:
    codec = one(str)
    text = "x" * (LIMIT - len('{"x":""}'))
    assert len(codec.encode((text,), {}, LIMIT)) == LIMIT
    with pytest.raises(PayloadTooLarge) as error:
        codec.encode((text + "x",), {}, LIMIT)
    assert str(error.value) == (
        "f(): the arguments take 2001 bytes, the limit is 2000; argument 'x' takes 1995: "
        "store it elsewhere and pass a reference, or raise payload_limit"
    )


def test_a_default_may_be_the_one_that_is_too_large() -> None:
    def function(a: int = 1, b: str = "x" * LIMIT) -> None: ...

    with pytest.raises(PayloadTooLarge, match="argument 'b' takes 2002"):
        codec_for(function).encode((), {}, LIMIT)


# results -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [Opaque(), {(1, 2): 3}, "\ud800", deep(100_000)])
def test_results_that_cannot_be_encoded(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        ValueCodec(Any, "result of 'f'").encode(value)
