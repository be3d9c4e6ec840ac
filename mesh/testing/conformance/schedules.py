"""The behavioural suite of a master's ``Schedules``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mesh.job import State, new_job_id
from mesh.ports import JobFilter, Master
from mesh.recurring import Declaration, Definition, ScheduleInfo, Schedules, slot_job_id
from mesh.testing.conformance.master import AGENT, MasterHarness
from mesh.wire import Accepted, Envelope, Finished

__all__ = ["SchedulesConformance"]

FIRST = 1_800_000_060.0


def make_definition(**changes: Any) -> Definition:
    return Definition(
        **{"handler": "h", "expression": "every minute", "payload": "{}", "lane": "l", **changes}
    )


def make_schedule(name: str = "s", **changes: Any) -> ScheduleInfo:
    return replace(
        ScheduleInfo(
            name=name,
            definition=make_definition(),
            app="",
            source="api",
            state="active",
            revision=1,
            created_at=1_800_000_000.0,
            updated_at=1_800_000_000.0,
            next_slot=FIRST,
        ),
        **changes,
    )


def make_jobs(schedule: ScheduleInfo, *slots: float) -> list[Envelope]:
    return [
        schedule.definition.job(
            schedule.name, slot_job_id(schedule.name, slot, schedule.revision), now=1.0, slot=slot
        )
        for slot in slots
    ]


async def stored(store: Schedules, schedule: ScheduleInfo) -> ScheduleInfo:
    assert await store.insert(schedule)
    return schedule


async def make(
    store: Schedules, schedule: ScheduleInfo, *slots: float, state: State = State.SCHEDULED
) -> list[Envelope]:
    jobs = make_jobs(schedule, *slots)
    assert await store.make(schedule, slots[-1] + 60, jobs, [state] * len(jobs))
    return jobs


async def record(master: Master, *records: Any) -> None:
    lease = await master.acquire("recorder", "test", 30)
    assert lease is not None
    await master.record(AGENT, records, lease)


def finished(job: Envelope, state: State = State.SUCCEEDED) -> Finished:
    return Finished(
        *(job.id, 1, FIRST, job.name, job.lane, job.priority, 1.0, "w", FIRST, 0), state
    )


class SchedulesConformance:
    """Subclass, and give it a ``harness`` fixture, as for ``MasterConformance``."""

    async def test_what_is_stored_is_read(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        retry_and_all = make_definition(meta={"a": "é"}, overlap="queue", timeout=3.5)
        one = await stored(store, make_schedule("one", definition=retry_and_all, reason="r"))
        two = await stored(
            store, make_schedule("two", next_slot=None, source="code", zone="Asia/Tokyo")
        )
        assert await store.get("one") == one
        assert await store.get("three") is None
        assert await store.all() == [one, two]

    async def test_a_name_is_given_once(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        first = await stored(store, make_schedule())
        assert not await store.insert(make_schedule(app="other"))
        assert await store.get("s") == first

    async def test_an_update_needs_the_revision(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        schedule = await stored(store, make_schedule())
        assert await store.update("s", 1, state="paused", next_slot=None)
        assert not await store.update("s", 1, state="active")
        found = await store.get("s")
        assert found is not None
        changed: dict[str, Any] = {
            "revision": 2,
            "state": "paused",
            "next_slot": None,
            "pending": True,
        }
        assert found == replace(schedule, **changed, updated_at=found.updated_at)
        assert await store.update("s", 2, quietly=True, pending=False)
        assert await store.get("s") == replace(found, pending=False)

    async def test_due_are_the_active_and_the_pending(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        await stored(store, make_schedule("later", next_slot=FIRST + 1))
        await stored(store, make_schedule("now"))
        await stored(store, make_schedule("first", next_slot=FIRST - 60))
        await stored(store, make_schedule("over", next_slot=None))
        await stored(store, make_schedule("off", state="disabled"))
        assert [s.name for s in await store.due(FIRST, 10)] == ["first", "now"]
        assert [s.name for s in await store.due(FIRST, 1)] == ["first"]
        await stored(store, make_schedule("gone", state="deleted", pending=True, next_slot=None))
        assert {s.name for s in await store.due(FIRST, 10)} == {"first", "now", "gone"}

    async def test_the_cursor_moves_with_the_jobs(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        jobs = await make(store, schedule, FIRST, FIRST + 60)
        moved = await store.get("s")
        assert moved == replace(schedule, next_slot=FIRST + 120, last_slot=FIRST + 60)
        # Another scheduler has seen the same, and comes too late.
        assert not await store.make(
            schedule, FIRST + 60, make_jobs(schedule, FIRST), [State.SKIPPED]
        )
        held = await master.claim_due(FIRST + 60, 10, 30.0)
        assert held == jobs
        infos = await master.list_jobs(JobFilter(schedule="s"))
        assert [(i.schedule, i.slot, i.state) for i in infos] == [
            ("s", FIRST + 60, State.SCHEDULED),
            ("s", FIRST, State.SCHEDULED),
        ]

    async def test_no_jobs_for_one_that_is_not_active(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        schedule = await stored(store, make_schedule(state="paused"))
        assert not await store.make(
            schedule, FIRST + 60, make_jobs(schedule, FIRST), [State.SCHEDULED]
        )
        assert await store.open_jobs("s") == []

    async def test_a_slot_has_one_job(self, harness: MasterHarness) -> None:
        """Whatever the revision that made it; and nothing is said of the other's."""
        store = (await harness.connect()).schedules
        schedule = await stored(store, make_schedule())
        (first,) = await make(store, schedule, FIRST)
        assert await store.update("s", 1, next_slot=FIRST)
        changed = await store.get("s")
        assert changed is not None
        _, second = await make(store, changed, FIRST, FIRST + 60)
        assert [(j.job_id, j.revision) for j in await store.open_jobs("s")] == [
            (first.id, 1),
            (second.id, 2),
        ]

    async def test_many_slots_at_once(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        schedule = await stored(store, make_schedule())
        await make(store, schedule, *[FIRST + 60 * n for n in range(500)])
        assert len(await store.open_jobs("s")) == 500

    async def test_a_waiting_job_waits(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        (job,) = await make(store, schedule, FIRST, state=State.WAITING)
        assert await master.claim_due(FIRST + 1000, 10, 1.0) == []
        await store.release(job.id)
        assert await master.claim_due(max(FIRST, store.now()), 10, 1.0) == [job]

    async def test_a_skipped_slot_is_history(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        (job,) = await make(store, schedule, FIRST, state=State.SKIPPED)
        info = (await master.get_jobs([job.id]))[job.id]
        assert (info.state, info.slot) == (State.SKIPPED, FIRST)
        assert info.finished_at is not None
        assert await store.open_jobs("s") == []
        assert await master.claim_due(FIRST + 1000, 10, 1.0) == []

    async def test_outcomes_come_latest_first(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        one, two, three, _ = await make(store, schedule, *[FIRST + 60 * n for n in range(4)])
        moved = await store.get("s")
        assert moved is not None
        (four,) = await make(store, moved, FIRST + 240, state=State.SKIPPED)
        await record(master, finished(one), finished(two), finished(three, State.FAILED))
        ends = await store.outcomes("s", 10)
        assert [end.job_id for end in ends] == [four.id, three.id, two.id, one.id]
        assert [end.job_id for end in await store.outcomes("s", 2)] == [four.id, three.id]
        since = await store.outcomes("s", 10, FIRST, skipped=False)
        assert [(end.slot, end.state) for end in since] == [
            (FIRST + 120, State.FAILED),
            (FIRST + 60, State.SUCCEEDED),
        ]

    async def test_a_job_of_no_slot(self, harness: MasterHarness) -> None:
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        for _ in range(2):
            await store.add(schedule.definition.job("s", new_job_id(), now=store.now()))
        assert [job.slot for job in await store.open_jobs("s")] == [None, None]
        assert len(await master.claim_due(store.now(), 10, 1.0)) == 2

    async def test_withdrawing(self, harness: MasterHarness) -> None:
        """What never left goes without a trace; what did is cancelled; what ended stays."""
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        here, there, done, kept = await make(store, schedule, *[FIRST + 60 * n for n in range(4)])
        await record(master, Accepted(there, 1.0), Accepted(done, 1.0), finished(done))
        opened = await store.open_jobs("s")
        assert [(j.job_id, j.agent, j.claimed) for j in opened] == [
            (here.id, None, False),
            (there.id, AGENT, False),
            (kept.id, None, False),
        ]
        assert await store.withdraw([here.id, there.id, done.id], "changed") == 2
        infos = await master.get_jobs([here.id, there.id, done.id, kept.id])
        assert {i: (infos[i].state, infos[i].slot) for i in infos} == {
            there.id: (State.CANCELLED, None),
            done.id: (State.SUCCEEDED, done.slot),
            kept.id: (State.SCHEDULED, kept.slot),
        }
        assert infos[there.id].error_message == "changed"
        # Late news of it changes nothing.
        await record(master, Accepted(there, 1.0))
        assert (await master.get_jobs([there.id]))[there.id].state is State.CANCELLED

    async def test_what_is_in_a_dispatchers_hand_is_not_withdrawn(
        self, harness: MasterHarness
    ) -> None:
        """It may be on an agent by now, though nobody has heard of it."""
        master = await harness.connect()
        store = master.schedules
        schedule = await stored(store, make_schedule())
        (job,) = await make(store, schedule, FIRST)
        assert await master.claim_due(FIRST, 10, 30.0) == [job]
        assert await store.withdraw([job.id], "changed") == 0
        assert (await master.get_jobs([job.id]))[job.id].state is State.SCHEDULED

    async def test_declarations_are_kept_apart_by_what_they_say(
        self, harness: MasterHarness
    ) -> None:
        store = (await harness.connect()).schedules
        old, new = make_definition(), make_definition(expression="every hour")
        alive = Declaration("", "app", None, "keep_database", "ignore")

        def declared(definition: Definition) -> Declaration:
            return Declaration("s", "app", definition, "update_from_code", "disable")

        await store.declare([alive, declared(old)], starting=True)
        await harness.pass_time(1.1)
        await store.declare([declared(new)], starting=True)
        await store.declare([declared(old)], starting=False)
        found = {d.hash: d for d in await store.declarations()}
        assert {d.definition for d in found.values()} == {None, old, new}
        first, second = found[old.hash], found[new.hash]
        assert first.first_seen == first.declared_at < second.first_seen <= first.seen_at
        assert found["app"] == replace(
            alive,
            first_seen=first.first_seen,
            declared_at=first.first_seen,
            seen_at=first.first_seen,
        )
        await store.declare([declared(old)], starting=True)
        again = {d.hash: d for d in await store.declarations()}[old.hash]
        assert again.first_seen == first.first_seen
        assert again.declared_at >= second.declared_at

    async def test_removal(self, harness: MasterHarness) -> None:
        store = (await harness.connect()).schedules
        await stored(store, make_schedule())
        assert not await store.remove("s", 2)
        assert await store.remove("s", 1)
        assert await store.all() == []
