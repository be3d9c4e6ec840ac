"""A process that enqueues in every way there is, until SIGTERM, and writes down what it was told.

``try`` is written before each call, with a name for each job that no other has; then ``ack`` with
the job's id, ``refused`` (certainly not stored) or ``unknown``; a process that is killed in
between leaves it at ``try``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import count

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from mesh import (
    AgentUnavailable,
    JobHandle,
    MeshError,
    PartlyStored,
    PublishOutcomeUnknown,
    Workflow,
    chain,
    group,
)

from .application import (
    apart,
    app,
    doomed,
    flaky,
    journal,
    limited,
    quick,
    slow,
    step,
    threaded,
)
from .database import engine

PAUSE = float(os.environ.get("CHAOS_PAUSE", "0.05"))
VERSION = int(os.environ.get("CHAOS_VERSION", "1"))


class Producer:
    def __init__(self, who: str, seed: int) -> None:
        self._who = who
        self._random = random.Random(f"{seed} {who}")
        self._numbers = count()
        self._engine: AsyncEngine | None = None
        self._cancelling: set[asyncio.Task[None]] = set()

    def new(self, kind: str, **more: object) -> str:
        """A name for a job, which is written down as tried."""
        n = f"{self._who}.{next(self._numbers)}"
        journal.write("try", n=n, kind=kind, **more)
        return n

    async def told(self, names: Sequence[str], call: Awaitable[Sequence[JobHandle[str]]]) -> None:
        """Write down what became of one call."""
        try:
            jobs = await call
        except PartlyStored as partly:
            unknown = dict(zip(sorted(partly.unknown), partly.job_ids, strict=True))
            for number, n in enumerate(names):
                if number in unknown:
                    journal.write("unknown", n=n, job=unknown[number])
                elif number >= partly.tried or number in partly.not_stored:
                    journal.write("refused", n=n, why=str(partly)[:200])
                else:
                    # It is stored; under which id, the error does not say.
                    journal.write("stored", n=n)
        except PublishOutcomeUnknown as unknown_outcome:
            ids = dict(zip(names, unknown_outcome.job_ids, strict=False))
            for n in names:
                journal.write("unknown", n=n, job=ids.get(n), why=str(unknown_outcome)[:200])
        except AgentUnavailable as error:
            for n in names:
                journal.write("refused", n=n, why=str(error)[:200])
        except (MeshError, SQLAlchemyError, OSError) as error:
            # What the master did not confirm may be there.
            for n in names:
                journal.write("unknown", n=n, why=f"{type(error).__name__}: {error}"[:200])
        else:
            for n, job in zip(names, jobs, strict=True):
                journal.write("ack", n=n, job=job.id, existing=job.existing)

    # ways to enqueue --------------------------------------------------------------------------

    async def one(self) -> None:
        roll, seconds = self._random.random(), self._random.uniform(0.05, 0.6)
        if roll < 0.5:
            n = self.new("single")
            options = quick.options(priority=self._random.choice(["low", "normal", "high"]))
            call = options.enqueue(n)
        elif roll < 0.6:
            n = self.new("single")
            call = slow.enqueue(n, seconds)
        elif roll < 0.7:
            n = self.new("single")
            call = threaded.enqueue(n, seconds)
        elif roll < 0.76:
            n = self.new("single")
            call = apart.enqueue(n, seconds)
        elif roll < 0.9:
            n = self.new("single")
            call = flaky.enqueue(n, self._random.randint(0, 3))
        elif roll < 0.96 or VERSION < 2:
            n = self.new("doomed")
            call = doomed.enqueue(n)
        else:
            n = self.new("single")
            call = app.handlers["newer"].enqueue(n)
        await self.told([n], _one(call))

    async def again(self) -> None:
        """As the documents say to do where the outcome is unknown: once more, with the id."""
        n = self.new("single")
        try:
            job = await quick.enqueue(n)
        except PublishOutcomeUnknown as unknown:
            journal.write("unknown", n=n, job=unknown.job_ids[0])
            await self.told([n], _one(quick.options(id=unknown.job_ids[0]).enqueue(n)))
        except MeshError as error:
            is_refusal = isinstance(error, AgentUnavailable)
            journal.write("refused" if is_refusal else "unknown", n=n, why=str(error)[:200])
        else:
            journal.write("ack", n=n, job=job.id, existing=False)

    async def many(self) -> None:
        names = [self.new("bulk") for _ in range(self._random.randint(20, 100))]
        await self.told(names, quick.enqueue_many([(n,) for n in names]))

    async def later(self) -> None:
        n = self.new("delayed")
        delay = self._random.choice([0.3, 1.0, 3.0, 8.0])
        await self.told([n], _one(quick.options(delay=delay).enqueue(n)))

    async def durable(self) -> None:
        n = self.new("durable")
        await self.told([n], _one(quick.options(durability="master").enqueue(n)))

    async def keyed(self) -> None:
        # All producers use the same keys at about the same time.
        key = f"once-{time.monotonic() / 0.3:.0f}"
        n = self.new("keyed", key=key)
        await self.told([n], _one(quick.options(key=key, key_scope="forever").enqueue(n)))

    async def alone(self) -> None:
        key = f"alone-{self._random.randint(0, 3)}"
        n = self.new("alone", key=key)
        await self.told([n], _one(slow.options(key=key).enqueue(n, 0.2)))

    async def under_a_limit(self) -> None:
        names = [self.new("limited") for _ in range(self._random.randint(1, 4))]
        seconds = self._random.uniform(0.05, 0.2)
        await self.told(names, limited.enqueue_many([(n, seconds) for n in names]))

    async def in_a_transaction(self) -> None:
        n = self.new("transaction")
        try:
            async with AsyncSession(self._database()) as session:
                await session.execute(text("INSERT INTO orders (n) VALUES (:n)"), {"n": n})
                job = await quick.options(session=session).enqueue(n)
                if self._random.random() < 0.4:
                    await session.rollback()
                    journal.write("refused", n=n, why="rolled back")
                    return
                await session.commit()
        except Exception as error:  # drivers have their own, and SQLAlchemy lets some through
            journal.write("unknown", n=n, why=f"{type(error).__name__}: {error}"[:200])
        else:
            journal.write("ack", n=n, job=job.id, existing=False)

    def _database(self) -> AsyncEngine:
        if self._engine is None:
            self._engine = engine(app.config.master or "", pool_pre_ping=True)
        return self._engine

    async def flow(self) -> None:
        shape = self._random.randint(0, 2)
        size = (3, 5, 4)[shape]
        names = [self.new("flow") for _ in range(size)]
        steps = [step.draft(n=n) for n in names]
        if shape == 0:
            call = chain(*steps).enqueue()
        elif shape == 1:
            call = group(*steps[:-1]).then(steps[-1]).enqueue()
        else:
            diamond = Workflow()
            top = diamond.add(steps[0])
            sides = [diamond.add(side, after=top) for side in steps[1:3]]
            diamond.add(steps[3], after=sides, feed="fed")
            call = diamond.enqueue()

        async def jobs() -> Sequence[JobHandle[str]]:
            return list((await call).jobs.values())

        await self.told(names, jobs())

    async def cancelled(self) -> None:
        """Enqueued, and called off a moment later."""
        n = self.new("cancelled")
        delay = self._random.choice([0.0, 0.5, 8.0])
        try:
            job = await slow.options(delay=delay).enqueue(n, 1.0)
        except MeshError as error:
            journal.write("unknown", n=n, why=str(error)[:200])
            return
        journal.write("ack", n=n, job=job.id, existing=False)
        task = asyncio.create_task(self._cancel(job, self._random.uniform(0, 1.5)))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, job: JobHandle[str], after: float) -> None:
        await asyncio.sleep(after)
        try:
            state = await job.cancel(reason="chaos", wait=2)
        except MeshError as error:
            journal.write("cancel", job=job.id, state=None, why=str(error)[:200])
        else:
            journal.write("cancel", job=job.id, state=str(state))

    # life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        ways: list[tuple[Callable[[], Coroutine[None, None, None]], int]] = [
            (self.one, 40),
            (self.again, 10),
            (self.many, 3),
            (self.later, 8),
            (self.durable, 4),
            (self.keyed, 8),
            (self.alone, 6),
            (self.under_a_limit, 5),
            (self.in_a_transaction, 10),
            (self.flow, 3),
            (self.cancelled, 4),
        ]
        calls, weights = [way for way, _ in ways], [weight for _, weight in ways]
        async with app, asyncio.TaskGroup() as tasks:
            going: set[asyncio.Task[None]] = set()
            while not stop.is_set():
                # Calls overlap, as those of a web service do, and one that hangs stops no other.
                if len(going) < 20:
                    way = self._random.choices(calls, weights)[0]
                    task = tasks.create_task(way())
                    going.add(task)
                    task.add_done_callback(going.discard)
                await asyncio.sleep(self._random.expovariate(1 / PAUSE))
            await asyncio.gather(*going, *self._cancelling)
        if self._engine is not None:
            await self._engine.dispose()
        journal.write("bye")


async def _one(call: Awaitable[JobHandle[str]]) -> Sequence[JobHandle[str]]:
    return [await call]


def main() -> None:
    who = os.environ["CHAOS_WHO"]
    asyncio.run(Producer(who, int(os.environ["CHAOS_SEED"])).run())


if __name__ == "__main__":
    main()
