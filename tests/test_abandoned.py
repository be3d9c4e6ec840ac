"""Transactions whose process is gone without a word, as when its machine lost its power."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mesh.errors import MasterError, MasterUnavailable, MeshError
from mesh.sql import Database, DatabaseErrors
from mesh.sql.dialects.mysql import MariaDB
from mesh.sql.engines import PLANNING
from mesh.testing.servers import MariaServer, PostgresServer
from tests.chaos.proxy import Proxy

PATIENCE = 30.0


@pytest.fixture
async def databases(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Database, Database, Proxy]]:
    """One behind a proxy, and the same without it."""
    monkeypatch.setitem(PLANNING, "idle_in_transaction_session_timeout", "1s")
    monkeypatch.setattr(MariaDB, "session", ("idle_transaction_timeout = 1",))
    server: PostgresServer | MariaServer = request.getfixturevalue(kind)
    url = server.create_database()
    proxy = Proxy(server.port)
    await proxy.start()
    errors = DatabaseErrors(MasterUnavailable, MasterError, MasterError)
    there = Database(url.replace(f":{server.port}", f":{proxy.port}"), errors, what="there")
    here = Database(url, errors, what="here")
    await there.open()
    await here.open()
    yield there, here, proxy
    await there.close()
    await here.close()
    await proxy.close()


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
async def test_the_server_ends_them(databases: tuple[Database, Database, Proxy]) -> None:
    there, here, proxy = databases
    async with here.write() as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO things VALUES (1)"))
    with pytest.raises(MeshError, match="there"):
        await vanish(there, here, proxy)
    async with asyncio.timeout(PATIENCE), here.read() as connection:
        assert (await connection.execute(text("SELECT id FROM things"))).scalars().all() == [3]


async def vanish(there: Database, here: Database, proxy: Proxy) -> None:
    """Change the row there, where nothing more is heard of it, and here when it is free."""
    async with there.write() as vanished:
        await vanished.execute(text("UPDATE things SET id = 2"))
        await proxy.become("hang")
        async with here.write(timeout=PATIENCE) as connection:
            await connection.execute(text("UPDATE things SET id = 3 WHERE id = 1"))
        await proxy.become("cut")
