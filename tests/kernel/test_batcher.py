"""Group commit: nothing lost, nothing stranded, to each its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.batcher import Batcher


class Disk:
    """Writes that take as many turns of the loop as a script says, or fail."""

    def __init__(self, script: Sequence[int] = (), fail_on: frozenset[int] = frozenset()) -> None:
        self.script = list(script)
        self.fail_on = fail_on
        self.batches: list[list[int]] = []
        self.active = self.most_active = 0

    async def write(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            for _ in range(self.script.pop(0) if self.script else 0):
                await asyncio.sleep(0)
            if self.fail_on.intersection(items):
                raise OSError(f"disk full at {sorted(self.fail_on.intersection(items))}")
        finally:
            self.active -= 1
        return [item * 10 for item in items]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(1, 3),
    st.lists(st.integers(0, 5), max_size=20),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40),
    st.frozensets(st.integers(0, 39), max_size=4),
)
def test_no_item_is_lost_or_stranded(
    max_items: int,
    max_in_flight: int,
    script: list[int],
    arrivals: list[tuple[int, bool]],
    fail_on: frozenset[int],
) -> None:
    """Items come at any time, some callers give up, some writes fail."""

    async def scenario() -> None:
        disk = Disk(script, fail_on)
        batcher = Batcher(disk.write, max_items=max_items, max_in_flight=max_in_flight)
        callers: list[asyncio.Task[int]] = []
        for item, (pause, gives_up) in enumerate(arrivals):
            callers.append(asyncio.create_task(batcher.submit(item)))
            await turns(pause)
            if gives_up:
                callers[-1].cancel()
        async with asyncio.timeout(10):
            await batcher.drain()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)

        written = [item for batch in disk.batches for item in batch]
        assert sorted(set(written)) == sorted(written), "an item was written twice"
        assert all(len(batch) <= max_items for batch in disk.batches)
        assert disk.most_active <= max_in_flight
        assert batcher.pending == 0
        assert written == sorted(written)
        for item, ((_, gives_up), outcome) in enumerate(zip(arrivals, outcomes, strict=True)):
            (batch,) = [batch for batch in disk.batches if item in batch] or [[]]
            if isinstance(outcome, asyncio.CancelledError):
                assert gives_up
            elif fail_on.intersection(batch):
                assert isinstance(outcome, OSError)
            else:
                assert outcome == item * 10

    asyncio.run(scenario())


async def test_a_lone_item_leaves_at_once_and_the_rest_gather() -> None:
    gate = asyncio.Event()
    batches: list[list[int]] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        await gate.wait()
        return items

    batcher = Batcher(write)
    first = batcher.post(0)
    await turns(2)
    assert batches == [[0]]
    others = [batcher.post(item) for item in range(1, 6)]
    await turns(5)
    assert batches == [[0]]
    assert batcher.pending == 5
    gate.set()
    assert await asyncio.gather(first, *others) == [0, 1, 2, 3, 4, 5]
    assert batches == [[0], [1, 2, 3, 4, 5]]


async def test_a_failure_reaches_its_own_batch_only() -> None:
    disk = Disk([3], frozenset({0}))
    batcher = Batcher(disk.write)
    first = batcher.post(0)
    await turns(2)
    second, third = batcher.post(1), batcher.post(2)
    with pytest.raises(OSError, match="disk full"):
        await first
    assert (await second, await third) == (10, 20)
    assert disk.batches == [[0], [1, 2]]


async def test_a_cancelled_caller_takes_nothing_from_the_others() -> None:
    disk = Disk([5, 5])
    batcher = Batcher(disk.write)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in range(4)]
    await turns(3)
    tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcomes[i] for i in (0, 2, 3)] == [0, 20, 30]
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert sorted(item for batch in disk.batches for item in batch) == [0, 1, 2, 3]


async def test_items_that_come_just_as_it_falls_idle_are_written() -> None:
    """A caller that is resumed submits again before the writer has ended."""
    disk = Disk()
    batcher = Batcher(disk.write)

    async def caller() -> None:
        for item in range(200):
            assert await batcher.submit(item) == item * 10

    async with asyncio.timeout(10):
        await asyncio.gather(*(caller() for _ in range(3)))


async def test_a_result_too_few_is_an_error_and_not_a_hang() -> None:
    async def write(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    batcher = Batcher(write)
    async with asyncio.timeout(10):
        with pytest.raises(RuntimeError, match="the write of 2 items returned 1 results"):
            await asyncio.gather(batcher.post(1), batcher.post(2))
        with pytest.raises(RuntimeError, match="the write of 1 items returned 0 results"):
            await batcher.submit(3)


async def test_a_cancelled_write_leaves_nobody_waiting() -> None:
    inner = asyncio.get_running_loop().create_future()

    async def write(items: Sequence[int]) -> Sequence[int]:
        await inner
        return items

    batcher = Batcher(write)
    first = asyncio.create_task(batcher.submit(1))
    await turns(3)
    second = asyncio.create_task(batcher.submit(2))
    await turns(3)
    inner.cancel()
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        await batcher.drain()
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


async def test_drain_waits_for_all_and_more() -> None:
    disk = Disk([2] * 50)
    batcher = Batcher(disk.write, max_items=1)
    done: list[asyncio.Future[int]] = [batcher.post(item) for item in range(10)]
    done[3].add_done_callback(lambda _: done.append(batcher.post(99)))
    await batcher.drain()
    assert [future.result() for future in done] == [*range(0, 100, 10), 990]
    await batcher.drain()


async def test_many_callers_and_few_writes() -> None:
    disk, random = Disk([1] * 2000), Random(7)
    batcher = Batcher(disk.write, max_items=100, max_in_flight=2)

    async def caller(number: int) -> None:
        for item in range(number * 20, number * 20 + 20):
            assert await batcher.submit(item) == item * 10
            await turns(random.randrange(3))

    async with asyncio.timeout(20):
        await asyncio.gather(*(caller(number) for number in range(200)))
    assert sum(map(len, disk.batches)) == 4000
    assert len(disk.batches) < 400
    assert disk.most_active == 2
