"""Processes for handlers with ``process=True``: a pool in which each has a socket of its own.

``concurrent.futures`` gives up its whole pool when one process dies; here processes share
nothing, neither queue nor lock, so the death of one is the end of one attempt. (So it is in
pebble; but what a handler says must reach the worker too, in order and before its end.)

States of a process: *starting* (Python, the handler's module) → *running* a job → *idle* →
*running* … Killed when the job's time is over, when it is cancelled, and when the worker stops
waiting; a process that died, or that did not say how its job ended, is never used again. Idle
ones are kept, up to the lane's concurrency, since starting one takes a tenth of a second or more.

Each is a session of its own, so signals for the worker's process group do not reach it, and what
its handler has started is killed with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from types import ModuleType
from typing import Any

import msgspec

from mesh.context import SAID
from mesh.errors import ConfigError, ProcessDied
from mesh.handler import Handler
from mesh.retry import Retry
from mesh_workers.child import LENGTH, Begun, Call, Ended, Logged, Message, Said
from mesh_workers.execute import timed_out
from mesh_workers.outcome import Outcome, Run, TimeLimit, judge
from mesh_workers.outlets import Say

__all__ = ["Processes", "locate"]

log = logging.getLogger("mesh")

_PROGRAM = """\
import sys
sys.path[:] = {path!r}
from mesh_workers.child import main
main({fileno}, {level})
"""

_START = 60.0
"""Seconds for a process to start and to import the handler's module."""

_TRIES = 3
"""How many processes may end before one has begun with a job."""

_LAST_MOMENT = 1.0
"""Seconds for a process to end when it is told, or was killed."""


def locate(handler: Handler[..., Any, Any]) -> tuple[str, str]:
    """The module of a handler and its place there, by which another process finds it. Raises
    ``ConfigError`` if it would not."""
    module, name = handler.function.__module__, handler.function.__qualname__
    what = f"handler '{handler.name}' has process=True, and another process cannot import it:"
    if "<" in name:
        raise ConfigError(
            f"{what} {name} is inside a function; define it at the top of its module, or leave "
            "out process=True"
        )
    if module == "__main__":
        raise ConfigError(
            f"{what} {name} is in the program's main file; put handlers in a module, such as "
            "shop.py, which both the program and 'mesh worker shop:app' import"
        )
    if not hasattr(os, "killpg"):
        raise ConfigError(f"handler '{handler.name}' has process=True, which needs a POSIX system")
    found: ModuleType | Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not handler:
        raise ConfigError(
            f"{what} {module}.{name} is {found!r}; decorate the function where it is defined"
        )
    return module, name


class Processes:
    """Belongs to a lane's event loop. As many processes as there are calls at the same time."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []

    async def run(
        self,
        handler: Handler[..., Any, Any],
        run: Run,
        say: Say | None,
        limit: TimeLimit | None,
        policy: Retry,
        result_limit: int,
    ) -> Outcome:
        """The outcome of an attempt in a process. Cancelling this kills the process."""
        call = Call(
            *locate(handler),
            job=run.job,
            attempt=run.attempt,
            max_attempts=policy.max_attempts + run.job.snoozes,
            policy=msgspec.structs.replace(policy, when=None),
            result_limit=result_limit,
        )
        began = False
        child: _Child | None = None
        try:
            # A deadline is one whatever takes the time; a timeout is the handler's own.
            first = limit.seconds if limit is not None and limit.deadline else _START
            async with asyncio.timeout(first) as timeout:
                child = await self._begin(call)
                began = True
                if limit is None:
                    timeout.reschedule(None)
                elif not limit.deadline:
                    timeout.reschedule(asyncio.get_running_loop().time() + limit.seconds)
                outcome = await child.finish(say)
        except TimeoutError:
            if limit is not None and (began or limit.deadline):
                return timed_out(limit, policy)
            late = f"the process did not import {call.module} within {_START:g} s, so it was killed"
            return judge(ProcessDied(late), policy)
        except ProcessDied as error:
            return judge(error.with_traceback(None), policy)
        else:
            self._idle.append(child)
            child = None
            return outcome
        finally:
            if child is not None:
                await child.kill()

    async def _begin(self, call: Call) -> _Child:
        """A process that has begun with the job. Raises ``ProcessDied``."""
        died = ProcessDied("no process could be started")
        for _ in range(_TRIES):
            child = await self._idle_or_new()
            try:
                await child.begin(call)
            except ProcessDied as error:
                # It died while it was idle or started: not the job's doing, as far as is known.
                died = error
            except BaseException:
                await child.kill()
                raise
            else:
                return child
        raise ProcessDied(f"{died}, and so did {_TRIES - 1} before it, before the job began")

    async def _idle_or_new(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
        return await _Child.start()

    async def close(self) -> None:
        """End the idle processes."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(child.end() for child in idle))


