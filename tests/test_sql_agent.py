"""The SQL agent keeps the port's promises on SQLite and PostgreSQL, and a few of its own."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from sqlalchemy import event, func, insert, select, text

from mesh.clock import Clock, SystemClock
from mesh.errors import (
    AgentError,
    AgentUnavailable,
    ConfigError,
    PublishOutcomeUnknown,
    UnsupportedVersion,
)
from mesh.job import Priority, new_job_id
from mesh.ports import AgentSettings, Delivery, Settlement
from mesh.sql import split_options
from mesh.testing import ManualClock
from mesh.testing.conformance import AgentConformance, make_job
from mesh.testing.conformance.agent import (
    finish,
    ids,
    is_empty,
    make_started,
    named,
    pull_all,
    push,
    read_all,
)
from mesh.testing.servers import MariaServer, PostgresServer
from mesh.wire import Accepted, Envelope, encode_frame, encode_records
from mesh_agents.sql import SqlAgent
from tests.chaos.proxy import Proxy

PATIENCE = 30.0


class SqlHarness:
    """Connections to one agent, on a manual clock or the real one."""

    lease = 30.0

    def __init__(self, url: str, clock: Clock | None = None, name: str = "sql-1") -> None:
        self.url = url
        self.name = name
        self.clock = clock or ManualClock()
        self._open = AsyncExitStack()

    async def connect(self, name: str | None = None, **settings: Any) -> SqlAgent:
        settings = {"clock": self.clock} | settings
        agent = SqlAgent(name or self.name, self.url, AgentSettings(**settings))
        await agent.open()
        self._open.push_async_callback(agent.close)
        return agent

    def now(self) -> float:
        return self.clock.time()

    async def pass_time(self, seconds: float) -> None:
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(seconds)

    async def put_row(self, data: bytes, lane: str = "default", **changes: Any) -> str:
        """A job's row, as another program would write it."""
        agent = await self.connect()
        row = {
            "agent": self.name,
            "id": new_job_id(),
            "lane": lane,
            "priority": Priority.NORMAL,
            "eligible_at": self.now() - 1,  # by the clock of any agent
            "seq": 0,
            "leases": 0,
            "started": 0,
            "frame": data,
        }
        async with agent.database.write() as connection:
            await connection.execute(insert(agent.tables.jobs), [row | changes])
        return str((row | changes)["id"])

    async def corrupt(self, lane: str, data: bytes) -> None:
        await self.put_row(data, lane)

    async def corrupt_ledger(self, data: bytes) -> None:
        agent = await self.connect()
        row = {"agent": self.name, "count": 1, "entry": data}
        async with agent.database.write() as connection:
            await connection.execute(insert(agent.tables.ledger), [row])

    async def close(self) -> None:
        await self._open.aclose()


@asynccontextmanager
async def harness_for(url: str, clock: Clock | None = None) -> AsyncIterator[SqlHarness]:
    harness = SqlHarness(url, clock)
    try:
        yield harness
    finally:
        await harness.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mesh.db'}"


@pytest.fixture
def fresh_postgres_url(postgres_url: str) -> str:
    """Tables of its own for each test, which is faster than a database of its own."""
    return f"{postgres_url}?table_prefix=t{new_job_id()[-12:]}_"


@pytest.fixture
def fresh_mariadb_url(mariadb_url: str) -> str:
    return f"{mariadb_url}?table_prefix=t{new_job_id()[-12:]}_"


@pytest.fixture(params=["sqlite_url", "fresh_postgres_url", "fresh_mariadb_url"])
def any_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


class TestSqliteAgent(AgentConformance):
    @pytest.fixture
    async def harness(self, sqlite_url: str) -> AsyncIterator[SqlHarness]:
        async with harness_for(sqlite_url) as harness:
            yield harness


class TestMariaAgent(AgentConformance):
    @pytest.fixture
    async def harness(self, fresh_mariadb_url: str) -> AsyncIterator[SqlHarness]:
        async with harness_for(fresh_mariadb_url) as harness:
            yield harness


class TestPostgresAgent(AgentConformance):
    @pytest.fixture
    async def harness(self, fresh_postgres_url: str) -> AsyncIterator[SqlHarness]:
        async with harness_for(fresh_postgres_url) as harness:
            yield harness


