"""What decides in the cluster, against models: small programs that say what must come of any
sequence of steps. The master is a real one, on SQLite, with time that goes on by hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from math import inf
from pathlib import Path
from random import Random
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mesh.errors import LeaseLost
from mesh.held import Held, KeyRule, OnConflict
from mesh.job import TERMINAL, State, new_job_id
from mesh.ports import AgentSettings, Consumer, Delivery, JobInfo, Lease, MasterSettings, Settlement
from mesh.retry import Retry
from mesh.testing import ManualClock, MemoryAgent
from mesh.testing.conformance.agent import make_job
from mesh.testing.conformance.conditions import run_of
from mesh.wire import Accepted, Envelope, ErrorInfo, Finished, Limit, Record, Retrying, Started
from mesh_master.store import SqlMaster
from mesh_workers.outcome import Cancelled, Failed, Outcome, Run, Snoozed, Succeeded, decide, start

T = TypeVar("T")

EXAMPLES = 15
ERROR = ErrorInfo("ValueError", "no")


class Bench:
    """A master that all examples use in turn, and the loop that it belongs to."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.master = SqlMaster(f"sqlite:///{folder / 'mesh.db'}", MasterSettings(clock=self.clock))
        self.run(self.master.open())

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def clear(self) -> None:
        async def clear() -> None:
            tables = self.master.tables
            async with self.master.database.write() as connection:
                for table in reversed(tables.jobs.metadata.sorted_tables):
                    if table is not tables.cluster:
                        await connection.execute(table.delete())

        self.run(clear())

    def close(self) -> None:
        self.run(self.master.close())
        self.runner.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("models"))
    yield bench
    bench.close()


