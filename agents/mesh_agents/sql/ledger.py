"""Reading the ledger.

Ids are given when a row is written, and rows are seen when they are committed: of two writers
the later id may be seen first. So a reader has no position to go on behind. It remembers the
ids it has read and not yet acknowledged, and reads the smallest ids that are none of those.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import delete, func, select

from mesh.clock import Clock
from mesh.errors import CorruptMessage, UnsupportedVersion
from mesh.ports import LedgerBatch, Lookup
from mesh.sql import one_of, repeated
from mesh.wire import Record, decode_records
from mesh_agents.sql.store import LEDGER, Store

__all__ = ["SqlLedger"]

log = logging.getLogger("mesh")

# Bytes of entries in one batch, unless a single entry has more.
_BATCH_BYTES = 16 * 1024 * 1024


class SqlLedger:
    """``mesh.ports.Ledger`` on rows. The receipt of a batch is the tuple of its rows' ids."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._database = store.database
        self._clock = clock
        self._read: set[int] = set()

    async def read(self, limit: int, wait: float) -> LedgerBatch:
        signals, wake, looks = self._store.signals, asyncio.Event(), 0
        deadline = self._clock.monotonic() + wait
        with signals.waiting(LEDGER, wake):
            while True:
                wake.clear()
                batch = await self._take(limit)
                left = deadline - self._clock.monotonic()
                if batch.records or left <= 0:
                    return batch
                await self._clock.wait(wake, min(left, signals.pause(looks)))
                looks += 1

    async def _take(self, limit: int) -> LedgerBatch:
        while True:
            rows = await self._next_rows(limit)
            records: list[Record] = []
            ids: list[int] = []
            corrupt: list[tuple[int, bytes, str]] = []
            for row_id, entry in rows:
                try:
                    records += decode_records(entry)
                except CorruptMessage as error:
                    corrupt.append((row_id, entry, str(error)))
                except UnsupportedVersion:
                    if not records and not corrupt:
                        raise
                    break  # What comes before it is good; the next read begins with it.
                else:
                    ids.append(row_id)
            if corrupt:
                await self._set_aside(corrupt)
            self._read.update(ids)
            if records or not rows:
                return LedgerBatch(records, tuple(ids))

    async def _next_rows(self, limit: int) -> list[tuple[int, bytes]]:
        ledger = self._store.tables.ledger
        mine = ledger.c.agent == self._store.name
        sizes = (
            select(ledger.c.id, ledger.c.count, func.length(ledger.c.entry))
            .where(mine, ~one_of(self._database, ledger.c.id, sorted(self._read)))
            .order_by(ledger.c.id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            ids: list[int] = []
            count = size = 0
            for row_id, row_count, row_size in await connection.execute(sizes):
                count += row_count
                size += row_size
                if ids and (count > limit or size > _BATCH_BYTES):
                    break
                ids.append(row_id)
            if not ids:
                return []
            entries = (
                select(ledger.c.id, ledger.c.entry)
                .where(one_of(self._database, ledger.c.id, ids))
                .order_by(ledger.c.id)
            )
            return [(row.id, row.entry) for row in await connection.execute(entries)]

    @repeated
    async def _set_aside(self, corrupt: list[tuple[int, bytes, str]]) -> None:
        ledger = self._store.tables.ledger
        ids = [row_id for row_id, _, _ in corrupt]
        async with self._database.write() as connection:
            await self._store.bury(connection, [(None, data, error) for _, data, error in corrupt])
            await connection.execute(delete(ledger).where(one_of(self._database, ledger.c.id, ids)))
        for row_id, _, error in corrupt:
            log.error(
                "agent %s, ledger: entry %d is set aside: %s", self._store.name, row_id, error
            )

    @repeated
    async def ack(self, batch: LedgerBatch) -> None:
        ids: tuple[int, ...] = batch.receipt
        if not ids:
            return
        ledger = self._store.tables.ledger
        # Undone by a crash of the server, the records are read, and recorded, once more.
        async with self._database.write(durable=False) as connection:
            await connection.execute(delete(ledger).where(one_of(self._database, ledger.c.id, ids)))
            await self._store.sweep(connection)
        self._read.difference_update(ids)

    async def serve(self, lookup: Lookup) -> None:
        """Nothing to answer: the jobs' rows know what became of them."""

    @property
    def awaited(self) -> bool:
        return False

    async def lag(self) -> int:
        ledger = self._store.tables.ledger
        count = select(func.count()).where(ledger.c.agent == self._store.name)
        async with self._database.read() as connection:
            return int((await connection.execute(count)).scalar_one())

    async def end(self) -> int:
        ledger = self._store.tables.ledger
        newest = select(func.max(ledger.c.id)).where(ledger.c.agent == self._store.name)
        async with self._database.read() as connection:
            return int((await connection.execute(newest)).scalar_one() or 0)

    async def has_passed(self, place: int) -> bool:
        ledger = self._store.tables.ledger
        left = select(ledger.c.id).where(ledger.c.agent == self._store.name, ledger.c.id <= place)
        async with self._database.read() as connection:
            return (await connection.execute(left.limit(1))).first() is None

    async def close(self) -> None:
        pass
