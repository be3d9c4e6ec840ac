"""Events to ``logging``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mesh.events import Lifecycle
from mesh.feed import JobEvent
from mesh.sinks.base import Sink, Wanted

__all__ = ["LogEvents"]

_LEVELS = {"failed": logging.ERROR, "lost": logging.ERROR, "retrying": logging.WARNING}


class LogEvents(Sink):
    """A line for each, to the logger ``mesh.events``, with the attributes ``job_id``,
    ``job_name``, ``attempt``, ``lane``, ``seq`` and ``event``: at least once. Best with
    ``--log-json``. The message of an error is left out unless ``error_detail``."""

    def __init__(
        self,
        wanted: Wanted | None = None,
        *,
        logger: str = "mesh.events",
        error_detail: bool = False,
    ) -> None:
        super().__init__(wanted)
        self._logger = logging.getLogger(logger)
        self._error_detail = error_detail

    async def take(self, events: Sequence[JobEvent]) -> None:
        for told in events:
            self._say(told)

    def _say(self, told: JobEvent) -> None:
        job, event = told.job, told.event
        fields = {"job_id": job.id, "job_name": job.name, "lane": job.lane, "seq": event.seq}
        if event.kind != "lifecycle":
            text = self.shown(event).decode(errors="replace")
            fields["event"] = event.kind
            self._logger.info(
                "job %s (%s): %s %s", job.id, job.name, event.kind, text, extra=fields
            )
            return
        life = Lifecycle.decode(event.data)
        level = _LEVELS.get(life.event, logging.INFO)
        error = ""
        if life.error is not None:
            fields["error_type"] = life.error.type
            error = f": {life.error.type}"
            if self._error_detail:
                fields["error"] = life.error.message
                error += f": {life.error.message}"
        self._logger.log(
            level,
            "job %s (%s) %s at attempt %d%s",
            *(job.id, job.name, life.event, life.attempt, error),
            extra={**fields, "event": life.event, "attempt": life.attempt},
        )
