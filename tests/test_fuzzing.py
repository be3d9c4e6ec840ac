"""What comes from outside, however wrong, gives the errors that are documented, soon, and takes no
more memory than it has bytes to show for."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh import Mesh, wire
from mesh.cluster import Cluster
from mesh.config import Config
from mesh.errors import ConfigError, CorruptMessage, InvalidSchedule, UnsupportedVersion
from mesh.limits import parse_rate
from mesh.notices import CLUSTER
from mesh.schedule import parse
from mesh.schedule.schedule import parse_duration
from mesh.settings import ClusterSettings
from mesh.testing.conformance.agent import make_job
from mesh_agents.nats.frames import Names, chunks, ledger_entries, pack
from mesh_master.api import create_app

BOUND = 8 * 2**20
"""Bytes that reading a small message may take at most: far from what a length that is claimed in
five bytes asks for."""


def times(examples: int) -> settings:
    """So many, and more under the profile ``fuzz``; what is slow is no error here."""
    more = max(1, settings().max_examples // 100)
    return settings(
        max_examples=examples * more, deadline=None, suppress_health_check=list(HealthCheck)
    )


ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=20)
"""Lone surrogates and NUL too."""
SMALL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([2**63, -1, 1e308, 10**18, "accepted", "started", "finished", "event"]),
)
VALUES = st.recursive(
    SMALL,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS: list[Any] = list(msgspec.structs.astuple(make_job()))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Nearly ours: a message whose parts are of any type and number."""
    items: list[Any] = []
    for _ in range(draw(st.integers(0, 3))):
        fields = list(FIELDS)
        for _ in range(draw(st.integers(0, 4))):
            fields[draw(st.integers(0, len(fields) - 1))] = draw(VALUES)
        items.append(draw(st.sampled_from([fields, ["accepted", fields, 1.0]]) | VALUES))
    version = draw(st.just(wire.VERSION) | st.just(wire.VERSION) | VALUES)
    return msgspec.msgpack.encode([version, draw(st.just(items) | VALUES)])


def bounded(read: Callable[[bytes], Any], data: bytes) -> Any:
    tracemalloc.start()
    try:
        return read(data)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < BOUND, f"{len(data)} bytes took {peak}"


@pytest.mark.parametrize("records", [False, True], ids=["frames", "records"])
def test_what_is_nearly_a_message_is_one_or_corrupt(records: bool) -> None:
    decode: Any = wire.decode_records if records else wire.decode_frame
    encode: Any = wire.encode_records if records else wire.encode_frame

    @times(300)
    @given(messages())
    def read(data: bytes) -> None:
        try:
            items = bounded(decode, data)
        except (CorruptMessage, UnsupportedVersion):
            return
        # What is read can be passed on, and says the same there.
        again = encode(decode(encode(items)))
        assert again == encode(items)

    read()


