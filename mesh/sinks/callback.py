"""Events to a function of the application's own."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence

from mesh.codecs.base import Codec
from mesh.feed import JobEvent, unsealed
from mesh.sinks.base import Sink, Wanted

__all__ = ["Callback", "OnEvent"]

log = logging.getLogger("mesh")

OnEvent = Callable[[JobEvent], Awaitable[None] | None]


class Callback(Sink):
    """Calls ``function(told)`` for each event, one after another, on the event loop: at least
    once, unless it raises, which is logged and not repeated."""

    def __init__(
        self, function: OnEvent, wanted: Wanted | None = None, codec: Codec | None = None
    ) -> None:
        """``codec`` decrypts what is encrypted."""
        super().__init__(wanted)
        self._function = function
        self._codec = codec

    async def take(self, events: Sequence[JobEvent]) -> None:
        for told in events:
            try:
                event = unsealed(self._codec, told.event)
                waiting = self._function(JobEvent(told.job, event))
                if inspect.isawaitable(waiting):
                    await waiting
            except Exception:
                name = getattr(self._function, "__qualname__", self._function)
                log.exception("job %s: %s failed for event %s", told.job.id, name, told.id)
