"""The NATS agent on a real server: the conformance suite, and what is NATS's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import nats.errors
import pytest

from mesh.errors import (
    AgentError,
    AgentUnavailable,
    PublishOutcomeUnknown,
    UnsupportedVersion,
)
from mesh.job import Priority, State
from mesh.ports import AgentSettings, Consumer, Known, LaneDepth, Settlement
from mesh.service import Backoff
from mesh.testing.conformance import AgentConformance, make_job
from mesh.testing.conformance.agent import (
    finish,
    ids,
    is_empty,
    make_retrying,
    named,
    pull_all,
    push,
    read_all,
)
from mesh.testing.servers import NatsServer, free_port
from mesh.wire import Accepted, Finished
from mesh_agents.nats import NatsAgent
from mesh_agents.nats.frames import Message
from mesh_agents.nats.strays import Strays
from mesh_agents.nats.streams import ApiError
from tests.chaos.proxy import Proxy


class NatsHarness:
    """One agent name of its own on a server."""

    lease = 2.0

    def __init__(self, url: str, push_timeout: float = 5.0) -> None:
        self.url = url
        self.settings = AgentSettings(f"c-{uuid4().hex[:12]}", push_timeout=push_timeout)
        self.agents: list[NatsAgent] = []

    async def connect(self, url: str = "") -> NatsAgent:
        agent = NatsAgent("n-1", url or self.url, self.settings)
        await agent.open()
        self.agents.append(agent)
        return agent

    def now(self) -> float:
        return time.time()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # the server's time cannot be set

    async def corrupt(self, lane: str, data: bytes) -> None:
        await self.publish(f"jobs.{lane}.3.1", data)

    async def corrupt_ledger(self, data: bytes) -> None:
        await self.publish("ledger", data)

    async def publish(self, subject: str, data: bytes) -> None:
        agent = await self.connect()
        root = f"mesh.{self.settings.cluster}.n-1"
        await agent._connection.request(f"{root}.{subject}", data, 5.0)

    async def close(self) -> None:
        for agent in self.agents:
            await agent.close()


@pytest.fixture
async def harness(nats_server: NatsServer) -> AsyncIterator[NatsHarness]:
    harness = NatsHarness(nats_server.url)
    yield harness
    await harness.close()


class TestNatsAgent(AgentConformance):
    pass


async def settle_all(consumer: Consumer, count: int) -> list[str]:
    """Finish that many jobs; their ids."""
    seen: list[str] = []
    async with asyncio.timeout(30):
        while len(seen) < count:
            held = await consumer.pull(100)
            await consumer.settle([finish(d) for d in held])
            seen += ids(held)
    return seen


async def until_back(agent: NatsAgent) -> None:
    """Wait until the agent has found its server again."""
    async with asyncio.timeout(30):
        await Backoff(asyncio.Event(), 0.05, 0.2).retry("test", agent.depth, AgentError)


async def ignore(_: object) -> None:
    """Hear a message and do nothing."""


@pytest.fixture
def own_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def freeze(pid: int) -> None:
    """SIGSTOP; return when every thread of the process has stopped."""
    os.kill(pid, signal.SIGSTOP)
    for task in Path(f"/proc/{pid}/task").iterdir():
        while (task / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)


async def test_a_message_that_no_consumer_would_deliver_is_put_back(own_server: NatsServer) -> None:
    """A server's stream and its consumer do not agree, as after a full disk: the stream is as it
    was before the jobs were settled, the consumer is not."""
    harness = NatsHarness(own_server.url)
    agent = await harness.connect()
    jobs = [make_job(), make_job(priority=5), make_job()]
    assert await agent.push(jobs) == [None] * 3
    consumer = await agent.consume("default", lease=30)
    own_server.stop()
    (messages,) = own_server.folder.glob("jetstream/**/MESH+*+JOBS/msgs")
    before = own_server.folder / "before"
    shutil.copytree(messages, before)
    own_server.start()
    await until_back(agent)
    assert len(await settle_all(consumer, 3)) == 3
    await harness.close()
    own_server.stop()
    shutil.rmtree(messages)
    shutil.copytree(before, messages)
    own_server.start()

    agent = await harness.connect()
    assert (await agent.depth())["default"].ready == 3
    consumer = await agent.consume("default", lease=30)
    strays = Strays(agent._streams)
    assert await strays.sweep() == 0
    assert await strays.sweep() == 2  # frames
    assert sorted(await settle_all(consumer, 3)) == sorted(job.id for job in jobs)
    assert await strays.sweep() == 0
    assert not (await agent.depth()).get("default", LaneDepth()).total
    # What waits, or is leased, is none.
    await agent.push([make_job(), make_job(due_at=time.time() + 60)])
    await consumer.pull(1)
    await agent.push([make_job()])
    assert [await strays.sweep() for _ in range(3)] == [0, 0, 0]
    await harness.close()


class TestOutages:
    async def test_nothing_is_lost_when_the_server_is_killed(self, own_server: NatsServer) -> None:
        harness = NatsHarness(own_server.url)
        agent = await harness.connect()
        jobs = [make_job() for _ in range(200)]
        later = make_job(due_at=time.time() + 2)
        assert await agent.push([*jobs, later]) == [None] * 201
        consumer = await agent.consume("default", lease=30)
        ledger = await agent.ledger()
        assert len((await ledger.read(1000, 5)).records) > 0
        (first,) = await pull_all(consumer, 1, limit=1)
        idle = await agent.consume("idle", lease=30)
        waiting = asyncio.create_task(idle.pull(1))
        await asyncio.wait([waiting], timeout=0.2)
        own_server.kill()
        with pytest.raises(AgentUnavailable, match="lost its connection"):
            await waiting
        started = time.monotonic()
        (refused,) = await agent.push([make_job()])
        assert isinstance(refused, AgentUnavailable)
        assert time.monotonic() - started < 1
        with pytest.raises(AgentUnavailable):
            await consumer.pull(1)
        with pytest.raises(AgentError):
            await consumer.settle([finish(first)])
        own_server.start()
        await until_back(agent)
        await consumer.settle([finish(first)])
        waiting = asyncio.create_task(idle.pull(1))
        await agent.push([woken := make_job("idle")])
        assert ids(await waiting) == [woken.id]
        seen = [first.job.id, *await settle_all(consumer, 200)]
        assert sorted(seen) == sorted(j.id for j in [*jobs, later])
        records = await read_all(await agent.ledger(), 201 + 1 + 201)
        assert len({r.id for r in records if isinstance(r, Finished)}) == 201
        await harness.close()

    async def test_a_stalled_server_leaves_the_outcome_unknown(
        self, own_server: NatsServer
    ) -> None:
        harness = NatsHarness(own_server.url, push_timeout=0.5)
        agent = await harness.connect()
        jobs = [make_job() for _ in range(5)]
        freeze(own_server.pid)
        try:
            outcomes = await agent.push(jobs)
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        assert named(outcomes) == [(job.id,) for job in jobs]
        # In other company, and in two calls: still the same jobs, once.
        assert await agent.push([jobs[3], other := make_job()]) == [None, None]
        assert await agent.push(jobs) == [None] * 5
        consumer = await agent.consume("default", lease=30)
        assert sorted(await settle_all(consumer, 6)) == sorted(j.id for j in [*jobs, other])
        assert await is_empty(consumer)
        await harness.close()

    async def test_when_the_driver_gives_up_we_begin_again(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        ledger = await agent.ledger()
        answers: list[str] = []

        async def lookup(job_ids: Sequence[str]) -> dict[str, Known]:
            answers.extend(job_ids)
            return {}

        await ledger.serve(lookup)
        await agent.push([first := make_job()])
        assert await settle_all(consumer, 1) == [first.id]
        await read_all(ledger, 2)
        waiting = asyncio.create_task(consumer.pull(1))
        await asyncio.wait([waiting], timeout=0.2)
        await agent._connection.client.close()  # as it does when the server refuses us
        with pytest.raises(AgentUnavailable):
            await waiting
        await until_back(agent)
        recorder = asyncio.create_task(read_all(ledger, 2))
        await agent.push([chosen := make_job(given_id=True)])
        assert await settle_all(consumer, 1) == [chosen.id]
        await recorder
        assert answers == [chosen.id]

    async def test_whatever_the_driver_says_as_it_closes_is_no_callers(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """asyncio raises TypeError where a connection was lost a moment before, from 3.12 on."""
        agent = await harness.connect()
        client = agent._connection.client
        close = client.close

        async def fail() -> None:
            await close()
            raise TypeError("'NoneType' object is not callable")

        monkeypatch.setattr(client, "close", fail)
        await agent.close()
        await agent.open()
        await agent.push([make_job()])

    async def test_requests_that_expire_or_fall_silent_are_renewed(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mesh_agents.nats.consumer.EXPIRES", 1.0)
        monkeypatch.setattr("mesh_agents.nats.consumer.HEARTBEAT", 0.4)
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        waiting = asyncio.create_task(pull_all(consumer, 1))
        await asyncio.wait([waiting], timeout=1.5)
        await agent.push([job := make_job()])
        (delivery,) = await waiting
        await consumer.settle([finish(delivery)])

        async def deaf(*arguments: object) -> None:
            pass

        waiting = asyncio.create_task(pull_all(consumer, 1))
        await asyncio.wait([waiting], timeout=0.2)
        with monkeypatch.context() as patch:
            patch.setattr(consumer, "_on_status", deaf)
            for priority in Priority:
                name = f"{agent._names.stream('JOBS')}.default-{int(priority)}"
                await agent._streams.api(f"CONSUMER.DELETE.{name}")
            await agent.depth()
        await consumer.open()
        await agent.push([job := make_job()])
        assert ids(await waiting) == [job.id]

    async def test_a_plain_server_behind_a_tls_url(self, own_server: NatsServer) -> None:
        url = own_server.url.replace("nats://", "tls://")
        with pytest.raises(AgentUnavailable, match="offers no TLS"):
            await NatsAgent("n-1", url, AgentSettings()).open()

    async def test_a_server_that_is_not_there(self) -> None:
        url = f"nats://user:secret@127.0.0.1:{free_port()}"
        agent = NatsAgent("n-1", url, AgentSettings(connect_timeout=2))
        with pytest.raises(AgentUnavailable, match=r"user:\*\*\*@127") as caught:
            await agent.open()
        assert "secret" not in str(caught.value)
        (check,) = await agent.check()
        assert not check.ok

    async def test_closing_while_it_reconnects_cancels_nobody(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        # The driver's own way back has just begun: it waits for the old transport to close, and
        # is cancelled there by the close.
        await agent._connection.client._process_op_err(nats.errors.UnexpectedEOF())
        await asyncio.sleep(0)
        await agent.close()

    async def test_who_opens_in_vain_takes_the_connection_from_nobody(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = await harness.connect()

        async def refuse() -> None:
            raise AgentError("no leader")

        monkeypatch.setattr(agent._streams, "ensure", refuse)
        with pytest.raises(AgentError, match="no leader"):
            await agent.open()
        assert await agent.push([make_job()]) == [None]

    async def test_a_held_job_is_accepted_by_the_ledger_only_when_it_is_stored(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = await harness.connect()
        ledger = await agent.ledger()
        await agent._streams.api(f"STREAM.DELETE.{agent._names.stream('JOBS')}")

        async def refuse() -> None:
            raise AgentError("no leader")  # as where the two streams have leaders of their own

        with monkeypatch.context() as patch:
            patch.setattr(agent._streams, "ensure", refuse)
            (outcome,) = await agent.push([make_job()], held=True)
            assert isinstance(outcome, AgentUnavailable)
            assert await ledger.lag() == 0
            (outcome,) = await agent.push([make_job()])
            assert isinstance(outcome, PublishOutcomeUnknown)
        assert await agent.push([make_job()], held=True) == [None]
        assert await ledger.lag() == 2

    async def test_beyond_max_bytes_jobs_are_refused_and_nothing_else(
        self, harness: NatsHarness
    ) -> None:
        agent = await harness.connect()
        await agent.push([make_job(payload=b'"' + b"x" * 2000 + b'"')])
        small = NatsAgent("n-1", f"{harness.url}?max_bytes=2KB", harness.settings)
        await small.open()
        (refusal,) = await small.push([make_job()])
        assert isinstance(refusal, AgentUnavailable)
        assert "max_bytes is 2000: nothing was stored" in str(refusal)
        consumer = await small.consume("default", lease=30)
        await settle_all(consumer, 1)
        await small.close()
        again = NatsAgent("n-1", f"{harness.url}?max_bytes=2KB", harness.settings)
        await again.open()
        assert await again.push([make_job()]) == [None]
        await again.close()

    async def test_only_what_is_in_doubt_is_pushed_beyond_max_bytes(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = await harness.connect()
        small = NatsAgent("n-1", f"{harness.url}?max_bytes=2KB", harness.settings)
        await small.open()
        store = small._store_groups

        async def store_and_not_know(groups: Sequence[Any]) -> list[AgentError | None]:
            return [PublishOutcomeUnknown("no answer") for _ in await store(groups)]

        doubtful, other = make_job(), make_job()
        with monkeypatch.context() as patch:
            patch.setattr(small, "_store_groups", store_and_not_know)
            (outcome,) = await small.push([doubtful])
            assert isinstance(outcome, PublishOutcomeUnknown)
        await agent.push([make_job(payload=b'"' + b"x" * 2000 + b'"')])
        small._room._looked_at = float("-inf")
        known, refusal = await small.push([doubtful, other])
        assert known is None
        assert isinstance(refusal, AgentUnavailable)
        assert (await agent.depth())["default"].total == 2, "the doubtful one was there already"
        await small.close()

    async def test_deleted_consumers_and_streams_are_made_again(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        ledger = await agent.ledger()
        stream = agent._names.stream("JOBS")
        for path in (f"CONSUMER.DELETE.{stream}.default-3", f"STREAM.DELETE.{stream}"):
            waiting = asyncio.create_task(pull_all(consumer, 1))
            await asyncio.wait([waiting], timeout=0.2)
            await agent._streams.api(path)
            assert await agent.push([job := make_job()]) == [None]
            assert ids(await waiting) == [job.id]
        await read_all(ledger, 2)
        await agent._streams.api(f"STREAM.DELETE.{agent._names.stream('LEDGER')}")
        assert await agent.push([job := make_job()]) == [None]
        (record,) = await read_all(ledger, 1)
        assert isinstance(record, Accepted)
        assert record.job.id == job.id
        assert await ledger.lag() == 0

    async def test_a_stream_is_made_when_its_predecessors_files_are_gone(
        self, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The server answers a deletion before it has deleted the files.
        harness = NatsHarness(own_server.url)
        agent = await harness.connect()
        await agent.push([make_job()])
        stream = agent._names.stream("JOBS")
        (folder,) = own_server.folder.glob(f"jetstream/**/{stream}")
        api = agent._streams.api
        await api(f"STREAM.DELETE.{stream}")
        while folder.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        folder.touch()
        refusals = []

        async def files_go_when_refused(subject: str, body: Any = None) -> dict[str, Any]:
            try:
                return await api(subject, body)
            except ApiError as error:
                if subject.startswith("STREAM.CREATE"):
                    refusals.append(error.code)
                    folder.unlink(missing_ok=True)
                raise

        monkeypatch.setattr(agent._streams, "api", files_go_when_refused)
        assert await agent.push([make_job()]) == [None]
        assert refusals == [10049]
        await harness.close()


class TestAccounts:
    ACCOUNTS = """
    accounts { A: { jetstream: enabled, users: [
      { user: boss, password: s3cret },
      { user: reader, password: s3cret, permissions: {
          publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } } ] } }
    """

    @pytest.fixture
    def guarded(self) -> Iterator[str]:
        with NatsServer(config=self.ACCOUNTS) as server:
            yield server.url.removeprefix("nats://")

    async def test_what_an_account_may_do(self, guarded: str) -> None:
        settings = AgentSettings("shop", push_timeout=2)
        wrong = NatsAgent("n-1", f"nats://boss:guess@{guarded}", settings)
        with pytest.raises(
            AgentUnavailable, match=r"Authorization|wrong user or password"
        ) as caught:
            await wrong.open()
        assert "guess" not in str(caught.value)
        reader = NatsAgent("n-1", f"nats://reader:s3cret@{guarded}", settings)
        with pytest.raises(AgentError, match=r"cannot create stream .*permission") as refused:
            await reader.open()
        assert "s3cret" not in str(refused.value)
        boss = NatsAgent("n-1", f"nats://boss:s3cret@{guarded}", settings)
        await boss.open()
        # The streams are there now, and this account may look at them.
        await reader.open()
        (outcome,) = await reader.push([make_job()])
        assert isinstance(outcome, AgentUnavailable)
        assert "may not publish" in str(outcome)
        await reader.close()
        await boss.close()


class TestStreams:
    async def test_a_stream_configured_otherwise_is_put_right(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        info = await agent._streams.info("JOBS")
        await agent._streams.api(
            f"STREAM.UPDATE.{agent._names.stream('JOBS')}", info["config"] | {"max_msgs": 10}
        )
        bad = [c for c in await agent.check() if not c.ok]
        assert len(bad) == 1
        assert "max_msgs" in bad[0].advice
        again = await harness.connect()
        assert all(c.ok for c in await again.check())

    async def test_a_stream_that_cannot_be_put_right(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        stream = agent._names.stream("JOBS")
        config = (await agent._streams.info("JOBS"))["config"]
        await agent._streams.api(f"STREAM.DELETE.{stream}")
        await agent._streams.api(f"STREAM.CREATE.{stream}", config | {"storage": "memory"})
        other = NatsAgent("n-1", harness.url, harness.settings)
        with pytest.raises(AgentError, match="cannot change storage of stream"):
            await other.open()

    async def test_corrupt_bytes_are_kept_in_the_dead_stream(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        await harness.corrupt("default", b"\xff no frame")
        await harness.corrupt_ledger(b"\xff no records")
        await agent.push([make_job()])
        await settle_all(await agent.consume("default", lease=30), 1)
        await read_all(await agent.ledger(), 2)
        assert (await agent._streams.info("DEAD"))["state"]["messages"] == 2
        assert agent.dead_letters == 2

    async def test_a_newer_wire_version_stays(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        newer = msgspec.msgpack.encode((99, []))
        await harness.corrupt("default", newer)
        await agent.push([job := make_job()])
        consumer = await agent.consume("default", lease=30)
        assert await settle_all(consumer, 1) == [job.id]
        assert (await agent.depth())["default"].total == 1
        ledger = await agent.ledger()
        await read_all(ledger, 2)
        await harness.corrupt_ledger(newer)
        for _ in range(2):
            with pytest.raises(UnsupportedVersion):
                await ledger.read(10, 2)
        assert await ledger.lag() == 1


class TestChosenIds:
    async def test_a_copy_is_not_run(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        known: dict[str, Known] = {}

        async def lookup(job_ids: Sequence[str]) -> dict[str, Known]:
            return {i: known[i] for i in job_ids if i in known}

        ledger = await agent.ledger()
        await ledger.serve(lookup)
        fresh, running, done = (make_job(given_id=True) for _ in range(3))
        known[fresh.id] = Known(1, State.QUEUED)
        known[running.id] = Known(1, State.RUNNING)
        known[done.id] = Known(1, State.SUCCEEDED)
        await agent.push([fresh, running, done])
        await read_all(ledger, 3)
        (only,) = await pull_all(consumer, 1)
        assert only.job.id == fresh.id
        known[fresh.id] = Known(1, State.RUNNING)
        # Its retry is no copy.
        again = msgspec.structs.replace(fresh, attempt=1)
        await consumer.settle([Settlement(only, again=again)])
        (second,) = await pull_all(consumer, 1)
        assert (second.job.id, second.redelivered) == (fresh.id, False)
        await consumer.settle([finish(second)])
        assert sum(d.total for d in (await agent.depth()).values()) == 0

    async def test_an_answer_waits_for_the_ledger_to_be_read(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        ledger = await agent.ledger()
        asked: list[str] = []

        async def lookup(job_ids: Sequence[str]) -> dict[str, Known]:
            asked.extend(job_ids)
            return {}

        await ledger.serve(lookup)
        await agent.push([make_job()])
        batch = await ledger.read(10, 5)
        await agent.push([job := make_job(given_id=True)])
        consumer = await agent.consume("other", lease=30)
        await agent.push([watched := make_job("other", given_id=True)])
        pull = asyncio.create_task(pull_all(consumer, 1))
        await asyncio.wait([pull], timeout=0.3)
        assert asked == []
        await ledger.ack(batch)
        await asyncio.wait([pull], timeout=0.3)
        assert asked == []
        await read_all(ledger, 2)
        assert ids(await pull) == [watched.id]
        assert asked == [watched.id]
        assert job.id not in asked


class TestBuffers:
    async def test_what_nobody_takes_goes_back_and_counts_nothing(
        self, harness: NatsHarness
    ) -> None:
        agent, other = await harness.connect(), await harness.connect()
        consumer = await agent.consume("default", lease=30)
        pull = asyncio.create_task(consumer.pull(1))
        await asyncio.wait([pull], timeout=0.3)
        pull.cancel()  # its requests stay open
        await asyncio.wait([pull])
        jobs = [make_job(priority=p) for p in Priority]
        await agent.push(jobs)
        rival = await other.consume("default", lease=30)
        got = await pull_all(rival, 5)
        assert sorted(ids(got)) == sorted(j.id for j in jobs)
        assert {(d.lost, d.redelivered) for d in got} == {(0, False)}

    async def test_what_comes_late_through_a_connection_that_hung_is_not_run(
        self, harness: NatsHarness
    ) -> None:
        proxy = Proxy(int(harness.url.rpartition(":")[2]))
        await proxy.start()
        agent, other = await harness.connect(), await harness.connect()
        behind = await harness.connect(f"nats://127.0.0.1:{proxy.port}")
        cut_off = await behind.consume("default", lease=harness.lease)
        pull = asyncio.create_task(pull_all(cut_off, 1, limit=1))
        await asyncio.wait([pull], timeout=0.3)
        await proxy.become("hang")
        await agent.push([late := make_job()])
        consumer = await other.consume("default", lease=harness.lease)
        (delivery,) = await pull_all(consumer, 1)
        await consumer.settle([finish(delivery)])
        assert (delivery.job.id, delivery.redelivered) == (late.id, True)
        assert not pull.done()
        await proxy.become("pass")
        await agent.push([job := make_job()])
        assert ids(await pull) == [job.id]
        await proxy.close()

    @pytest.mark.parametrize("end", ["close", "rest"])
    async def test_a_pull_that_is_ended_as_it_begins(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        consumer = await (await harness.connect()).consume("default", lease=30)
        attach = consumer._attach

        async def end_meanwhile() -> None:
            await attach()
            await (consumer.close() if end == "close" else consumer._leave())
            consumer._rests += end == "rest"

        monkeypatch.setattr(consumer, "_attach", end_meanwhile)
        async with asyncio.timeout(30):
            assert await consumer.pull(1) == []

    @pytest.mark.parametrize("question", ["$JS.API.CONSUMER.INFO.none.none", "nobody.listens"])
    async def test_a_lane_that_was_quiet_trusts_what_comes(
        self, harness: NatsHarness, question: str
    ) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=harness.lease)
        consumer._question = question
        pull = asyncio.create_task(pull_all(consumer, 1))
        await asyncio.wait([pull], timeout=harness.lease * 1.2)
        await agent.push([make_job()])
        (delivery,) = await pull
        assert not delivery.redelivered

    async def test_a_server_that_answers_no_questions_delays_jobs_and_keeps_none(
        self, harness: NatsHarness
    ) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=harness.lease)
        consumer._question = f"{agent._names.root}.jobs"  # not even that nobody listens
        listener = await agent._connection.subscribe(consumer._question, ignore)
        pull = asyncio.create_task(pull_all(consumer, 1))
        await asyncio.wait([pull], timeout=harness.lease * 0.8)
        await agent.push([job := make_job()])
        (delivery,) = await pull
        assert (delivery.job.id, delivery.redelivered) == (job.id, True)
        await agent._connection.unsubscribe(listener)

    async def test_an_idle_lane_is_quiet(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        pull = asyncio.create_task(consumer.pull(1))
        await asyncio.wait([pull], timeout=0.5)
        before = dict(agent._connection.client.stats)
        await asyncio.wait([pull], timeout=3)
        after = agent._connection.client.stats
        for key in ("in_msgs", "out_msgs"):
            assert after[key] - before[key] <= 2
        pull.cancel()

    async def test_without_an_answer_every_lost_lease_counts(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        await agent.push([make_job() for _ in range(3)])
        consumer = await agent.consume("default", lease=harness.lease)
        assert len(await pull_all(consumer, 3)) == 3
        other = await (await harness.connect()).consume("default", lease=harness.lease)
        await harness.pass_time(harness.lease * 1.2)
        # More than the limit: it is split, and what is known of its past stays with the parts.
        again = await pull_all(other, 3, limit=1)
        assert {(d.lost, d.redelivered) for d in again} == {(1, True)}


class TestSettling:
    async def test_a_repeated_settlement_puts_back_once(
        self, harness: NatsHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = await harness.connect()
        await agent.push([make_job() for _ in range(3)])
        consumer = await agent.consume("default", lease=30)
        held = await pull_all(consumer, 3)
        store = agent._streams.store

        async def no_ledger(messages: Sequence[Message]) -> None:
            if messages[0].subject == agent._names.ledger:
                raise PublishOutcomeUnknown("the ledger did not answer")
            await store(messages)

        settlements = [
            Settlement(d, make_retrying(d, 0), msgspec.structs.replace(d.job, attempt=2))
            for d in held
        ]
        with monkeypatch.context() as patch:
            patch.setattr(agent._streams, "store", no_ledger)
            with pytest.raises(PublishOutcomeUnknown):
                await consumer.settle(settlements)
        await consumer.settle(settlements)
        await consumer.settle(settlements)
        again = await pull_all(consumer, 3)
        assert {d.job.attempt for d in again} == {2}
        await consumer.settle([finish(d) for d in again])
        assert await is_empty(consumer)
        assert sum(d.total for d in (await agent.depth()).values()) == 0

    async def test_a_stale_retry_is_left_to_the_redelivery(self, harness: NatsHarness) -> None:
        agent = await harness.connect()
        await agent.push([job := make_job()])
        consumer = await agent.consume("default", lease=harness.lease)
        (first,) = await pull_all(consumer, 1)
        await harness.pass_time(harness.lease * 1.2)
        retry = msgspec.structs.replace(job, attempt=2)
        await consumer.settle([Settlement(first, make_retrying(first, 0), retry)])
        (second,) = await pull_all(consumer, 1)
        assert (second.job.attempt, second.lost, second.redelivered) == (1, 1, True)
        await consumer.settle([finish(second)])
        assert await is_empty(consumer)
        records = await read_all(await agent.ledger(), 2)
        assert [type(record) for record in records] == [Accepted, Finished]


# streams that are lost -----------------------------------------------------------------------


async def delete_stream(agent: NatsAgent, kind: str) -> None:
    await agent._streams.api(f"STREAM.DELETE.{agent._streams.names.stream(kind)}")


async def test_who_holds_jobs_of_a_lost_stream_drops_none_of_the_new_one(
    harness: NatsHarness,
) -> None:
    agent, other = await harness.connect(), await harness.connect()
    old, new = ([make_job(given_id=True) for _ in range(3)] for _ in range(2))
    await push(agent, *old)
    consumer = await agent.consume("default", lease=60)
    held = await pull_all(consumer, 3)
    await delete_stream(other, "JOBS")
    await push(other, *new)
    fresh = await pull_all(consumer, 3)
    assert sorted(ids(fresh)) == sorted(job.id for job in new)
    await consumer.settle([finish(delivery) for delivery in held])
    assert (await other.depth())["default"].total == 3
    await consumer.settle([finish(delivery) for delivery in fresh])
    assert sum(depth.total for depth in (await other.depth()).values()) == 0


async def test_who_has_read_a_lost_ledger_drops_nothing_of_the_new_one(
    harness: NatsHarness,
) -> None:
    agent, other = await harness.connect(), await harness.connect()
    await push(agent, *[make_job(given_id=True) for _ in range(5)])
    reader = await agent.ledger()
    batch = await reader.read(100, 5.0)
    await delete_stream(other, "LEDGER")
    new = make_job()
    await push(other, new)
    await reader.ack(batch)
    (record,) = await read_all(await other.ledger(), 1)
    assert isinstance(record, Accepted)
    assert record.job == new


async def test_a_stream_is_made_again_once(harness: NatsHarness) -> None:
    agents = [await harness.connect() for _ in range(4)]
    for kind in agents[0]._streams.wanted():
        await delete_stream(agents[0], kind)
    jobs = [[make_job(lane=f"l{n}") for _ in range(3)] for n in range(4)]
    await asyncio.gather(*(push(a, *mine) for a, mine in zip(agents, jobs, strict=True)))
    assert sum(depth.total for depth in (await agents[0].depth()).values()) == 12
