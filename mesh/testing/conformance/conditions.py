"""The behavioural suite of what holds jobs on a master: keys, parents, limits."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import msgspec
import pytest

from mesh.held import After, Held, KeyRule
from mesh.job import Priority, State, made_job_id, new_job_id
from mesh.ports import JobFilter, JobInfo, LimitInfo, Master, Wait
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.master import AGENT, MasterHarness
from mesh.wire import Accepted, Envelope, ErrorInfo, Finished, Limit, Record, Started

__all__ = ["ConditionsConformance"]

CLAIM = 60.0


def keyed(key: str = "k", *, rule: KeyRule | None = None, firm: bool = False, **job: Any) -> Held:
    return Held(make_job(key=key, **job), rule or KeyRule(), firm=firm)


def limited(harness: MasterHarness, *limits: Limit, age: float = 1.0, **job: Any) -> Envelope:
    return make_job(limits=list(limits), enqueued_at=harness.now() - age, **job)


def run_of(job: Envelope, at: float) -> dict[str, Any]:
    return {
        "id": job.id,
        "attempt": 1,
        "at": at,
        "name": job.name,
        "lane": job.lane,
        "priority": job.priority,
        "enqueued_at": job.enqueued_at,
        "worker": "w-1",
        "started_at": at,
        "lost": 0,
    }


async def record(master: Master, *records: Record) -> None:
    lease = await master.acquire("recorder", "me", 60.0)
    assert lease is not None
    await master.record(AGENT, records, lease)


async def begin(master: Master, job: Envelope) -> None:
    at = job.enqueued_at + 1
    await record(master, Accepted(job, at), Started(**run_of(job, at)))


async def end(
    master: Master, job: Envelope, state: State = State.SUCCEEDED, result: bytes = b"1"
) -> None:
    at = job.enqueued_at + 2
    error = None if state is State.SUCCEEDED else ErrorInfo("OSError", "no space")
    done = None if error else result
    finished = Finished(**run_of(job, at), state=state, result=done, error=error)
    await record(master, Accepted(job, at), finished)


async def info(master: Master, job_id: str) -> JobInfo:
    return (await master.get_jobs([job_id]))[job_id]


async def claim(master: Master, harness: MasterHarness, limit: int = 100) -> list[Envelope]:
    return await master.claim_due(harness.now(), limit, CLAIM)


async def claim_gated(master: Master, harness: MasterHarness, limit: int = 100) -> list[Envelope]:
    return list((await master.claim_gated(harness.now(), limit, CLAIM)).jobs)


class ConditionsConformance:
    # keys ------------------------------------------------------------------------------------

    async def test_a_key_stands_for_one_job_until_that_ends(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        first, second, third = keyed(), keyed(), keyed()
        (stored,) = await master.submit([first])
        assert (stored.job_id, stored.state, stored.existing) == (
            first.job.id,
            State.SCHEDULED,
            False,
        )
        (again,) = await master.submit([second])
        assert (again.job_id, again.existing, again.replaced) == (first.job.id, True, False)
        assert await master.get_jobs([second.job.id]) == {}
        assert await master.find_key("k") == first.job.id
        assert (await info(master, first.job.id)).key == "k"
        await end(master, first.job)
        assert await master.find_key("k") is None
        (stored,) = await master.submit([third])
        assert (stored.job_id, stored.existing) == (third.job.id, False)

    async def test_a_key_may_stand_for_a_period_or_for_ever(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        for_ever = keyed("ever", rule=KeyRule(period=inf))
        for_an_hour = keyed("hour", rule=KeyRule(period=3600))
        for_a_moment = keyed("moment", rule=KeyRule(period=harness.ttl / 2))
        first = [for_ever, for_an_hour, for_a_moment]
        await master.submit(first)
        for held in first:
            await end(master, held.job)
        await harness.pass_time(harness.ttl)
        ever, hour, moment = await master.submit([keyed("ever"), keyed("hour"), keyed("moment")])
        assert (ever.job_id, ever.state) == (for_ever.job.id, State.SUCCEEDED)
        assert (hour.job_id, hour.existing) == (for_an_hour.job.id, True)
        assert not moment.existing

    async def test_many_at_once_store_one(self, harness: MasterHarness) -> None:
        masters = [await harness.connect() for _ in range(3)]
        many = [
            masters[n % 3].submit([keyed(key) for key in ("a", "b", "c", "a")]) for n in range(15)
        ]
        outcomes = [one for stored in await asyncio.gather(*many) for one in stored]
        by_place = [{one.job_id for one in outcomes[at::4]} for at in range(4)]
        assert [len(ids) for ids in by_place] == [1, 1, 1, 1]
        assert by_place[0] == by_place[3]
        assert sum(not one.existing for one in outcomes) == 3

    async def test_replace_changes_a_job_that_has_not_left(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        rule = KeyRule("replace")
        later = harness.now() + 30
        old = keyed(rule=rule, firm=True, due_at=later, enqueued_at=harness.now())
        await master.submit([old])
        new = keyed(rule=rule, firm=True, payload=b'{"n":2}', priority=Priority.HIGH)
        (stored,) = await master.submit([new])
        assert (stored.job_id, stored.existing, stored.replaced) == (old.job.id, True, True)
        found = await info(master, old.job.id)
        assert (found.payload, found.priority) == (b'{"n":2}', Priority.HIGH)
        assert found.enqueued_at == pytest.approx(old.job.enqueued_at)
        (job,) = await claim(master, harness)
        assert (job.id, job.payload) == (old.job.id, b'{"n":2}')
        (stored,) = await master.submit([keyed(rule=rule)])
        assert (stored.existing, stored.replaced) == (True, False)

    async def test_debounce_pushes_the_start_back_to_a_bound(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        now = harness.now()
        rule = KeyRule("debounce", max_wait=40.0)
        first = keyed(rule=rule, firm=True, enqueued_at=now, due_at=now + 30)
        await master.submit([first])
        for due_in, wanted in ((35, 35), (60, 40)):
            await master.submit([keyed(rule=rule, firm=True, due_at=now + due_in)])
            assert (await info(master, first.job.id)).due_at == pytest.approx(now + wanted)

    async def test_raise_and_another_handlers_key_are_refused(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        await master.submit([keyed()])
        strict, other = await master.submit([keyed(rule=KeyRule("raise")), keyed(name="other")])
        assert (strict.refused, other.refused, other.name) == (True, True, "conformance")

    async def test_firm_jobs_stay_until_they_are_due(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        due_at = harness.now() + harness.ttl * 3
        await master.submit([keyed(firm=True, due_at=due_at)])
        assert await master.claim_due(harness.now() + 60, 10, CLAIM) == []
        await harness.pass_time(harness.ttl * 3)
        assert len(await master.claim_due(harness.now() + 60, 10, CLAIM)) == 1

    async def test_a_job_that_was_on_an_agent_is_not_replaced(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        rule = KeyRule("replace")
        job = keyed(rule=rule, enqueued_at=harness.now()).job
        await master.submit([Held(job, rule)])
        await claim(master, harness)
        await record(master, Accepted(job, job.enqueued_at + 1))
        moved = msgspec.structs.replace(job, attempt=2, snoozes=1)
        await master.take_back([moved])
        (stored,) = await master.submit([keyed(rule=rule, payload=b'{"n":2}')])
        assert (stored.existing, stored.replaced) == (True, False)
        assert await claim(master, harness) == [moved]

    async def test_what_is_replaced_is_found_by_its_new_meta(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        rule = KeyRule("replace")
        await master.submit([keyed(rule=rule, meta={"for": "a", "by": "me"})])
        await master.submit([keyed(rule=rule, meta={"for": "b"})])
        counts = [
            sum((await master.count_jobs(JobFilter(meta=meta))).values())
            for meta in ({"for": "a"}, {"by": "me"}, {"for": "b"})
        ]
        assert counts == [0, 0, 1]

    async def test_a_job_that_comes_again_is_no_other(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        job = keyed(rule=KeyRule("raise"))
        for _ in range(2):
            (stored,) = await master.submit([job])
            assert (stored.job_id, stored.existing, stored.refused) == (job.job.id, False, False)

    # parents ---------------------------------------------------------------------------------

    async def test_nobody_waits_for_ever_for_what_was_never_stored(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        old = made_job_id(harness.now() - 25 * 3600, "1" * 20)
        new = made_job_id(harness.now() - 23 * 3600, "2" * 20)
        orphan = Held(make_job(), after=[After(old)])
        grandchild = Held(make_job(), after=[After(orphan.job.id)])
        patient = Held(make_job(), after=[After(new)])
        known = make_job(id=made_job_id(harness.now() - 26 * 3600, "3" * 20))
        await record(master, Accepted(known, harness.now()))
        child = Held(make_job(), after=[After(known.id)])
        await master.submit([orphan, grandchild, patient, child])
        await master.sweep(0.0, 100)
        ended = await info(master, orphan.job.id)
        assert (ended.state, ended.error_type) == (State.CANCELLED, "ParentUnknown")
        assert old in (ended.error_message or "")
        await master.unblock()
        states = [(await info(master, h.job.id)).state for h in (grandchild, patient, child)]
        assert states == [State.CANCELLED, State.WAITING, State.WAITING]

    async def test_a_job_runs_after_its_parents(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        a, b = make_job(name="a"), make_job(name="b")
        after = [After(a.id, feeds="n"), After(b.id, name="second")]
        child = Held(make_job(payload=b'{"x":0}'), after=after)
        await master.submit([Held(a), child])
        assert (await info(master, child.job.id)).state is State.WAITING
        assert (await master.unblock()).waits
        await end(master, a, result=b'{"deep":[1]}')
        await master.unblock([a.id])
        assert (await info(master, child.job.id)).state is State.WAITING
        await end(master, b)  # which the master had not heard of before
        await master.unblock([b.id, new_job_id()])
        found = await info(master, child.job.id)
        assert found.state is State.SCHEDULED
        assert msgspec.json.decode(found.payload or b"") == {"x": 0, "n": {"deep": [1]}}
        (job,) = [one for one in await claim(master, harness) if one.id == child.job.id]
        assert job.payload == found.payload
        assert [(p.id, p.name, p.state, p.result) for p in job.parents or ()] == [
            (a.id, "a", State.SUCCEEDED, b'{"deep":[1]}'),
            (b.id, "second", State.SUCCEEDED, b"1"),
        ]
        assert not (await master.unblock()).waits

    async def test_parents_that_have_ended_before(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        parent = make_job()
        await end(master, parent)
        child = Held(make_job(), after=[After(parent.id)])
        await master.submit([child])
        await master.unblock()
        assert (await info(master, child.job.id)).state is State.SCHEDULED

    async def test_an_end_other_than_asked_cancels_all_that_follow(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        parent, open_one = make_job(), make_job()
        child = Held(make_job(), after=[After(parent.id), After(open_one.id)])
        grandchild = Held(make_job(), after=[After(child.job.id)])
        rescue = Held(make_job(), after=[After(parent.id, "failure")])
        anyway = Held(make_job(), after=[After(child.job.id, "finished")])
        await master.submit([child, grandchild, rescue, anyway])
        await end(master, parent, State.FAILED)
        await master.unblock([parent.id])
        found = await info(master, child.job.id)
        assert found.state is State.CANCELLED
        assert f"the success of job {parent.id}" in str(found.error_message)
        assert "failed: OSError: no space" in str(found.error_message)
        states = [(await info(master, held.job.id)).state for held in (grandchild, rescue, anyway)]
        assert states == [State.CANCELLED, State.SCHEDULED, State.SCHEDULED]
        await end(master, open_one)
        await master.unblock([open_one.id])
        assert (await info(master, child.job.id)).state is State.CANCELLED

    async def test_many_children_and_one_that_gathers(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        root = make_job()
        children = [Held(make_job(), after=[After(root.id)]) for _ in range(1200)]
        last = Held(
            make_job(payload=b"{}"),
            after=[After(held.job.id, feeds="items[]") for held in children],
        )
        await master.submit([*children, last])
        await end(master, root)
        assert (await master.unblock([root.id])).jobs >= 1200
        claimed = await claim(master, harness, 2000)
        assert {job.id for job in claimed} == {held.job.id for held in children}
        at = harness.now()
        await record(
            master,
            *(
                Finished(**run_of(held.job, at), state=State.SUCCEEDED, result=b"%d" % n)
                for n, held in enumerate(children)
            ),
        )
        await asyncio.gather(
            *(master.unblock([held.job.id for held in children[at::3]]) for at in range(3))
        )
        await master.unblock()
        found = await info(master, last.job.id)
        assert found.state is State.SCHEDULED
        assert msgspec.json.decode(found.payload or b"") == {"items": list(range(1200))}

    async def test_held_jobs_expire(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        soon = harness.now() + harness.ttl / 2
        parent = make_job()
        waiting = Held(make_job(expires_at=soon), after=[After(parent.id)])
        late = Held(make_job(expires_at=soon, due_at=harness.now() + 3600))
        keeps = Held(make_job(expires_at=soon + 3600, due_at=harness.now() + 3600))
        await master.submit([waiting, late, keeps])
        await harness.pass_time(harness.ttl)
        await master.unblock()
        states = [(await info(master, held.job.id)).state for held in (waiting, late, keeps)]
        assert states == [State.EXPIRED, State.EXPIRED, State.SCHEDULED]

    async def test_what_may_have_begun_does_not_expire_here(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        soon = harness.now() + harness.ttl / 2
        job = make_job(expires_at=soon, due_at=harness.now())
        await master.submit([Held(job)])
        assert len(await master.claim_due(harness.now() + 1, 10, harness.ttl / 4)) == 1
        await harness.pass_time(harness.ttl)  # and nothing is heard of the agent
        await master.unblock()
        assert (await info(master, job.id)).state is State.SCHEDULED
        await end(master, job)
        assert (await info(master, job.id)).state is State.SUCCEEDED

    # limits ----------------------------------------------------------------------------------

    async def test_concurrency_lets_so_many_go(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        limit = Limit("c", concurrency=2)
        jobs = [limited(harness, limit, age=9 - n) for n in range(4)]
        jobs.append(limited(harness, limit, priority=Priority.HIGH))
        await master.submit([Held(job) for job in jobs])
        assert await claim(master, harness) == []
        assert (await master.unblock()).gated
        first = await claim_gated(master, harness)
        assert [job.id for job in first] == [jobs[4].id, jobs[0].id]
        assert await claim_gated(master, harness) == []
        await begin(master, jobs[0])
        await master.unblock([jobs[0].id])
        assert await claim_gated(master, harness) == []
        await end(master, jobs[0], State.FAILED)
        await master.unblock([jobs[0].id])
        assert [job.id for job in await claim_gated(master, harness)] == [jobs[1].id]

    async def test_what_keeps_a_job_is_told(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        some, any_number = Limit("c", concurrency=1), Limit("r", rate=2.0, burst=5.0)
        first, second = (limited(harness, some, any_number, age=9 - n) for n in range(2))
        pinned = make_job(agent="a-7", due_at=harness.now() + 3600)
        child = Held(make_job(), after=[After(first.id), After(pinned.id, "finished")])
        await master.submit([*map(Held, (first, second, pinned)), child])
        (gone,) = await claim_gated(master, harness)
        await begin(master, first)
        assert gone.id == first.id
        jobs = [first.id, second.id, pinned.id, child.job.id, new_job_id(), "no id"]
        assert await master.waits(jobs) == {
            second.id: Wait(limits=(LimitInfo("c", 1, 0.0, 1), LimitInfo("r", 0, 2.0, 1))),
            pinned.id: Wait(agent="a-7"),
            child.job.id: Wait({first.id: "success", pinned.id: "finished"}),
        }
        await end(master, first)
        await master.unblock([first.id])
        left = await master.waits(jobs)
        assert left[child.job.id] == Wait({pinned.id: "finished"})
        assert [limit.taken for limit in left[second.id].limits] == [0, 0]

    async def test_limits_of_several_keys_all_hold(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        whole = Limit("all", concurrency=3)
        jobs = {
            user: [limited(harness, whole, Limit(user, concurrency=2)) for _ in range(4)]
            for user in ("u1", "u2")
        }
        await master.submit([Held(job) for each in jobs.values() for job in each])
        claimed = {job.id for job in await claim_gated(master, harness)}
        counts = sorted(len(claimed & {job.id for job in each}) for each in jobs.values())
        assert counts == [1, 2]

    async def test_dispatchers_together_keep_to_a_limit(self, harness: MasterHarness) -> None:
        masters = [await harness.connect() for _ in range(3)]
        jobs = [limited(harness, Limit("c", concurrency=5)) for _ in range(40)]
        await masters[0].submit([Held(job) for job in jobs])
        claims = await asyncio.gather(*(claim_gated(masters[n % 3], harness, 3) for n in range(12)))
        ids = [job.id for each in claims for job in each]
        assert 3 <= len(ids) <= 5
        ids += [job.id for job in await claim_gated(masters[0], harness)]
        assert len(ids) == len(set(ids)) == 5

    async def test_more_limits_than_are_looked_at_together(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        jobs = [limited(harness, Limit(f"c-{n}", concurrency=1)) for n in range(450)]
        await master.submit([Held(job) for job in jobs])
        found = []
        while True:
            claimed = await master.claim_gated(harness.now(), 1000, CLAIM)
            found += [job.id for job in claimed.jobs]
            if not claimed.is_part:
                break
        assert sorted(found) == sorted(job.id for job in jobs)

    async def test_a_job_that_was_let_go_needs_no_leave_again(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        job = limited(harness, Limit("c", concurrency=1))
        await master.submit([Held(job)])
        assert len((await master.claim_gated(harness.now(), 10, harness.ttl / 2)).jobs) == 1
        await harness.pass_time(harness.ttl)  # its dispatcher has died
        assert await master.rescue(await master.doubtful(harness.now(), 10)) == [job.id]
        assert [one.id for one in await claim(master, harness)] == [job.id]

    async def test_a_job_that_was_let_go_may_be_replaced(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        rule, limit = KeyRule("replace"), Limit("c", concurrency=1)
        first, other = (limited(harness, limit, key=key) for key in ("k", "other"))
        await master.submit([Held(first, rule)])
        assert len(await claim_gated(master, harness)) == 1
        await master.unclaim([first.id])  # no agent took it
        new = limited(harness, limit, key="k", payload=b'{"n":2}')
        (stored,) = await master.submit([Held(new, rule)])
        assert stored.replaced
        await master.submit([Held(other)])
        (job,) = await claim_gated(master, harness)
        assert (job.id, job.payload) == (first.id, b'{"n":2}')
        await end(master, first)
        await master.unblock([first.id])
        assert [one.id for one in await claim_gated(master, harness)] == [other.id]

    async def test_limits_hold_for_what_is_done_again(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        limit = Limit("c", concurrency=2)
        jobs = [limited(harness, limit) for _ in range(5)]
        await master.submit([Held(job) for job in jobs])
        for _ in range(3):
            for job in await claim_gated(master, harness):
                await end(master, job, State.FAILED)
            await master.unblock()
        again = await master.retry([job.id for job in jobs])
        assert len(again) == 5
        assert await claim(master, harness) == []
        assert len(await claim_gated(master, harness)) == 2

    async def test_the_latest_word_on_a_limit_counts(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        jobs = [Held(limited(harness, Limit("c", concurrency=1))) for _ in range(4)]
        await master.submit(jobs)
        assert len(await claim_gated(master, harness)) == 1
        await master.submit([Held(limited(harness, Limit("c", concurrency=3)))])
        assert len(await claim_gated(master, harness)) == 2

    async def test_lanes_that_are_left_out_take_no_place(self, harness: MasterHarness) -> None:
        """Nor does a job of such a lane lose its turn."""
        master = await harness.connect()
        limit = Limit("c", concurrency=1)
        first = limited(harness, limit, age=9, lane="mail")
        second, third = limited(harness, limit, age=8), limited(harness, limit, age=7)
        await master.submit([Held(job) for job in (first, second, third)])
        left_out = await master.claim_gated(harness.now(), 10, CLAIM, {"mail"})
        assert [job.id for job in left_out.jobs] == [second.id]
        await begin(master, second)
        await end(master, second)
        await master.unblock([second.id])
        assert [job.id for job in await claim_gated(master, harness)] == [first.id]

    async def test_a_rate_lets_go_in_time(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        slow = Limit("r", rate=1 / 3600, burst=2)
        jobs = [limited(harness, slow) for _ in range(8)]
        await master.submit([Held(job) for job in jobs])
        claimed = await master.claim_gated(harness.now(), 100, CLAIM)
        assert len(claimed.jobs) == 2
        assert claimed.more_in is not None
        assert 3500 < claimed.more_in <= 3600
        for job in claimed.jobs:
            await begin(master, job)
        await master.unblock()
        await harness.pass_time(harness.ttl)
        assert await claim_gated(master, harness) == []
        # Had one begun in each such while, another might by now.
        await master.submit([Held(limited(harness, Limit("r", rate=1 / harness.ttl, burst=1)))])
        assert len(await claim_gated(master, harness)) == 1

    async def test_of_a_rate_only_few_wait_for_a_worker(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        rate = 1 / harness.ttl
        jobs = [limited(harness, Limit("r", rate=rate, burst=1)) for _ in range(9)]
        await master.submit([Held(job) for job in jobs])
        gone: list[Envelope] = []
        for _ in range(5):
            gone += await claim_gated(master, harness)
            await harness.pass_time(harness.ttl)
        assert len(gone) == int(1 + 2 * rate)
        await begin(master, gone[0])
        await master.unblock([gone[0].id])
        assert len(await claim_gated(master, harness)) == 1
