"""How ``mesh jobs …`` prints jobs."""

from __future__ import annotations

import msgspec
import typer

from mesh.console import moment
from mesh.events import Lifecycle
from mesh.job import Priority
from mesh.ports import AttemptInfo, EventInfo, JobInfo
from mesh_master.why import Reason, Standing, why

__all__ = ["duration", "print_event", "show_reasons", "show_story", "show_troubles"]


def print_event(job: JobInfo, event: EventInfo, as_json: bool) -> None:
    if as_json:
        line = {
            "job_id": job.id,
            "name": job.name,
            "seq": event.seq,
            "at": event.at,
            "kind": event.kind,
            "data": msgspec.Raw(event.data),
        }
        typer.echo(msgspec.json.encode(line))
        return
    what, detail = event.kind, _shown(event.data)
    if event.kind == "lifecycle":
        life = Lifecycle.decode(event.data)
        what = life.event + (f" (attempt {life.attempt})" if life.attempt > 1 else "")
        detail = f"{life.error.type}: {life.error.message}" if life.error else ""
    typer.echo(f"{moment(event.at)} {job.id} {job.name} {what} {detail}".rstrip())


def duration(begin: float | None, end: float | None) -> str:
    return "" if begin is None or end is None else f"{end - begin:.3f} s"


def show_story(job: JobInfo, attempts: list[AttemptInfo], events: list[EventInfo]) -> None:
    facts = {
        "id": job.id,
        "name": job.name,
        "lane": f"{job.lane}, priority {Priority(job.priority).word}",
        "state": f"{job.state}, attempt {job.attempt}",
        "enqueued": moment(job.enqueued_at),
        "due": moment(job.due_at),
        "kept for": "" if job.result_ttl is None else f"{job.result_ttl:g} s after its end",
        "again as": job.retried_as or "",
        "again of": job.retry_of or "",
        "key": job.key or "",
        "workflow": job.workflow or "",
        "parent": job.parent or "",
        "schedule": job.schedule or "",
        "slot": moment(job.slot),
        "agent": job.agent or "",
        "arguments": _shown(job.payload),
        "result": _shown(job.result),
        # Attempts tell of their own; a job that never started has none.
        "error": f"{job.error_type}: {job.error_message}"
        if job.error_type and not job.started_at
        else "",
        "meta": ", ".join(f"{key}={value}" for key, value in (job.meta or {}).items()),
    }
    for fact, value in facts.items():
        if value:
            typer.echo(f"{fact:<10} {value}")
    for attempt in attempts:
        error = f": {attempt.error_type}: {attempt.error_message}" if attempt.error_type else ""
        ran = ""
        if attempt.worker or attempt.started_at:
            ran = f" by {attempt.worker or 'unknown'}, {moment(attempt.started_at)} "
            ran += duration(attempt.started_at, attempt.finished_at)
        typer.echo(f"attempt {attempt.attempt:<2} {attempt.outcome}{ran}{error}")
    for event in events:
        if event.kind in ("lifecycle", "result"):  # told above
            continue
        typer.echo(f"event {event.seq:<4} {moment(event.at)} {event.kind} {_shown(event.data)}")
    if job.error_traceback:
        typer.echo(job.error_traceback.rstrip())


def show_reasons(reasons: list[Reason]) -> None:
    for reason in reasons:
        typer.echo(f"{'waits':<10} {reason.text}")
        if reason.advice:
            typer.echo(f"{'':<10} → {reason.advice}")


def show_troubles(jobs: list[JobInfo], standing: Standing) -> None:
    """What keeps these jobs that does not go away by itself, once for all that it keeps."""
    kept: dict[Reason, int] = {}
    for job in jobs:
        for reason in why(job, standing):
            if reason.trouble:
                kept[reason] = kept.get(reason, 0) + 1
    for reason, count in kept.items():
        typer.echo(f"{count} of these wait: {reason.text}\n  → {reason.advice}")


def _shown(data: bytes | None) -> str:
    return "" if data is None else data.decode(errors="replace")
