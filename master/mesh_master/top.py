"""The command ``mesh top``: the cluster on a terminal, for people without a browser.

``Reader`` asks the master, once a second, and nobody else; ``top_view`` makes a picture of what
it found.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import typer

from mesh.app import Mesh
from mesh.codecs.base import unseal
from mesh.console import AppOption, MasterOption, find_app, run
from mesh.errors import CannotDecrypt, MasterUnavailable, MeshError
from mesh.events import start_seq
from mesh.job import State
from mesh.ports import JobFilter, JobInfo, Master
from mesh_master.top_view import Board, view

__all__ = ["Reader", "top"]

MINUTES = 30
"""Of throughput."""
MOST = 20
"""Jobs of each kind that are asked for."""
_PATIENCE = 5.0
"""Seconds for the master's answers."""
_EVENTS = 1000


class Reader:
    """Asks the master, again and again."""

    def __init__(self, app: Mesh) -> None:
        self._app = app
        self._board = Board(app.now(), app.config.cluster)
        self._told: dict[str, tuple[int, str]] = {}
        """Of running jobs: the last event that was read, and the progress it told."""

    async def look(self) -> Board:
        """What is to be seen now. Raises nothing: a master that is away is said on the board."""
        try:
            async with asyncio.timeout(_PATIENCE):
                self._board = await self._ask(await self._app.master())
        except TimeoutError:
            self._board = self._away(f"the master does not answer within {_PATIENCE:g} s")
        except MeshError as error:
            self._board = self._away(str(error))
        return self._board

    def _away(self, why: str) -> Board:
        return replace(self._board, away=why, at=self._app.now())

    async def _ask(self, master: Master) -> Board:
        now = self._app.now()
        running = await master.list_jobs(JobFilter(states=[State.RUNNING], limit=MOST))
        backlog = await master.backlog()
        heard = await master.workers(seen_after=now - self._app.config.silence)
        workers = [w for w in heard if w.state != "stopped"]
        handlers = await master.handlers()
        served = (load.lane for worker in workers for load in worker.lanes)
        return Board(
            at=now,
            cluster=self._app.config.cluster,
            settings=await master.cluster_settings(),
            states=await master.count_jobs(),
            minutes=await master.series(now - 60 * (MINUTES - 1), now, 60),
            backlog=backlog,
            lanes=sorted({*backlog, *served, *(h.definition.lane for h in handlers)}),
            agents=await master.agents(),
            workers=workers,
            running=running,
            progress={job.id: await self._progress(master, job) for job in running},
            failed=await master.list_jobs(JobFilter(states=[State.FAILED], limit=MOST)),
        )

    async def _progress(self, master: Master, job: JobInfo) -> str:
        after, said = self._told.pop(job.id, (-1, ""))
        after = max(after, start_seq(job.attempt))
        events = await master.events(job.id, after, _EVENTS)
        for event in events:
            if event.kind == "progress":
                said = self._say(event.data)
        self._told[job.id] = (events[-1].seq if events else after), said
        while len(self._told) > 2 * MOST:
            del self._told[next(iter(self._told))]
        return said

    def _say(self, data: bytes) -> str:
        try:
            return _say_progress(self._app.redactor.json(unseal(self._app.codec, data)))
        except CannotDecrypt:
            return "encrypted"


class _Progress(msgspec.Struct):
    done: float
    total: float | None = None
    label: str | None = None


_BAR = 10
"""Characters of a bar."""


def _say_progress(data: bytes) -> str:
    """What a handler said of its progress, in a few words."""
    try:
        told = msgspec.json.decode(data, type=_Progress)
    except msgspec.MsgspecError:
        value = msgspec.json.decode(data)  # of the handler's own type
        if isinstance(value, dict) and value.keys() == {"value"}:
            value = value["value"]
        return " ".join(str(value).split())[:60]
    label = " ".join((told.label or "").split())
    if not told.total:
        return f"{told.done:g} {label}".rstrip()
    share = min(1.0, max(0.0, told.done / told.total))
    full = int(share * _BAR)
    return f"{'━' * full}{'┄' * (_BAR - full)} {share:4.0%} {label}".rstrip()


# the command -------------------------------------------------------------------------------------


def top(
    app: AppOption = None,
    master: MasterOption = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture, and end.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between two pictures.")
    ] = 1.0,
) -> None:
    """Show the cluster on the terminal, as it changes: lanes, agents, workers, what runs and what
    failed last. q or Ctrl-C ends it. With --once, exits 1 if the master is away."""
    mesh = find_app(app, master)
    run(_once(mesh) if once else _watch(mesh, every))


async def _once(mesh: Mesh) -> None:
    from rich.console import Console

    async with mesh:
        board = await Reader(mesh).look()
    if board.away:
        raise MasterUnavailable(board.away)
    console = Console()
    width = console.width if console.is_terminal else 120
    Console(width=width).print(view(board, width))


async def _watch(mesh: Mesh, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console, reader = Console(), Reader(mesh)
    async with mesh, _told_to_stop() as stop:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            async with aclosing(_looks(reader, stop, every)) as boards:
                async for board in boards:
                    live.update(view(board, console.width, console.height), refresh=True)


async def _looks(reader: Reader, stop: asyncio.Event, every: float) -> AsyncGenerator[Board, None]:
    """A board now and then until told to stop, also while the master is asked."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while not stopping.done():
            look = asyncio.ensure_future(reader.look())
            await asyncio.wait([look, stopping], return_when=asyncio.FIRST_COMPLETED)
            if look.done():
                yield look.result()
                await asyncio.wait([stopping], timeout=every)
            else:
                look.cancel()
                await asyncio.wait([look])
    finally:
        stopping.cancel()


@asynccontextmanager
async def _told_to_stop() -> AsyncIterator[asyncio.Event]:
    """Set by q, Ctrl-C and SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with _keys(loop, lambda key: stop.set() if key in (b"q", b"Q", b"\x03") else None):
        yield stop


@contextmanager
def _keys(loop: asyncio.AbstractEventLoop, pressed: Callable[[bytes], Any]) -> Iterator[None]:
    """Calls ``pressed`` with each key, where there is a keyboard."""
    if not sys.stdin.isatty() or sys.platform == "win32":
        yield
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    tty.setcbreak(file)
    loop.add_reader(file, lambda: pressed(os.read(file, 1)))
    try:
        yield
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
