"""What the shop's web site would do: enqueue jobs, and look at what becomes of them.

::

    python producer.py              # until SIGTERM or Ctrl-C
    python producer.py --count 200  # so many; exits 0 when all have succeeded
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from dataclasses import dataclass
from typing import Any

from shop import SUBJECTS, Report, app, build_report, send_mail

from mesh import AgentUnavailable, JobHandle, JobNotSucceeded, MeshError, PublishOutcomeUnknown

REPORT_ONE_IN = 20
TELL_EVERY = 5.0

log = logging.getLogger("producer")


@dataclass
class Tally:
    enqueued: int = 0
    succeeded: int = 0
    failed: int = 0

    def __str__(self) -> str:
        waiting = self.enqueued - self.succeeded - self.failed
        return (
            f"{self.enqueued} enqueued: {self.succeeded} succeeded, {self.failed} failed, "
            f"{waiting} not yet"
        )


async def produce(count: int | None, rate: float) -> bool:
    """Enqueue ``count`` jobs, or jobs until a signal comes, at ``rate`` a second.

    True if all was done that was asked for, and every job that ended has succeeded.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tally = Tally()
    async with app, asyncio.TaskGroup() as tasks:
        teller = tasks.create_task(tell(tally))
        following: set[asyncio.Task[None]] = set()
        while not stopping.is_set() and (count is None or tally.enqueued < count):
            job = await enqueue(tally.enqueued, stopping)
            if job is None:
                break
            tally.enqueued += 1
            follower = tasks.create_task(follow(job, tally))
            following.add(follower)
            follower.add_done_callback(following.discard)
            await pause(stopping, 1 / rate)
        if following:
            ends: list[asyncio.Task[Any]] = [
                tasks.create_task(asyncio.wait(following)),
                tasks.create_task(stopping.wait()),
            ]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # Jobs that have not ended go on without us.
            for task in (*ends, *following):
                task.cancel()
        teller.cancel()
    log.info("%s", tally)
    return tally.failed == 0 and (count is None or tally.succeeded == count)


async def enqueue(number: int, stopping: asyncio.Event) -> JobHandle[Any] | None:
    """Mail to a user, now and then a report; ``None`` if ``stopping`` came before it was stored."""
    job_id: str | None = None
    while not stopping.is_set():
        try:
            if number % REPORT_ONE_IN == REPORT_ONE_IN - 1:
                month = number // REPORT_ONE_IN % 12 + 1
                report = build_report if job_id is None else build_report.options(id=job_id)
                return await report.enqueue(2026, month)
            mail = send_mail if job_id is None else send_mail.options(id=job_id)
            return await mail.enqueue(number, list(SUBJECTS)[number % len(SUBJECTS)])
        except PublishOutcomeUnknown as error:
            # Stored or not? Under the same id it will be stored once.
            job_id = error.job_ids[0]
            log.warning("%s", error)
        except AgentUnavailable as error:
            log.warning("%s", error)
        await pause(stopping, 1)
    return None


async def follow(job: JobHandle[Any], tally: Tally) -> None:
    """Wait for the job's end, and count it."""
    try:
        result = await job.result()
    except JobNotSucceeded as error:
        tally.failed += 1
        log.error("%s", error)
    else:
        tally.succeeded += 1
        if isinstance(result, Report):
            log.info("%s: %d orders, %s €", result.month, result.orders, result.revenue)


async def tell(tally: Tally) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY)
        log.info("%s", tally)


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, or less if ``stopping`` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description="Enqueue jobs of the example shop.")
    parser.add_argument("--count", type=int, help="so many jobs; default: until stopped")
    parser.add_argument("--rate", type=float, default=10.0, help="jobs a second (default 10)")
    given = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    try:
        return 0 if asyncio.run(produce(given.count, given.rate)) else 1
    except* MeshError as group:
        log.error("error: %s", group.exceptions[0])
    return 1


if __name__ == "__main__":
    sys.exit(main())