@times(100)
@given(
    st.sampled_from([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"]),
    st.integers(2**20, 2**32 - 1),
    st.integers(0, 300),
    st.binary(max_size=50),
)
def test_a_length_that_is_only_claimed_takes_no_memory(
    kind: bytes, length: int, depth: int, rest: bytes
) -> None:
    data = b"\x92\x01" + b"\x91" * depth + kind + length.to_bytes(4, "big") + rest
    for decode in (wire.decode_frame, wire.decode_records):
        with pytest.raises((CorruptMessage, UnsupportedVersion)):
            bounded(decode, data)


@times(100)
@given(messages())
def test_what_could_be_read_can_be_put_in_frames(data: bytes) -> None:
    try:
        jobs = wire.decode_frame(data)
    except (CorruptMessage, UnsupportedVersion):
        return
    if not jobs:
        return
    frames = pack((job, "1") for job in jobs)
    assert sum(len(frame.jobs) for frame in frames) == len(jobs)
    assert sum(len(frame.jobs) for frame in chunks(jobs, 1)) == len(jobs)
    for frame in frames:
        try:
            message = frame.message(Names("c", "a"), 1.0)
        except (ConfigError, OverflowError, ValueError):
            continue  # a lane or a moment that no client lets through
        assert "\n" not in message.subject
    assert ledger_entries([wire.Accepted(job, 1.0) for job in jobs])


@times(300)
@given(
    st.binary(max_size=60)
    | VALUES.map(msgspec.msgpack.encode)
    | st.dictionaries(
        st.sampled_from([*ClusterSettings.__struct_fields__, "x"]),
        st.none() | st.integers(-5, 2**70) | st.text(max_size=5) | st.lists(st.text(max_size=3)),
    ).map(lambda value: json.dumps(value).encode())
)
def test_settings_that_make_no_sense_change_nothing(data: bytes) -> None:
    cluster = Cluster(Config(master="sqlite:///x.db"))
    before = cluster.settings
    if not cluster.hear({CLUSTER: data}):
        assert cluster.settings is before


SPOKEN = (
    "every on at between and or until from tz monday mon fri jan feb 30th 31st LastDay - , [ ] ( ) "
    "09:00 24:00 25:61 2pm 99 0 1 2 5 minutes seconds days weeks months years second hour first "
    "2ndTue W L # * / ? */0 */5 1-5 5-1 0-99 60 @daily @yearly @never both Europe/Amsterdam Mars/X "
    "except 999999999999999999999 -1 1e9"
)
STRANGE = ["\N{VULGAR FRACTION ONE HALF}", "\N{FULLWIDTH DIGIT ONE}", "\0", "\ud800"]
WORDS = st.sampled_from([*SPOKEN.split(), *STRANGE])
NOW = datetime(2027, 1, 1, tzinfo=UTC)


@times(400)
@given(
    st.lists(WORDS, max_size=12).map(" ".join)
    | st.lists(st.sampled_from(["*", "*/7", "L", "31", "2", "MON#5", "15W", "?", "0"])).map(
        " ".join
    )
    | ANY_TEXT,
    st.sampled_from([None, None, "Europe/Amsterdam", "", "\ud800", "../etc/passwd", "a\0b"]),
)
def test_an_expression_is_a_schedule_or_refused(text: str, zone: str | None) -> None:
    try:
        schedule = parse(text, zone)
    except InvalidSchedule as error:
        str(error)
        return
    found = list(islice(schedule.between(NOW, datetime(2099, 1, 1, tzinfo=UTC)), 3))
    assert found == sorted(set(found))
    assert parse(schedule.text) == schedule
    assert schedule.describe()


@pytest.mark.parametrize(
    "text",
    ["*" * 50_000, "every " * 10_000, "[" * 10_000, "9" * 10_000, "1," * 20_000 + "1 * * * *"],
    ids=lambda text: text[:8],
)
def test_a_long_expression_is_read_or_refused_soon(text: str) -> None:
    try:
        parse(text)
    except InvalidSchedule:
        return


@times(200)
@given(ANY_TEXT | st.from_regex(r"\s*\d+\s*(/\s*)?[a-z]+\s*"))
def test_durations_and_rates(text: str) -> None:
    parse_duration(text)
    try:
        assert parse_rate(text) > 0
    except ConfigError:
        return


# the API -------------------------------------------------------------------------------------

REQUESTS = [
    ("POST", "jobs"),
    ("POST", "jobs/cancel"),
    ("POST", "jobs/retry"),
    ("POST", "jobs/remove"),
    ("POST", "jobs/01890000-0000-7000-8000-000000000000/retry"),
    ("POST", "schedules"),
    ("POST", "schedules/explain"),
    ("PATCH", "settings"),
    ("POST", "lanes/default/purge"),
    ("POST", "session"),
]
RAW = [
    *(b"", b"{", b"nul", b"[]", b"null", b'"x"', b"\xff\xfe", b"\x81\xa1a", b"{}" * 1000),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"name":"add","payload":' + b"[" * 100_000),
    *(b"1" * 10_000, b"1e400", b'{"name":"add","name":"count"}', b"\xef\xbb\xbf{}", b"\x00"),
    *(b'{"name":"add","payload":{"x":%s}}' % x for x in (b"9" * 5000, b"1e999", b"-0", b"NaN")),
    *(b'{"name":"add","payload":{"x":1},%s}' % x for x in (b'"meta":{"a":"\\ud800"}',)),
    *(b'{"name":"%s","payload":{"x":1}}' % x for x in (b"\\ud800", b"\\u0000", b"a" * 50_000)),
    *(b'{"expression":"%s"}' % x for x in (b"\\ud800", b"\\u0000", b"*" * 50_000, b"[" * 50_000)),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    ANY_TEXT,
    st.sampled_from(
        ["\ud800", "\0", "a" * 300, 2**63, -1, 1e300, [], {}, "1/second", "9999-12-31"]
    ),
)
OPTION_NAMES = (
    "id key on_conflict delay at expires deadline meta priority lane retry timeout after "
    "result_ttl agent durability workflow"
)
OPTIONS = st.dictionaries(
    st.sampled_from(OPTION_NAMES.split()),
    ODD | st.dictionaries(ANY_TEXT, ODD, max_size=2) | st.lists(ODD, max_size=2),
    max_size=3,
)
BODIES = st.one_of(
    st.builds(
        lambda name, x, options, more: {
            **{"name": name, "payload": {"x": x}},
            **({"options": options} if more else options),
        },
        st.just("add") | ANY_TEXT,
        st.integers() | ODD,
        OPTIONS,
        st.booleans(),
    ),
    st.dictionaries(
        st.sampled_from(["name", "handler", "expression", "timezone", "count", "after", "jitter"]),
        ODD,
    ),
    st.dictionaries(
        st.sampled_from(["states", "meta", "error", "limit", "since", "until", "mode", "ids"]), ODD
    ),
).map(lambda body: json.dumps(body).encode())


class Api:
    """The API of an app, asked in process."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.app = Mesh(f"sqlite:///{folder / 'mesh.db'}")

        @self.app.job
        async def add(x: int, y: int = 1) -> int:
            return x + y

        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(
                cast(Any, create_app(self.app)), client=("127.0.0.1", 5000)
            ),
            base_url="http://localhost:8642/api/v1/",
        )

    def ask(self, method: str, path: str, body: bytes, kind: str = "application/json") -> None:
        async def ask() -> httpx.Response:
            async with asyncio.timeout(60):
                return await self.client.request(
                    method, path, content=body, headers={"content-type": kind}
                )

        answer = self.runner.run(ask())
        what = f"{method} {path} {body[:300]!r}: {answer.status_code} {answer.text[:300]}"
        assert answer.status_code < 500, what
        if answer.status_code >= 400:
            assert answer.headers["content-type"].startswith("application/problem+json"), what
            assert answer.json()["status"] == answer.status_code, what

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.run(self.app.close())
        self.runner.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("fuzzed"))
    yield api
    api.close()


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_bodies_that_are_none_are_refused(api: Api, method: str, path: str) -> None:
    for body in RAW:
        api.ask(method, path, body)
    for kind in ("text/plain", "application/msgpack", "multipart/form-data", "application/json;x"):
        api.ask(method, path, b'{"name":"add","payload":{"x":1}}', kind)


def test_odd_values_in_bodies_are_taken_or_refused(api: Api) -> None:
    @times(120)
    @given(st.sampled_from(REQUESTS), BODIES | st.binary(max_size=40))
    def ask(request: tuple[str, str], body: bytes) -> None:
        api.ask(*request, body)

    ask()
