"""What handlers say, until it is written to the ledger.

Each attempt has an **outlet**; all outlets of a worker share one store, which is in memory and
bounded. What waits there has no number yet, so it can be made less: of an attempt's progress only
the latest waits, in the place of the latest; text that follows text is one event. ``take`` numbers
all that waits, and empties the store. An outlet takes nothing after its attempt's end.

When events come faster than they are written (``_MUCH``) their handlers wait: a thread in the
call, ``async`` code where it awaits. While the agent is away nobody waits for events of kinds that
are not persisted: beyond ``_MOST`` the oldest of them are dropped, and their job says how many.
Events of persisted kinds are never dropped: their handlers wait, and one that does not await is
told so with ``EventsWait`` at twice of ``_MOST``.

Everything here may be called from any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Generator
from dataclasses import dataclass, field

from mesh.codec import encode_json
from mesh.codecs.base import Codec, seal
from mesh.context import DONE, TURN
from mesh.errors import EventsWait
from mesh.events import start_seq
from mesh.wire import Event

__all__ = ["Outlet", "Outlets", "Say", "Size"]

Say = Callable[[str, bytes, float, bool], Awaitable[None]]
"""``Outlet.say``."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much waits."""

    events: int
    size: int
    """Bytes."""

    def is_exceeded(self, events: int, size: int) -> bool:
        return events > self.events or size > self.size


_MUCH = Size(2_000, 4 * 2**20)
_MOST = Size(10_000, 16 * 2**20)
_TWICE = Size(2 * _MOST.events, 2 * _MOST.size)
_IN_A_ROW = 256
"""Calls after which ``async`` code that awaits nothing else lets others have their turn."""
_OVERHEAD = 200
"""Bytes that an event takes beside its data."""


@dataclass(slots=True)
class _Entry:
    outlet: Outlet
    kind: str
    at: float
    parts: list[bytes]
    size: int
    joins: bool


class Outlets:
    """Belongs to the worker's event loop, which takes from it."""

    def __init__(self, persisted: Collection[str], event_size: int) -> None:
        """Kinds that are persisted, and bytes up to which text is joined."""
        self.dropped = 0
        self.some: Callable[[], None] = lambda: None
        """Called in the loop's thread when there is something to take."""
        self._persisted = frozenset(persisted)
        self._event_size = event_size
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._changed = threading.Condition()
        self._taken = asyncio.Event()
        self._number = 0
        self._kept: OrderedDict[int, _Entry] = OrderedDict()
        self._others: OrderedDict[int, _Entry] = OrderedDict()
        self._sizes = Counter[bool]()
        """Bytes, by whether they are of persisted kinds."""
        self._is_told = False
        self._waiters = 0
        self._short: set[Outlet] = set()
        """Those of which events were dropped."""
        self.agent_is_away = False
        """Set by who writes: nothing is taken for now."""

    def open(self, job_id: str, attempt: int, codec: Codec | None) -> Outlet:
        return Outlet(self, job_id, attempt, codec)

    def __bool__(self) -> bool:
        return bool(self._kept or self._others)

    def add(
        self, outlet: Outlet, kind: str, data: bytes, at: float, joins: bool
    ) -> Awaitable[None]:
        in_loop = threading.get_ident() == self._loop_thread
        with self._changed:
            if outlet.is_closed:
                return DONE
            is_kept = kind in self._persisted
            if is_kept and _TWICE.is_exceeded(len(self._kept), self._sizes[True]):
                raise EventsWait(
                    f"job {outlet.job_id}: {len(self._kept)} events wait for the agent, of kinds "
                    f"that are persisted, such as '{kind}': await ctx.{kind}(...), so that the "
                    "handler waits with them"
                )
            self._put(outlet, kind, data, at, joins, is_kept)
            if not is_kept:
                while _MOST.is_exceeded(len(self._others), self._sizes[False]):
                    self._drop_oldest()
            if not self._is_told:
                self._is_told = True
                if in_loop:
                    self.some()
                else:
                    self._loop.call_soon_threadsafe(self.some)
            if self._has_room(is_kept):
                outlet.calls += 1
                return DONE if outlet.calls % _IN_A_ROW else TURN
            if not in_loop:
                self._waiters += 1
                try:
                    self._changed.wait_for(lambda: outlet.is_closed or self._has_room(is_kept))
                finally:
                    self._waiters -= 1
                return DONE
        return _Room(self, outlet, is_kept)

    def _put(
        self, outlet: Outlet, kind: str, data: bytes, at: float, joins: bool, is_kept: bool
    ) -> None:
        entries = self._kept if is_kept else self._others
        last = entries.get(outlet.last) if joins else None
        if last is not None and last.joins and last.size + len(data) <= self._event_size:
            last.parts.append(data)
            last.size += len(data)
            self._sizes[is_kept] += len(data)
            return
        if kind == "progress":
            self._remove(outlet.progress, is_kept)
            outlet.progress = self._number + 1
        self._number += 1
        outlet.last = self._number
        entries[self._number] = _Entry(outlet, kind, at, [data], len(data), joins)
        self._sizes[is_kept] += len(data) + _OVERHEAD

    def _remove(self, number: int, is_kept: bool) -> _Entry | None:
        entry = (self._kept if is_kept else self._others).pop(number, None)
        if entry is not None:
            self._sizes[is_kept] -= entry.size + _OVERHEAD
        return entry

    def _drop_oldest(self) -> None:
        number = next(iter(self._others))
        entry = self._remove(number, False)
        assert entry is not None
        entry.outlet.note_dropped(entry.at)
        self._short.add(entry.outlet)
        self.dropped += 1

    def _has_room(self, is_kept: bool) -> bool:
        if self.agent_is_away:
            return not (is_kept and _MOST.is_exceeded(len(self._kept), self._sizes[True]))
        count = len(self._kept) + len(self._others)
        return not _MUCH.is_exceeded(count, self._sizes.total())

    def take(self) -> list[Event]:
        """All that waits, numbered, in the order in which it was said."""
        with self._changed:
            numbered = sorted([*self._kept.items(), *self._others.items()])
            self._kept.clear()
            self._others.clear()
            self._sizes.clear()
            self._is_told = False
            short, self._short = self._short, set()
        events = [outlet.tell_dropped() for outlet in short]
        events += [entry.outlet.number(entry) for _, entry in numbered]
        self.wake()
        return events

    def wake(self) -> None:
        """Let those look again who wait for room. In the loop's thread."""
        if self._waiters:
            with self._changed:
                self._changed.notify_all()
            taken, self._taken = self._taken, asyncio.Event()
            taken.set()

    async def room(self, outlet: Outlet, is_kept: bool) -> None:
        self._waiters += 1
        try:
            while not (outlet.is_closed or self._has_room(is_kept)):
                await self._taken.wait()
        finally:
            self._waiters -= 1


