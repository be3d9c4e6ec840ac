"""Tags: the meta of jobs, as rows to find the jobs by.

Written with a job's row, by whoever writes that, and once more by the recorder, for whom it
would be dearer to know whether they are there. Jobs without meta have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.filter import MOST_TAG
from mesh.job import is_job_id
from mesh.sql import BulkUpsert, Database, Executor
from mesh.wire import Envelope
from mesh_master.merge import as_text
from mesh_master.tables import Tables

__all__ = ["Tags"]

_COLUMNS = ("name", "value", "job_id")


class Tags:
    """Writes tags. Built once."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._new = BulkUpsert(database, tables.tags, _COLUMNS, _COLUMNS)

    async def write(self, connection: Executor, jobs: Iterable[Envelope]) -> None:
        """Write the tags of those of the jobs that have some; those that are there stay."""
        # Sorted and each once, as two may write the same ones at once.
        found = {
            (as_text(name), as_text(value), job.id)
            for job in jobs
            if job.meta and is_job_id(job.id)
            for name, value in job.meta.items()
            if len(name) <= MOST_TAG >= len(value)
        }
        rows: list[dict[str, Any]] = [
            dict(zip(_COLUMNS, row, strict=True)) for row in sorted(found)
        ]
        await self._new.run(connection, rows)
