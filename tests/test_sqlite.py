"""What SQLite alone does."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text

from mesh.errors import AgentError, AgentUnavailable
from mesh.sql import Database, DatabaseErrors
from mesh.sql.engines import FileConnection

ERRORS = DatabaseErrors(unavailable=AgentUnavailable, failed=AgentError, in_doubt=AgentError)


async def test_a_cancelled_statement_lets_go_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while something, such as the traceback of that, has its cursor still."""
    database = Database(f"sqlite:///{tmp_path / 'a.db'}", ERRORS, what="test")
    await database.open()
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER)"))
    is_at_it, cursors = asyncio.Event(), list[Any]()

    async def never(cursor: Any) -> None:
        cursors.append(cursor)
        is_at_it.set()
        await asyncio.Event().wait()

    async def insert() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO t VALUES (1), (2) RETURNING n"))

    with monkeypatch.context() as patch:
        patch.setattr(aiosqlite.Cursor, "fetchall", never)
        task = asyncio.create_task(insert())
        await is_at_it.wait()
        task.cancel()
        await asyncio.wait([task])
    async with database.write(timeout=5) as connection:
        await connection.execute(text("INSERT INTO t VALUES (3)"))
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT n FROM t"))).scalars().all() == [3]
    await database.close()
    assert len(cursors) == 1


def test_a_connection_may_be_closed_twice(tmp_path: Path) -> None:
    connection = FileConnection(tmp_path / "a.db")
    cursor = connection.cursor()
    cursor.execute("SELECT 1 UNION SELECT 2")
    for _ in range(2):
        connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        cursor.fetchone()
