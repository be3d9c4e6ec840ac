"""Running our statements in a transaction that is the user's.

Takes what applications have in hand: a SQLAlchemy ``AsyncSession``, ``Session``,
``AsyncConnection`` or ``Connection``, or asyncpg's own connection with a transaction begun.
Nothing is committed, rolled back or closed here; a statement that fails leaves the transaction
as its database does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import asyncpg
from sqlalchemy import Connection, Executable
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from mesh.errors import ConfigError
from mesh.sql.alone import Compiled, Statement
from mesh.sql.database import Database, Executor

__all__ = ["executor_within"]

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def executor_within(session: Any, database: Database) -> Executor:
    """Runs statements in the user's transaction. Raises ``ConfigError`` if that is none of the
    known kinds, or not on a database of this kind."""
    if isinstance(session, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        _check_kind(database, "postgresql", session)
        if not session.is_in_transaction():
            raise ConfigError(
                "options(session=...): the asyncpg connection has no transaction; enqueue within "
                "'async with connection.transaction():'"
            )
        return _Asyncpg(session)
    if isinstance(session, AsyncSession | Session):
        _check_kind(database, session.get_bind().dialect.name, session)
    elif isinstance(session, AsyncConnection | Connection):
        _check_kind(database, session.dialect.name, session)
    else:
        raise ConfigError(
            f"options(session={type(session).__name__} object): give a SQLAlchemy AsyncSession, "
            "Session, AsyncConnection or Connection, or an asyncpg connection"
        )
    if isinstance(session, Session | Connection):
        return _Blocking(session)
    return cast(Executor, session)


def _check_kind(database: Database, kind: str, session: Any) -> None:
    if kind not in (database.dialect.name, *database.dialect.names):
        raise ConfigError(
            f"options(session=...): the {type(session).__name__} is on {kind}, and the master on "
            f"{database.kind}: a transaction cannot span both; see 'Inside your transaction' in "
            "the docs for the outbox"
        )


class _Blocking:
    """A session without an event loop: it waits in a thread. In ours it would wait for ever for
    a lock that a transaction of this loop has."""

    def __init__(self, session: Session | Connection) -> None:
        self._session = session

    async def execute(self, statement: Executable, parameters: Parameters = None, /) -> Any:
        execute: Callable[..., Any] = self._session.execute
        return await asyncio.to_thread(execute, statement, parameters)


class _Asyncpg:
    """The driver's connection, given statements as SQLAlchemy would compile them for it."""

    _dialect: Any = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, statement: Statement, parameters: Parameters = None, /) -> Any:
        compiled = Compiled(statement, self._dialect)
        each = [parameters or {}] if not isinstance(parameters, Sequence) else parameters
        found: list[Any] = []
        count = 0
        for one in each:
            prepared = await self._connection.prepare(compiled.text)
            found += compiled.rows(await prepared.fetch(*compiled.arguments(one)))
            word = prepared.get_statusmsg().rpartition(" ")[2]  # such as "UPDATE 3"
            count += int(word) if word.isdecimal() else 0
        return _Result(SimpleResultMetaData(compiled.names), map(tuple, found), count)


class _Result(IteratorResult[Any]):
    def __init__(self, metadata: SimpleResultMetaData, rows: Any, rowcount: int) -> None:
        super().__init__(metadata, rows)
        self.rowcount = rowcount
