"""A board (see ``mesh.notices``) in a table.

Each owner's rows have one more of an empty key, the *counter*: every write takes the next version
from it, and holds its lock until it commits. So versions are seen in their order, and a reader
goes on behind the greatest that it has seen. What is taken down stays for ``_KEPT`` seconds as a
row without a value; a reader that has not looked for half as long reads the whole board again,
and sees what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    LargeBinary,
    MetaData,
    Table,
    and_,
    bindparam,
    delete,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.notices import check_notices
from mesh.sql.bulk import BulkUpsert
from mesh.sql.database import Database
from mesh.sql.repeated import repeated
from mesh.sql.signals import Signals
from mesh.sql.types import Moment, String

__all__ = ["BOARD", "Notices", "SqlBoard", "board_columns", "board_table"]

BOARD = "/board"
"""The topic of those who wait for a board to change."""

_KEPT = 3600.0
_COUNTER = ""


def board_columns() -> list[Column[object]]:
    """Those of a board's table, for a migration that makes one."""
    return [
        Column("owner", String(64), primary_key=True),
        Column("key", String(160), primary_key=True),
        # NULL: taken down. Of the counter always.
        Column("value", LargeBinary),
        Column("version", BigInteger, nullable=False),
        Column("at", Moment, nullable=False),
    ]


def board_table(name: str, metadata: MetaData) -> Table:
    """The table; several boards share one, each with an owner's name."""
    index = Index(f"{name}_version", "owner", "version")
    return Table(name, metadata, *board_columns(), index)


class Notices:
    """One owner's board."""

    def __init__(self, database: Database, table: Table, owner: str, signals: Signals) -> None:
        self.database = database
        self.table = table
        self.owner = owner
        self.signals = signals
        first: dict[str, Any] = {
            name: bindparam(name) for name in ("owner", "key", "version", "at")
        }
        insert = database.insert(table).values(first)
        self._count = insert.on_conflict_do_update(
            index_elements=["owner", "key"],
            set_={"version": table.c.version + 1, "at": insert.excluded["at"]},
        )
        self._counter = select(table.c.version).where(
            table.c.owner == owner, table.c.key == _COUNTER
        )
        columns = ["owner", "key", "value", "version", "at"]
        self._put = BulkUpsert(
            database,
            table,
            columns,
            columns[:2],
            lambda new: {name: new[name] for name in columns[2:]},
        )

    @repeated
    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        """Put up notices, or with ``None`` take them down, in a transaction of its own."""
        check_notices(notices)
        if not notices:
            return
        async with self.database.write() as connection:
            await self.write(connection, notices, await self.turn(connection))
        self.signals.signal({BOARD})

    async def turn(self, connection: AsyncConnection) -> int:
        """The next version; others wait for theirs until the transaction has ended."""
        now = self.database.now()
        first = {"owner": self.owner, "key": _COUNTER, "version": 1, "at": now}
        await connection.execute(self._count, first)
        return int((await connection.execute(self._counter)).scalar_one())

    async def write(
        self, connection: AsyncConnection, notices: Mapping[str, bytes | None], version: int
    ) -> None:
        """``post``, within a transaction that has its ``turn``. Signal ``BOARD`` after it."""
        now, table = self.database.now(), self.table
        rows = [
            {"owner": self.owner, "key": key, "value": value, "version": version, "at": now}
            for key, value in sorted(notices.items())
        ]
        await self._put.run(connection, rows)
        if None in notices.values():
            await connection.execute(
                delete(table).where(
                    self._mine, table.c.value.is_(None), table.c["at"] < now - _KEPT
                )
            )

    @property
    def _mine(self) -> ColumnElement[bool]:
        return and_(self.table.c.owner == self.owner, self.table.c.key != _COUNTER)

    async def get(self, connection: AsyncConnection, key: str) -> bytes | None:
        """What stands under a key."""
        query = select(self.table.c.value).where(
            self.table.c.owner == self.owner, self.table.c.key == key
        )
        value: bytes | None = (await connection.execute(query)).scalar_one_or_none()
        return value

    async def since(self, version: int) -> tuple[dict[str, bytes | None], int]:
        """What changed after that version, and the greatest version there is."""
        table = self.table.c
        query = select(table.key, table.value, table.version).where(
            table.owner == self.owner, table.version > version
        )
        changes: dict[str, bytes | None] = {}
        async with self.database.read() as connection:
            for key, value, its in await connection.execute(query):
                version = max(version, its)
                if key != _COUNTER:
                    changes[key] = value
        return changes, version


class SqlBoard:
    """``mesh.ports.Board`` on rows."""

    def __init__(self, notices: Notices, clock: Clock, look: float) -> None:
        """``look``: seconds between two looks where nothing wakes the reader."""
        self._notices = notices
        self._clock = clock
        self._look = look
        self._version = 0
        self._keys: set[str] = set()
        self._read_at: float | None = None

    async def read(self, wait: float) -> dict[str, bytes | None]:
        if wait <= 0:  # Not a waiter: for those a connection is kept that listens.
            return await self._changes()
        signals, wake, looks = self._notices.signals, asyncio.Event(), 0
        deadline = self._clock.monotonic() + wait
        with signals.waiting(BOARD, wake):
            while True:
                wake.clear()
                is_first = self._read_at is None
                changes = await self._changes()
                left = deadline - self._clock.monotonic()
                if changes or is_first or left <= 0:
                    return changes
                await self._clock.wait(wake, min(left, max(signals.pause(looks), self._look)))
                looks += 1

    async def _changes(self) -> dict[str, bytes | None]:
        now = self._clock.monotonic()
        is_whole = self._read_at is None or now - self._read_at > _KEPT / 2
        changes, self._version = await self._notices.since(0 if is_whole else self._version)
        self._read_at = now
        if is_whole:
            standing = {key: value for key, value in changes.items() if value is not None}
            changes = dict.fromkeys(self._keys - standing.keys()) | standing
        for key, value in changes.items():
            (self._keys.discard if value is None else self._keys.add)(key)
        return changes

    async def close(self) -> None:
        pass
