"""Through PgBouncer in transaction mode a PostgreSQL master and agent keep the port's promises,
though each transaction may meet another connection to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from mesh import Mesh
from mesh.clock import SystemClock
from mesh.doctor import examine
from mesh.job import new_job_id
from mesh.ports import Agent, AgentSettings, Master
from mesh.testing.conformance import AgentConformance, ConditionsConformance, make_job
from mesh.testing.conformance.agent import finish, ids, pull_all, push
from mesh.testing.conformance.master import MasterConformance
from mesh.testing.servers import PgBouncer, PostgresServer
from mesh_agents.sql import SqlAgent
from tests.test_master import PostgresHarness
from tests.test_sql_agent import SqlHarness, harness_for

PATIENCE = 30.0

LISTENING = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND query LIKE 'LISTEN \"mesh%'"
)


@pytest.fixture
def agent_url(pgbouncer: PgBouncer, postgres_url: str) -> str:
    return f"{pgbouncer.url(postgres_url)}?table_prefix=t{new_job_id()[-12:]}_"


class TestAgent(AgentConformance):
    @pytest.fixture
    async def harness(self, agent_url: str) -> AsyncIterator[SqlHarness]:
        async with harness_for(agent_url) as harness:
            yield harness


@pytest.mark.databases
class TestMaster(MasterConformance, ConditionsConformance):
    @pytest.fixture
    async def harness(
        self, pgbouncer: PgBouncer, postgres_url: str
    ) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(pgbouncer.url(postgres_url))
        yield harness
        await harness.close()


def agent_on(url: str) -> SqlAgent:
    return SqlAgent("sql-1", url, AgentSettings())


class TestWaking:
    async def test_a_pooler_is_noticed_and_told_of(
        self, pgbouncer: PgBouncer, postgres: PostgresServer
    ) -> None:
        direct = postgres.create_database()
        for url, wakes in ((direct, True), (pgbouncer.url(direct), False)):
            app = Mesh(master=url, agents={"sql-1": url}, auto_migrate=True)
            async with app:
                parts: list[Master | Agent] = [await app.master(), await app.agent("sql-1")]
                assert [part.capabilities.wakes for part in parts] == [wakes] * 2
                if not wakes:
                    assert "pooler" in parts[0].capabilities.why_not["wakes"]
                told = {check.subject: check for check in await examine(app)}
            for subject in ("master: wake-ups", "agent sql-1: wake-ups"):
                assert (subject in told) is not wakes
                assert wakes or (told[subject].ok and "pooler" in told[subject].detail)

    async def test_who_is_connected_to_the_server_is_woken_by_what_came_through_the_pooler(
        self, agent_url: str, pgbouncer: PgBouncer, postgres: PostgresServer
    ) -> None:
        direct = agent_url.replace(f":{pgbouncer.port}/", f":{postgres.port}/")
        # Their clock stands still: they will not look again.
        async with harness_for(agent_url) as through, harness_for(direct) as beside:
            agent, waiting = await through.connect(), await beside.connect()
            consumer = await waiting.consume("default", lease=30)
            pull = asyncio.create_task(consumer.pull(1))
            listens = text(LISTENING)
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with waiting.database.read() as connection:
                        if (await connection.execute(listens)).scalar_one():
                            break
            await push(agent, job := make_job())
            async with asyncio.timeout(PATIENCE):
                assert ids(await pull) == [job.id]

    async def test_others_find_it_by_looking(self, agent_url: str) -> None:
        agent = agent_on(agent_url)
        await agent.open()
        consumer = await agent.consume("default", lease=30)
        pull = asyncio.create_task(consumer.pull(1))
        job = make_job()

        async def push_from_elsewhere() -> None:
            other = agent_on(agent_url)
            await other.open()
            await push(other, job)
            await other.close()

        # In another event loop, which is as far away as another machine.
        await asyncio.to_thread(asyncio.run, push_from_elsewhere())
        async with asyncio.timeout(PATIENCE):
            assert ids(await pull) == [job.id]
        await agent.close()


async def test_nothing_of_ours_stays_in_a_connection_that_others_get(
    postgres: PostgresServer,
) -> None:
    with PgBouncer(postgres, pool_size=1) as pgbouncer:
        url = pgbouncer.url(postgres.create_database())
        # One connection to the server for all: nobody may hold it and ask for another.
        async with harness_for(url, SystemClock()) as harness:
            agent, other = await harness.connect(), await harness.connect()
            await push(agent, *[make_job() for _ in range(300)])
            consumer = await other.consume("default", lease=30)
            held = await pull_all(consumer, 300)
            await agent.extend([delivery.receipt for delivery in held], 30)
            await consumer.settle([finish(delivery) for delivery in held])
            async with agent.database.write(durable=False) as connection:
                shown = await connection.execute(text("SHOW synchronous_commit"))
                assert shown.scalar_one() == "off"
        theirs = await asyncpg.connect(url, statement_cache_size=0)
        try:
            for setting, value in {"synchronous_commit": "on", "enable_seqscan": "on"}.items():
                assert await theirs.fetchval(f"SHOW {setting}") == value
            prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
            assert await theirs.fetchval(prepared) == 0
        finally:
            await theirs.close()
