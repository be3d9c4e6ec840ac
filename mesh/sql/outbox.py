"""The outbox: where jobs wait that were stored in a transaction on another database than the
master's.

An application whose own database is not the master's cannot store a job and its own rows in one
transaction, unless the job is a row of its own database first. That is the table ``mesh_outbox``;
a coordinator moves its rows to the master (``mesh_master.outboxes``), each at least once, and
storing a job twice changes nothing. One that the master refuses goes to ``mesh_outbox_refused``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    delete,
    select,
)

from mesh.clock import Clock
from mesh.errors import MasterError, MasterUnavailable, MeshError
from mesh.held import Held
from mesh.sql.bulk import one_of
from mesh.sql.database import Database, DatabaseErrors
from mesh.sql.engines import ABANDONED
from mesh.sql.faults import FAULTS
from mesh.sql.notice import NOTIFY
from mesh.sql.signals import make_signals
from mesh.sql.types import String, Text
from mesh.sql.within import executor_within
from mesh.wire import VERSION, check_version

__all__ = ["OUTBOX_TABLE", "REFUSED_TABLE", "Outbox", "Taken"]

log = logging.getLogger("mesh")

OUTBOX_TABLE = "mesh_outbox"
REFUSED_TABLE = "mesh_outbox_refused"
_TOPIC = "outbox"
_PATIENCE = float(ABANDONED)
"""Seconds for some jobs to be moved. PostgreSQL and MariaDB give no more to a transaction that
idles, as this does while the master stores them."""

_ERRORS = DatabaseErrors(unavailable=MasterUnavailable, failed=MasterError, in_doubt=MasterError)

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[int, Held])


class Taken:
    """Jobs that were taken, by the numbers of their rows."""

    def __init__(self, jobs: Mapping[int, Held]) -> None:
        self.jobs = jobs
        self.kept: set[int] = set()
        """Those that are to stay for another time."""
        self.refused: dict[int, str] = {}
        """Those that are to be set aside, with the reason."""


class Outbox:
    """The outbox of one database."""

    def __init__(self, url: str, clock: Clock, connect_timeout: float) -> None:
        self.database = Database(
            url, _ERRORS, what="outbox", clock=clock, connect_timeout=connect_timeout, pool_size=1
        )
        self.metadata = MetaData()
        serial = BigInteger().with_variant(Integer, "sqlite")
        self.table = Table(
            OUTBOX_TABLE,
            self.metadata,
            Column("id", serial, primary_key=True, autoincrement=True),
            Column("job", LargeBinary, nullable=False),
        )
        self.refused = Table(
            REFUSED_TABLE,
            self.metadata,
            Column("id", serial, primary_key=True, autoincrement=False),
            Column("job_id", String(36), nullable=False),
            Column("job", LargeBinary, nullable=False),
            Column("reason", Text, nullable=False),
        )
        self._unread: set[int] = set()
        """Rows of which it was said that they cannot be read."""
        self.signals = make_signals(self.database, OUTBOX_TABLE)

    @property
    def url(self) -> str:
        return self.database.url

    async def open(self) -> None:
        """Connect, and create the table if it is not there. Raises ``MasterError``."""
        await self.database.open()
        await self.database.create_missing(self.metadata)
        await self.signals.open()

    async def close(self) -> None:
        await self.signals.close()
        await self.database.close()

    async def put(self, jobs: Sequence[Held], within: Any) -> None:
        """Store jobs in the caller's transaction. Raises ``ConfigError`` if it is none on this
        kind of database, ``MasterError`` if that failed."""
        run = executor_within(within, self.database)
        try:
            for job in jobs:
                await run.execute(self.table.insert().values(job=_encode((VERSION, job))))
            notice = self.signals.certain_notice({_TOPIC})
            if notice is not None:
                await run.execute(NOTIFY, notice.parameters)
        except FAULTS as error:
            raise MasterError(
                f"{self.database.refused(error)}; nothing was stored: is options(session=...) a "
                f"session on the outbox's database, and is there a table {OUTBOX_TABLE}? A "
                "coordinator creates it when it starts"
            ) from error

    @asynccontextmanager
    async def take(self, limit: int) -> AsyncIterator[Taken]:
        """Some jobs, the oldest first; at the end of the block, unless it raises, they are gone,
        but for those that are kept. What others have taken is left out; what cannot be read stays,
        with a log line. Raises ``MasterError``."""
        async with self.database.write(timeout=_PATIENCE) as connection:
            oldest = select(self.table).order_by(self.table.c.id).limit(limit)
            rows = (await connection.execute(self.database.claiming(oldest))).all()
            read = {row.id: job for row in rows if (job := self._read(row.id, row.job)) is not None}
            stored = {row.id: row.job for row in rows}
            taken = Taken(read)
            yield taken
            for number, reason in taken.refused.items():
                held = read[number]
                row = {"id": number, "job_id": held.job.id, "job": stored[number]}
                await connection.execute(self.refused.insert().values(**row, reason=reason))
                log.error(
                    "outbox at %s: job %s (%s) is refused by the master, and set aside in the "
                    "table %s: %s",
                    *(self.url, held.job.id, held.job.name, REFUSED_TABLE, reason),
                )
            if gone := [number for number in read if number not in taken.kept]:
                these = one_of(self.database, self.table.c.id, gone)
                await connection.execute(delete(self.table).where(these))

    def _read(self, number: int, data: bytes) -> Held | None:
        try:
            check_version(data)
            return _decoder.decode(data)[1]
        except (msgspec.MsgspecError, MeshError) as error:
            if number not in self._unread:
                self._unread.add(number)
                log.error("outbox at %s: row %d stays: %s", self.url, number, error)
            return None

    def waiting(self, event: Any) -> Any:
        """Within the block, ``event`` is set when jobs were put in."""
        return self.signals.waiting(_TOPIC, event)
