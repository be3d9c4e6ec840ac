"""Steady load on a cluster of real processes, and an account of what became of it.

A producer enqueues without pause and writes down what it was told of each job; handlers write
down that they ran. So what an outage did is known without asking those that it happened to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh import Mesh
from mesh.errors import MeshError
from mesh.job import TERMINAL
from tests.acceptance.processes import Start, all_jobs

__all__ = ["LONG", "OUTAGE", "PATIENCE", "Account", "Load", "eventually", "write_app"]

OUTAGE = float(os.environ.get("MESH_OUTAGE", "1"))
"""Seconds that an outage lasts."""

LONG = OUTAGE >= 30
"""Whether what takes minutes is run too: ``make outages``."""

PATIENCE = 60.0
"""Seconds after which what was waited for is not coming."""

SHOP = """
import asyncio, os
from mesh import Context, Mesh

app = Mesh.from_env()
RAN = os.open("ran.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@app.job(lane="mail")
async def send_mail(n: int, text: str, ctx: Context) -> int:
    await asyncio.sleep(0.01)
    os.write(RAN, f"{ctx.job_id}\\n".encode())
    return n
"""

PRODUCER = """
import asyncio, os, signal, sys
from mesh import MeshError, PublishOutcomeUnknown
from shop import app, send_mail

TOLD = os.open("told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def tell(what, text):
    os.write(TOLD, f"{what} {' '.join(text.split())}\\n".encode())

async def main(callers, size):
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async def produce(n):
        while not stopping.is_set():
            try:
                tell("stored", (await send_mail.enqueue(n, "x" * size)).id)
            except PublishOutcomeUnknown as error:
                for job_id in error.job_ids:
                    tell("unknown", job_id)
            except MeshError as error:
                tell("refused", f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.05)  # the pace of the load

    async with app, asyncio.TaskGroup() as tasks:
        for n in range(callers):
            tasks.create_task(produce(n))

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def write_app(folder: Path) -> None:
    """Write ``shop.py``, which has the app, and ``producer.py``."""
    (folder / "shop.py").write_text(SHOP)
    (folder / "producer.py").write_text(PRODUCER)


@dataclass(frozen=True)
class Account:
    """What became of the jobs, by id."""

    stored: frozenset[str]
    unknown: frozenset[str]
    seen: frozenset[str]
    """In the master's history."""
    ended: frozenset[str]
    """Of those that have ended."""
    runs: int
    """How often handlers ran."""

    def must_hold(self, *, runs_again: bool = False) -> None:
        """All that was acknowledged has ended, once; nothing else has but what was in doubt.
        ``runs_again``: some may have run more than once."""
        assert not self.stored - self.ended, "lost"
        assert not self.seen - self.stored - self.unknown, "unexpected"
        # An agent may have taken the record of a job in doubt and not the job itself.
        assert self.seen - self.ended <= self.unknown, "left over"
        assert self.runs >= len(self.ended)
        if not runs_again:
            assert self.runs == len(self.ended), "ran again without a reason"

    def __str__(self) -> str:
        return (
            f"{len(self.stored)} jobs acknowledged, {len(self.unknown)} in doubt, of which "
            f"{len(self.seen & self.unknown)} are known and {len(self.seen - self.ended)} have not "
            f"ended; {len(self.ended)} ended, {self.runs - len(self.ended)} runs more than jobs"
        )


class Load:
    """The producer, and what it and the handlers wrote."""

    def __init__(self, folder: Path, start: Start, *, callers: int = 8, size: int = 10) -> None:
        """So many enqueue at once; their jobs have so many bytes."""
        self._folder = folder
        self._start = start
        self._arguments = ["producer.py", str(callers), str(size)]
        self._producer: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        self._producer = self._start(*self._arguments)

    async def end(self) -> None:
        """Return when the last call has been answered."""
        assert self._producer is not None
        self._producer.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self._producer.wait, PATIENCE) == 0

    def stored(self) -> int:
        """How many jobs were acknowledged."""
        return len(self._told("stored"))

    def unknown(self) -> int:
        return len(self._told("unknown"))

    def refusals(self) -> list[str]:
        """What callers were told whose job was not stored."""
        return self._told("refused")

    def ran(self) -> int:
        """How often a handler ran."""
        return len(self._lines("ran.txt"))

    def _told(self, what: str) -> list[str]:
        lines = (line.partition(" ") for line in self._lines("told.txt"))
        return [text for kind, _, text in lines if kind == what]

    def _lines(self, name: str) -> list[str]:
        file = self._folder / name
        return file.read_text().splitlines() if file.exists() else []

    async def grows(self, seconds: float, *counts: Callable[[], int]) -> list[int]:
        """Return after so many seconds, in which each count grew again and again, with what they
        grew by. (How fast is the machine's affair.)"""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        first = [count() for count in counts]
        while loop.time() < ends:
            for count in counts:
                await _grown(count)
        return [count() - n for count, n in zip(counts, first, strict=True)]

    async def account(self, app: Mesh, agents: Iterable[str]) -> Account:
        """Wait until nothing is left to do anywhere; then draw up the account."""
        stored = frozenset(self._told("stored"))
        left, names = "nothing was looked at", list(agents)
        try:
            async with asyncio.timeout(2 * PATIENCE + OUTAGE):
                while left := await _left_over(app, names, stored):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"left over: {left}") from None
        jobs = await all_jobs(app)
        ended = frozenset(job.id for job in jobs if job.state in TERMINAL)
        seen = frozenset(job.id for job in jobs)
        return Account(stored, frozenset(self._told("unknown")), seen, ended, self.ran())


async def _grown(count: Callable[[], int]) -> None:
    before = count()
    await eventually(lambda: count() > before, f"{count.__name__} stands still at {before}")


async def _left_over(app: Mesh, agents: Iterable[str], stored: frozenset[str]) -> str:
    """What is still to be done; empty if nothing is and all these jobs have ended."""
    left: list[str] = []
    try:
        for name in agents:
            agent = await app.agent(name)
            depth = {lane: d for lane, d in (await agent.depth()).items() if d.total}
            if depth:
                left.append(f"agent {name} has {depth}")
            ledger = await agent.ledger()
            try:
                if lag := await ledger.lag():
                    left.append(f"the ledger of agent {name} has {lag} entries")
            finally:
                await ledger.close()
        states = {job.id: job.state for job in await all_jobs(app)}
    except MeshError as error:
        return str(error)
    unfinished = {i: states.get(i, "unknown") for i in stored if states.get(i) not in TERMINAL}
    if unfinished:
        left.append(f"{len(unfinished)} jobs, such as {dict(list(unfinished.items())[:3])}")
    return "; ".join(left)


async def eventually(condition: Callable[[], bool], otherwise: str) -> None:
    """Return once the condition holds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(otherwise) from None
