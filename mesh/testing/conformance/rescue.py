"""The behavioural suite of what a master does with jobs that their agents have lost."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from mesh.held import Held
from mesh.job import State
from mesh.ports import AttemptInfo, JobInfo, Master, Suspect
from mesh.retry import Retry
from mesh.testing.conformance.agent import make_job
from mesh.wire import (
    Accepted,
    Envelope,
    ErrorInfo,
    Finished,
    Limit,
    Parent,
    Record,
    Retrying,
    Started,
)

__all__ = ["RescueConformance"]

LONG = 100.0


class _Harness(Protocol):
    ttl: float

    async def connect(self) -> Any: ...
    def now(self) -> float: ...


async def _record(master: Master, *records: Record) -> None:
    lease = await master.acquire("recorder:a-1", "me", 30)
    assert lease is not None
    await master.record("a-1", records, lease)


def _old(harness: _Harness, **changes: Any) -> Envelope:
    """A job that was enqueued a while ago, at a moment that every master keeps as it is."""
    return make_job(**{"enqueued_at": float(round(harness.now() - LONG)), **changes})


def _run(job: Envelope, attempt: int = 1, worker: str = "w-1") -> dict[str, Any]:
    return {
        "id": job.id,
        "attempt": attempt,
        "at": job.enqueued_at + attempt + 0.5,
        "name": job.name,
        "lane": job.lane,
        "priority": job.priority,
        "enqueued_at": job.enqueued_at,
        "worker": worker,
        "started_at": job.enqueued_at + attempt,
        "lost": 0,
    }


def _retrying(job: Envelope, attempt: int = 1, error: str = "ValueError") -> Retrying:
    due_at = job.enqueued_at + attempt + 1
    return Retrying(**_run(job, attempt), error=ErrorInfo(error, "no"), due_at=due_at)


async def _suspects(master: Master, harness: _Harness) -> dict[str, Suspect]:
    found = await master.suspects(harness.now() - LONG / 2, 1000)
    assert found.page is None
    return {suspect.id: suspect for suspect in found.jobs}


async def _rescue(master: Master, harness: _Harness, job: Envelope) -> Envelope:
    """The job as it is to be pushed again."""
    assert await master.rescue([(await _suspects(master, harness))[job.id]]) == [job.id]
    (again,) = await master.claim_due(harness.now() + 60, 10, 60)
    return again


async def _info(master: Master, job: Envelope) -> JobInfo:
    return (await master.get_jobs([job.id]))[job.id]


def _told(attempts: list[AttemptInfo]) -> list[tuple[int, str, str | None, str | None]]:
    return [(a.attempt, a.outcome, a.worker, a.error_type) for a in attempts]


def _seen(job: Envelope, state: State) -> Suspect:
    """What ``_run`` makes of a job."""
    began = _run(job)["started_at"]
    return Suspect(job.id, "default", "a-1", state, 1, "w-1", began)


class RescueConformance:
    """A part of ``MasterConformance``."""

    async def test_what_is_on_an_agent_for_long_is_suspect(self, harness: _Harness) -> None:
        master = await harness.connect()
        queued, running, retrying = (_old(harness) for _ in range(3))
        ended, held, young = _old(harness), _old(harness), make_job(enqueued_at=harness.now())
        later = _old(harness, due_at=harness.now() + 60)
        just_begun = _old(harness)
        on_agent = [queued, running, retrying, ended, young, later, just_begun]
        await _record(master, *(Accepted(job, job.enqueued_at) for job in on_agent))
        await master.hold([held])
        begun = msgspec.structs.replace(Started(**_run(just_begun)), started_at=harness.now())
        end = Finished(**_run(ended), state=State.SUCCEEDED, result=b"1")
        await _record(master, Started(**_run(running)), _retrying(retrying), end, begun)
        assert await _suspects(master, harness) == {
            queued.id: Suspect(queued.id, "default", "a-1", State.QUEUED, 1),
            running.id: _seen(running, State.RUNNING),
            retrying.id: _seen(retrying, State.RETRYING),
        }

    async def test_suspects_come_in_pages(self, harness: _Harness) -> None:
        master = await harness.connect()
        jobs = [_old(harness) for _ in range(7)]
        await _record(master, *(Accepted(job, job.enqueued_at) for job in jobs))
        await _record(master, *(Started(**_run(job)) for job in jobs[:3]))
        seen: list[str] = []
        page: Any = None
        for size in (2, 2, 2, 1):
            found = await master.suspects(harness.now() - 1, 2, page)
            assert len(found.jobs) == size
            seen += [suspect.id for suspect in found.jobs]
            page = found.page
        assert page is None
        assert sorted(seen) == sorted(job.id for job in jobs)

    async def test_a_lost_job_that_had_not_begun_comes_again_as_it_was(
        self, harness: _Harness
    ) -> None:
        master = await harness.connect()
        job = _old(
            harness,
            timeout=7.0,
            retry=Retry(max_attempts=1),
            meta={"a": "b"},
            headers={"traceparent": "00-1"},
            deadline=harness.now() + 1000,
            result_ttl=100.0,
            parent=make_job().id,
            parents=[Parent(make_job().id, "before", State.SUCCEEDED, b"1")],
            agent="a-1",
        )
        await _record(master, Accepted(job, job.enqueued_at))
        again = await _rescue(master, harness, job)
        # That it was lost does not count: it runs, although it has but one attempt.
        assert (again.attempt, again.snoozes, again.lost) == (2, 1, 0)
        same = (
            *("id", "name", "payload", "lane", "priority", "timeout", "retry", "meta", "headers"),
            *("deadline", "result_ttl", "parent", "parents", "agent"),
        )
        assert {f: getattr(again, f) for f in same} == {f: getattr(job, f) for f in same}
        # A database may keep moments in microseconds.
        assert abs(again.enqueued_at - job.enqueued_at) < 1e-5
        info = await _info(master, job)
        assert (info.state, info.attempt, info.agent) == (State.SCHEDULED, 2, None)
        (lost,) = await master.attempts(job.id)
        assert (lost.attempt, lost.outcome, lost.worker) == (1, "lost", None)
        assert lost.error_type == "AgentLost"
        assert "a-1" in (lost.error_message or "")
        assert "attempt 2" in (lost.error_message or "")

    async def test_a_lost_job_that_had_begun_counts_an_attempt(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = _old(harness)
        await _record(master, Accepted(job, job.enqueued_at), Started(**_run(job)))
        again = await _rescue(master, harness, job)
        assert (again.attempt, again.snoozes, again.lost) == (2, 0, 1)
        assert _told(await master.attempts(job.id)) == [(1, "lost", "w-1", "AgentLost")]

    async def test_a_lost_retry_keeps_account_of_its_attempts(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = _old(harness)
        await _record(
            master,
            Accepted(job, job.enqueued_at),
            _retrying(job, 1),
            _retrying(job, 2, "Snooze"),
            _retrying(job, 3),
        )
        again = await _rescue(master, harness, job)
        # The fourth was on the agent and had not begun; of the three before it two count.
        assert (again.attempt, again.attempt - again.snoozes) == (5, 3)
        assert _told(await master.attempts(job.id))[-1] == (4, "lost", None, "AgentLost")

    async def test_what_has_moved_on_is_not_rescued(self, harness: _Harness) -> None:
        master = await harness.connect()
        jobs = [_old(harness) for _ in range(3)]
        begun, ended, other = jobs
        await _record(master, *(Accepted(job, job.enqueued_at) for job in jobs))
        await _record(master, Started(**_run(other)))
        seen = await _suspects(master, harness)
        await _record(
            master,
            Started(**_run(begun)),
            Finished(**_run(ended), state=State.SUCCEEDED),
            Started(**_run(other, 2, "w-2")),
        )
        assert await master.rescue([seen[job.id] for job in jobs]) == []
        assert await master.rescue([]) == []
        states = [(await _info(master, job)).state for job in jobs]
        assert states == [State.RUNNING, State.SUCCEEDED, State.RUNNING]
        assert await master.claim_due(harness.now() + 60, 10, 60) == []

    async def test_rescued_twice_is_rescued_once(self, harness: _Harness) -> None:
        master, other = await harness.connect(), await harness.connect()
        job = _old(harness)
        await _record(master, Accepted(job, job.enqueued_at))
        seen = [(await _suspects(master, harness))[job.id]]
        assert await master.rescue(seen) == [job.id]
        assert await other.rescue(seen) == []
        assert await _suspects(master, harness) == {}
        assert (await _info(master, job)).attempt == 2
        (agent,) = await master.agents()
        assert (agent.name, agent.lost) == ("a-1", 1)
        assert abs((agent.lost_at or 0.0) - harness.now()) < LONG

    async def test_the_outcome_of_the_lost_attempt_still_counts(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = _old(harness)
        await _record(master, Accepted(job, job.enqueued_at), Started(**_run(job)))
        again = await _rescue(master, harness, job)
        await _record(master, Finished(**_run(job), state=State.SUCCEEDED, result=b"1"))
        assert (await _info(master, job)).state is State.SUCCEEDED
        # The other one, which ran as well, is told and changes nothing.
        await _record(
            master,
            Accepted(again, harness.now()),
            Finished(**_run(again, 2, "w-2"), state=State.FAILED, error=ErrorInfo("E", "no")),
        )
        assert (await _info(master, job)).result == b"1"
        outcomes = [told[:3] for told in _told(await master.attempts(job.id))]
        assert outcomes == [(1, "succeeded", "w-1"), (2, "failed", "w-2")]

    async def test_a_lost_job_whose_arguments_never_came_fails(self, harness: _Harness) -> None:
        master = await harness.connect()
        job = _old(harness)
        await _record(master, Started(**_run(job)))
        seen = await _suspects(master, harness)
        assert await master.rescue([seen[job.id]]) == [job.id]
        info = await _info(master, job)
        assert (info.state, info.error_type) == (State.FAILED, "AgentLost")
        assert info.finished_at is not None
        (group,) = await master.failures()
        assert group.job_ids == (job.id,)

    async def test_held_jobs_may_be_given_up(self, harness: _Harness) -> None:
        master = await harness.connect()
        held, queued = _old(harness), _old(harness)
        await master.hold([held])
        await _record(master, Accepted(queued, queued.enqueued_at))
        error = ErrorInfo("Nowhere", "there is no way to go\0")
        assert await master.give_up([held.id, queued.id, make_job().id], error) == [held.id]
        assert await master.give_up([held.id], error) == []
        info = await _info(master, held)
        assert (info.state, info.error_type) == (State.FAILED, "Nowhere")
        assert (await _info(master, queued)).state is State.QUEUED
        assert await master.claim_due(harness.now() + 60, 10, 60) == []

    async def test_a_lost_job_keeps_its_place_under_its_limits(self, harness: _Harness) -> None:
        master = await harness.connect()
        limit = Limit("lane:mail:concurrency", concurrency=1)
        first, second = (_old(harness, limits=[limit]) for _ in range(2))
        await master.submit([Held(first)])
        (let_go,) = (await master.claim_gated(harness.now() + 60, 10, 60)).jobs
        await _record(master, Accepted(let_go, let_go.enqueued_at))
        await master.submit([Held(second)])
        again = await _rescue(master, harness, first)
        assert again.limits == [limit]
        assert (await master.claim_gated(harness.now() + 60, 10, 60)).jobs == []
        end = Finished(**_run(again, 2), state=State.SUCCEEDED)
        await _record(master, Accepted(again, harness.now()), end)
        await master.unblock([first.id])
        (next_one,) = (await master.claim_gated(harness.now() + 60, 10, 60)).jobs
        assert next_one.id == second.id
