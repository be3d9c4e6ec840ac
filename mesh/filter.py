"""Which jobs of the history are meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from mesh.errors import ConfigError
from mesh.job import TERMINAL, State, check_job_id

__all__ = ["MOST_TAG", "JobFilter", "Order"]

Order = Literal["enqueued", "finished"]
"""The newest first, or what ended last first."""

MOST_TAG = 200
"""Characters: a tag whose name or value is longer is kept with its job, and not searched."""


class _Job(Protocol):
    """What ``mesh.ports.JobInfo`` says of where a page ends."""

    @property
    def id(self) -> str: ...
    @property
    def enqueued_at(self) -> float: ...
    @property
    def finished_at(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; what is not given means any. All that is given must be met.

    Raises ``ConfigError`` for what no job can meet.
    """

    states: Collection[State] = ()
    """In any of these."""
    name: str | None = None
    """The handler's name, or how it begins: ``reports.*``."""
    lane: str | None = None
    schedule: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    """Tags that the job has, all of them."""
    key: str | None = None
    workflow: str | None = None
    parent: str | None = None
    """The job whose handler enqueued it."""
    error: str | None = None
    """The type of the latest attempt's error, such as ``ValueError``."""
    fingerprint: str | None = None
    """Of failed jobs that look alike, as ``Master.failures`` says."""
    retried: bool | None = None
    """Whether an ended job was done again."""
    since: float | None = None
    """From this moment on, of its enqueuing or of its end, as ``by_end`` says."""
    until: float | None = None
    """Before this moment."""
    order: Order | None = None
    """``None``: ``finished`` where only terminal states, or a fingerprint, are asked for, else
    ``enqueued``."""
    app: str = ""
    """Of handlers whose names begin so: the ``prefix`` of an app."""
    limit: int = 50
    before: str | None = None
    """The page before ended here; see ``next_page``."""

    def __post_init__(self) -> None:
        open_states = [state for state in self.states if state not in TERMINAL]
        if self.order == "finished" and open_states:
            raise ConfigError(
                f"order='finished' lists jobs that have ended, and a job that is "
                f"{open_states[0]} has not: leave out the order, or the state"
            )
        for tag in (text for pair in self.meta.items() for text in pair):
            if len(tag) > MOST_TAG:
                raise ConfigError(
                    f"tag '{tag[:40]}…' has {len(tag)} characters: tags of up to {MOST_TAG} are "
                    "searched"
                )
        if self.before is not None:
            _ = self.cursor

    @property
    def is_any(self) -> bool:
        """Whether nothing is said of which jobs, but for whose."""
        return self == JobFilter(app=self.app, limit=self.limit)

    @property
    def is_counted(self) -> bool:
        """Whether nothing is said but states, name, lane and app: of those the number of jobs is
        kept."""
        said = JobFilter(states=self.states, name=self.name, lane=self.lane, app=self.app)
        return replace(self, limit=said.limit, before=None, order=None) == said

    @property
    def by_end(self) -> bool:
        """Whether jobs are ordered, and ``since`` and ``until`` meant, by their end."""
        if self.order is None and not self.states:
            return self.fingerprint is not None
        if self.order is None:
            return TERMINAL.issuperset(self.states)
        return self.order == "finished"

    @property
    def moment(self) -> Literal["enqueued_at", "finished_at"] | None:
        """The moment by which jobs are ordered, and those of the same one by their ids. ``None``:
        by their ids alone, which have the moment in them unless somebody chose them."""
        if self.by_end:
            return "finished_at"
        return None if self.since is None and self.until is None else "enqueued_at"

    @property
    def cursor(self) -> tuple[str, float]:
        """What ``before`` says: an id, and the moment if ordered by one (else 0)."""
        job_id, _, moment = (self.before or "").partition("@")
        check_job_id(job_id)
        try:
            at = 0.0 if self.moment is None else float(moment)
        except ValueError:
            raise ConfigError(
                f"before='{self.before}': pages in the order of a moment go on from ID@MOMENT, as "
                "the page before said; such is the order of ended jobs, unless order='enqueued', "
                "and of those since or until a moment"
            ) from None
        return job_id, at

    def next_page(self, last: _Job) -> JobFilter:
        """The filter for the page behind the one that ended with ``last``."""
        if self.moment is None:
            return replace(self, before=last.id)
        at = last.finished_at if self.moment == "finished_at" else last.enqueued_at
        return replace(self, before=f"{last.id}@{at!r}")
