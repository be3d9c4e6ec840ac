"""What a driver's exception means: is the database away, or did it refuse a statement?"""

from __future__ import annotations

import re
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
    "was_undone",
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


# MariaDB's numbers (mariadb.com/kb/en/mariadb-error-code-reference).
_MYSQL_CONFLICT = frozenset({1062})
_MYSQL_UNDONE = frozenset({1205, 1213, 1305})
"""A lock that was not to be had in time, a deadlock, and the savepoint that went with one."""
_MYSQL_FULL = frozenset({1021, 1114})
_MYSQL_GONE = frozenset({1053, 1152, 1158, 1159, 1160, 1161, 1927, 4031})
"""The connection broke, or the server ended it."""
_MYSQL_AWAY = (
    _MYSQL_UNDONE
    | _MYSQL_FULL
    | _MYSQL_GONE
    # Too many connections, an account or a database that is not there, a server that may only be
    # read.
    | {1040, 1044, 1045, 1049, 1129, 1130, 1203, 1290, 1698, 1792, 1836}
    # The driver's own words for a server that it cannot reach, or that went.
    | {2002, 2003, 2006, 2013, 2055}
)


# SQL Server's numbers (learn.microsoft.com/sql/relational-databases/errors-events), Azure's among
# them.
_MSSQL_CONFLICT = frozenset({2601, 2627})
_MSSQL_UNDONE = frozenset({1205})
"""A deadlock."""
_MSSQL_BLOCKED = _MSSQL_UNDONE | {1222}
"""And a lock that was not to be had in time."""
_MSSQL_FULL = frozenset({1101, 1105, 9002})
_MSSQL_GONE = frozenset({64, 121, 233, 596, 6005, 6006, 10053, 10054, 10060, 10929, 40197, 40613})
"""The connection broke, or the server ended it."""
_MSSQL_AWAY = (
    _MSSQL_BLOCKED
    | _MSSQL_FULL
    | _MSSQL_GONE
    # A database or an account that is not there, that others have to themselves, is offline, or
    # may only be read; a server that is paused, or has no room or no time.
    | {701, 802, 904, 911, 922, 924, 927, 942, 945, 976, 978, 983, 3906, 4060, 4064, 8645, 8651}
    | {10928, 17142, 18452, 18456, 18461, 18488, 40501, 49918, 49919, 49920}
)
# The number stands behind the message: "[40001] [Microsoft][…] Transaction … (1205) (SQLExecute)".
_MSSQL_NUMBER = re.compile(r"\((\d+)\) \(SQL\w+\)")
_ODBC_AWAY = ("08", "HYT", "IM")
"""How the driver's own states begin: no connection, no answer in time, no such driver."""


class Conflict(Exception):
    """A row with this key exists. Nothing was written."""


def is_away(error: BaseException) -> bool:
    """Whether the database could not be reached or used, rather than refused a statement."""
    if isinstance(error, OSError | exc.TimeoutError):
        return True
    cause = _cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        return _sqlite_name(cause).startswith(_SQLITE_AWAY)
    return (
        bool(getattr(error, "connection_invalidated", False))
        or isinstance(cause, _POSTGRES_AWAY)
        or _mysql_number(cause) in _MYSQL_AWAY
        or _mssql_number(cause) in _MSSQL_AWAY
        or _odbc_state(cause).startswith(_ODBC_AWAY)
    )


def is_conflict(error: BaseException) -> bool:
    """Whether a key existed already."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.IntegrityError):
        return cause.sqlite_errorname in _SQLITE_CONFLICT
    return (
        isinstance(cause, asyncpg.UniqueViolationError)
        or _mysql_number(cause) in _MYSQL_CONFLICT
        or _mssql_number(cause) in _MSSQL_CONFLICT
    )


def is_blocked(error: BaseException) -> bool:
    """Whether a statement gave up since others held what it would lock, by the database's own
    error or by what its owner raised for that."""
    blocked = asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError
    causes = [_cause(e) for e in (error, error.__cause__) if e is not None]
    return any(isinstance(c, blocked) or _mssql_number(c) in _MSSQL_BLOCKED for c in causes)


def is_full(error: BaseException) -> bool:
    """Whether there is no room on the disk."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        return _sqlite_name(cause) == "SQLITE_FULL"
    return (
        isinstance(cause, asyncpg.DiskFullError)
        or _mysql_number(cause) in _MYSQL_FULL
        or _mssql_number(cause) in _MSSQL_FULL
    )


def was_refused(error: BaseException) -> bool:
    """Whether the database said that it did not do the statement: so nothing is in doubt."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.OperationalError):
        # Of a commit too; with others, such as SQLITE_IOERR, it may have been written.
        return _sqlite_name(cause).startswith(("SQLITE_FULL", "SQLITE_BUSY"))
    if (number := _mysql_number(cause)) is not None:
        # Those from 2000 on are the driver's own.
        return not 2000 <= number < 3000 and number not in _MYSQL_GONE
    if (number := _mssql_number(cause)) is not None:
        return number not in _MSSQL_GONE and not _odbc_state(cause).startswith(_ODBC_AWAY)
    return isinstance(cause, asyncpg.PostgresError) and not isinstance(
        cause, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    )


def was_undone(error: BaseException) -> bool:
    """Whether the server gave the transaction up for another's sake: to be done once more."""
    cause = _cause(error)
    return _mysql_number(cause) in _MYSQL_UNDONE or _mssql_number(cause) in _MSSQL_UNDONE


def _mysql_number(error: BaseException) -> int | None:
    """The server's number of an error of MariaDB or MySQL, whatever driver raised it."""
    if not type(error).__module__.startswith(("asyncmy", "pymysql", "MySQLdb", "mysql")):
        return None
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None


def _mssql_number(error: BaseException) -> int | None:
    """SQL Server's number of an error that its ODBC driver raised."""
    found = _MSSQL_NUMBER.search(str(error)) if _odbc_state(error) else None
    return None if found is None else int(found[1])


def _odbc_state(error: BaseException) -> str:
    """The SQLSTATE of an error that an ODBC driver raised; of others none."""
    if not type(error).__module__.startswith("pyodbc") or not error.args:
        return ""
    return str(error.args[0])


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
