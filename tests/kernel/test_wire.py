"""Whatever is encoded is decoded again; whatever is not, is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import wire
from mesh.errors import CorruptMessage, UnsupportedVersion
from mesh.job import State, new_job_id
from mesh.retry import Retry

floats = st.floats(allow_nan=False)
times = st.floats(0, 4e9)
numbers = st.integers(0, 2**31)
texts = st.text(max_size=30)
retries = st.builds(
    Retry,
    max_attempts=st.integers(1, 100),
    delay=st.floats(0, 1e6),
    backoff=st.sampled_from(["fixed", "exponential"]),
    factor=st.floats(1, 10),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
envelopes = st.builds(
    wire.Envelope,
    id=texts,
    name=texts,
    payload=st.binary(max_size=50),
    lane=texts,
    priority=st.integers(1, 5),
    enqueued_at=times,
    attempt=numbers,
    due_at=times,
    timeout=st.none() | floats,
    retry=st.none() | retries,
    meta=st.none() | st.dictionaries(texts, texts, max_size=3),
    given_id=st.booleans(),
    misses=numbers,
)
errors = st.builds(wire.ErrorInfo, texts, texts, texts)
run = {
    "id": texts,
    "attempt": numbers,
    "at": times,
    "name": texts,
    "lane": texts,
    "priority": st.integers(1, 5),
    "enqueued_at": times,
    "worker": texts,
    "started_at": times,
    "lost": numbers,
}
records: st.SearchStrategy[wire.Record] = st.one_of(
    st.builds(wire.Accepted, envelopes, times),
    st.builds(wire.Started, **run),
    st.builds(wire.Retrying, **run, error=errors, due_at=times),
    st.builds(
        wire.Finished,
        **run,
        state=st.sampled_from(State),
        result=st.none() | st.binary(max_size=30),
        error=st.none() | errors,
    ),
    st.builds(wire.Event, texts, numbers, times, texts, st.binary(max_size=30)),
    st.builds(
        wire.Heartbeat,
        worker=texts,
        at=times,
        agent=texts,
        host=texts,
        pid=numbers,
        version=texts,
        started_at=times,
        state=texts,
        lanes=st.lists(st.builds(wire.LaneLoad, texts, numbers, numbers, numbers), max_size=3),
        finished=numbers,
    ),
    st.builds(wire.Defined, texts, texts, times, texts, st.binary(max_size=30)),
)

JOB = wire.Envelope(new_job_id(), "f", b"{}", "default", 3, 1.0)


def test_every_kind_of_record_is_tried() -> None:
    kinds = wire.Record.__args__
    assert {kind.__struct_config__.tag for kind in kinds} == {
        "accepted",
        "started",
        "retrying",
        "finished",
        "event",
        "heartbeat",
        "defined",
    }


@given(st.lists(envelopes, max_size=5))
def test_envelopes_come_back_as_they_were(jobs: list[wire.Envelope]) -> None:
    assert wire.decode_frame(wire.encode_frame(jobs)) == jobs


@given(st.lists(records, max_size=5))
def test_records_come_back_as_they_were(items: list[wire.Record]) -> None:
    decoded = wire.decode_records(wire.encode_records(items))
    assert decoded == items
    assert [type(item) for item in decoded] == [type(item) for item in items]


def append_everywhere(value: Any, extra: list[Any]) -> Any:
    """What a later version with more fields would write, in the outermost arrays of ``value``."""
    version, items = value
    return [version, [[*item, *extra] for item in items]]


@given(st.lists(envelopes, min_size=1, max_size=3), st.lists(texts | numbers, max_size=3))
def test_fields_that_a_later_version_appends_to_envelopes_are_skipped(
    jobs: list[wire.Envelope], extra: list[Any]
) -> None:
    newer = append_everywhere(msgspec.msgpack.decode(wire.encode_frame(jobs)), extra)
    assert wire.decode_frame(msgspec.msgpack.encode(newer)) == jobs


@given(st.lists(records, min_size=1, max_size=3), st.lists(texts | numbers, max_size=3))
def test_fields_that_a_later_version_appends_to_records_are_skipped(
    items: list[wire.Record], extra: list[Any]
) -> None:
    newer = append_everywhere(msgspec.msgpack.decode(wire.encode_records(items)), extra)
    assert wire.decode_records(msgspec.msgpack.encode(newer)) == items


def test_fields_with_defaults_may_be_missing() -> None:
    old = msgspec.msgpack.encode((1, [["id", "f", b"{}", "default", 3, 1.0]]))
    (job,) = wire.decode_frame(old)
    assert (job.attempt, job.due_at, job.retry, job.given_id) == (1, 0.0, None, False)


decoders = pytest.mark.parametrize("decode", [wire.decode_frame, wire.decode_records])


@decoders
@pytest.mark.parametrize("items", [[], [["x"]], {"a": "map"}, None, 5])
def test_a_newer_version_is_told_apart_whatever_it_holds(decode: Any, items: Any) -> None:
    data = msgspec.msgpack.encode((wire.VERSION + 1, items))
    with pytest.raises(UnsupportedVersion, match=r"version 2, this jobmesh reads up to 1.*kept"):
        decode(data)


def test_a_newer_version_of_the_same_shape_is_refused_too() -> None:
    with pytest.raises(UnsupportedVersion):
        wire.decode_frame(msgspec.msgpack.encode((wire.VERSION + 1, [JOB])))


@decoders
@given(data=st.binary(max_size=200))
def test_random_bytes_are_corrupt_and_nothing_else(decode: Any, data: bytes) -> None:
    try:
        items = decode(data)
    except (CorruptMessage, UnsupportedVersion):
        return
    assert isinstance(items, list)


@decoders
@given(data=st.data())
def test_damaged_messages_are_corrupt_and_nothing_else(decode: Any, data: st.DataObject) -> None:
    if decode is wire.decode_frame:
        encoded = wire.encode_frame(data.draw(st.lists(envelopes, max_size=2)))
    else:
        encoded = wire.encode_records(data.draw(st.lists(records, max_size=2)))
    damaged = bytearray(encoded)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        items = decode(cut)
    except (CorruptMessage, UnsupportedVersion):
        return
    assert isinstance(items, list)


NESTED = b"\x91" * 100_000


@decoders
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"{}",
        msgspec.msgpack.encode((1,)),
        msgspec.msgpack.encode((1, [[]])),
        msgspec.msgpack.encode((1, [["nonsense", 1]])),
        msgspec.msgpack.encode(("1", [])),
        b"\x92\x01\x91\xa2\xff\xff",  # a string that is not UTF-8
        b"\x92\x01\xdd\xff\xff\xff\xff",  # four billion items are said to follow
        b"\x93\x01\x90" + NESTED,
        NESTED,
    ],
    ids=lambda data: data[:12].hex(),
)
def test_corrupt(decode: Any, data: bytes) -> None:
    with pytest.raises(CorruptMessage, match=f"^{len(data)} bytes are not a jobmesh message: "):
        decode(data)


def test_a_policy_that_no_program_of_ours_would_write_is_corrupt() -> None:
    fields: list[Any] = list(msgspec.structs.astuple(JOB))
    fields[wire.Envelope.__struct_fields__.index("retry")] = [0, 2.0, "fixed", 2.0, 10.0, 0.2]
    with pytest.raises(CorruptMessage, match="the first execution counts"):
        wire.decode_frame(msgspec.msgpack.encode((1, [fields])))
