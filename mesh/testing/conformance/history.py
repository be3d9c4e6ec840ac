"""The behavioural suite of what a ``Master`` does with history: find, do again, forget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Any

import msgspec
import pytest

from mesh.errors import ConfigError, InvalidArguments
from mesh.filter import MOST_TAG, JobFilter
from mesh.held import After, Held, KeyRule
from mesh.job import TERMINAL, State, new_job_id
from mesh.ports import Master
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.master import MasterHarness, Story, lease_of, record
from mesh.wire import Heartbeat, Limit, Record

__all__ = ["HistoryConformance"]

DAY = 86_400.0


async def ids(master: Master, **where: Any) -> list[str]:
    """The jobs of a filter, from all its pages."""
    found: list[str] = []
    page = JobFilter(**where)
    while jobs := await master.list_jobs(page):
        found += [job.id for job in jobs]
        page = page.next_page(jobs[-1])
    assert len(set(found)) == len(found)
    assert sum((await master.count_jobs(page)).values()) == len(found)
    return found


def newest(stories: Sequence[Story]) -> list[str]:
    return sorted((story.id for story in stories), reverse=True)


class HistoryConformance:
    """Subclass beside ``MasterConformance``: it uses the same ``harness`` fixture."""

    # finding ---------------------------------------------------------------------------------

    async def test_several_states_are_one_list(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        stories = [Story() for _ in range(40)]
        ends = [State.SUCCEEDED, State.FAILED, State.CANCELLED]
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.started() for s in stories[::4]])
        for number, state in enumerate(ends, start=1):
            some = stories[number::4]
            await record(master, *[s.finished(state=state, at=number) for s in some])
        running, succeeded = [State.RUNNING], [State.SUCCEEDED]
        assert await ids(master, states=running) == newest(stories[::4])
        both = newest(stories[::4] + stories[1::4])
        assert await ids(master, states=running + succeeded, limit=7) == both
        assert await ids(master, states=running + running + succeeded) == both
        # What ended last first.
        last = newest(stories[3::4]) + newest(stories[2::4]) + newest(stories[1::4])
        assert await ids(master, states=ends, limit=7) == last
        assert await ids(master, order="finished", limit=7) == last
        assert await ids(master, states=ends, order="enqueued") == newest(
            [s for n, s in enumerate(stories) if n % 4]
        )

    async def test_a_name_may_be_a_beginning(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        names = ["reports.daily", "reports.weekly", "reports_old", "Reports.daily", "report"]
        stories = {name: Story(name=name) for name in names}
        await record(master, *[s.accepted() for s in stories.values()])
        found = await ids(master, name="reports.*")
        assert found == newest([stories["reports.daily"], stories["reports.weekly"]])
        assert await ids(master, name="reports_*") == [stories["reports_old"].id]
        assert await ids(master, name="report") == [stories["report"].id]
        assert len(await ids(master, name="*")) == len(names)

    async def test_tags_find_jobs(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        stories = [
            Story(meta={"tenant": str(n % 3), "kind": "a" if n % 2 else "b"}) for n in range(12)
        ]
        bare = Story()
        await record(master, *[s.accepted() for s in [*stories, bare]])
        # Told again, and by another way.
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.finished() for s in stories[:6]])
        assert await ids(master, meta={"tenant": "1"}, limit=2) == newest(stories[1::3])
        both = {"tenant": "1", "kind": "a"}
        assert await ids(master, meta=both) == newest(stories[1::6])
        ended = await ids(master, meta={"tenant": "1"}, states=[State.SUCCEEDED], limit=1)
        assert ended == newest(stories[1:6:3])
        states = [State.SUCCEEDED, State.QUEUED]
        assert await ids(master, meta=both, states=states) == newest(stories[1::6])
        assert await ids(master, meta={"tenant": "4"}) == []
        held = make_job(due_at=harness.now() + 3600, meta={"tenant": "4"})
        await master.hold([held])
        assert await ids(master, meta={"tenant": "4"}) == [held.id]

    async def test_long_tags_are_kept_and_not_searched(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        story = Story(meta={"short": "1", "long": "x" * 10_000, "most": "y" * MOST_TAG})
        await record(master, story.accepted())
        assert (await master.get_jobs([story.id]))[story.id].meta == story.job.meta
        assert await ids(master, meta={"short": "1", "most": "y" * MOST_TAG}) == [story.id]
        with pytest.raises(ConfigError, match="10000 characters"):
            JobFilter(meta={"long": "x" * 10_000})

    async def test_other_things_to_ask_for(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        child = Story(parent=new_job_id())
        failed, other = Story(), Story()
        await record(master, *[s.accepted() for s in (child, failed, other)])
        await record(master, failed.finished(state=State.FAILED))
        assert await ids(master, parent=child.job.parent) == [child.id]
        assert await ids(master, error="OSError") == [failed.id]
        assert await ids(master, error="ValueError") == []
        assert await ids(master, key="none") == []
        assert await ids(master, workflow=new_job_id()) == []

    async def test_since_and_until(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        begin = 1_800_000_000.0
        stories = [Story(begin + 100 * n) for n in range(10)]
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.finished(at=1000 - 200 * n) for n, s in enumerate(stories[:4])])
        span = {"since": begin + 300, "until": begin + 600}
        # By the moment, whatever the ids are.
        assert await ids(master, **span) == [stories[n].id for n in (5, 4, 3)]
        assert await ids(master, limit=2, **span) == [stories[n].id for n in (5, 4, 3)]
        # Of those that ended, the end counts: at 1000, 900, 800 and 700 s.
        ended = {"since": begin + 800, "until": begin + 1000, "order": "finished"}
        assert await ids(master, **ended) == [stories[1].id, stories[2].id]
        assert await ids(master, states=[State.SUCCEEDED], **span) == []

    async def test_a_filter_that_no_job_can_meet_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="running has not"):
            JobFilter(states=[State.FAILED, State.RUNNING], order="finished")
        with pytest.raises(ConfigError, match="not a UUID"):
            JobFilter(before="7")
        with pytest.raises(ConfigError, match="ID@MOMENT"):
            JobFilter(before=new_job_id(), states=[State.FAILED])

    # again -----------------------------------------------------------------------------------

    async def test_an_ended_job_is_done_again(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        old = Story(
            lane="mail", priority=5, payload=b'{"n":7}', meta={"tenant": "7"}, result_ttl=500.0
        )
        await record(master, old.accepted(), old.finished(state=State.FAILED))
        ((before, new_id),) = (await master.retry([old.id])).items()
        assert before == old.id
        jobs = await master.get_jobs([old.id, new_id])
        assert (jobs[old.id].state, jobs[old.id].retried_as) == (State.FAILED, new_id)
        new = jobs[new_id]
        assert (new.state, new.attempt, new.retry_of) == (State.SCHEDULED, 1, old.id)
        assert (new.name, new.lane, new.priority) == (old.job.name, "mail", 5)
        assert (new.payload, new.meta, new.result_ttl) == (b'{"n":7}', {"tenant": "7"}, 500.0)
        assert await ids(master, meta={"tenant": "7"}) == [new_id, old.id]
        (job,) = await master.claim_due(harness.now() + 1, 10, 30.0)
        assert (job.id, job.payload, job.attempt) == (new_id, b'{"n":7}', 1)
        assert (job.lane, job.priority, job.meta, job.result_ttl) == (
            "mail",
            5,
            {"tenant": "7"},
            500,
        )
        assert await ids(master, retried=True) == [old.id]
        assert await ids(master, retried=False) == [new_id]

    async def test_with_another_payload(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        old = Story(payload=b'{"n":7}')
        await record(master, old.accepted(), old.finished())
        (new_id,) = (await master.retry([old.id], b'{"n":8}')).values()
        assert (await master.get_jobs([new_id]))[new_id].payload == b'{"n":8}'
        (job,) = await master.claim_due(harness.now() + 1, 10, 30.0)
        assert job.payload == b'{"n":8}'

    async def test_what_was_encrypted_is_not_done_again_in_plain(
        self, harness: MasterHarness
    ) -> None:
        """And then nothing is done, for the others of the call neither."""
        master = await harness.connect()
        sealed, plain = Story(payload=b'{"$encrypted":"x"}'), Story(payload=b'{"n":7}')
        await record(master, sealed.accepted(), sealed.finished())
        await record(master, plain.accepted(), plain.finished())
        with pytest.raises(InvalidArguments, match=f"{sealed.id}.* encrypted.*codec"):
            await master.retry([plain.id, sealed.id], b'{"n":8}')
        assert sorted(await ids(master, retried=False)) == sorted([sealed.id, plain.id])
        made = await master.retry([plain.id, sealed.id], b'{"$encrypted":"y"}')
        assert set(made) == {plain.id, sealed.id}

    async def test_what_cannot_be_done_again_is_left_out(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        queued, running, bare, done = Story(), Story(), Story(), Story()
        await record(master, queued.accepted(), running.accepted(), running.started())
        await record(master, bare.finished(), done.accepted(), done.finished())
        asked = [queued.id, running.id, bare.id, done.id, done.id, new_job_id(), "no uuid"]
        assert list(await master.retry(asked)) == [done.id]
        assert await master.retry(asked) == {}
        assert sum((await master.count_jobs()).values()) == 5

    async def test_limits_hold_for_what_is_done_again(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        stories = [Story(limits=[Limit("one at a time", concurrency=1)]) for _ in range(2)]
        await master.submit([Held(story.job) for story in stories])
        await record(master, *[s.accepted() for s in stories])
        await record(master, *[s.finished(state=State.FAILED) for s in stories])
        new = await master.retry([story.id for story in stories])
        assert len(new) == 2
        assert await master.claim_due(harness.now() + 1, 10, 30.0) == []
        (job,) = (await master.claim_gated(harness.now() + 1, 10, 30.0)).jobs
        assert job.id in new.values()

    async def test_a_job_runs_after_the_same_ones_again(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        parent, child = Story(), Story(payload=b'{"k":1}')
        after = [After(parent.id, name="first", feeds="n")]
        await master.submit([Held(parent.job), Held(child.job, after=after)])
        await record(master, parent.accepted(), parent.finished())
        await master.unblock()
        await record(master, child.accepted(), child.finished(state=State.FAILED))
        (new_id,) = (await master.retry([child.id])).values()
        await master.unblock()
        jobs = {job.id: job for job in await master.claim_due(harness.now() + 1, 10, 30.0)}
        told = (jobs[new_id].parents or [])[0]
        assert (told.id, told.name, told.result) == (parent.id, "first", b'{"by":"w-1"}')
        assert msgspec.json.decode(jobs[new_id].payload) == {"n": {"by": "w-1"}, "k": 1}
        # What a parent results in when it is done again, counts.
        again = Story(id=(await master.retry([parent.id]))[parent.id])
        failed = Story(id=new_id)
        await record(master, failed.finished(state=State.FAILED))
        (new_id,) = (await master.retry([failed.id])).values()
        await record(master, again.finished(worker="w-2"))
        await master.unblock()
        jobs = {job.id: job for job in await master.claim_due(harness.now() + 1, 10, 30.0)}
        assert msgspec.json.decode(jobs[new_id].payload) == {"n": {"by": "w-2"}, "k": 1}

    async def test_a_workflow_that_broke_is_mended(self, harness: MasterHarness) -> None:
        """At once, or first what failed and then what was cancelled for that."""
        master = await harness.connect()
        for at_once in (True, False):
            first, second, third = Story(), Story(), Story()
            await master.submit(
                [
                    Held(first.job),
                    Held(second.job, after=[After(first.id)]),
                    Held(third.job, after=[After(second.id), After(first.id)]),
                ]
            )
            await record(master, first.accepted(), first.finished(state=State.FAILED))
            await master.unblock()
            ended = await master.get_jobs([second.id, third.id])
            assert {job.state for job in ended.values()} == {State.CANCELLED}
            if at_once:
                new = await master.retry([third.id, second.id, first.id])
            else:
                new = await master.retry([first.id])
                # Fails as well, and is done again.
                failed = Story(id=new[first.id])
                await record(master, failed.finished(state=State.FAILED))
                new[first.id] = (await master.retry([failed.id]))[failed.id]
                new |= await master.retry([third.id, second.id])
            await master.unblock()
            states = {
                i: job.state for i, job in (await master.get_jobs(list(new.values()))).items()
            }
            assert states[new[first.id]] is State.SCHEDULED
            assert states[new[second.id]] is states[new[third.id]] is State.WAITING
            for story in (first, second):
                await record(master, Story(id=new[story.id]).finished())
                await master.unblock()
            assert (await master.get_jobs([new[third.id]]))[new[third.id]].state is State.SCHEDULED

    async def test_parents_that_are_forgotten_hold_nobody(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        parent, child = Story(), Story()
        await master.submit([Held(parent.job), Held(child.job, after=[After(parent.id)])])
        await record(master, parent.accepted(), parent.finished())
        await master.unblock()
        await record(master, child.accepted(), child.finished(state=State.FAILED))
        assert await master.remove([parent.id]) == {parent.id}
        (new_id,) = (await master.retry([child.id])).values()
        assert (await master.get_jobs([new_id]))[new_id].state is State.SCHEDULED

    async def test_a_job_is_done_again_once_whoever_asks(self, harness: MasterHarness) -> None:
        masters = [await harness.connect() for _ in range(4)]
        stories = [Story() for _ in range(60)]
        await record(masters[0], *[s.accepted() for s in stories])
        await record(masters[0], *[s.finished(state=State.FAILED) for s in stories])
        asked = [story.id for story in stories]
        answers = await asyncio.gather(
            *[m.retry(asked[::-1] if n % 2 else asked) for n, m in enumerate(masters)]
        )
        new = [new_id for answer in answers for new_id in answer.values()]
        assert len(new) == len(set(new)) == 60
        held = await ids(masters[0], states=[State.SCHEDULED])
        assert sorted(held) == sorted(new)
        told = await masters[0].get_jobs(asked)
        assert {info.retried_as for info in told.values()} == set(new)

    # forgetting ------------------------------------------------------------------------------

    async def test_what_is_removed_leaves_nothing(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        gone, stays = Story(meta={"a": "b"}), Story(meta={"a": "b"})
        for story in (gone, stays):
            await record(master, story.accepted(), story.event(0), story.retrying())
            await record(master, story.finished(2, "w-2", at=20))
        assert await master.remove([gone.id, new_job_id(), "no uuid"]) == {gone.id}
        assert await master.get_jobs([gone.id]) == {}
        assert await master.attempts(gone.id) == []
        assert await master.events(gone.id) == []
        assert await ids(master, meta={"a": "b"}) == [stays.id]
        assert len(await master.attempts(stays.id)) == 2
        assert len(await master.events(stays.id)) == 1
        assert await master.remove([gone.id]) == set()

    async def test_nothing_unfinished_is_removed(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        queued, running, retrying = Story(), Story(), Story()
        await record(master, *[s.accepted() for s in (queued, running, retrying)])
        await record(master, running.started(), retrying.retrying())
        held = make_job(due_at=harness.now() + 3600)
        await master.hold([held])
        stories = [queued.id, running.id, retrying.id, held.id]
        assert await master.remove(stories) == set()
        assert len(await master.get_jobs(stories)) == 4
        assert (await master.outlived(dict.fromkeys(TERMINAL, 0.0), 10)).job_ids == []

    async def test_what_others_need_stays(self, harness: MasterHarness) -> None:
        """A child that waits for another parent too, and a workflow that is under way."""
        master = await harness.connect()
        first, second, child = Story(), Story(), make_job()
        step, last = Story(workflow=new_job_id()), make_job()
        last = msgspec.structs.replace(last, workflow=step.job.workflow)
        await master.submit(
            [
                *(Held(story.job) for story in (first, second, step)),
                Held(child, after=[After(first.id), After(second.id)]),
                Held(last),
            ]
        )
        await record(master, first.accepted(), first.finished(), step.accepted(), step.finished())
        ended = [first.id, step.id]
        assert await master.remove(ended) == set()
        await master.unblock()
        assert await master.remove(ended) == set()
        await record(master, second.accepted(), second.finished())
        await master.unblock()
        await record(master, *(Story(id=job.id).finished() for job in (child, last)))
        assert await master.remove(ended) == set(ended)

    async def test_keys_go_with_their_jobs(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        now, done = harness.now(), []
        for key, period in (("open", None), ("over", 0.001), ("for ever", inf)):
            story = Story(key=key)
            await master.submit([Held(story.job, KeyRule(period=period))])
            await record(master, story.accepted(), story.finished())
            done.append(story.id)
        await harness.pass_time(0.1)
        assert await master.remove(done) == set(done)
        found = {key: await master.find_key(key) for key in ("open", "over", "for ever")}
        assert found == {"open": None, "over": None, "for ever": done[2]}
        assert await master.sweep(now - DAY, 10) == 0

    async def test_much_is_removed_with_all_that_there_is_of_it(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        talkative = Story()
        stories = [talkative, *(Story() for _ in range(1500))]
        events: list[Record] = [talkative.event(seq) for seq in range(2500)]
        await record(master, *[s.accepted() for s in stories], *events)
        await record(master, *[s.finished() for s in stories])
        asked = [s.id for s in stories]
        assert await master.remove(asked) == set(asked)
        assert await master.count_jobs() == {}
        assert await master.events(talkative.id) == []

    async def _ended(self, master: Master, now: float, state: State, age: float, **of: Any) -> str:
        story = Story(now - age - 2, **of)
        await record(master, story.accepted(), story.finished(state=state, at=2))
        return story.id

    async def test_each_state_has_its_time(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        now = harness.now()
        old = {
            (state, days): await self._ended(master, now, state, days * DAY)
            for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)
            for days in (9, 5, 1)
        }
        retention = {State.SUCCEEDED: 3 * DAY, State.FAILED: 7 * DAY}
        found = await self._outlived(master, retention, limit=1)
        assert set(found) == {
            old[State.SUCCEEDED, 9],
            old[State.SUCCEEDED, 5],
            old[State.FAILED, 9],
        }
        # The oldest of a state first.
        assert found.index(old[State.SUCCEEDED, 9]) < found.index(old[State.SUCCEEDED, 5])
        assert await self._outlived(master, {}, limit=10) == []

    async def test_a_jobs_own_time_wins(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        now = harness.now()
        done = State.SUCCEEDED
        short = await self._ended(master, now, done, 2000, result_ttl=1000.0)
        await self._ended(master, now, done, 2000, result_ttl=3000.0)
        plain = await self._ended(master, now, done, 2000)
        retention: dict[State, float] = {done: 1500.0}
        assert set(await self._outlived(master, retention, limit=1)) == {short, plain}
        assert await self._outlived(master, {}, limit=10) == [short]

    async def test_no_job_is_forgotten_before_who_waits_has_seen_it(
        self, harness: MasterHarness
    ) -> None:
        master = await harness.connect()
        now = harness.now()
        await self._ended(master, now, State.SUCCEEDED, 30, result_ttl=0.001)
        await self._ended(master, now, State.SUCCEEDED, 30)
        gone = await self._ended(master, now, State.SUCCEEDED, 70, result_ttl=0.001)
        assert await self._outlived(master, {State.SUCCEEDED: 0.0}, limit=10) == [gone]

    async def _outlived(
        self, master: Master, retention: dict[State, float], limit: int
    ) -> list[str]:
        """Of all pages."""
        found: list[str] = []
        page: Any = None
        while True:
            answer = await master.outlived(retention, limit, page)
            assert len(answer.job_ids) <= limit
            found += answer.job_ids
            page = answer.page
            if page is None:
                return found

    async def test_workers_of_old_are_forgotten(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        beats = [
            Heartbeat(f"w-{n}", float(n), "a-1", "host", 1, "1.0", 0.0, "stopped", [])
            for n in range(10)
        ]
        await record(master, *beats)
        assert await master.sweep(5.0, 3) == 3
        assert await master.sweep(5.0, 3) == 2
        assert await master.sweep(5.0, 3) == 0
        assert [w.worker for w in await master.workers()] == [f"w-{n}" for n in range(9, 4, -1)]

    async def test_forgetting_while_more_is_recorded(self, harness: MasterHarness) -> None:
        """A recorder, and two who forget, at once: what is new stays whole, what is old goes."""
        master, one, two = [await harness.connect() for _ in range(3)]
        now = harness.now()
        old = [Story(now - 9 * DAY) for _ in range(600)]
        new = [Story(now - 600, meta={"new": "1"}) for _ in range(600)]
        await record(master, *[s.accepted() for s in old])
        await record(master, *[s.finished() for s in old])
        lease = await lease_of(master)

        async def tell() -> None:
            for start in range(0, 600, 50):
                some = new[start : start + 50]
                await master.record("a-1", [s.accepted() for s in some], lease)
                await master.record("a-1", [s.event(0) for s in some], lease)
                await master.record("a-1", [s.finished() for s in some], lease)

        async def forget(by: Master) -> None:
            while found := (await by.outlived({State.SUCCEEDED: DAY}, 64)).job_ids:
                await by.remove(found)

        await asyncio.gather(tell(), forget(one), forget(two))
        await forget(one)
        assert await master.get_jobs([s.id for s in old]) == {}
        assert await ids(master, states=[State.SUCCEEDED], limit=500) == newest(new)
        assert len(await ids(master, meta={"new": "1"}, limit=500)) == 600
