"""Services that come and go while others run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from mesh.service import Service

__all__ = ["Roster"]


class Roster(Service):
    """Runs the services that ``wanted`` names, and asks again whenever ``look_again`` is called:
    new ones are started in order, those no longer named, or named for another service, are stopped;
    at its end all at once, since each may wait for a server that does not answer.

    When one of them ends by itself, the roster stops the others and ends with its exception.
    """

    def __init__(self, name: str, wanted: Callable[[], Mapping[str, Service]]) -> None:
        super().__init__(name)
        self.members: dict[str, Service] = {}
        self._wanted = wanted
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        self._changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            while not self.stopping.is_set():
                self._changed.clear()
                await self._update()
                ready()
                await self._until_something_happens()
        finally:
            await self._stop_members()
            self.members.clear()

    async def stop(self) -> None:
        self.stopping.set()
        self._changed.set()
        # A member that is still starting, perhaps for ever, must hear of it too.
        await self._stop_members()
        await super().stop()

    async def _stop_members(self) -> None:
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    async def _update(self) -> None:
        wanted = self._wanted()
        for name, member in list(self.members.items()):
            if wanted.get(name) is not member:
                await member.stop()
                del self.members[name]
        for name, member in wanted.items():
            if name not in self.members and not self.stopping.is_set():
                self.members[name] = member
                await member.start()

    async def _until_something_happens(self) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        ends = [asyncio.ensure_future(member.wait()) for member in self.members.values()]
        try:
            await asyncio.wait([changed, *ends], return_when=asyncio.FIRST_COMPLETED)
            if not self.stopping.is_set():
                for end in ends:
                    if end.done():
                        end.result()
        finally:
            for task in (changed, *ends):
                task.cancel()
            await asyncio.gather(changed, *ends, return_exceptions=True)
