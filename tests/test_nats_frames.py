"""How jobs become NATS messages, and what a NATS URL may say. No server."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.ports import AgentSettings
from mesh.testing.conformance import make_job
from mesh.wire import Accepted, Envelope, decode_frame, decode_records, encode_frame
from mesh_agents.nats import NatsAgent
from mesh_agents.nats.frames import (
    FAN_OUT,
    FRAME_BYTES,
    FRAME_JOBS,
    Names,
    Origin,
    chunks,
    ledger_entries,
    pack,
    schedule_header,
)
from mesh_agents.nats.options import Options

NAMES = Names("shop", "n-1")

envelopes = st.lists(
    st.builds(
        lambda lane, priority, due, size, chosen: make_job(
            lane, priority=priority, due_at=due, payload=b"x" * size, given_id=chosen
        ),
        st.sampled_from(["a", "b"]),
        st.sampled_from([1, 3]),
        st.sampled_from([0.0, 5.0]),
        st.sampled_from([10, 130_000, 600_000]),
        st.booleans(),
    ),
    max_size=200,
)


def with_parts(jobs: list[Envelope]) -> list[tuple[Envelope, str]]:
    return [(job, f"{job.id}:{job.attempt}") for job in jobs]


@given(envelopes)
def test_frames_hold_every_job_once_among_its_like(jobs: list[Envelope]) -> None:
    frames = pack(with_parts(jobs))
    assert sorted(j.id for f in frames for j in f.jobs) == sorted(j.id for j in jobs)
    for frame in frames:
        assert 1 <= len(frame.jobs) <= FRAME_JOBS
        assert len({(j.lane, j.priority, j.due_at) for j in frame.jobs}) == 1
        assert len(frame.jobs) == 1 or len(encode_frame(frame.jobs)) <= FRAME_BYTES
        if any(j.given_id for j in frame.jobs):
            assert frame.message_id == f"{frame.jobs[0].id}:1"
        assert [j.id for j in frame.jobs] == sorted(
            (j.id for j in frame.jobs), key=[j.id for j in jobs].index
        )
    assert len({f.message_id for f in frames}) == len(frames)
    assert pack(with_parts(jobs)) == frames


@given(st.integers(2, FRAME_JOBS), st.integers(1, 10**9))
def test_splitting_ends_at_single_jobs(count: int, sequence: int) -> None:
    jobs = [make_job() for _ in range(count)]
    frames = chunks(jobs, sequence)
    assert [j for f in frames for j in f.jobs] == jobs
    assert 2 <= len(frames) <= FAN_OUT
    assert max(len(f.jobs) for f in frames) < count
    assert len({f.message_id for f in frames}) == len(frames)
    assert chunks(jobs, sequence) == frames


@given(st.floats(0, 4e9))
def test_a_delayed_job_is_never_early(due_at: float) -> None:
    moment = datetime.fromisoformat(schedule_header(due_at).removeprefix("@at "))
    assert 0 <= moment.timestamp() - due_at < 0.0011


def test_a_message_waits_until_due() -> None:
    (frame,) = pack(with_parts([make_job("mail", due_at=1000.0), make_job("mail", due_at=1000.0)]))
    at_once, later = frame.message(NAMES, 1000.0), frame.message(NAMES, 999.0)
    assert at_once.subject == "mesh.shop.n-1.jobs.mail.3.2"
    assert later.subject.startswith("mesh.shop.n-1.later.mail.3.2.")
    assert at_once.headers is not None
    assert later.headers is not None
    assert later.headers["Nats-Schedule-Target"] == at_once.subject
    assert later.headers["Nats-Schedule"] == "@at 1970-01-01T00:16:40.000Z"
    assert at_once.headers["Nats-Msg-Id"] == later.headers["Nats-Msg-Id"]
    assert list(frame.jobs) == decode_frame(later.data)


def test_large_ledger_entries_are_split_in_order() -> None:
    records = [Accepted(make_job(payload=b"x" * 100_000), 1.0) for _ in range(20)]
    entries = ledger_entries(records)
    assert len(entries) > 1
    assert max(map(len, entries)) <= FRAME_BYTES
    assert [r for e in entries for r in decode_records(e)] == records


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.ACK.S.lane-3.2.70.9.1795427702094386110.5",
        "$JS.ACK.hub.ACCHASH.S.lane-3.2.70.9.1795427702094386110.5.x1",
    ],
)
def test_acknowledgement_subjects(subject: str) -> None:
    assert Origin.parse(subject) == Origin("lane-3", 2, 70, 9, 5)


def test_agents_share_no_names() -> None:
    one, other = Names("a-b", "c"), Names("a", "b-c")
    assert one.stream("JOBS") != other.stream("JOBS")
    assert Names("a_b", "c").stream("JOBS") != Names("a", "b_c").stream("JOBS")


def test_urls() -> None:
    options = Options.parse("nats://me:p%40ss@one:4222,two?replicas=3", {})
    assert (options.user, options.password, options.replicas) == ("me", "p@ss", 3)
    assert options.servers == ["nats://one:4222", "nats://two"]
    assert "p%40ss" not in options.shown
    token = Options.parse("tls://t0ken@one", {"replicas": 1})
    assert (token.token, token.user, token.replicas) == ("t0ken", None, 1)
    assert "t0ken" not in token.shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nats://u:pw@h?replica=3", "did you mean 'replicas'"),
        ("nats://u:pw@h?replicas=many", "not a number from 1 to 5"),
        ("nats://", "names no host"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        NatsAgent("n-1", url, AgentSettings())
    assert "pw" not in str(caught.value)


def test_missing_credentials_are_named() -> None:
    options = Options.parse("nats://h?creds=/nowhere/a.creds", {})
    with pytest.raises(ConfigError, match=r"/nowhere/a\.creds"):
        options.credentials()