@pytest.fixture
async def harness(any_url: str) -> AsyncIterator[SqlHarness]:
    async with harness_for(any_url) as harness:
        yield harness


@pytest.fixture
async def on_postgres(fresh_postgres_url: str) -> AsyncIterator[SqlHarness]:
    async with harness_for(fresh_postgres_url) as harness:
        yield harness


async def count(agent: SqlAgent, table: str) -> int:
    async with agent.database.read() as connection:
        rows = select(func.count()).select_from(getattr(agent.tables, table))
        return int((await connection.execute(rows)).scalar_one())


async def test_what_is_pushed_while_it_opens_was_not_stored() -> None:
    """The server's time is not known yet."""
    connected = asyncio.Event()

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(says_nothing, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    agent = SqlAgent("a", f"postgresql://mesh@127.0.0.1:{port}/db", AgentSettings())
    opening = asyncio.create_task(agent.open())
    await connected.wait()
    (outcome,) = await agent.push([make_job()])
    assert isinstance(outcome, AgentUnavailable)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    server.close()
    await agent.close()


class TestOptions:
    def agent(self, url: str, **options: Any) -> SqlAgent:
        return SqlAgent("a", url, AgentSettings(options=options))

    def test_a_misspelt_option_in_the_url(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'table_prefix'"):
            self.agent("sqlite:///x.db?table_prefiks=a_")

    def test_a_misspelt_option_in_the_configuration(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'schema'"):
            self.agent("postgresql://h/db", shema="jobs")

    def test_a_bad_prefix(self) -> None:
        with pytest.raises(ConfigError, match="table_prefix 'A-b'"):
            self.agent("sqlite:///x.db?table_prefix=A-b")

    def test_no_schemas_in_sqlite(self) -> None:
        with pytest.raises(ConfigError, match="use table_prefix"):
            self.agent("sqlite:///x.db?schema=jobs")

    def test_the_driver_sees_its_own_options_only(self) -> None:
        url, ours = split_options("a", "postgresql://h/db?schema=s&sslmode=require", {"schema"})
        assert (url, ours) == ("postgresql://h/db?sslmode=require", {"schema": "s"})

    def test_sslmode_is_understood(self) -> None:
        agent = self.agent("postgresql://h/db?sslmode=require")
        assert agent.database.sync_url.query == {"ssl": "require"}

    async def test_a_schema_is_created(self, postgres: PostgresServer) -> None:
        async with harness_for(f"{postgres.create_database()}?schema=jobs") as harness:
            agent = await harness.connect()
            await push(agent, make_job())
            async with agent.database.read() as connection:
                found = await connection.execute(text("SELECT count(*) FROM jobs.mesh_agent_jobs"))
                assert found.scalar_one() == 1

    async def test_passwords_stay_hidden(self) -> None:
        agent = self.agent("postgresql://user:s3cret@127.0.0.1:1/db")
        with pytest.raises(AgentUnavailable) as raised:
            await agent.open()
        assert "user:***@127.0.0.1:1" in str(raised.value)
        assert "s3cret" not in str(raised.value) + agent.url + repr(await agent.check())
        with pytest.raises(ConfigError) as wrong:
            self.agent("postgresql://user:s3cret@host:port/db")
        assert "s3cret" not in str(wrong.value)


class TestOpening:
    async def test_many_at_once(self, any_url: str) -> None:
        """All of them find no tables, and each may make them."""
        async with harness_for(any_url) as harness:
            agents = await asyncio.gather(*[harness.connect() for _ in range(8)])
            await push(agents[0], make_job())
            assert (await agents[-1].depth())["default"].ready == 1

    async def test_a_server_that_is_away(self) -> None:
        agent = SqlAgent("a", "postgresql://mesh@127.0.0.1:1/db", AgentSettings())
        with pytest.raises(AgentUnavailable, match="check that the server runs"):
            await agent.open()
        (finding,) = await agent.check()
        assert not finding.ok

    async def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        agent = SqlAgent("a", f"sqlite:///{tmp_path}/no/such/mesh.db", AgentSettings())
        with pytest.raises(AgentUnavailable, match="check that the folder exists"):
            await agent.open()

    async def test_an_account_that_may_not_create_tables(self, postgres: PostgresServer) -> None:
        url = postgres.create_database()
        async with harness_for(url) as harness:
            owner = await harness.connect()
            async with owner.database.write() as connection:
                await connection.execute(text("CREATE ROLE guest LOGIN"))
        guest = SqlAgent(
            "a", url.replace("mesh@", "guest@") + "?table_prefix=other_", AgentSettings()
        )
        with pytest.raises(AgentError, match="must be allowed to create") as raised:
            await guest.open()
        assert not isinstance(raised.value, AgentUnavailable)
        await guest.close()


class TestSharing:
    async def test_two_agents_in_one_database(self, harness: SqlHarness) -> None:
        one, two = await harness.connect("one"), await harness.connect("two")
        job = make_job()
        await push(one, job)
        await push(two, job)
        consumer = await one.consume("default", lease=30)
        (delivery,) = await pull_all(consumer, 1)
        await consumer.settle([finish(delivery)])
        assert sum(d.total for d in (await one.depth()).values()) == 0
        assert (await two.depth())["default"].ready == 1
        assert await (await two.ledger()).lag() == 1

    async def test_a_lease_kept_from_another_thread(self, any_url: str) -> None:
        """The lease keeper has its own event loop, and its own agent in it."""
        async with harness_for(any_url, SystemClock()) as harness:
            agent = await harness.connect()
            await push(agent, make_job())
            consumer = await agent.consume("default", lease=3)
            (delivery,) = await pull_all(consumer, 1)
            receipt = delivery.receipt

            async def keep() -> set[str]:
                keeper = SqlAgent(harness.name, any_url, AgentSettings())
                await keeper.open()
                try:
                    return await keeper.extend([receipt], 60)
                finally:
                    await keeper.close()

            pull = asyncio.create_task(consumer.pull(1))
            assert await asyncio.to_thread(lambda: asyncio.run(keep())) == set()
            assert not (await asyncio.wait([pull], timeout=4))[0]
            await consumer.close()
            assert await pull == []

    async def test_processes_on_one_file(self, sqlite_url: str) -> None:
        jobs = [make_job() for _ in range(300)]
        stops = [make_job(name="stop") for _ in range(2)]
        async with harness_for(sqlite_url, SystemClock()) as harness:
            context = multiprocessing.get_context("spawn")
            with context.Pool(2) as pool:
                done = [pool.apply_async(_work_until_stopped, (sqlite_url,)) for _ in range(2)]
                agent = await harness.connect()
                for start in range(0, len(jobs), 20):
                    await push(agent, *jobs[start : start + 20])
                ledger = await agent.ledger()
                records = await read_all(ledger, 600)  # each accepted, and ended
                await push(agent, *stops)
                results = [await asyncio.to_thread(d.get, PATIENCE) for d in done]
            assert sorted(results[0] + results[1]) == sorted(j.id for j in jobs)
            assert sum(d.total for d in (await agent.depth()).values()) == 0
            records += await read_all(ledger, 4)
            assert len(records) == 604


def _work_until_stopped(url: str) -> list[str]:
    async def work() -> list[str]:
        agent = SqlAgent("sql-1", url, AgentSettings())
        await agent.open()
        consumer = await agent.consume("default", lease=60)
        done: list[str] = []
        while True:
            held = await consumer.pull(7)
            stops = [d for d in held if d.job.name == "stop"]
            jobs = [d for d in held if d.job.name != "stop"]
            await consumer.settle(
                [finish(d) for d in jobs + stops[:1]]
                + [Settlement(d, again=d.job) for d in stops[1:]]
            )
            done += ids(jobs)
            if stops:
                await agent.close()
                return done

    return asyncio.run(work())


class TestPushing:
    async def test_a_key_is_remembered_for_two_minutes(self, harness: SqlHarness) -> None:
        agent = await harness.connect()
        job = make_job()
        consumer = await agent.consume("default", lease=30)
        await push(agent, job)
        await consumer.settle([finish(d) for d in await pull_all(consumer, 1)])
        await harness.pass_time(119)
        await push(agent, job)
        assert await agent.depth() == {}
        await harness.pass_time(2)
        await push(agent, job)
        assert (await agent.depth())["default"].ready == 1
        assert await count(agent, "pushed") == 1

    async def test_a_refused_attempt_may_come_again(self, harness: SqlHarness) -> None:
        """While attempt 1 is here, attempt 2 is not stored; so it is no repetition later."""
        agent = await harness.connect()
        one = make_job()
        two = msgspec.structs.replace(one, attempt=2)
        consumer = await agent.consume("default", lease=30)
        await push(agent, one)
        await push(agent, two)
        await consumer.settle([finish(d) for d in await pull_all(consumer, 1)])
        await push(agent, two)
        assert [d.job.attempt for d in await pull_all(consumer, 1)] == [2]

    async def test_one_accepted_record_for_a_job_pushed_at_once_by_many(
        self, harness: SqlHarness
    ) -> None:
        agents = [await harness.connect() for _ in range(4)]
        jobs = [make_job() for _ in range(50)]
        async with asyncio.TaskGroup() as group:
            for turn, agent in enumerate(agents):
                group.create_task(push(agent, *jobs[turn:], *jobs[:turn]))
        records = await read_all(await agents[0].ledger(), 50)
        assert sorted(r.job.id for r in records if isinstance(r, Accepted)) == sorted(
            j.id for j in jobs
        )
        assert await (await agents[0].ledger()).lag() == 0

    async def test_no_answer_in_time(self, on_postgres: SqlHarness) -> None:
        """Another session holds the table. The statement commits itself, so nobody knows; that
        pushing again settles."""
        agent = await on_postgres.connect(push_timeout=0.3)
        jobs = [make_job() for _ in range(3)]
        async with agent.database.write() as connection:
            await connection.execute(text(f"LOCK TABLE {agent.tables.jobs.fullname}"))
            outcomes = await agent.push(jobs)
        assert named(outcomes) == [(job.id,) for job in jobs]
        await push(agent, *jobs)
        assert (await agent.depth())["default"].ready == 3

    async def test_no_answer_to_the_commit(self, on_postgres: SqlHarness) -> None:
        """The commit was sent: stored or not, and pushing again settles it."""
        agent = await on_postgres.connect(push_timeout=0.3)
        jobs = [make_job() for _ in range(3)]
        ledger, pushed = agent.tables.ledger.fullname, agent.tables.pushed.fullname
        async with agent.database.write() as connection:
            for statement in (
                f"CREATE FUNCTION wait_for_{pushed}() RETURNS trigger LANGUAGE plpgsql AS "
                f"'BEGIN LOCK TABLE {pushed} IN EXCLUSIVE MODE; RETURN NULL; END'",
                f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {ledger} DEFERRABLE "
                f"INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_{pushed}()",
            ):
                await connection.execute(text(statement))
        async with agent.database.write() as connection:
            # Lets the insert through, and not the trigger, which runs within the commit.
            await connection.execute(text(f"LOCK TABLE {pushed} IN ROW EXCLUSIVE MODE"))
            outcomes = await agent.push(jobs)
        assert named(outcomes) == [(job.id,) for job in jobs]
        patient = await on_postgres.connect()
        await push(patient, *jobs)
        assert (await patient.depth())["default"].ready == 3

    async def test_any_priority_is_delivered(self, harness: SqlHarness) -> None:
        """Out of range, a priority is the nearest: such a job would never be claimed."""
        agent = await harness.connect()
        await push(agent, make_job(priority=9), make_job(priority=-1))
        consumer = await agent.consume("default", lease=30)
        assert [d.job.priority for d in await pull_all(consumer, 2)] == [9, -1]


class TestClaiming:
    async def test_a_pull_keeps_to_its_limit(self, harness: SqlHarness) -> None:
        """With few rows a planner may run the subselect of a claim again and again."""
        agent = await harness.connect()
        consumer = await agent.consume("default", lease=30)
        for backlog in (2, 5, 64):
            await push(agent, *[make_job() for _ in range(backlog)])
            sizes: list[int] = []
            while sum(sizes) < backlog:
                held = await consumer.pull(3)
                sizes.append(len(held))
                await consumer.settle([finish(d) for d in held])
            assert max(sizes) <= 3
            assert len(sizes) == -(-backlog // 3)

    async def test_an_answer_that_comes_late_gives_what_nobody_else_has(
        self, harness: SqlHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent, other = await harness.connect(), await harness.connect()
        first = await agent.consume("default", lease=harness.lease)
        second = await other.consume("default", lease=harness.lease)
        await agent.push([make_job(), make_job()])
        run, taken = first._claim.run, list[Delivery]()

        async def answer_late(*arguments: Any, **options: Any) -> Any:
            claimed = await run(*arguments, **options)
            monkeypatch.undo()
            await harness.pass_time(harness.lease * 1.2)
            taken.extend(await second.pull(1))
            return claimed

        monkeypatch.setattr(first._claim, "run", answer_late)
        (delivery,) = await first.pull(2)
        assert delivery.job.id not in ids(taken)
        assert await agent.extend([d.receipt for d in (delivery, *taken)], 60) == set()


class TestUnreadable:
    async def test_corrupt_jobs_are_kept_as_dead_letters(
        self, harness: SqlHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        agent = await harness.connect()
        two_jobs = encode_frame([make_job(), make_job()])
        for data in (b"junk", two_jobs):
            await harness.corrupt("default", data)
        consumer = await agent.consume("default", lease=30)
        with caplog.at_level(logging.ERROR, "mesh"):
            async with asyncio.timeout(PATIENCE):
                while await count(agent, "dead_letters") < 2:
                    assert await is_empty(consumer)
        async with agent.database.read() as connection:
            dead = agent.tables.dead_letters
            rows = (await connection.execute(select(dead.c.lane, dead.c.data))).all()
        assert sorted(rows) == sorted([("default", b"junk"), ("default", two_jobs)])
        assert await count(agent, "jobs") == 0
        assert caplog.text.count("set aside") == 2

    async def test_jobs_of_a_newer_version_are_left_for_others(self, harness: SqlHarness) -> None:
        agent = await harness.connect()
        newer = msgspec.msgpack.encode((99, ["whatever"]))
        await harness.put_row(newer)
        await push(agent, job := make_job())
        consumer = await agent.consume("default", lease=30)
        assert ids(await pull_all(consumer, 1, limit=1)) == [job.id]
        async with agent.database.read() as connection:
            jobs = agent.tables.jobs
            kept = select(jobs.c.leases, jobs.c.eligible_at).where(jobs.c.frame == newer)
            assert (await connection.execute(kept)).one() == (0, harness.now() + 30)

    async def test_records_of_a_newer_version_stop_the_reader_there(
        self, harness: SqlHarness
    ) -> None:
        agent = await harness.connect()
        await push(agent, make_job())
        await harness.corrupt_ledger(msgspec.msgpack.encode((99, ["whatever"])))
        await push(agent, make_job())
        ledger = await agent.ledger()
        assert len(await read_all(ledger, 1)) == 1
        for _ in range(2):
            with pytest.raises(UnsupportedVersion):
                await ledger.read(100, 0)
        assert await ledger.lag() == 2


class TestLedger:
    async def test_a_row_that_is_committed_late_is_not_skipped(
        self, on_postgres: SqlHarness
    ) -> None:
        """Ids are given before the commit: the smaller one may become visible later."""
        agent = await on_postgres.connect()
        early, late = make_job(), make_job()
        reader = await agent.ledger()

        def row(job: Envelope) -> dict[str, Any]:
            entry = encode_records([Accepted(job, 0.0)])
            return {"agent": agent.name, "count": 1, "entry": entry}

        async with agent.database.write() as slow:
            await slow.execute(insert(agent.tables.ledger), [row(late)])
            async with agent.database.write() as quick:
                await quick.execute(insert(agent.tables.ledger), [row(early)])
            first = await reader.read(100, 0)
        second = await reader.read(100, 0)
        found = [[r.job.id for r in b.records if isinstance(r, Accepted)] for b in (first, second)]
        assert found == [[early.id], [late.id]]
        assert first.receipt > second.receipt
        await reader.ack(first)
        assert await reader.lag() == 1
        await reader.ack(second)
        assert await reader.lag() == 0

    async def test_batches_keep_to_the_limit(self, harness: SqlHarness) -> None:
        agent = await harness.connect()
        for _ in range(5):
            await push(agent, *[make_job() for _ in range(10)])
        reader = await agent.ledger()
        assert [len((await reader.read(25, 0)).records) for _ in range(4)] == [20, 20, 10, 0]
        assert len((await (await agent.ledger()).read(1, 0)).records) == 10

    async def test_an_acknowledgement_repeated_late_drops_nothing_new(
        self, harness: SqlHarness
    ) -> None:
        agent = await harness.connect()
        reader = await agent.ledger()
        await push(agent, make_job())
        batch = await reader.read(100, 0)
        await reader.ack(batch)
        await push(agent, make_job())
        await reader.ack(batch)
        assert await reader.lag() == 1


async def test_mariadb_stopped_and_started() -> None:
    with MariaServer() as server:
        async with harness_for(server.create_database()) as harness:
            agent = await harness.connect()
            await push(agent, first := make_job())
            server.stop()
            (outcome,) = await agent.push([make_job()])
            assert isinstance(outcome, AgentUnavailable | PublishOutcomeUnknown)
            server.start()
            # At once: connections that are known to be dead are not used again.
            await push(agent, second := make_job())
            consumer = await agent.consume("default", lease=30)
            assert {*ids(await pull_all(consumer, 2))} == {first.id, second.id}
            # In threads: here the driver is to notice.
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await push(agent, make_job())


async def test_mariadb_gone_as_it_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the driver says where uvloop has closed the socket already.
    def no_socket(_: Any) -> None:
        raise RuntimeError("Transport does not expose socket instance")

    monkeypatch.setattr("asyncmy.connection.Connection._set_keep_alive", no_socket)
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0
    ) as server:
        port = server.sockets[0].getsockname()[1]
        agent = SqlAgent("sql-1", f"mariadb://mesh@127.0.0.1:{port}/mesh", AgentSettings())
        with pytest.raises(AgentUnavailable, match="does not expose socket"):
            await agent.open()
        await agent.close()


class TestPostgres:
    async def test_a_server_stopped_and_started_under_a_pull(self) -> None:
        with PostgresServer() as server:
            # On the manual clock nothing looks by itself: what wakes the pull is the server.
            async with harness_for(server.create_database()) as harness:
                agent = await harness.connect()
                consumer = await agent.consume("default", lease=30)
                pull = asyncio.create_task(consumer.pull(1))
                assert not (await asyncio.wait([pull], timeout=0.3))[0]
                server.stop()
                async with asyncio.timeout(PATIENCE):
                    with pytest.raises(AgentUnavailable):
                        await pull
                (outcome,) = await agent.push([make_job()])
                assert isinstance(outcome, AgentUnavailable)
                server.start()
                pull = asyncio.create_task(_pull_patiently(consumer))
                assert not (await asyncio.wait([pull], timeout=0.3))[0]
                # At once: connections that are known to be dead are not used again.
                await push(agent, job := make_job())
                async with asyncio.timeout(PATIENCE):
                    assert ids(await pull) == [job.id]

    async def test_the_servers_clock_decides(self, fresh_postgres_url: str) -> None:
        """Two machines whose clocks are an hour apart agree on leases and due times."""

        class HourAhead(SystemClock):
            def time(self) -> float:
                return super().time() + 3600

        async with harness_for(fresh_postgres_url, SystemClock()) as harness:
            right, ahead = await harness.connect(), await harness.connect(clock=HourAhead())
            await push(right, job := make_job())
            await push(right, make_job(due_at=right.database.now() + 600))
            first = await right.consume("default", lease=60)
            assert ids(await pull_all(first, 1)) == [job.id]
            assert await is_empty(await ahead.consume("default", lease=60))
            assert [c.ok for c in await right.check()][:3] == [True, True, True]
            clock = (await ahead.check())[2]
            assert (clock.ok, "3600.0 s behind" in clock.detail) == (False, True)

    async def test_holding_extending_and_settling_at_once(self, on_postgres: SqlHarness) -> None:
        """Statements that touch the same rows in different orders must not deadlock."""
        agents = [await on_postgres.connect() for _ in range(3)]
        consumer = await agents[0].consume("default", lease=30)
        for _ in range(5):
            await push(agents[0], *[make_job() for _ in range(200)])
            held = await pull_all(consumer, 200, limit=200)
            receipts = [d.receipt for d in held]
            async with asyncio.TaskGroup() as group:
                group.create_task(agents[1].extend(receipts[::-1], 30))
                group.create_task(agents[1].append([make_started(d) for d in held[::2]]))
                group.create_task(agents[2].extend(receipts[100:] + receipts[:100], 30))
                group.create_task(consumer.settle([finish(d) for d in held[::-1]]))
        assert await count(agents[0], "jobs") == 0

    async def test_the_last_signal_leaves_before_close(self, on_postgres: SqlHarness) -> None:
        """A command that enqueues and exits at once still wakes a worker."""
        consumer = await (await on_postgres.connect()).consume("default", lease=30)
        pull = asyncio.create_task(consumer.pull(1))
        assert not (await asyncio.wait([pull], timeout=0.3))[0]
        brief = await on_postgres.connect()
        await push(brief, job := make_job())
        await brief.close()
        async with asyncio.timeout(PATIENCE):
            assert ids(await pull) == [job.id]

    async def test_closing_waits_for_no_server_that_does_not_answer(
        self, on_postgres: SqlHarness, postgres: PostgresServer
    ) -> None:
        proxy = Proxy(postgres.port)
        await proxy.start()
        url = on_postgres.url.replace(f":{postgres.port}/", f":{proxy.port}/")
        agent = SqlAgent("sql-1", url, AgentSettings())
        await agent.open()
        consumer = await agent.consume("default", lease=30)
        pull = asyncio.create_task(consumer.pull(1))
        assert not (await asyncio.wait([pull], timeout=0.5))[0]  # it listens, too
        await push(agent, *[make_job(lane="other") for _ in range(3)])
        await proxy.become("hang")
        await consumer.close()
        async with asyncio.timeout(PATIENCE):
            await agent.close()
            await asyncio.wait([pull])
        await proxy.become("cut")
        await proxy.close()


async def _pull_patiently(consumer: Any) -> Any:
    while True:
        try:
            return await consumer.pull(1)
        except AgentUnavailable:
            await asyncio.sleep(0.05)


async def test_there_is_a_time_before_the_servers_is_known(postgres: PostgresServer) -> None:
    """Who pushes while the database is being opened must not take its time for endless."""
    agent = SqlAgent("pg", postgres.create_database(), AgentSettings())
    assert abs(agent.database.now() - time.time()) < 60
    await agent.open()
    assert abs(agent.database.now() - time.time()) < 60
    await agent.close()


async def test_a_connection_that_goes_while_it_is_busy_is_an_outage(
    postgres: PostgresServer,
) -> None:
    # As the driver says it of a statement whose connection was lost under it.
    gone = asyncpg.InternalClientError(
        "cannot switch to state 12; another operation is in progress"
    )
    agent = SqlAgent("pg", postgres.create_database(), AgentSettings())
    await agent.open()
    with pytest.raises(AgentUnavailable, match="another operation"):
        async with agent.database.read():
            raise gone
    with pytest.raises(PublishOutcomeUnknown, match="another operation"):
        async with agent.database.driver():
            raise gone
    await agent.close()


class TestPlans:
    """The statements of the hot path stay index range scans with a long backlog."""

    async def plans(self, harness: SqlHarness, explain: str, analyze: bool) -> dict[str, str]:
        agent = await harness.connect()
        database, jobs = agent.database, agent.tables.jobs
        rows = [
            {
                "agent": agent.name,
                "id": new_job_id(),
                "lane": f"lane-{n % 2}",
                "priority": 2 + n % 3,
                # A third is leased or delayed, in front of what is ready.
                "eligible_at": harness.now() + (60 if n % 3 == 0 else -1),
                "seq": n,
                "leases": 0,
                "started": 0,
                "frame": encode_frame([make_job(f"lane-{n % 2}")]),
            }
            for n in range(30_000)
        ]
        async with database.write() as connection:
            await connection.execute(insert(jobs), rows)
        if analyze:
            async with database.write() as connection:
                await connection.execute(text("ANALYZE"))
        seen: dict[str, tuple[str, Any]] = {}

        def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
            if jobs.fullname in statement:
                verbs = {
                    f"UPDATE {jobs.fullname} ": "UPDATE",
                    f"DELETE FROM {jobs.fullname}": "DELETE",
                }
                verb = next((v for words, v in verbs.items() if words in statement), "SELECT")
                seen.setdefault(verb, (statement, parameters))

        for engine in database.engines:
            event.listen(engine.sync_engine, "before_cursor_execute", note)
        driver = database.driver

        @asynccontextmanager
        async def noting(**options: Any) -> AsyncIterator[Any]:
            async with driver(**options) as connection:

                class Noting:
                    async def fetch(self, statement: str, *parameters: Any) -> Any:
                        note(None, None, statement, parameters)
                        return await connection.fetch(statement, *parameters)

                yield Noting()

        database.driver = noting  # type: ignore[method-assign]
        consumer = await agent.consume("lane-0", lease=30)
        held = await pull_all(consumer, 50)
        empty = await agent.consume("lane-9", lease=30)
        assert await is_empty(empty, 0.1)
        await consumer.settle([finish(d) for d in held])
        for engine in database.engines:
            event.remove(engine.sync_engine, "before_cursor_execute", note)
        assert seen.keys() == {"UPDATE", "SELECT", "DELETE"}
        plans: dict[str, str] = {}
        for verb, (statement, parameters) in seen.items():
            # In a session such as the statement's own.
            if verb == "UPDATE" and not database.is_local:
                async with driver(durable=False) as raw:
                    plan = await raw.fetch(f"{explain} {statement}", *parameters)
            else:
                async with database.write() as connection:
                    explained = await connection.exec_driver_sql(
                        f"{explain} {statement}", parameters
                    )
                    plan = explained.all()
            plans[verb] = "\n".join(str(row[-1]) for row in plan)
        return plans

    @pytest.mark.parametrize("analyze", [False, True])
    async def test_on_postgres(self, on_postgres: SqlHarness, analyze: bool) -> None:
        plans = await self.plans(on_postgres, "EXPLAIN", analyze)
        for plan in plans.values():
            assert "Seq Scan" not in plan, plan
        for verb in ("UPDATE", "SELECT"):
            assert plans[verb].count("jobs_claim") == len(Priority), plans[verb]
            assert "Sort  (" not in plans[verb], plans[verb]  # a Merge Append has a "Sort Key"
        # What was found is looked up by its key: a join may begin at the other end.
        for verb in ("UPDATE", "DELETE"):
            assert "= ANY" in plans[verb], plans[verb]
        assert "jobs_claim" not in plans["DELETE"], plans["DELETE"]
        assert plans["DELETE"].count("jobs_pkey") == 2, plans["DELETE"]

    @pytest.mark.parametrize("analyze", [False, True])
    async def test_on_sqlite(self, sqlite_url: str, analyze: bool) -> None:
        async with harness_for(sqlite_url) as harness:
            plans = await self.plans(harness, "EXPLAIN QUERY PLAN", analyze)
        for plan in plans.values():
            assert "SCAN mesh_agent_jobs" not in plan, plan
        for verb in ("UPDATE", "SELECT"):
            assert plans[verb].count("mesh_agent_jobs_claim (lane=? AND agent=? AND pri") == 5
            assert "ORDER BY" not in plans[verb], plans[verb]
        assert plans["UPDATE"].count("eligible_at<?") == len(Priority)

    async def test_plans_made_for_an_empty_table_do_no_harm(self, on_postgres: SqlHarness) -> None:
        """Kept, such plans once made these statements take minutes, until somebody ran ANALYZE."""
        agent = await on_postgres.connect()
        consumer = await agent.consume("default", lease=30)

        async def work(jobs: int) -> None:
            held = await pull_all(consumer, jobs, limit=jobs)
            await agent.extend([d.receipt for d in held], 30)
            await agent.append([make_started(d) for d in held])
            await consumer.settle([finish(d) for d in held])

        for _ in range(10):  # The server would keep a plan after five executions.
            await push(agent, make_job())
            await work(1)
        await push(agent, *[make_job() for _ in range(10_000)])
        async with asyncio.timeout(10):
            await work(500)
