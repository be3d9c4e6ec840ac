"""One run from beginning to end."""

from __future__ import annotations

import asyncio
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mesh import Mesh

from .checker import Report, check
from .cluster import CONCURRENCY, COUNTS, PATIENCE, Cluster, Deployment
from .evidence import Seen, drain, gather, odd_lines, unkept_leases, watch
from .nemesis import Nemesis
from .plan import Step, plan

__all__ = ["Outcome", "Settings", "run"]

SLOTS_EVERY, TOGETHER = 2.0, 3
_PAGE = resource.getpagesize()
WARM = 60.0
"""Seconds after which a process's memory is to be flat. It may have been stopped for some of them,
twice in a row, before it had done anything."""


@dataclass(frozen=True, slots=True)
class Settings:
    deployment: Deployment
    seed: int
    seconds: float
    """For which things break; draining comes on top."""
    pause: float = 0.05
    """Seconds between the calls of a producer, on average."""
    only: tuple[str, ...] = ()
    """Faults, or their first words; empty: all."""
    patience: float = 60.0
    """Seconds without any progress after which draining is given up."""


@dataclass
class Outcome:
    settings: Settings
    report: Report
    odd: Counter[str]
    """Lines in logs that nobody is to see."""
    folder: Path
    """Where journals and logs are, if something is wrong, or odd."""

    @property
    def ok(self) -> bool:
        return self.report.ok

    def text(self) -> str:
        """For people."""
        s = self.settings
        lines = [f"chaos on {s.deployment}, seed {s.seed}, {s.seconds:.0f} s"]
        lines += [f"  {what}: {number:g}" for what, number in self.report.figures.items()]
        lines += [f"  ran again: {c} by {why}" for why, c in self.report.explained.most_common()]
        lines += [f"  {count} x in logs: {line}" for line, count in self.odd.most_common(8)]
        lines += [f"  VIOLATION {text}" for text in self.report.violations[:40]]
        more = len(self.report.violations) - 40
        lines += [f"  … and {more} more"] if more > 0 else []
        if self.ok:
            lines.append("  every promise was kept")
            lines += [f"  logs: {self.folder}"] if self.odd else []
        else:
            lines.append(
                f"  NOT every promise was kept; journals and logs: {self.folder}; again: "
                f"python -m tests.chaos --deployment {s.deployment} --seed {s.seed} "
                f"--minutes {s.seconds / 60:g} --pause {s.pause:g}"
            )
        return "\n".join(lines)


async def run(settings: Settings) -> Outcome:
    """Run a cluster, break it, and judge. Raises what keeps it from being run."""
    name = f"mesh-chaos-{settings.deployment}-{settings.seed}-"
    folder = Path(tempfile.mkdtemp(prefix=name))
    # Servers run under an account of their own, and must get to their data.
    folder.chmod(0o755)  # noqa: ASYNC240
    steps = plan(settings.seed, settings.deployment, settings.seconds, settings.only)
    (folder / "plan.txt").write_text("\n".join(map(str, steps)))
    cluster = Cluster(settings.deployment, folder, settings.seed, settings.pause)
    seen: Seen = {}
    try:
        await cluster.start()
        async with cluster.app() as app:
            await _until_up(app)
            stop = asyncio.Event()
            memory = _Memory(cluster)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(watch(app, seen, stop))
                tasks.create_task(memory.watch(stop))
                await Nemesis(cluster).run(steps)
                await asyncio.sleep(max(0.0, settings.seconds - (steps[-1].at if steps else 0)))
                cluster.journal.write("calm")
                await cluster.stop_producers()
                drained = await drain(cluster, app, settings.patience)
                stop.set()
            evidence = await gather(cluster, app, seen, drained)
        await cluster.stop()
        # What happened as they stopped is in the journals too.
        entries = [*cluster.entries(), *unkept_leases(folder)]
        entries.sort(key=lambda entry: float(entry["t"]))
        evidence = replace(evidence, growth=memory.growth, entries=entries)
    finally:
        cluster.close()
    report = check(
        evidence,
        together=TOGETHER,
        slots_every=SLOTS_EVERY,
        twice_most=_most_twice(settings.deployment, steps),
    )
    report.figures["seconds to drain"] = round(drained.seconds, 1)
    outcome = Outcome(settings, report, odd_lines(folder), folder)
    (folder / "report.txt").write_text(outcome.text())
    if outcome.ok and not outcome.odd:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


async def _until_up(app: Mesh) -> None:
    """Until a coordinator has declared the schedules: before, there is little to break."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await app.schedules.list():
                return
            await asyncio.sleep(0.1)


def _most_twice(deployment: Deployment, steps: Sequence[Step]) -> int:
    """What was in flight where something broke: the slots of a process, of all if it was a
    server. Lanes have slots of their own."""
    lanes, slots = 3, CONCURRENCY
    workers = COUNTS[deployment]["worker"]
    return sum(
        lanes * slots * (workers if step.fault.split()[-1] in ("agent", "master", "upgrade") else 1)
        for step in steps
    )


def _resident(pid: int) -> float:
    """Megabytes; without those of its children, of which there are more or fewer."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6
    except OSError:
        return 0.0


class _Memory:
    """How much the processes' memory grows once they are warm."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._first: dict[str, float] = {}
        self.growth: dict[str, float] = {}
        """Megabytes."""

    async def watch(self, stop: asyncio.Event) -> None:
        born: dict[str, float] = {}
        while not stop.is_set():
            for member in self._cluster.members:
                process = member.process
                if process is None or process.poll() is not None:
                    continue
                age = time.monotonic() - born.setdefault(member.who, time.monotonic())
                now = _resident(process.pid)
                if age > WARM:
                    self.growth[member.who] = now - self._first.setdefault(member.who, now)
            await asyncio.sleep(1)
