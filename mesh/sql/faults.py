"""What a driver's exception means: is the database away, or did it refuse a statement?"""

from __future__ import annotations

import sqlite3

import asyncpg
from sqlalchemy import exc

__all__ = [
    "FAULTS",
    "Conflict",
    "first_line",
    "is_away",
    "is_blocked",
    "is_conflict",
    "is_full",
    "was_refused",
]

FAULTS = (
    exc.DBAPIError,
    exc.TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What the driver says of a connection that goes while it is busy with it.
    asyncpg.InternalClientError,
    sqlite3.Error,
    OSError,
)
"""Everything that a database, its driver or the network raises. ``TimeoutError`` is an
``OSError``."""

# Result codes that say something of the file, not of the statement (sqlite.org/rescode.html).
_SQLITE_AWAY = (
    "SQLITE_BUSY",
    "SQLITE_CANTOPEN",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_LOCKED",
    "SQLITE_READONLY",
)

_SQLITE_CONFLICT = ("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE")

_POSTGRES_AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


class Conflict(Exception):
    """A row with this key exists. Nothing was written."""


def is_away(error: BaseException) -> bool:
    """Whether the database could not be reached or used, rather than refused a statement."""
    if isinstance(error, OSError | exc.TimeoutError):
        return True
    cause = _cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        return _sqlite_name(cause).startswith(_SQLITE_AWAY)
    return bool(getattr(error, "connection_invalidated", False)) or isinstance(
        cause, _POSTGRES_AWAY
    )


def is_conflict(error: BaseException) -> bool:
    """Whether a key existed already."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.IntegrityError):
        return cause.sqlite_errorname in _SQLITE_CONFLICT
    return isinstance(cause, asyncpg.UniqueViolationError)


def is_blocked(error: BaseException) -> bool:
    """Whether a statement gave up since others held what it would lock, by the database's own
    error or by what its owner raised for that."""
    blocked = asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError
    return any(isinstance(_cause(e), blocked) for e in (error, error.__cause__) if e is not None)


def is_full(error: BaseException) -> bool:
    """Whether there is no room on the disk."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        return _sqlite_name(cause) == "SQLITE_FULL"
    return isinstance(cause, asyncpg.DiskFullError)


def was_refused(error: BaseException) -> bool:
    """Whether the database said that it did not do the statement: so nothing is in doubt."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        # Of a commit too; with others, such as SQLITE_IOERR, it may have been written.
        return _sqlite_name(cause).startswith(("SQLITE_FULL", "SQLITE_BUSY"))
    return isinstance(cause, asyncpg.PostgresError) and not isinstance(
        cause, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    )


def _sqlite_name(error: sqlite3.OperationalError) -> str:
    return getattr(error, "sqlite_errorname", "")


def _cause(error: BaseException) -> BaseException:
    original: BaseException = getattr(error, "orig", None) or error
    # SQLAlchemy wraps asyncpg's exception in its own; the cause is what happened.
    return original.__cause__ or original


def first_line(error: BaseException) -> str:
    """The driver's own words, without what SQLAlchemy puts around them."""
    original = getattr(error, "orig", None) or error
    text = str(original).strip() or type(original).__name__
    # SQLAlchemy's asyncpg wrapper begins with the class: "<class '…'>: message".
    if text.startswith("<class"):
        text = text.partition(">: ")[2] or text
    return text.splitlines()[0]