class _Room(Awaitable[None]):
    """Done when there is room again."""

    def __init__(self, outlets: Outlets, outlet: Outlet, is_kept: bool) -> None:
        self._outlets = outlets
        self._outlet = outlet
        self._is_kept = is_kept

    def __await__(self) -> Generator[object, None, None]:
        return self._outlets.room(self._outlet, self._is_kept).__await__()


@dataclass(slots=True, eq=False)
class Outlet:
    """One attempt's."""

    outlets: Outlets
    job_id: str
    attempt: int
    codec: Codec | None
    is_closed: bool = False
    calls: int = 0
    _dropped: int = 0
    _dropped_at: float = 0.0
    last: int = 0
    progress: int = 0
    _seq: int = field(default=0)

    def say(self, kind: str, data: bytes, at: float, joins: bool = False) -> Awaitable[None]:
        """Hand an event over; the result may be awaited for room. ``joins``: it is text that may
        be joined with text before it. In a thread the call itself waits. Raises ``EventsWait``."""
        return self.outlets.add(self, kind, data, at, joins)

    @property
    def has_said(self) -> bool:
        return self.last > 0

    def close(self) -> None:
        """Take nothing from now on. What was taken will be written. In the loop's thread."""
        self.is_closed = True
        self.outlets.wake()

    def number(self, entry: _Entry) -> Event:
        parts = entry.parts
        data = parts[0] if len(parts) == 1 else b'"%b"' % b"".join(p[1:-1] for p in parts)
        return self._event(entry.kind, data, entry.at)

    def note_dropped(self, at: float) -> None:
        self._dropped += 1
        self._dropped_at = at

    def tell_dropped(self) -> Event:
        """The event that says how many were dropped since the last time."""
        count, self._dropped = self._dropped, 0
        message = f"{count} events were dropped: more came than the worker could hand over"
        data = {"level": "warning", "message": message, "data": {"dropped": count}}
        return self._event("log", encode_json(data), self._dropped_at)

    def _event(self, kind: str, data: bytes, at: float) -> Event:
        self._seq += 1
        seq = start_seq(self.attempt) + self._seq
        return Event(self.job_id, seq, at, kind, seal(self.codec, data))
