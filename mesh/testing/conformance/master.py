"""The behavioural suite of the ``Master`` port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import pytest

from mesh.errors import LeaseLost, MasterUnavailable
from mesh.events import attempt_of, start_seq
from mesh.job import State, new_job_id
from mesh.ports import AttemptInfo, JobFilter, JobInfo, Lease, Master
from mesh.retry import Retry
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.board import BoardConformance
from mesh.testing.conformance.credentials import CredentialsConformance
from mesh.testing.conformance.handlers import HandlersConformance
from mesh.testing.conformance.rescue import RescueConformance
from mesh.testing.conformance.steering import SteeringConformance
from mesh.wire import (
    Accepted,
    Envelope,
    ErrorInfo,
    Event,
    Finished,
    Heartbeat,
    LaneLoad,
    Record,
    Retrying,
    Started,
)

__all__ = ["MasterConformance", "MasterHarness", "Story"]

AGENT = "a-1"


class MasterHarness(Protocol):
    """What the suite needs of an implementation. One harness, fresh and empty, per test."""

    ttl: float
    """Seconds a lease lasts in the tests. Short where ``pass_time`` really waits."""

    async def connect(self, **settings: Any) -> Master:
        """One more connection to the same master, opened; ``settings`` are those of
        ``MasterSettings`` that matter. The harness closes it at the end."""
        ...

    def now(self) -> float:
        """The time by which the master judges leases and claims."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let so much of the master's time go by: move a manual clock, or wait."""


class Story:
    """Records of one job, told in whole seconds since ``begin``."""

    def __init__(self, begin: float = 1_800_000_000.0, **changes: Any) -> None:
        self.begin = begin
        self.job: Envelope = make_job(**{"enqueued_at": begin, **changes})
        self.id = self.job.id

    def accepted(self, at: float = 0) -> Accepted:
        return Accepted(self.job, self.begin + at)

    def started(
        self, attempt: int = 1, worker: str = "w-1", at: float = 1, lost: int = 0
    ) -> Started:
        return Started(**self._run(attempt, worker, at, at, lost))

    def retrying(
        self, attempt: int = 1, worker: str = "w-1", at: float = 2, lost: int = 0
    ) -> Retrying:
        return Retrying(
            **self._run(attempt, worker, at - 1, at, lost),
            error=ErrorInfo("ValueError", f"attempt {attempt}", "Traceback …"),
            due_at=self.begin + at + 10,
        )

    def finished(
        self,
        attempt: int = 1,
        worker: str = "w-1",
        at: float = 2,
        lost: int = 0,
        state: State = State.SUCCEEDED,
    ) -> Finished:
        run = self._run(attempt, worker, at - 1, at, lost)
        if state is State.SUCCEEDED:
            return Finished(**run, state=state, result=b'{"by":"%s"}' % worker.encode())
        return Finished(**run, state=state, error=ErrorInfo("OSError", "no\0pe", "Traceback …"))

    def event(self, number: int, kind: str = "progress", attempt: int = 1) -> Event:
        """What the handler of an attempt said: its first word has the ``number`` 0."""
        seq = start_seq(attempt) + 1 + number
        return Event(self.id, seq, self.begin + number, kind, b'{"number":%d}' % number)

    def _run(
        self, attempt: int, worker: str, started: float, at: float, lost: int
    ) -> dict[str, Any]:
        job = self.job
        return {
            "id": job.id,
            "attempt": attempt,
            "at": self.begin + at,
            "name": job.name,
            "lane": job.lane,
            "priority": job.priority,
            "enqueued_at": job.enqueued_at,
            "worker": worker,
            "started_at": self.begin + started,
            "lost": lost,
        }


async def lease_of(master: Master, agent: str = AGENT) -> Lease:
    lease = await master.acquire(f"recorder:{agent}", "recorder-1", 600.0)
    assert lease is not None
    return lease


async def record(master: Master, *records: Record, agent: str = AGENT) -> None:
    await master.record(agent, records, await lease_of(master, agent))


def told(attempts: Sequence[AttemptInfo]) -> list[tuple[int, str, str | None]]:
    return [(a.attempt, a.outcome, a.worker) for a in attempts]


