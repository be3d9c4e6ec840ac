"""Which code is at work on a master: for whoever would change its schema.

Each process that has the master open says now and then which revisions of the schema its code
knows. There is one row for each such revision, not for each process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import SystemClock
from mesh.errors import MeshError
from mesh.service import Service, unique_name
from mesh.sql import BulkUpsert, Database, begins_with, repeated
from mesh_master.tables import Tables

__all__ = ["GONE", "Presence", "at_work"]

log = logging.getLogger("mesh")

GONE = 100.0
"""Seconds after which code that was not heard of is at work no more."""

_EVERY = 30.0
# Commands that end sooner say nothing.
_FIRST = 5.0
_PATIENCE = 5.0

_KEY = "code:"


class _Seen(msgspec.Struct):
    at: float
    process: str
    """The last one of them."""


async def at_work(
    database: Database, tables: Tables, connection: AsyncConnection
) -> dict[str, str]:
    """By the newest revision it knows, the code that was heard of lately: a process and when."""
    cluster, now = tables.cluster.c, database.now()
    rows = await connection.execute(
        select(cluster.key, cluster.value).where(begins_with(database, cluster.key, _KEY))
    )
    seen = {row.key.removeprefix(_KEY): msgspec.json.decode(row.value, type=_Seen) for row in rows}
    return {
        revision: f"{code.process} ({max(0.0, now - code.at):.0f} s ago)"
        for revision, code in sorted(seen.items())
        if now - code.at < GONE
    }


class Presence(Service):
    """Says that this process is at work."""

    def __init__(self, database: Database, tables: Tables, revision: Callable[[], str]) -> None:
        """``revision`` is the newest that this code knows."""
        super().__init__(f"{database.what}: presence")
        self._database = database
        self._revision = revision
        self._process = unique_name()
        self._rows = BulkUpsert(
            database, tables.cluster, ["key", "value"], ["key"], lambda new: {"value": new["value"]}
        )

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        # Real time, whatever the clock of the jobs: this is about processes.
        clock, pause = SystemClock(), _FIRST
        while not await clock.wait(self.stopping, pause):
            pause = _EVERY
            try:
                await self.tell()
            except MeshError as error:
                log.debug("%s: %s", self.name, error)

    @repeated
    async def tell(self) -> None:
        """Say so now."""
        seen = _Seen(self._database.now(), self._process)
        row = {
            "key": f"{_KEY}{self._revision()}",
            "value": msgspec.json.encode(seen).decode(),
        }
        async with self._database.write(timeout=_PATIENCE, durable=False) as connection:
            await self._rows.run(connection, [row])
