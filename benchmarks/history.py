"""What the master holds, asked of its database directly: many times a second, at little cost."""

from __future__ import annotations

import asyncio
import sqlite3
from types import TracebackType
from typing import Self

import asyncpg

from mesh.job import new_job_id

__all__ = ["History"]


class History:
    """The jobs that the master at ``url`` has heard of since this object was made."""

    def __init__(self, url: str) -> None:
        self._since = new_job_id()  # ids grow with time
        self._runner: asyncio.Runner | None = None
        if url.startswith("sqlite"):
            path = url.removeprefix("sqlite:///")
            self._sqlite = sqlite3.connect(path, timeout=30, check_same_thread=False)
        else:
            self._runner = asyncio.Runner()
            self._postgres = self._runner.run(asyncpg.connect(url))

    def count(self, *, ended: bool) -> int:
        """How many jobs there are; only those that succeeded if ``ended``."""
        query = f"SELECT count(*) FROM mesh_jobs WHERE id > '{self._since}'"
        if ended:
            query += " AND state = 'succeeded'"
        if self._runner is None:
            return int(self._sqlite.execute(query).fetchone()[0])
        return int(self._runner.run(self._postgres.fetchval(query)))

    def fill(self, jobs: int) -> None:
        """Add ended jobs of former times, as the recorder would have left them."""
        assert self._runner is not None, "for PostgreSQL alone"
        self._runner.run(
            self._postgres.execute(
                """
                INSERT INTO mesh_jobs (id, name, lane, priority, state, attempt, version,
                    enqueued_at, started_at, finished_at, agent, worker, payload, result)
                SELECT ('018cc251' || lpad(to_hex(n), 24, '0'))::uuid, 'quick', 'bench', 3,
                    'succeeded', 1, 2147483647, at, at, at, 'agent', 'long-gone-worker',
                    '{"n": 1, "text": "' || repeat('x', 100) || '"}', 'null'
                FROM (SELECT n, TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1 second' AS at
                      FROM generate_series(1, $1::int) AS n) AS old
                """,
                jobs,
                timeout=1200,
            )
        )
        self._runner.run(self._postgres.execute("VACUUM ANALYZE mesh_jobs", timeout=1200))

    def close(self) -> None:
        if self._runner is None:
            self._sqlite.close()
        else:
            self._runner.run(self._postgres.close())
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
