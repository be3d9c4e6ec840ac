"""SQL Server 2019 and later, by aioodbc and pyodbc.

What is not as elsewhere: rows are locked by hints behind a table's name, which other statements
lack and so wait for writers, unless the database has READ_COMMITTED_SNAPSHOT; a table with
triggers returns no rows of a change; there are no pairs of columns to compare, and at most 2100
parameters, so many values are one JSON text; a statement for many rows tells of the last one
alone; and there is no waking.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from math import ceil
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Table,
    Unicode,
    UnicodeText,
    and_,
    cast,
    collate,
    event,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.clock import to_datetime
from mesh.errors import ConfigError
from mesh.sql.dialect import Dialect, Insert, Query
from mesh.sql.dialects.mssql_merge import Merge
from mesh.sql.dialects.mssql_types import COLLATION, DRIVERNAME
from mesh.sql.types import Moment

__all__ = ["MSSQL"]

_ODBC = "ODBC Driver 18 for SQL Server"

# READCOMMITTEDLOCK: with READ_COMMITTED_SNAPSHOT nothing else may pass over locked rows.
_CLAIMING = "WITH (UPDLOCK, ROWLOCK, READPAST, READCOMMITTEDLOCK)"
_LOCKING = "WITH (UPDLOCK, ROWLOCK)"
_SHARED = "WITH (REPEATABLEREAD, ROWLOCK)"

_BRIEF = "mesh_waits_briefly"
"""Noted on a connection that waits for locks but briefly."""
_PATIENCE = 60_000
"""Milliseconds for a lock."""

_TAKE = """\
SET NOCOUNT ON;
DECLARE @got INT;
EXEC @got = sp_getapplock @Resource = '{name}', @LockMode = 'Exclusive', \
@LockOwner = 'Transaction', @LockTimeout = {patience};
SELECT @got"""

_YEARS = {"15": "2019", "16": "2022", "17": "2025"}


class MSSQL(Dialect):
    name = "mssql"
    drivername = DRIVERNAME
    options = frozenset(
        {
            *("driver", "Encrypt", "TrustServerCertificate", "HostNameInCertificate"),
            *("Authentication", "ApplicationIntent", "MultiSubnetFailover"),
        }
    )
    returns_changes = False
    counts_many = False
    savepoint = "SAVE TRANSACTION {name}"
    back_to_savepoint = "ROLLBACK TRANSACTION {name}"
    clock = "SELECT DATEDIFF_BIG(microsecond, '1970-01-01', SYSUTCDATETIME()) / 1000000.0"
    version = "SELECT CAST(SERVERPROPERTY('ProductVersion') AS NVARCHAR(128))"

    def parse(self, url: URL) -> URL:
        return url if "driver" in url.query else url.update_query_dict({"driver": _ODBC})

    def engine(
        self, url: URL, *, durable: bool, pool_size: int, timeout: float, has_pooler: bool
    ) -> AsyncEngine:
        try:
            engine = create_async_engine(
                url,
                pool_size=pool_size,
                max_overflow=pool_size,
                isolation_level="READ COMMITTED",
                connect_args={
                    "timeout": ceil(timeout),
                    # Each connection waits in a thread. Those of the event loop are few: were
                    # they all to wait for a lock, nobody could commit and let go of it.
                    "executor": ThreadPoolExecutor(2 * pool_size, "mesh-odbc"),
                },
            )
        except ImportError as error:  # Also of the library of the system that pyodbc needs.
            raise ConfigError(
                f"no driver for SQL Server ({error}): pip install 'jobmesh[mssql]', and install "
                f"unixODBC and Microsoft's '{_ODBC}'"
            ) from error

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            if connection.info.pop(_BRIEF, False):
                connection.exec_driver_sql("SET LOCK_TIMEOUT -1")

        return engine

    def insert(self, table: Table) -> Insert:
        return Merge(table)

    def version_text(self, version: str) -> str:
        year = _YEARS.get(version.partition(".")[0])
        return f"SQL Server {version}" if year is None else f"SQL Server {year} ({version})"

    def once(self, query: Query, name: str) -> Query:
        return select(query.subquery(name))

    def claiming(self, query: Query, of: Table | None) -> Query:
        return _hinted(query, _CLAIMING, of)

    def locking(self, query: Query, *, shared: bool) -> Query:
        return _hinted(query, _SHARED if shared else _LOCKING)

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.datediff_big(text("second"), text("'1970-01-01'"), moment)

    def one_of(self, subject: ColumnElement[Any], values: list[Any]) -> ColumnElement[bool]:
        each = _opened(values)
        return subject.in_(select(_like(subject, each.c.value)))

    def rows_in(
        self, columns: Sequence[ColumnElement[Any]], rows: Sequence[Sequence[Any]]
    ) -> ColumnElement[bool]:
        each = _opened([[_said(c, v) for c, v in zip(columns, row, strict=True)] for row in rows])
        return exists(
            select(literal_column("1"))
            .select_from(each)
            .where(
                *(
                    column == _like(column, func.json_value(each.c.value, text(f"'$[{place}]'")))
                    for place, column in enumerate(columns)
                )
            )
        )

    def follows(
        self, columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        (first, second), (one, two) = columns, values
        return or_(first > one, and_(first == one, second > two))

    def precedes(
        self, columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        (first, second), (one, two) = columns, values
        return or_(first < one, and_(first == one, second < two))

    def each_once(
        self, column: ColumnElement[Any], where: Sequence[ColumnElement[bool]], limit: int
    ) -> Query:
        # Its recursive queries take no min(), and end after 100 turns.
        return select(column).where(*where).distinct().order_by(column).limit(limit)

    def begins_with(self, subject: ColumnElement[str], text: str) -> ColumnElement[bool]:
        # Its LIKE has brackets too.
        for special in "\\%_[":
            text = text.replace(special, f"\\{special}")
        return subject.like(f"{text}%", escape="\\")

    async def wait_briefly(self, connection: AsyncConnection, seconds: float) -> None:
        # It outlives the transaction: the next one of the connection takes it back.
        (await connection.get_raw_connection()).info[_BRIEF] = True
        await connection.execute(text(f"SET LOCK_TIMEOUT {int(seconds * 1000)}"))

    @asynccontextmanager
    async def alone(self, connection: AsyncConnection, key: int) -> AsyncIterator[None]:
        take = text(_TAKE.format(name=f"jobmesh.{key:x}", patience=_PATIENCE))
        if (await connection.execute(take)).scalar_one() < 0:
            raise TimeoutError(f"another process holds the lock {key:x}")
        yield  # The lock ends with the transaction.


def _hinted(query: Query, hint: str, of: Table | None = None) -> Query:
    table = query.get_final_froms()[0] if of is None else of
    return query.with_hint(table, hint, "mssql")


def _opened(values: list[Any]) -> Any:
    """Rows with a ``value`` each."""
    return func.openjson(literal(json.dumps(values), UnicodeText())).table_valued("value")


def _like(subject: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
    """The value from a JSON text, as one that the subject is compared with."""
    if isinstance(subject.type, Moment):
        return cast(value, subject.type)
    if issubclass(subject.type.python_type, int):
        return cast(value, BigInteger)
    return collate(cast(value, Unicode(4000)), COLLATION)


def _said(column: ColumnElement[Any], value: Any) -> Any:
    """A value as JSON has it."""
    if not isinstance(column.type, Moment):
        return value
    return to_datetime(value).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
