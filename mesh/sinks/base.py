"""What sinks have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from mesh.clock import to_datetime
from mesh.errors import ConfigError, did_you_mean
from mesh.events import KINDS, Lifecycle, Moment
from mesh.feed import JobEvent
from mesh.ports import EventInfo
from mesh.redact import Redactor

if TYPE_CHECKING:
    from mesh.app import Mesh

__all__ = ["Sink", "Wanted", "as_json"]

_MOMENTS = get_args(Moment)
_MOST_MESSAGE = 500


class Wanted:
    """Which events a sink gets: of these kinds, or of these moments of a job's life; of jobs of
    this handler (or ``reports.*``), in this lane. Raises ``ConfigError``."""

    def __init__(
        self,
        events: Iterable[str] = ("lifecycle",),
        name: str | None = None,
        lane: str | None = None,
    ) -> None:
        self.words = frozenset([events] if isinstance(events, str) else events)
        for word in self.words:
            if word not in KINDS and word not in _MOMENTS:
                hint = did_you_mean(word, [*KINDS, *_MOMENTS])
                raise ConfigError(f"events: '{word}' is neither a kind of event nor a moment{hint}")
        self._name = name
        self._lane = lane

    def of_kind(self, kind: str, moment: str = "") -> bool:
        return kind in self.words or moment in self.words

    def of_job(self, name: str, lane: str) -> bool:
        if self._lane is not None and lane != self._lane:
            return False
        if self._name is None:
            return True
        if self._name.endswith("*"):
            return name.startswith(self._name[:-1])
        return name == self._name

    def __call__(self, told: JobEvent) -> bool:
        moment = ""
        if told.event.kind == "lifecycle":
            moment = Lifecycle.decode(told.event.data).event
        return self.of_kind(told.event.kind, moment) and self.of_job(told.job.name, told.job.lane)


class Sink:
    """Where events go. Give your own to ``Mesh(sinks=[...])``. The data of an app's encrypted
    events is as it is stored."""

    def __init__(self, wanted: Wanted | None = None) -> None:
        self.wanted = wanted or Wanted()
        self._redactor = Redactor()

    def attach(self, app: Mesh) -> None:
        """Called once, when the app is made. Call it, if you override it."""
        self._redactor = app.redactor

    def shown(self, event: EventInfo) -> bytes:
        """An event's data as it may be shown, with the values hidden that ``redact`` names."""
        return event.data if event.kind == "lifecycle" else self._redactor.json(event.data)

    async def open(self) -> None:
        """Called before the first events, on the event loop that serves it."""

    async def take(self, events: Sequence[JobEvent]) -> None:
        """Some events that are wanted, in order within a job. The ledger waits meanwhile: be
        quick. While it raises ``AgentError`` or ``MasterError`` the same are given again, and all
        others wait; whatever else it raises is logged, and they are not."""
        raise NotImplementedError

    async def close(self) -> None:
        """Called after the last; may take a few seconds."""


def as_json(told: JobEvent, data: bytes, error_detail: bool) -> dict[str, Any]:
    """An event, with ``data``, as other systems get it. Of an error only its type, unless
    ``error_detail``: then also its message, up to 500 characters."""
    job, event = told.job, told.event
    sent: Any = msgspec.Raw(data)
    if event.kind == "lifecycle":
        life = msgspec.json.decode(data)
        if error := life.get("error"):
            message = error.pop("message")
            if error_detail:
                error["message"] = message[:_MOST_MESSAGE]
        sent = life
    return {
        "id": told.id,
        "job": {"id": job.id, "name": job.name, "lane": job.lane, "state": job.state},
        "seq": event.seq,
        "at": to_datetime(event.at).isoformat().replace("+00:00", "Z"),
        "kind": event.kind,
        "data": sent,
    }
