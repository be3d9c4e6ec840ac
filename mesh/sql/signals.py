"""Waking those who wait for what others write to a database.

A **topic** names what is waited for. Waking is a hint, never a promise: whoever waits
also looks again after ``pause``. What can be lost is time, not a job.

``LocalSignals``: where the database cannot notify. Users of the same place in the same event
loop wake each other at once; other processes and threads find out by looking, soon.

``ServerSignals``: NOTIFY and LISTEN. Two loops: the *listener* starts with the first waiter and
listens again, after a pause, whenever its connection breaks; while it does not listen, waiters
look often. Where a pooler stands between, nobody can listen: waiters always look often, and those
of the same event loop wake each other as above. The *sender* sends what was signalled since it
last sent, in a statement of its own: NOTIFY inside the writing transactions would make their
commits queue behind one lock. Only when it has been quiet a notification goes with its
transaction, and so arrives with the commit.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import ClassVar
from weakref import WeakKeyDictionary

from mesh.errors import MeshError
from mesh.service import Backoff, Service
from mesh.sql.alone import Alone
from mesh.sql.database import Database
from mesh.sql.notice import NOTIFY, Notice

__all__ = ["LocalSignals", "ServerSignals", "Signals", "make_signals"]

log = logging.getLogger("mesh")

# Seconds between two notifications of one sender: thousands of small commits wake few times.
_SPACING = 0.005

# Seconds without a notification after which the next one may go with its transaction.
_QUIET = 0.015

# Seconds after which a notification that got no answer is given up.
_PATIENCE = 5.0


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)


class _Waiters:
    _hubs: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Waiters]]] = (
        WeakKeyDictionary()
    )

    @classmethod
    def of_place(cls, place: str) -> _Waiters:
        """Those of everybody in this event loop who waits there."""
        return cls._hubs.setdefault(asyncio.get_running_loop(), {}).setdefault(place, cls())

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def waiting(self, topic: str, event: asyncio.Event) -> Iterator[None]:
        self._events.setdefault(topic, set()).add(event)
        try:
            yield
        finally:
            events = self._events[topic]
            events.discard(event)
            if not events:
                del self._events[topic]

    def wake(self, topic: str) -> None:
        for event in self._events.get(topic, ()):
            event.set()

    def wake_all(self) -> None:
        for topic in self._events:
            self.wake(topic)


class LocalSignals:
    """Within one event loop."""

    def __init__(self, place: str) -> None:
        """``place`` is the same for those who wake each other."""
        self._place = place
        self._waiters = _Waiters()

    async def open(self) -> None:
        self._waiters = _Waiters.of_place(self._place)

    async def close(self) -> None:
        self._waiters.wake_all()

    @contextmanager
    def waiting(self, topic: str, event: asyncio.Event) -> Iterator[None]:
        """Within the block, signals of the topic set ``event``."""
        with self._waiters.waiting(topic, event):
            yield

    def signal(self, topics: Iterable[str]) -> None:
        """Something was committed."""
        for topic in topics:
            self._waiters.wake(topic)

    def notice(self, topics: Collection[str]) -> None:
        """Never: here signals cost nothing, after the commit."""

    def certain_notice(self, topics: Collection[str]) -> None:
        """Never: who waits here looks often."""

    def pause(self, looks: int) -> float:
        """Seconds until a waiter that looked ``looks`` times in vain looks again."""
        return _jittered(min(0.003 * 1.5 ** min(looks, 12), 0.25))


class ServerSignals(Service):
    """Across processes, by the database server."""

    def __init__(self, database: Database, place: str) -> None:
        """``place`` is the same for those who wake each other, of one database."""
        super().__init__(f"{database.what}: signals")
        self._database = database
        self._place = place
        # Identifiers are at most 63 bytes long; a place may be longer.
        self._channel = f"mesh_{blake2b(place.encode(), digest_size=12).hexdigest()}"
        self._notify = Alone(database, NOTIFY, durable=False)
        self._waiters = _Waiters()
        self._wanted = asyncio.Event()
        self._is_listening = False
        self._pending: set[str] = set()
        self._unsent = asyncio.Event()
        self._sent_at = float("-inf")

    async def open(self) -> None:
        if not self._database.listens:
            self._waiters = _Waiters.of_place(_local(self._database, self._place))
        await self.start()

    async def close(self) -> None:
        await self.stop()
        self._waiters.wake_all()

    @contextmanager
    def waiting(self, topic: str, event: asyncio.Event) -> Iterator[None]:
        """Within the block, signals of the topic set ``event``."""
        self._wanted.set()
        with self._waiters.waiting(topic, event):
            yield

    def signal(self, topics: Iterable[str]) -> None:
        """Something was committed."""
        if not self._database.listens:
            for topic in topics:
                self._waiters.wake(topic)
        self._pending.update(topics)
        self._unsent.set()

    def notice(self, topics: Collection[str]) -> Notice | None:
        """What the transaction that is about to begin shall send with its commit, if it has been
        quiet. ``None``: use ``signal`` after the commit."""
        now = time.monotonic()
        if self._pending or now - self._sent_at < _QUIET or not self._database.listens:
            return None  # those of this event loop would not hear it
        self._sent_at = now
        return self.certain_notice(topics)

    def certain_notice(self, topics: Collection[str]) -> Notice:
        """What a transaction must send with its commit, since nobody here learns of that."""
        return Notice(self._channel, topics)

    def pause(self, looks: int) -> float:
        """Seconds until a waiter that looked ``looks`` times in vain looks again."""
        if self._is_listening:
            return _jittered(5.0)
        return _jittered(min(0.1 * 1.5 ** min(looks, 10), 1.0))

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(self._listen())
            sender = group.create_task(self._send())
            await self.stopping.wait()
            listener.cancel()
            # The last signals leave before the end: others would wait for nothing.
            self._unsent.set()
            await sender

    async def _listen(self) -> None:
        if not self._database.listens:
            return
        await self._wanted.wait()
        backoff = Backoff(self.stopping)
        while True:
            try:
                async with self._database.listen(self._channel, self._waiters.wake) as broken:
                    self._is_listening = True
                    backoff.reset()
                    # Something may have been signalled while nobody listened.
                    self._waiters.wake_all()
                    await broken.wait()
            except MeshError as error:
                log.debug("%s: %s", self.name, error)
            finally:
                if self._is_listening:
                    self._is_listening = False
                    # Those who wait must look more often now.
                    self._waiters.wake_all()
            await backoff.wait()

    async def _send(self) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            topics, self._pending = self._pending, set()
            if topics:
                self._sent_at = time.monotonic()
                notice = Notice(self._channel, sorted(topics))
                try:
                    await self._notify.run(notice.parameters, timeout=_PATIENCE)
                except MeshError as error:
                    log.debug("%s: not sent: %s", self.name, error)
            if self.stopping.is_set() and not self._pending:
                return
            # Real time, whatever the clock: this protects a real server.
            await asyncio.sleep(_SPACING)


Signals = LocalSignals | ServerSignals


def make_signals(database: Database, place: str) -> Signals:
    """As the database can. ``place`` is the same for those who wake each other, and for them
    alone in this database."""
    if database.notifies:
        # Not the database's own place: one server has many addresses, of a pooler for one.
        return ServerSignals(database, place)
    return LocalSignals(_local(database, place))


def _local(database: Database, place: str) -> str:
    return f"{database.place} {place}"
