"""Every error of jobmesh, in one tree.

::

    MeshError
    ├── ConfigError                 an option, URL, environment variable or mesh.toml entry is wrong
    │   └── InvalidSchedule         a schedule's expression, zone or option; also a ``ValueError``
    ├── InvalidJob                  refused in the caller; nothing was stored
    │   ├── InvalidArguments        an argument is missing, of a wrong type, or cannot be encoded
    │   └── PayloadTooLarge         the encoded arguments exceed the cluster's limit
    ├── CannotDecrypt               arguments or a result, encrypted with a key that is not here
    ├── EventTooLarge               what a handler said exceeds ``event_size``; a ``ValueError``
    ├── EventsWait                  more than may wait was said of what is persisted: await it
    ├── ClusterArchived             the cluster's mode is ``archive``: nothing was stored
    ├── UnknownHandler              no handler of that name is registered in this app
    ├── WireError                   bytes that this version cannot read
    │   ├── CorruptMessage          not an envelope at all: it is set aside
    │   └── UnsupportedVersion      written by a newer jobmesh: it is kept for newer processes
    ├── AgentError
    │   ├── AgentUnavailable        not stored: no agent took the job
    │   └── PublishOutcomeUnknown   sent, but not acknowledged: stored or not, with the ids to ask
    │       └── PartlyStored        of many calls some were stored; which, it says
    ├── MasterError
    │   ├── MasterUnavailable       the master cannot be reached
    │   ├── SchemaMismatch          the master's schema is older or newer than this code
    │   └── LeaseLost               a newer holder took the lease: this one's write was refused
    ├── ProcessDied                 of a job with ``process=True``: what its attempt ended with
    ├── JobNotFound
    ├── JobNotEnded                 only an ended job can be done again, or forgotten
    ├── JobRetried                  it was done again already, with the id of the job that did
    ├── KeyExists                   the idempotency key stands for another job
    ├── ScheduleNotFound
    ├── ScheduleExists              the name is taken
    ├── JobNotSucceeded             raised by ``job.result()``
    │   ├── JobFailed
    │   └── JobCancelled            cancelled, skipped or expired
    ├── InvalidResult               the result is not of the type that the handler's annotation says
    └── ResultTimeout               also a ``TimeoutError``
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

__all__ = [
    "AgentError",
    "AgentUnavailable",
    "CannotDecrypt",
    "ClusterArchived",
    "ConfigError",
    "CorruptMessage",
    "EventTooLarge",
    "EventsWait",
    "InvalidArguments",
    "InvalidJob",
    "InvalidResult",
    "InvalidSchedule",
    "JobCancelled",
    "JobFailed",
    "JobNotEnded",
    "JobNotFound",
    "JobNotSucceeded",
    "JobRetried",
    "KeyExists",
    "LeaseLost",
    "MasterError",
    "MasterUnavailable",
    "MeshError",
    "PartlyStored",
    "PayloadTooLarge",
    "ProcessDied",
    "PublishOutcomeUnknown",
    "ResultTimeout",
    "ScheduleExists",
    "ScheduleNotFound",
    "SchemaMismatch",
    "UnknownHandler",
    "UnsupportedVersion",
    "WireError",
    "did_you_mean",
]


class MeshError(Exception):
    """Base of every error that jobmesh raises on purpose. All can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own would call __init__ with the message alone.
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[MeshError], args: tuple[Any, ...]) -> MeshError:
    return kind.__new__(kind, *args)


class ConfigError(MeshError):
    """An option, URL, environment variable or ``mesh.toml`` entry is wrong."""


class InvalidSchedule(ConfigError, ValueError):
    """A schedule's expression, time zone or option is wrong.

    ``position`` is the column of the offending word in ``expression``, counted from 1, or
    ``None`` when no one word is to blame.
    """

    def __init__(self, message: str, expression: str = "", position: int | None = None) -> None:
        super().__init__(message)
        self.expression = expression
        self.position = position


class InvalidJob(MeshError):
    """The job was refused in the caller. Nothing was stored."""


class InvalidArguments(InvalidJob, TypeError):
    """An argument is missing, unknown, of a wrong type, or cannot be encoded."""


class PayloadTooLarge(InvalidJob):
    """The encoded arguments exceed the cluster's payload limit (bytes)."""


class EventTooLarge(MeshError, ValueError):
    """What a handler said takes more bytes than ``event_size`` allows."""


class EventsWait(MeshError):
    """So many events wait for the agent that no more are taken: await them."""