class Machine(RuleBasedStateMachine):
    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.clear()
        self.clock, self.master, self.run = self.bench.clock, self.bench.master, self.bench.run

    @rule(seconds=st.sampled_from([1, 5, 20, 90]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def tell(self, *records: Record) -> None:
        lease = self.run(self.master.acquire("recorder:a", "me", 1e9))
        assert lease is not None
        self.run(self.master.record("a", records, lease))


def check(machine: type[Machine], bench: Bench, *, examples: int = EXAMPLES) -> None:
    times = max(1, settings().max_examples // 100)  # the profile ``fuzz`` wants more
    machine.bench = bench
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * times,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )


# leadership ----------------------------------------------------------------------------------


class Leases(Machine):
    """One holder at a time; a token that only grows; a write of a former holder is refused."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.holder: str | None = None
        self.token = 0
        self.ends = -inf

    @property
    def is_free(self) -> bool:
        return self.holder is None or self.clock.time() >= self.ends

    @rule(target=leases, holder=st.sampled_from("xyz"), ttl=st.sampled_from([3.0, 10.0]))
    def acquire(self, holder: str, ttl: float) -> Any:
        lease = self.run(self.master.acquire("recorder:a", holder, ttl))
        if not self.is_free and holder != self.holder:
            assert lease is None
            return multiple()
        if self.is_free:
            self.token += 1
        assert lease == Lease("recorder:a", holder, self.token, ttl)
        self.holder, self.ends = holder, self.clock.time() + ttl
        return lease

    def is_newest(self, lease: Lease) -> bool:
        return (lease.holder, lease.token) == (self.holder, self.token)

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        # Also after it has run out, as long as nobody else took it.
        assert self.run(self.master.renew(lease)) is self.is_newest(lease)
        if self.is_newest(lease):
            self.ends = self.clock.time() + lease.ttl

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        self.run(self.master.release(lease))
        if self.is_newest(lease):
            self.holder = None

    @rule(lease=leases)
    def write(self, lease: Lease) -> None:
        job = make_job()
        write = self.master.record("a", [Accepted(job, 1.0)], lease)
        if self.is_newest(lease):
            self.run(write)
        else:
            with pytest.raises(LeaseLost):
                self.run(write)
        assert (job.id in self.run(self.master.known([job.id]))) is self.is_newest(lease)

    @invariant()
    def the_holder_is_told(self) -> None:
        held = {} if self.is_free else {"recorder:a": self.holder}
        assert self.run(self.master.leases()) == held


def test_leases(bench: Bench) -> None:
    check(Leases, bench)


# keys ----------------------------------------------------------------------------------------


class Keys(Machine):
    """A key stands for one job; the newcomer's rule says what happens on a conflict."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Envelope] = {}
        self.states: dict[str, State] = {}
        self.until: dict[str, float | None] = {}
        self.stands: dict[str, str] = {}
        self.bounds: dict[str, float] = {}

    def standing(self, key: str) -> str | None:
        job_id = self.stands.get(key)
        if job_id is None:
            return None
        until = self.until[key]
        over = self.states[job_id] in TERMINAL if until is None else until <= self.clock.time()
        return None if over else job_id

    @rule(
        key=st.sampled_from("kl"),
        on_conflict=st.sampled_from(["keep", "replace", "debounce", "raise"]),
        period=st.sampled_from([None, None, 15.0, inf]),
        delay=st.sampled_from([0, 10, 40]),
        payload=st.integers(0, 9),
        again=st.booleans(),
    )
    def submit(
        self,
        key: str,
        on_conflict: OnConflict,
        period: float | None,
        delay: int,
        payload: int,
        again: bool,
    ) -> None:
        now = self.clock.time()
        job = make_job(key=key, payload=b'{"n":%d}' % payload, enqueued_at=now, due_at=now + delay)
        held = Held(job, KeyRule(on_conflict, period), firm=True)
        (stored,) = self.run(self.master.submit([held]))
        existing = self.standing(key)
        if existing is None:
            assert (stored.job_id, stored.existing) == (job.id, False)
            self.jobs[job.id], self.states[job.id] = job, State.SCHEDULED
            self.stands[key] = job.id
            self.until[key] = None if period is None else now + period
        else:
            assert (stored.job_id, stored.existing) == (existing, True)
            assert stored.refused is (on_conflict == "raise")
            may = on_conflict in ("replace", "debounce")
            assert stored.replaced is (may and self.states[existing] is State.SCHEDULED)
            if stored.replaced:
                self.jobs[existing] = job
        if again and existing is None:
            # In doubt whether it was stored: the same job is no other.
            (twice,) = self.run(self.master.submit([held]))
            assert (twice.job_id, twice.existing) == (job.id, False)

    @precondition(lambda self: State.SCHEDULED in self.states.values())
    @rule(data=st.data(), ended=st.booleans())
    def moves_on(self, data: st.DataObject, ended: bool) -> None:
        open_ones = sorted(i for i, s in self.states.items() if s is State.SCHEDULED)
        job_id = data.draw(st.sampled_from(open_ones))
        job = make_job(id=job_id, key=self.jobs[job_id].key)
        run = run_of(job, self.clock.time())
        self.tell(
            Accepted(job, self.clock.time()),
            Finished(**run, state=State.SUCCEEDED) if ended else Started(**run),
        )
        self.states[job_id] = State.SUCCEEDED if ended else State.RUNNING

    @invariant()
    def the_master_knows_the_same(self) -> None:
        for key in "kl":
            assert self.run(self.master.find_key(key)) == self.standing(key)
        found = self.run(self.master.get_jobs(list(self.jobs)))
        assert {job_id: info.state for job_id, info in found.items()} == self.states
        for job_id, info in found.items():
            if info.state is State.SCHEDULED:
                assert info.payload == self.jobs[job_id].payload
                assert info.due_at == pytest.approx(self.jobs[job_id].due_at)


def test_keys(bench: Bench) -> None:
    check(Keys, bench)


# limits --------------------------------------------------------------------------------------


class Limits(Machine):
    """No more under way than each limit lets; every place comes back; the rest go on in order."""

    LIMITS: ClassVar = {"p": 1, "q": 2, "r": 3}
    claimed = Bundle("claimed")

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, frozenset[str]] = {}
        self.under_way: dict[str, frozenset[str]] = {}
        self.jobs: dict[str, Envelope] = {}

    def room(self, key: str) -> int:
        return self.LIMITS[key] - sum(key in keys for keys in self.under_way.values())

    @rule(keys=st.sets(st.sampled_from("pqr"), min_size=1), count=st.integers(1, 3))
    def submit(self, keys: set[str], count: int) -> None:
        limits = [Limit(key, concurrency=self.LIMITS[key]) for key in sorted(keys)]
        jobs = [make_job(limits=limits, enqueued_at=self.clock.time()) for _ in range(count)]
        self.run(self.master.submit([Held(job) for job in jobs]))
        for job in jobs:
            self.jobs[job.id], self.waiting[job.id] = job, frozenset(keys)

    @rule(target=claimed, limit=st.integers(1, 4))
    def claim(self, limit: int) -> Any:
        now = self.clock.time()
        jobs = self.run(self.master.claim_gated(now, limit, 1e9)).jobs
        assert len(jobs) <= limit
        for job in jobs:
            self.under_way[job.id] = self.waiting.pop(job.id)
        assert all(self.room(key) >= 0 for key in self.LIMITS)
        if not jobs:
            # Nothing was kept back that might have gone.
            for keys in self.waiting.values():
                assert any(self.room(key) == 0 for key in keys)
        return multiple(*(job.id for job in jobs))

    @rule(job_id=claimed)
    def begin(self, job_id: str) -> None:
        if job_id in self.under_way:
            job, at = self.jobs[job_id], self.clock.time()
            self.tell(Accepted(job, at), Started(**run_of(job, at)))

    @rule(job_id=consumes(claimed), state=st.sampled_from([State.SUCCEEDED, State.FAILED]))
    def end(self, job_id: str, state: State) -> None:
        job, at = self.jobs[job_id], self.clock.time()
        error = ERROR if state is State.FAILED else None
        self.tell(Accepted(job, at), Finished(**run_of(job, at), state=state, error=error))
        # Told twice, and of one that never was: nothing comes of it.
        self.run(self.master.unblock([job_id, job_id, new_job_id()]))
        self.under_way.pop(job_id, None)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.waiting)))
        states = self.run(self.master.cancel([job_id], "no"))
        assert states == {job_id: State.CANCELLED}
        del self.waiting[job_id]

    def teardown(self) -> None:
        """With every place back, all that waits goes on."""
        for _ in range(len(self.jobs) + 1):
            for job_id in list(self.under_way):
                self.end(job_id, State.SUCCEEDED)
            self.claim(100)
        assert not self.waiting


