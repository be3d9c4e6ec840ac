"""How a worker stands: what its process tells probes and Prometheus of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.clock import to_datetime
from mesh.monitor import Families, Tally
from mesh.ports import Check
from mesh_workers.lane import Lane
from mesh_workers.reporter import Reporter

__all__ = ["PATIENCE", "health_of", "metrics_of"]

PATIENCE = 3
"""Heartbeats that may be missed."""

_TEXTS: Mapping[str, str] = {
    "attempts_started": "Attempts that this process began.",
    "attempts_ended": "Attempts that ended in this process, and jobs that it ended unstarted, by "
    "the state that the job is in then.",
    "attempt_duration_seconds": "How long attempts took.",
    "attempt_wait_seconds": "How long attempts waited from when they might have begun.",
}


def health_of(
    subject: str, state: str, reporter: Reporter | None, lanes: Sequence[Lane], most: float
) -> list[Check]:
    """``most``: seconds since the last heartbeat that are no reason to worry. ``reporter`` is
    ``None`` as long as the agent was not reached."""
    if reporter is None:
        return [Check(subject, False, "the agent has not been reached (yet)", "see the log")]
    checks = [Check(subject, state == "running", f"is {state}")]
    checks.append(_check_agent(f"{subject}: agent", reporter, most))
    for lane in lanes:
        at = f"{subject}: lane {lane.name}"
        checks.append(Check(at, lane.is_pulling, "pulls" if lane.is_pulling else "does not pull"))
    return checks


def _check_agent(subject: str, reporter: Reporter, most: float) -> Check:
    age, away = reporter.silence, reporter.away
    is_well = age is not None and age <= most
    if away is not None:
        detail = f"is away since {to_datetime(away.since):%Y-%m-%d %H:%M:%S} UTC: {away.why}"
    elif age is None:
        return Check(subject, False, "no heartbeat was written (yet)")
    else:
        detail = f"the last heartbeat was written {age:.1f} s ago"
    advice = "" if is_well else "the agent does not take it: see the log, mesh doctor"
    return Check(subject, is_well, detail, advice)


def metrics_of(
    families: Families,
    tally: Tally,
    reporter: Reporter | None,
    lanes: Sequence[Lane],
    **labels: str,
) -> None:
    """The metrics of one worker; ``labels`` tell it from others of the process."""
    prefix = "jobmesh_worker"
    families.tally(prefix, tally, _TEXTS, **labels)
    for lane in lanes:
        load, given = lane.load, labels | {"lane": lane.name}
        for name, text, value in (
            ("slots", "How many jobs the lane may run here at once.", load.concurrency),
            ("running", "Jobs that run here.", load.running),
            ("held", "Jobs that were pulled and have not started.", load.held),
            ("stragglers", "Threads that go on after their attempts.", lane.stragglers),
        ):
            families.gauge(f"{prefix}_lane_{name}", text, value, **given)
    if reporter is not None:
        text = "Events of handlers that were dropped while the agent was away."
        families.counter(f"{prefix}_events_dropped", text, reporter.outlets.dropped, **labels)
        text = "Seconds since the last heartbeat was written to the agent."
        families.gauge(f"{prefix}_heartbeat_age_seconds", text, reporter.silence or 0.0, **labels)
