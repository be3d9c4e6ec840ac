"""Jobs and events as they are shown: without what ``redact`` hides."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from mesh.ports import EventInfo, JobInfo
from mesh.recurring import ScheduleInfo
from mesh.redact import Redactor

__all__ = ["shown_event", "shown_job", "shown_schedule"]


def shown_job(redactor: Redactor, job: JobInfo) -> JobInfo:
    return replace(
        job,
        payload=None if job.payload is None else redactor.json(job.payload),
        result=None if job.result is None else redactor.json(job.result),
        meta=None
        if job.meta is None
        else {name: redactor.text(name, value) for name, value in job.meta.items()},
    )


def shown_event(redactor: Redactor, event: EventInfo) -> EventInfo:
    return replace(event, data=redactor.json(event.data))


def shown_schedule(redactor: Redactor, schedule: ScheduleInfo) -> ScheduleInfo:
    definition = schedule.definition
    payload = redactor.json(definition.payload.encode()).decode()
    return replace(schedule, definition=msgspec.structs.replace(definition, payload=payload))
