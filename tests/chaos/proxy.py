"""A TCP proxy on loopback whose connections can be cut, held up and slowed down."""

from __future__ import annotations

import asyncio
from typing import Literal

__all__ = ["Mode", "Proxy"]

Mode = Literal["pass", "cut", "hang", "slow"]
"""``cut``: connections are reset, new ones too. ``hang``: nothing goes through, and nobody
is told. ``slow``: each piece takes ``Proxy.delay`` seconds longer."""

_PIECE = 65_536


class Proxy:
    """From a free port of 127.0.0.1 to ``target``, another one."""

    def __init__(self, target: int, delay: float = 0.1) -> None:
        self._target = target
        self.delay = delay
        self.port = 0
        self._mode: Mode = "pass"
        self._passes = asyncio.Event()
        self._passes.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def mode(self) -> Mode:
        return self._mode

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def become(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "hang":
            self._passes.clear()
        else:
            self._passes.set()
        if mode == "cut":
            await self._cut()

    async def _cut(self) -> None:
        self._passes.set()
        for writer in self._writers:
            writer.transport.abort()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # It goes on listening: else others might get the port.
        if self._mode == "cut":
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="proxy")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(back)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pump(reader, back))
                    tasks.create_task(self._pump(there, writer))
            finally:
                back.transport.abort()
                self._writers.discard(back)
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if self._mode == "slow":
                await asyncio.sleep(self.delay)
            await self._passes.wait()
            writer.write(piece)
            await writer.drain()
        # What one side has ended is over for both: nothing here goes on half open.
        raise ConnectionResetError
