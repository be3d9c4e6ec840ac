"""Several worker processes as one: ``mesh worker --processes N``.

A Python process computes on one core, so N of them use N. Each is a worker like any other, with
its own id, connections and lanes; the supervisor runs none of the user's code. States of a
process: *running* → (it ended by itself) *pausing*, longer each time it ends soon → *running*.
On ``stop`` all get SIGTERM and drain; who is left when ``patience`` is over gets SIGKILL, and
its jobs run again when their leases end; a second signal kills all. Processes are sessions of
their own, so that Ctrl-C in a terminal reaches them once: through the supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from mesh.errors import ConfigError
from mesh.monitor import Monitor
from mesh.service import Backoff, Service

__all__ = ["Supervisor"]

log = logging.getLogger("mesh")

_SETTLED = 10.0
"""Seconds after which a process that ends did not end soon."""

_PROGRAM = "from mesh.cli import main; main()"


class Supervisor(Service):
    """Keeps ``processes`` processes of the command ``mesh ARGUMENTS`` running."""

    def __init__(
        self, arguments: Sequence[str], processes: int, patience: float, monitor: Monitor
    ) -> None:
        """``patience``: seconds that a process has to end. The first process tells of itself where
        ``monitor`` says, the others at the ports that follow, and each in a file whose name ends
        with its number. Raises ``ConfigError``."""
        if processes < 1:
            raise ConfigError(f"--processes {processes}: must be 1 or more")
        super().__init__(f"supervisor of {processes} processes")
        self._command = (sys.executable, "-c", _PROGRAM, *arguments)
        self._doors = [_door_options(monitor, number) for number in range(processes)]
        self._count = processes
        self._patience = patience

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, self._count + 1):
                tasks.create_task(self._keep(number))
            ready()

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self.stopping)
        while not self.stopping.is_set():
            began = loop.time()
            process = await asyncio.create_subprocess_exec(
                *self._command, *self._doors[number - 1], start_new_session=True
            )
            log.info("process %d of %d has pid %d", number, self._count, process.pid)
            status = await self._until_it_ends(process)
            if self.stopping.is_set():
                return
            log.error(
                "process %d (pid %d) ended with status %d: starting it again",
                number,
                process.pid,
                status,
            )
            if loop.time() - began > _SETTLED:
                backoff.reset()
            await backoff.wait()

    async def _until_it_ends(self, process: Process) -> int:
        ended = asyncio.ensure_future(process.wait())
        told = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                _send(process, signal.SIGTERM)
                await asyncio.wait([ended], timeout=self._patience)
            if not ended.done():
                log.error("pid %d did not end in %g s: killed", process.pid, self._patience)
            return ended.result() if ended.done() else -signal.SIGKILL
        finally:
            told.cancel()
            if not ended.done():
                _send(process, signal.SIGKILL)
            await asyncio.wait([ended])


def _door_options(monitor: Monitor, number: int) -> list[str]:
    options: list[str] = []
    if monitor.place is not None:
        options += ["--monitor", str(monitor.place.next(number))]
    if monitor.file is not None:
        options += ["--health-file", f"{monitor.file}.{number + 1}"]
    return options


def _send(process: Process, number: int) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