class ClusterArchived(MeshError):
    """The cluster's mode is ``archive``: its history can be read, and jobs are refused. Nothing
    was stored."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "not stored: the cluster's mode is 'archive', in which jobs are refused and history "
            "can be read; to accept jobs again: mesh cluster mode active"
        )


class CannotDecrypt(MeshError):
    """What a job carries is encrypted, and this app has no codec, or not the key."""


class UnknownHandler(MeshError, LookupError):
    """No handler of that name is registered in this app."""


class WireError(MeshError):
    """Bytes that this version of jobmesh cannot read."""


class CorruptMessage(WireError):
    """Not a jobmesh message. Agents set such bytes aside and go on."""


class UnsupportedVersion(WireError):
    """Written by a newer jobmesh. The message is kept for processes that can read it."""


class AgentError(MeshError):
    """An agent could not do what was asked."""


class AgentUnavailable(AgentError):
    """No agent took the job: it was **not** stored."""


class PublishOutcomeUnknown(AgentError):
    """The jobs were sent but not acknowledged in time: stored or not, nobody knows yet.

    Ask with ``app.get_job(id)``, or enqueue again with ``.options(id=...)``: an id that was
    stored is not stored twice.
    """

    def __init__(self, message: str, job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.job_ids: tuple[str, ...] = tuple(job_ids)


class PartlyStored(PublishOutcomeUnknown):
    """Of many calls some were stored, others not, or nobody knows.

    Of the first ``tried`` calls all are stored but for those numbered, from 0, in ``not_stored``
    and ``unknown``; ``job_ids`` are the ids of the latter. No others were tried.
    """

    def __init__(
        self,
        message: str,
        *,
        tried: int,
        not_stored: Sequence[int] = (),
        unknown: Sequence[int] = (),
        job_ids: Sequence[str] = (),
    ) -> None:
        super().__init__(message, job_ids)
        self.tried = tried
        self.not_stored: tuple[int, ...] = tuple(not_stored)
        self.unknown: tuple[int, ...] = tuple(unknown)


class MasterError(MeshError):
    """The master could not do what was asked."""


class MasterUnavailable(MasterError):
    """The master cannot be reached."""


class SchemaMismatch(MasterError):
    """The master's schema is older or newer than this code."""


class LeaseLost(MasterError):
    """A newer holder took the lease, so this holder's write was refused."""


class ProcessDied(MeshError):
    """The process that ran a handler ended before the handler did: it was killed, crashed or
    exited. Not raised, but what a job's attempt ends with; retry policies may name it."""


class JobNotFound(MeshError, LookupError):
    """The master has no job of that id."""

    def __init__(self, job_id: str, hint: str = "") -> None:
        super().__init__(f"job {job_id} is not in the master{hint}")
        self.job_id = job_id


class JobNotEnded(MeshError):
    """The job has not ended, or something unfinished needs it: what was asked is for others."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobRetried(MeshError):
    """The job was done again already. ``retried_as`` is the id of the job that did."""

    def __init__(self, job_id: str, retried_as: str) -> None:
        super().__init__(
            f"job {job_id} was done again already, as job {retried_as}: retry that one"
        )
        self.job_id = job_id
        self.retried_as = retried_as


class KeyExists(MeshError):
    """The idempotency key stands for another job: nothing was stored."""

    def __init__(self, message: str, key: str, job_id: str) -> None:
        super().__init__(message)
        self.key = key
        self.job_id = job_id


class ScheduleNotFound(MeshError, LookupError):
    """The master has no schedule of that name."""

    def __init__(self, name: str, hint: str = "") -> None:
        super().__init__(f"no schedule is named '{name}'{hint}")
        self.name = name


class ScheduleExists(MeshError):
    """There is a schedule of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a schedule named '{name}' already: update it, or choose another name"
        )
        self.name = name


class JobNotSucceeded(MeshError):
    """The job ended, but has no result. ``state`` says how it ended."""

    def __init__(self, message: str, job_id: str, state: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state


class JobFailed(JobNotSucceeded):
    """The job's last attempt failed. ``error_type`` and ``traceback`` are the handler's."""

    def __init__(
        self, message: str, job_id: str, state: str, error_type: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message, job_id, state)
        self.error_type = error_type
        self.traceback = traceback


class JobCancelled(JobNotSucceeded):
    """The job was cancelled, skipped or expired."""


class InvalidResult(MeshError, TypeError):
    """The job succeeded, but its result is not of the type that the handler's annotation says."""


class ResultTimeout(MeshError, TimeoutError):
    """The job has not ended in the time given. It goes on."""


def raised(outcome: T | MeshError) -> T:
    """What was hoped for; raises what came instead."""
    if isinstance(outcome, MeshError):
        raise outcome
    return outcome


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, else a list of the known."""
    candidates = sorted(known)
    close = difflib.get_close_matches(word, candidates, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f" (known: {', '.join(candidates)})" if candidates else ""