class _Child:
    """One process, seen from the worker."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._early: Message | None = None

    @classmethod
    async def start(cls) -> _Child:
        """Raises ``ProcessDied`` if the system gives no process."""
        ours, theirs = socket.socketpair()
        with theirs:
            level = logging.getLogger().getEffectiveLevel()
            program = _PROGRAM.format(fileno=theirs.fileno(), path=sys.path, level=level)
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", program),
                    stdin=DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise ProcessDied(f"the process could not be started: {error}") from error
            except BaseException:
                ours.close()
                raise
        return cls(process, *await asyncio.open_connection(sock=ours))

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and not self._reader.at_eof()

    async def begin(self, call: Call) -> None:
        """Return when the handler has been found and runs. Raises ``ProcessDied``."""
        data = _encoder.encode(call)
        self._writer.write(LENGTH.pack(len(data)) + data)
        while not isinstance(message := await self._receive(), Begun):
            if isinstance(message, Ended):  # it was not found
                self._early = message
                return
            _pass_on(message)

    async def finish(self, say: Say | None) -> Outcome:
        """The outcome; what the handler says goes to ``say``. Raises ``ProcessDied``."""
        message, self._early = self._early or await self._receive(), None
        while not isinstance(message, Ended):
            if isinstance(message, Said) and say is not None:
                for one in message.events:
                    # Until there is room: then nothing more is read, and the handler waits too.
                    await say(one.kind, one.data, one.at, one.joins)
            else:
                _pass_on(message)
            message = await self._receive()
        return message.outcome

    async def _receive(self) -> Message:
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ProcessDied(await self._how_it_died()) from None

    async def _how_it_died(self) -> str:
        self._writer.close()
        await asyncio.wait([asyncio.ensure_future(self._process.wait())], timeout=_LAST_MOMENT)
        code = self._process.returncode
        what = f"the process {self._process.pid} that ran the handler"
        if code is None:
            await self.kill()
            return f"{what} closed its connection to the worker, so it was killed"
        if code >= 0:
            return f"{what} exited with status {code}"
        name = signal.Signals(-code).name
        hint = "; the system may be out of memory" if -code == signal.SIGKILL else ""
        return f"{what} was killed by {name}{hint}"

    async def kill(self) -> None:
        """Kill it, and all that it has started. Returns when it has gone."""
        self._writer.close()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await asyncio.wait([asyncio.ensure_future(self._process.wait())], timeout=_LAST_MOMENT)

    async def end(self) -> None:
        """Let it end by itself, if it does so soon."""
        self._writer.close()
        await asyncio.wait([asyncio.ensure_future(self._process.wait())], timeout=_LAST_MOMENT)
        await self.kill()


def _pass_on(message: Message) -> None:
    if isinstance(message, Logged):
        extra = {SAID: True} if message.is_event else None
        logging.getLogger(message.logger).log(message.level, "%s", message.text, extra=extra)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
