"""Claiming held jobs, so that each is with one dispatcher at a time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Row, null, update

from mesh.errors import WireError
from mesh.job import State
from mesh.ports import Claimed
from mesh.sql import Database, one_of, repeated
from mesh.wire import Envelope, decode_frame
from mesh_master import queries
from mesh_master.gates import Gates
from mesh_master.tables import Tables

__all__ = ["Claims"]

log = logging.getLogger("mesh")


class Claims:
    """``Master``'s claims of held jobs, on a SQL database."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables
        self._gates = Gates(database, tables)

    @repeated
    async def due(
        self, until: float, limit: int, claim: float, leaving_out: Collection[str] = ()
    ) -> list[Envelope]:
        jobs, now = self._tables.jobs, self._database.now()
        due = self._database.claiming(queries.due(self._tables, until, now, limit, leaving_out))
        async with self._database.write() as connection:
            rows = (await connection.execute(due)).all()
            if rows:
                await connection.execute(
                    update(jobs)
                    .where(one_of(self._database, jobs.c.id, [row.id for row in rows]))
                    .values(claimed_until=now + claim)
                )
        return self._read(rows)

    @repeated
    async def gated(
        self, until: float, limit: int, claim: float, leaving_out: Collection[str] = ()
    ) -> Claimed:
        async with self._database.write() as connection:
            rows, more_in, is_part = await self._gates.claim(
                connection, until, limit, claim, leaving_out
            )
        return Claimed(self._read(rows), more_in, is_part)

    @repeated
    async def give_back(self, job_ids: Sequence[str]) -> None:
        jobs = self._tables.jobs
        async with self._database.write() as connection:
            await connection.execute(
                update(jobs)
                .where(one_of(self._database, jobs.c.id, job_ids), jobs.c.state == State.SCHEDULED)
                .values(claimed_until=null())
            )

    def _read(self, rows: Iterable[Row[Any]]) -> list[Envelope]:
        jobs: list[Envelope] = []
        for row in rows:
            try:
                (job,) = decode_frame(row.envelope)
            except WireError as error:
                url = self._database.url
                log.error("master at %s: held job %s is left alone: %s", url, row.id, error)
            else:
                jobs.append(job)
        return jobs