class MasterConformance(
    BoardConformance,
    SteeringConformance,
    HandlersConformance,
    CredentialsConformance,
    RescueConformance,
):
    """Subclass, and give it a ``harness`` fixture."""

    # history ---------------------------------------------------------------------------------

    async def test_a_fast_job_is_recorded_at_once(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story(meta={"who": "me"}, payload='{"x":"é"}'.encode())
        await record(master, story.accepted(), story.started(), story.finished())
        info = (await master.get_jobs([story.id]))[story.id]
        assert (info.id, info.name, info.lane, info.priority) == (
            story.id,
            story.job.name,
            "default",
            3,
        )
        assert (info.state, info.attempt) == (State.SUCCEEDED, 1)
        assert (info.agent, info.worker) == (AGENT, "w-1")
        assert (info.payload, info.result) == (story.job.payload, b'{"by":"w-1"}')
        assert info.meta == {"who": "me"}
        assert (info.enqueued_at, info.started_at, info.finished_at) == (
            story.begin,
            story.begin + 1,
            story.begin + 2,
        )
        assert told(await master.attempts(story.id)) == [(1, "succeeded", "w-1")]

    async def test_each_state_is_seen(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        steps: list[tuple[Record, State]] = [
            (story.accepted(), State.QUEUED),
            (story.started(), State.RUNNING),
            (story.retrying(), State.RETRYING),
            (story.started(2, "w-2", at=13), State.RUNNING),
            (story.finished(2, "w-2", at=14, state=State.FAILED), State.FAILED),
        ]
        info: JobInfo | None = None
        for step, state in steps:
            await record(master, step)
            info = (await master.get_jobs([story.id]))[story.id]
            assert info.state is state
            assert (await master.known([story.id]))[story.id].state is state
            if state is State.RETRYING:
                assert info.due_at == story.begin + 12
        assert info is not None
        assert (info.error_type, info.error_message) == ("OSError", "no\ufffdpe")
        assert info.error_traceback == "Traceback …"
        first, second = await master.attempts(story.id)
        assert (first.attempt, first.outcome, first.error_message) == (1, "retrying", "attempt 1")
        assert (second.attempt, second.outcome, second.worker) == (2, "failed", "w-2")

    async def test_records_that_come_again_change_nothing(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        records: list[Record] = [
            story.accepted(),
            story.started(),
            story.event(0),
            story.retrying(),
            story.started(2, "w-2", at=13),
            story.started(3, "w-3", at=50, lost=1),
            story.event(1, attempt=3),
            story.finished(3, "w-3", at=51, lost=1),
        ]
        for step in records:
            await record(master, step)
        info, attempts = await master.get_jobs([story.id]), await master.attempts(story.id)
        for begin in range(len(records)):
            await record(master, *records[begin:])
            assert await master.get_jobs([story.id]) == info
            assert await master.attempts(story.id) == attempts
        said = [(attempt_of(e.seq), e.data) for e in await master.events(story.id)]
        assert said == [(1, b'{"number":0}'), (3, b'{"number":1}')]

    async def test_a_result_may_come_before_the_acceptance(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story(meta={"a": "b"})
        await record(master, story.finished())
        info = (await master.get_jobs([story.id]))[story.id]
        assert (info.state, info.payload) == (State.SUCCEEDED, None)
        await record(master, story.accepted())
        info = (await master.get_jobs([story.id]))[story.id]
        assert (info.state, info.payload, info.meta) == (
            State.SUCCEEDED,
            story.job.payload,
            {"a": "b"},
        )
        assert info.result is not None

    async def test_the_first_terminal_outcome_stands(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, story.accepted(), story.started(1, "zombie"))
        await record(master, story.started(2, "w-2", at=40, lost=1))
        await record(master, story.finished(2, "w-2", at=41, lost=1))
        assert told(await master.attempts(story.id)) == [
            (1, "lost", "zombie"),
            (2, "succeeded", "w-2"),
        ]
        late = story.finished(1, "zombie", at=60, state=State.FAILED)
        await record(master, late)
        info = (await master.get_jobs([story.id]))[story.id]
        assert (info.state, info.attempt, info.worker) == (State.SUCCEEDED, 2, "w-2")
        assert told(await master.attempts(story.id)) == [
            (1, "failed", "zombie"),
            (2, "succeeded", "w-2"),
        ]

    async def test_a_zombie_may_be_first(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, story.accepted(), story.started(1, "zombie"))
        await record(master, story.started(2, "w-2", at=40, lost=1))
        await record(master, story.finished(1, "zombie", at=41))
        assert told(await master.attempts(story.id)) == [
            (1, "succeeded", "zombie"),
            (2, "lost", "w-2"),
        ]
        await record(master, story.finished(2, "w-2", at=42, lost=1))
        info = (await master.get_jobs([story.id]))[story.id]
        assert (info.attempt, info.worker) == (1, "zombie")
        assert told(await master.attempts(story.id)) == [
            (1, "succeeded", "zombie"),
            (2, "succeeded", "w-2"),
        ]

    async def test_two_workers_that_ran_the_same_attempt_are_both_told(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, story.accepted(), story.finished(1, "w-1"))
        await record(master, story.finished(1, "w-2", at=3))
        assert told(await master.attempts(story.id)) == [
            (1, "succeeded", "w-1"),
            (1, "succeeded", "w-2"),
        ]

    async def test_a_worker_that_dies_again_and_again(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, story.accepted(), story.started(1, "w-1"))
        await record(master, story.started(2, "w-2", at=40, lost=1))
        await record(master, story.finished(4, "w-4", at=90, lost=3, state=State.FAILED))
        assert told(await master.attempts(story.id)) == [
            (1, "lost", "w-1"),
            (2, "lost", "w-2"),
            (3, "lost", None),
            (4, "failed", "w-4"),
        ]

    async def test_events_are_kept_in_order(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story()
        await record(master, *[story.event(n) for n in (2, 0, 1, 3)], story.event(2, "log"))
        events = await master.events(story.id)
        first = start_seq(1) + 1
        assert [(e.seq, e.kind, e.at) for e in events] == [
            (first + n, "progress", story.begin + n) for n in range(4)
        ]
        assert events[3].data == b'{"number":3}'
        assert [e.seq for e in await master.events(story.id, first + 1, 1)] == [first + 2]
        assert await master.events(new_job_id()) == []
        await record(master, story.accepted(), story.started())
        assert await master.last_events([story.id, new_job_id(), "no"]) == {story.id: first + 3}

    async def test_unknown_ids_are_missing(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        assert await master.get_jobs([new_job_id(), "no uuid"]) == {}
        assert await master.known([new_job_id(), "no uuid"]) == {}
        assert await master.attempts("no uuid") == []
        assert await master.get_jobs([]) == {}

    async def test_a_bad_record_does_not_stop_the_others(
        self, harness: MasterHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        master = await harness.connect()
        bad, good = Story(id="no uuid"), Story()
        await record(master, bad.accepted(), bad.finished(), good.accepted())
        assert list(await master.get_jobs([good.id])) == [good.id]
        assert "no uuid" in caplog.text

    async def test_a_large_batch(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        stories = [Story() for _ in range(2000)]
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.started() for s in stories[::2]])
        await record(master, *[s.finished() for s in stories[::4]])
        assert await master.count_jobs() == {
            State.QUEUED: 1000,
            State.RUNNING: 500,
            State.SUCCEEDED: 500,
        }
        assert len(await master.get_jobs([s.id for s in stories])) == 2000

    async def test_agents_may_share_a_job(self, harness: MasterHarness) -> None:
        """A job that was pushed to two agents, recorded by two recorders at a time."""
        one, two = await harness.connect(), await harness.connect()
        stories = [Story() for _ in range(200)]

        async def tell(master: Master, agent: str, order: Sequence[Story]) -> None:
            lease = await lease_of(master, agent)
            for step in (Story.accepted, Story.started, Story.finished):
                await master.record(agent, [step(s) for s in order], lease)

        await asyncio.gather(tell(one, "a-1", stories), tell(two, "a-2", stories[::-1]))
        assert await one.count_jobs() == {State.SUCCEEDED: 200}

    # listing ---------------------------------------------------------------------------------

    async def test_jobs_are_listed_newest_first_in_pages(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        stories = sorted(
            (Story(lane="a" if n % 2 else "b", name=f"n{n % 3}") for n in range(30)),
            key=lambda story: story.id,
            reverse=True,
        )
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.finished() for s in stories[:10]])

        async def ids(**where: Any) -> list[str]:
            return [info.id for info in await master.list_jobs(JobFilter(**where))]

        assert await ids() == [s.id for s in stories]
        assert await ids(limit=7) == [s.id for s in stories[:7]]
        assert await ids(limit=7, before=stories[6].id) == [s.id for s in stories[7:14]]
        assert await ids(states=[State.SUCCEEDED]) == [s.id for s in stories[:10]]
        assert await ids(lane="a", name="n1") == [
            s.id for s in stories if (s.job.lane, s.job.name) == ("a", "n1")
        ]

    # held jobs -------------------------------------------------------------------------------

    async def test_a_held_job_is_claimed_when_due(self, harness: MasterHarness) -> None:
        master, other = await harness.connect(), await harness.connect()
        now = harness.now()
        jobs = [
            make_job(
                due_at=now + due, timeout=3.0, retry=Retry(max_attempts=7), meta={"n": str(due)}
            )
            for due in (300, 100, 200)
        ]
        await master.hold(jobs)
        info = (await master.get_jobs([jobs[0].id]))[jobs[0].id]
        assert (info.state, info.payload) == (State.SCHEDULED, jobs[0].payload)
        assert info.due_at == pytest.approx(now + 300, abs=1e-5)
        assert await other.claim_due(now + 50, 10, 60.0) == []
        assert await other.claim_due(now + 250, 10, 60.0) == [jobs[1], jobs[2]]
        assert await master.claim_due(now + 350, 10, 60.0) == [jobs[0]]
        assert await other.claim_due(now + 350, 10, 60.0) == []

    async def test_holding_again_changes_nothing(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        job = make_job(due_at=harness.now() + 100)
        await master.hold([job, job])
        await master.hold([msgspec.structs.replace(job, due_at=harness.now() + 500)])
        assert await master.claim_due(harness.now() + 200, 10, 60.0) == [job]
        done = Story()
        await record(master, done.accepted(), done.finished())
        await master.hold([done.job])
        assert (await master.get_jobs([done.id]))[done.id].state is State.SUCCEEDED

    async def test_a_claim_ends_on_request_and_is_doubtful_in_time(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        jobs = [make_job(due_at=harness.now() - n) for n in range(3)]
        await master.hold(jobs)
        assert len(await master.claim_due(harness.now(), 10, harness.ttl)) == 3
        await master.unclaim([jobs[1].id])
        assert await master.claim_due(harness.now(), 10, harness.ttl) == [jobs[1]]
        assert await master.doubtful(harness.now(), 10) == []
        await harness.pass_time(harness.ttl * 1.1)
        # An agent may have them, and its recorder be behind.
        assert await master.claim_due(harness.now(), 10, harness.ttl) == []
        doubtful = await master.doubtful(harness.now(), 10)
        assert [suspect.id for suspect in doubtful] == [job.id for job in jobs[::-1]]
        assert len(await master.doubtful(harness.now(), 2)) == 2
        assert sorted(await master.rescue(doubtful[:2])) == sorted(s.id for s in doubtful[:2])
        assert await master.claim_due(harness.now(), 10, 60) == jobs[:0:-1]
        # Claimed anew, they are doubtful no more.
        assert await master.rescue(doubtful) == [jobs[0].id]

    async def test_an_accepted_job_is_held_no_more(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story(due_at=harness.now())
        await master.hold([story.job])
        assert await master.claim_due(harness.now(), 10, 0.0) == [story.job]
        await record(master, story.accepted())
        await master.unclaim([story.id])
        assert await master.claim_due(harness.now() + 10, 10, 60.0) == []
        info = (await master.get_jobs([story.id]))[story.id]
        assert (info.state, info.agent) == (State.QUEUED, AGENT)
        assert info.due_at == pytest.approx(story.job.due_at, abs=1e-5)

    async def test_two_dispatchers_never_claim_the_same(self, harness: MasterHarness) -> None:
        masters = [await harness.connect() for _ in range(4)]
        jobs = [make_job(due_at=harness.now()) for _ in range(300)]
        await masters[0].hold(jobs)

        async def drain(master: Master) -> list[str]:
            claimed: list[str] = []
            # Locked rows are passed over, so one empty answer is not yet the end.
            for _ in range(40):
                claimed += [j.id for j in await master.claim_due(harness.now() + 1, 17, 600.0)]
            return claimed

        drained = await asyncio.gather(*map(drain, masters))
        claimed = [job_id for ids in drained for job_id in ids]
        assert sorted(claimed) == sorted(job.id for job in jobs)

    # leases ----------------------------------------------------------------------------------

    async def test_one_holder_at_a_time(self, harness: MasterHarness) -> None:
        master, other = await harness.connect(), await harness.connect()
        first = await master.acquire("duty", "one", harness.ttl)
        assert first is not None
        assert await other.acquire("duty", "two", harness.ttl) is None
        assert await master.acquire("duty", "one", harness.ttl) == first
        assert await other.acquire("another", "two", harness.ttl) is not None
        assert await master.leases() == {"duty": "one", "another": "two"}
        await master.release(first)
        assert await master.leases() == {"another": "two"}
        second = await other.acquire("duty", "two", harness.ttl)
        assert second is not None
        assert second.token > first.token
        assert await master.renew(first) is False
        await master.release(first)
        assert await other.renew(second) is True

    async def test_an_expired_lease_may_be_taken(self, harness: MasterHarness) -> None:
        master, other = await harness.connect(), await harness.connect()
        first = await master.acquire("duty", "one", harness.ttl)
        assert first is not None
        await harness.pass_time(harness.ttl * 0.6)
        assert await master.renew(first) is True
        await harness.pass_time(harness.ttl * 0.6)
        assert await other.acquire("duty", "two", harness.ttl) is None
        await harness.pass_time(harness.ttl * 0.6)
        assert await other.leases() == {}
        second = await other.acquire("duty", "two", harness.ttl)
        assert second is not None
        assert second.token > first.token
        assert await master.renew(first) is False

    async def test_a_crowd_gets_one_lease(self, harness: MasterHarness) -> None:
        masters = [await harness.connect() for _ in range(4)]
        won = await asyncio.gather(
            *[m.acquire("duty", f"holder-{n}", 60.0) for n, m in enumerate(masters)]
        )
        assert len([lease for lease in won if lease is not None]) == 1

    async def test_a_stale_recorder_writes_nothing(self, harness: MasterHarness) -> None:
        master, other = await harness.connect(), await harness.connect()
        old = await master.acquire("recorder:a-1", "one", harness.ttl)
        assert old is not None
        await harness.pass_time(harness.ttl * 1.1)
        # Expired, but nobody else's yet.
        story = Story()
        await master.record(AGENT, [story.accepted()], old)
        new = await other.acquire("recorder:a-1", "two", harness.ttl)
        assert new is not None
        with pytest.raises(LeaseLost, match="recorder:a-1"):
            await master.record(AGENT, [story.finished()], old)
        assert (await master.known([story.id]))[story.id].state is State.QUEUED
        await other.record(AGENT, [story.finished()], new)
        assert (await master.known([story.id]))[story.id].state is State.SUCCEEDED

    async def test_an_old_lease_of_the_same_holder_is_stale_too(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        old = await master.acquire("recorder:a-1", "one", harness.ttl)
        assert old is not None
        await harness.pass_time(harness.ttl * 1.1)
        between = await master.acquire("recorder:a-1", "two", harness.ttl)
        assert between is not None
        await master.release(between)
        new = await master.acquire("recorder:a-1", "one", harness.ttl)
        assert new is not None
        assert await master.renew(old) is False
        with pytest.raises(LeaseLost):
            await master.record(AGENT, [Story().accepted()], old)
        await master.release(old)
        assert await master.renew(new) is True

    # cluster ---------------------------------------------------------------------------------

    async def test_the_newest_heartbeat_stands(self, harness: MasterHarness) -> None:
        master = await harness.connect()

        def beat(worker: str, at: float, state: str = "running") -> Heartbeat:
            load = [LaneLoad("default", 10, 1, 2, at - 1.5)]
            return Heartbeat(worker, at, AGENT, "host", 7, "1.0", 5.0, state, load, finished=3)

        await record(master, beat("w-1", 10), beat("w-1", 30), beat("w-1", 20), beat("w-2", 15))
        await record(master, beat("w-1", 25))
        assert await master.workers() == [beat("w-1", 30), beat("w-2", 15)]
        await record(master, beat("w-2", 40, "stopped"))
        assert await master.workers(seen_after=35) == [beat("w-2", 40, "stopped")]

    async def test_agents_are_registered(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        await master.register_agents({"a-1": "nats://old", "a-2": "nats://two"})
        await record(master, Story().accepted())
        await master.register_agents({"a-1": "nats://one"})
        one, two = await master.agents()
        assert (one.name, one.url, two.name, two.url) == ("a-1", "nats://one", "a-2", "nats://two")
        assert one.seen_at == pytest.approx(harness.now(), abs=30)
        assert two.seen_at == 0.0

    # life ------------------------------------------------------------------------------------

    async def test_open_and_close_in_any_order(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        await master.open()
        await master.close()
        await master.close()
        with pytest.raises(MasterUnavailable):
            await master.count_jobs()
        await master.open()
        assert await master.count_jobs() == {}

    async def test_check_finds_nothing_wrong(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        checks = await master.check()
        assert checks
        # Servers for tests need not survive a loss of power.
        assert [c for c in checks if not c.ok and "power" not in c.subject] == []