def test_limits(bench: Bench) -> None:
    check(Limits, bench, examples=8)


# the life of a job ---------------------------------------------------------------------------


class Lives(Machine):
    """Jobs on an agent, workers that die, stop or come back as zombies, and a recorder that reads
    again what it had not acknowledged: the first outcome that the ledger tells is the history's."""

    LEASE = 10.0
    POLICY = Retry(3, delay=2, backoff="fixed", jitter=0)
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        url = f"memory://{new_job_id()}"
        self.agent = MemoryAgent("a", url, AgentSettings(clock=self.clock))
        self.consumer: Consumer = self.run(self.agent.consume("default", lease=self.LEASE))
        self.ids: list[str] = []
        self.read: list[Record] = []
        self.recorded = 0
        self.random = Random(0)

    @initialize(count=st.integers(1, 3))
    def push(self, count: int) -> None:
        jobs = [make_job(enqueued_at=self.clock.time()) for _ in range(count)]
        self.ids = [job.id for job in jobs]
        assert self.run(self.agent.push(jobs)) == [None] * count

    def pulled(self, limit: int) -> list[Delivery]:
        depth = self.run(self.agent.depth()).get("default")
        return self.run(self.consumer.pull(limit)) if depth and depth.ready else []

    @rule(target=held, limit=st.integers(1, 3))
    def pull(self, limit: int) -> Any:
        return multiple(*self.pulled(limit))

    def run_of(self, delivery: Delivery) -> Run:
        attempt = delivery.job.attempt + delivery.lost
        worker = delivery.receipt.replace("/", "-")
        return Run(delivery.job, attempt, delivery.lost, worker, self.clock.time())

    @rule(delivery=held)
    def begin(self, delivery: Delivery) -> None:
        self.run(self.agent.append([start(self.run_of(delivery))]))

    @rule(
        delivery=held,
        outcome=st.sampled_from(
            [
                Succeeded(b"1"),
                Failed(ERROR),
                Failed(ERROR, retryable=False),
                Failed(ERROR, delay=30.0),
                Cancelled(ERROR),
                Snoozed(ERROR, 5.0),
            ]
        ),
    )
    def end(self, delivery: Delivery, outcome: Outcome) -> None:
        """By its holder, or by a zombie whose lease is another's by now; perhaps again."""
        self.settle(delivery, outcome)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        now = self.clock.time()
        record, again = decide(self.run_of(delivery), outcome, self.POLICY, now, self.random)
        self.run(self.consumer.settle([Settlement(delivery, record, again)]))

    @rule(limit=st.integers(1, 5), back=st.integers(0, 4))
    def record(self, limit: int, back: int) -> None:
        """A batch, after some that were recorded already and not acknowledged."""
        self.read_ledger()
        begin = max(0, self.recorded - back)
        self.recorded = min(len(self.read), self.recorded + limit)
        self.tell(*self.read[begin : self.recorded])

    def read_ledger(self) -> None:
        ledger = self.run(self.agent.ledger())
        self.read = list(self.run(ledger.read(10_000, 0)).records)

    def known(self) -> dict[str, JobInfo]:
        return self.run(self.master.get_jobs(self.ids))

    @invariant()
    def the_history_is_what_was_recorded(self) -> None:
        known = self.known()
        for job_id in self.ids:
            told = [r for r in self.read[: self.recorded] if getattr(r, "id", "") == job_id]
            ends = [r for r in told if isinstance(r, Finished)]
            if ends:
                info = known[job_id]
                assert (info.state, info.attempt) == (ends[0].state, ends[0].attempt)
            elif job_id in known:
                runs = [r.attempt for r in told if isinstance(r, Started | Retrying)]
                assert known[job_id].state not in TERMINAL
                assert known[job_id].attempt == max(runs, default=1)

    def teardown(self) -> None:
        """Whatever came before: when a worker works on, each job ends."""
        for _ in range(60):
            for delivery in self.pulled(10):
                self.settle(delivery, Succeeded(b"1"))
            self.clock.advance(self.LEASE)
            if not any(depth.total for depth in self.run(self.agent.depth()).values()):
                break
        self.read_ledger()
        self.recorded = len(self.read)
        self.tell(*self.read)
        self.the_history_is_what_was_recorded()
        ended = Counter(info.state in TERMINAL for info in self.known().values())
        assert ended == {True: len(self.ids)}
        for job_id in self.ids:
            attempts = self.run(self.master.attempts(job_id))
            # Of a number there may be two, by workers of which neither was told of the other.
            runs = [(attempt.attempt, attempt.worker) for attempt in attempts]
            assert len(runs) == len(set(runs))
            numbers = [attempt.attempt for attempt in attempts]
            assert numbers == sorted(numbers)
            assert set(range(1, self.known()[job_id].attempt + 1)) <= set(numbers)


def test_lives(bench: Bench) -> None:
    check(Lives, bench)
