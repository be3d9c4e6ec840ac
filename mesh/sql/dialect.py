"""What differs between databases: one ``Dialect`` for each kind, in ``mesh.sql.dialects``.

``Database`` asks it; nothing outside ``mesh.sql`` knows which one it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Protocol, TypeAlias

from sqlalchemy import ColumnElement, Select, Table, func, select, tuple_
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Dialect", "Insert", "Query"]

Query: TypeAlias = "Select[*tuple[Any, ...]]"


class Insert(Protocol):
    """An INSERT that settles conflicts, in the words that PostgreSQL and SQLite share."""

    @property
    def excluded(self) -> Any: ...
    @property
    def values(self) -> Callable[..., Any]: ...
    @property
    def from_select(self) -> Callable[..., Any]: ...
    @property
    def on_conflict_do_update(self) -> Callable[..., Any]: ...
    @property
    def on_conflict_do_nothing(self) -> Callable[..., Any]: ...


class Dialect:
    """A kind of database. Stateless."""

    name: ClassVar[str]
    """SQLAlchemy's, such as ``postgresql``."""
    names: ClassVar[frozenset[str]] = frozenset()
    """Others under which SQLAlchemy knows it."""
    drivername: ClassVar[str]
    """SQLAlchemy's name of it with our driver."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Those that a URL's query may have."""

    is_local: ClassVar[bool] = False
    """A file (or memory) of this machine, that no server guards."""
    skips_locked: ClassVar[bool] = True
    """Several connections may claim rows at once."""
    notifies: ClassVar[bool] = False
    """It wakes those who listen."""
    has_schemas: ClassVar[bool] = False
    """Tables may live in a named schema."""
    takes_arrays: ClassVar[bool] = False
    """Many rows go as one parameter for each column."""
    returns_changes: ClassVar[bool] = True
    """UPDATE and DELETE return the rows that they changed."""
    counts_many: ClassVar[bool] = True
    """A statement that runs for many rows tells how many it changed in all."""
    savepoint: ClassVar[str] = "SAVEPOINT {name}"
    back_to_savepoint: ClassVar[str] = "ROLLBACK TO SAVEPOINT {name}"
    hastes: ClassVar[bool] = False
    """A connection may choose not to wait for the disk."""
    clock: ClassVar[str | None] = None
    """The query for the server's time, seconds since the epoch; ``None``: it has no clock."""
    version: ClassVar[str]
    """The query for the server's version."""

    def parse(self, url: URL) -> URL:
        """The URL, with what users may say in it in the driver's words."""
        return url

    async def find_pooler(self, url: URL, timeout: float) -> bool:
        """Whether a pooler stands between us and the server."""
        return False

    def engine(
        self, url: URL, *, durable: bool, pool_size: int, timeout: float, has_pooler: bool
    ) -> AsyncEngine:
        """A pool of connections; ``timeout`` is the seconds to connect in. Raises
        ``ConfigError`` if its driver is not installed."""
        raise NotImplementedError

    def insert(self, table: Table) -> Insert:
        raise NotImplementedError

    def version_text(self, version: str) -> str:
        """The name of the database, with the answer to ``version``."""
        raise NotImplementedError

    def once(self, query: Query, name: str) -> Query:
        """See ``Database.once``."""
        raise NotImplementedError

    def claiming(self, query: Query, of: Table | None) -> Query:
        """See ``Database.claiming``; where several connections may claim rows at once."""
        return query.with_for_update(skip_locked=True, of=of)

    def locking(self, query: Query, *, shared: bool) -> Query:
        """See ``Database.locking``; where several connections may claim rows at once."""
        return query.with_for_update(read=shared)

    def among(self, column: ColumnElement[Any], query: Query) -> ColumnElement[bool]:
        """See ``Database.among``."""
        return column.in_(query)

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        """Whole or broken seconds since the epoch."""
        raise NotImplementedError

    def one_of(self, subject: ColumnElement[Any], values: list[Any]) -> ColumnElement[bool]:
        """See ``mesh.sql.one_of``."""
        raise NotImplementedError

    def rows_in(
        self, columns: Sequence[ColumnElement[Any]], rows: Sequence[Sequence[Any]]
    ) -> ColumnElement[bool]:
        """Whether the columns are together one of the rows."""
        return tuple_(*columns).in_([tuple(row) for row in rows])

    def follows(
        self, columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """See ``Database.follows``."""
        return tuple_(*columns) > tuple_(*values)

    def precedes(
        self, columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """See ``Database.precedes``."""
        return tuple_(*columns) < tuple_(*values)

    def each_once(
        self, column: ColumnElement[Any], where: Sequence[ColumnElement[bool]], limit: int
    ) -> Query:
        """See ``Database.each_once``."""
        first = select(func.min(column).label("it")).where(*where)
        found = first.cte("found", recursive=True)
        behind = select(func.min(column)).where(*where, column > found.c.it)
        found = found.union_all(select(behind.scalar_subquery()).where(found.c.it.is_not(None)))
        return select(found.c.it).where(found.c.it.is_not(None)).limit(limit)

    def begins_with(self, subject: ColumnElement[str], text: str) -> ColumnElement[bool]:
        """See ``mesh.sql.begins_with``."""
        return subject.startswith(text, autoescape=True)

    async def wait_briefly(self, connection: AsyncConnection, seconds: float) -> None:
        """Have the statements of the transaction give up after waiting so long for others' locks,
        if they can be done again then."""

    def alone(self, connection: AsyncConnection, key: int) -> AbstractAsyncContextManager[None]:
        """Within the block of others that ask with the same key only one is at work; what it did
        is committed before the next begins."""
        return _nothing()


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
