"""What there is of SQL for SQL Server, on a stand-in for it (``tests.tsql``, which says what that
shows and what not).

``test_every_statement_was_run`` is the last: it fails for each statement of the agent's and the
master's code that no test here has had compiled and run, unless a part of the tests was chosen. It
goes by the lines that build statements; a condition that is left out on all of them is not seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.mssql.aioodbc import MSDialectAsync_aioodbc
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import mesh.sql
import mesh_agents.sql
import mesh_master
from mesh.clock import SystemClock
from mesh.errors import ConfigError
from mesh.held import Held, KeyRule
from mesh.job import new_job_id
from mesh.ports import AgentSettings, Links, MasterSettings
from mesh.sql.dialects.mssql_types import MeshMSSQL
from mesh.sql.faults import is_away, is_blocked, is_conflict, is_full, was_refused, was_undone
from mesh.sql.outbox import Outbox
from mesh.testing.conformance import (
    AgentConformance,
    make_job,
)
from mesh.testing.conformance.agent import finish, pull_all, push
from mesh_agents.sql import SqlAgent
from mesh_master import presence, schema
from mesh_master.store import SqlMaster
from tests.test_master import MariaHarness, Suites
from tests.test_sql_agent import SqlHarness, harness_for
from tests.tsql import PROBES, FakeServer, NotTSQL, odbc_error, translate

_BUILDERS = {
    *("select", "update", "delete", "insert", "union_all", "exists", "text"),
    *("BulkUpsert", "BulkUpdate", "InsertNew", "InsertAll", "Change"),
}
_FOLDERS = [Path(str(module.__file__)).parent for module in (mesh_agents.sql, mesh_master)]
_FILES = [
    *(
        f
        for each in _FOLDERS
        for f in each.glob("*.py")
        if "from sqlalchemy import" in f.read_text()
    ),
    *(Path(str(mesh.sql.__file__)).parent / name for name in ("board.py", "outbox.py")),
]


def _statements(file: Path) -> Iterator[tuple[int, int]]:
    """The first and last lines of the statements of Python that build some of SQL."""
    for function in ast.walk(ast.parse(file.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for part in ast.walk(function):
            if not isinstance(part, ast.Assign | ast.Return | ast.Expr | ast.AugAssign):
                continue
            calls = [node.func for node in ast.walk(part) if isinstance(node, ast.Call)]
            names = {getattr(func, "id", getattr(func, "attr", "")) for func in calls}
            if names & _BUILDERS:
                yield part.lineno, part.end_lineno or part.lineno


_WANTED = {str(file): set(_statements(file)) for file in _FILES}
_seen: set[tuple[str, int]] = set()
_ran: set[str] = set()


def _trace(frame: FrameType, _: str, __: Any) -> Any:
    """Notes the lines that are run of the files that are looked at."""
    return _note if frame.f_code.co_filename in _WANTED else None


def _note(frame: FrameType, what: str, _: Any) -> Any:
    if what == "line":
        _seen.add((frame.f_code.co_filename, frame.f_lineno))
    return _note


@pytest.fixture(autouse=True)
def traced(request: pytest.FixtureRequest) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(_trace)
    yield
    sys.settrace(before)
    _ran.add(request.node.originalname)


@pytest.fixture
def server(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer(postgres_url)
    # Of users' own engines as well.
    monkeypatch.setattr(MSDialectAsync_aioodbc, "import_dbapi", classmethod(lambda _: server.dbapi))
    return server


@pytest.fixture
def url(server: FakeServer, postgres_url: str) -> str:
    return f"mssql://sa:secret@localhost/{postgres_url.rpartition('/')[2]}"


def without(*tests: str) -> Callable[[type], type]:
    """Leaves out tests of a class: of time, of many at once, of much, which a stand-in can say
    nothing about, and which take minutes here."""

    def leave_out(where: type) -> type:
        for name in tests:
            assert callable(getattr(where, name)), name
            setattr(where, name, None)
        return where

    return leave_out


@without("test_two_consumers_never_hold_the_same_job", "test_a_backlog_of_ten_thousand")
class TestAgent(AgentConformance):
    @pytest.fixture
    async def harness(self, url: str) -> AsyncIterator[SqlHarness]:
        async with harness_for(f"{url}?table_prefix=t{new_job_id()[-12:]}_") as harness:
            yield harness


@without(
    "test_a_key_may_stand_for_a_period_or_for_ever",
    "test_a_large_batch",
    "test_a_large_board",
    "test_a_reader_follows_to_the_end",
    "test_agents_may_share_a_job",
    "test_an_expired_lease_may_be_taken",
    "test_forgetting_while_more_is_recorded",
    "test_many_children_and_one_that_gathers",
    "test_more_limits_than_are_looked_at_together",
    "test_much_is_removed_with_all_that_there_is_of_it",
    "test_things_count_in_the_minute_in_which_they_happened",
    "test_two_dispatchers_never_claim_the_same",
)
class TestMaster(Suites):
    @pytest.fixture
    async def harness(self, url: str) -> AsyncIterator[MariaHarness]:
        harness = MariaHarness(url)
        yield harness
        await harness.close()


async def test_what_doctor_asks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    master = SqlMaster(url, MasterSettings(auto_migrate=True, table_prefix="m_"))
    checks = await master.check()
    assert [check.ok for check in checks] == [True] * len(checks)
    shown = " ".join(check.detail for check in checks)
    assert "SQL Server 2022" in shown
    assert "delayed_durability=disabled" in shown
    forced = "VALUES ('delayed_durability', 'FORCED'), ('page_verify', 'CHECKSUM')"
    monkeypatch.setitem(PROBES, "sys.databases", forced)
    power = (await master.check())[-1]
    assert (power.ok, "last commits are lost" in power.detail) == (False, True)
    assert power.advice == "by ALTER DATABASE … SET: delayed_durability = disabled"
    await master.close()


async def test_what_is_asked_of_a_master_seldom(url: str) -> None:
    settings = MasterSettings(auto_migrate=True, table_prefix="seldom_")
    master = SqlMaster(url, settings)
    await master.open()
    assert await master.links(new_job_id()) == Links()
    async with master.database.read() as connection:
        seen = await presence.at_work(master.database, master.tables, connection)
    assert set(seen) <= {schema.migrations(master.database, settings).head}
    async with master.database.write() as connection:
        await connection.execute(text("UPDATE seldom_schema_version SET version_num = '9999'"))
    await schema.ensure(master.database, master.tables, settings)  # It works with this code.
    await master.close()


async def test_what_an_agent_meets_seldom(url: str) -> None:
    async with harness_for(f"{url}?table_prefix=rare_") as harness:
        agent, job, other = await harness.connect(), make_job(), make_job()
        await harness.put_row(msgspec.msgpack.encode((99, [])))
        await push(agent, other)
        consumer = await agent.consume("default", lease=30)
        (delivery,) = await pull_all(consumer, 1)
        assert delivery.job.id == other.id
        await consumer.settle([finish(delivery)])
        for attempt in (1, 2):
            assert await agent.push([msgspec.structs.replace(job, attempt=attempt)]) == [None]
        assert (await agent.depth())["default"].total == 2


async def test_the_outbox(url: str) -> None:
    outbox = Outbox(url, SystemClock(), 5.0)
    await outbox.open()
    held = [Held(make_job()) for _ in range(3)]
    engine = create_async_engine(_of_the_user(url))
    async with AsyncSession(engine) as session:
        await outbox.put(held, session)
        await session.commit()
    async with outbox.take(10) as taken:
        assert [job.job.id for job in taken.jobs.values()] == [one.job.id for one in held]
        first, second, _ = taken.jobs
        taken.refused[first] = "not that one"
        taken.kept.add(second)
    async with outbox.take(10) as taken:
        assert list(taken.jobs) == [second]
    await engine.dispose()
    await outbox.close()


async def test_in_a_transaction_of_the_users(url: str, server: FakeServer) -> None:
    """By SQLAlchemy's own dialect: the locks and the texts must be the same there."""
    master = SqlMaster(url, MasterSettings(auto_migrate=True, table_prefix="m_"))
    await master.open()
    engine = create_async_engine(_of_the_user(url))
    rule = KeyRule("keep")
    job = msgspec.structs.replace(make_job(), key=f"Ключ {new_job_id()}")
    server.statements.clear()
    async with AsyncSession(engine) as session:
        (stored,) = await master.submit([Held(job, rule)], within=session)
        await session.commit()
        assert not stored.existing
        again = msgspec.structs.replace(make_job(), key=job.key)
        (stored,) = await master.submit([Held(again, rule)], within=session)
        await session.rollback()
    assert (stored.job_id, stored.existing) == (job.id, True)
    assert any("WITH (UPDLOCK, ROWLOCK)" in said for said in server.statements)
    await engine.dispose()
    await master.close()


def _of_the_user(url: str) -> str:
    return url.replace("mssql://", "mssql+aioodbc://") + "?driver=ODBC+Driver+18+for+SQL+Server"


def test_the_script_of_the_migrations(server: FakeServer, url: str) -> None:
    master = SqlMaster(url, MasterSettings(table_prefix="m_"))
    batches = schema.migrations(master.database, master.settings).sql().split("\nGO\n")
    first, *others, last, _ = [batch.strip() for batch in batches]
    assert (first.startswith("BEGIN TRANSACTION;"), last) == (True, "COMMIT;")
    for batch in (first.removeprefix("BEGIN TRANSACTION;"), *others):
        assert translate(batch)


async def test_more_values_than_parameters(url: str) -> None:
    async with harness_for(f"{url}?table_prefix=many_") as harness:
        agent = await harness.connect()
        wanted = [new_job_id() for _ in range(3000)]
        assert await agent.missing({"default": wanted}) == set(wanted)


@pytest.mark.parametrize(
    "said",
    [
        "SELECT id FROM jobs LIMIT 1",
        "SELECT id FROM jobs FOR UPDATE",
        "UPDATE jobs SET id = 1 RETURNING id",
        "SELECT id FROM jobs WHERE is_open IS true",
        "SELECT id FROM jobs WHERE is_open",
        "SELECT id IS NULL AS it FROM jobs",
        "SELECT id FROM jobs WHERE (id, agent) IN ((1, 2))",
        "SELECT id FROM jobs WHERE (id, agent) > (1, 2)",
        "SELECT id / ? AS place FROM jobs GROUP BY place",
        "SELECT id FROM (SELECT id FROM jobs ORDER BY id) AS it",
        "INSERT INTO jobs (id) VALUES (1) ON CONFLICT DO NOTHING",
        "SELECT FROM WHERE",
    ],
)
def test_what_is_no_tsql_is_refused(said: str) -> None:
    with pytest.raises(NotTSQL):
        translate(said)


@pytest.mark.parametrize(
    ("state", "number", "true_of"),
    [
        ("23000", 2627, {is_conflict, was_refused}),
        ("23000", 2601, {is_conflict, was_refused}),
        ("40001", 1205, {is_away, is_blocked, was_refused, was_undone}),
        ("42000", 1222, {is_away, is_blocked, was_refused}),
        ("42000", 1105, {is_away, is_full, was_refused}),
        ("42000", 9002, {is_away, is_full, was_refused}),
        ("08S01", 10054, {is_away}),
        ("08001", None, {is_away}),
        ("HYT00", None, {is_away}),
        ("28000", 18456, {is_away, was_refused}),
        ("42S02", 208, {was_refused}),
    ],
)
def test_what_an_error_means(state: str, number: int | None, true_of: set[Any]) -> None:
    error = odbc_error(state, "Cannot do (12) that", number)
    rules = {is_away, is_blocked, is_conflict, is_full, was_refused, was_undone}
    assert {rule for rule in rules if rule(error)} == true_of


def test_a_url_as_the_driver_has_it(server: FakeServer) -> None:
    shown = "Encrypt=yes&TrustServerCertificate=yes&table_prefix=x_"
    agent = SqlAgent("s-1", f"sqlserver://sa:p@db:1433/shop?{shown}", AgentSettings())
    dsn = str(MeshMSSQL().create_connect_args(agent.database.sync_url)[1]["dsn"])
    assert "DRIVER={ODBC Driver 18 for SQL Server}" in dsn
    assert "Server=db,1433" in dsn
    assert "Encrypt=yes;TrustServerCertificate=yes" in dsn
    with pytest.raises(ConfigError, match=r"'encrypt'.*did you mean 'Encrypt'"):
        SqlAgent("s-1", "mssql://db/shop?encrypt=yes", AgentSettings())


async def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aioodbc", None)
    agent = SqlAgent("s-1", "mssql://db/shop", AgentSettings())
    with pytest.raises(ConfigError, match=r"pip install 'jobmesh\[mssql\]', and install unixODBC"):
        await agent.open()


def test_every_statement_was_run(request: pytest.FixtureRequest) -> None:
    places = [
        vars(sys.modules[__name__]),
        *({n: getattr(w, n) for n in dir(w)} for w in (TestAgent, TestMaster)),
    ]
    here = {name for names in places for name, test in names.items() if callable(test)}
    if {name for name in here if name.startswith("test_")} - _ran - {request.node.name}:
        pytest.skip("a part of the tests was chosen, or runs in another process")
    missing = [
        f"{file}:{first}"
        for file, statements in _WANTED.items()
        for first, last in sorted(statements)
        if not any((file, line) in _seen for line in range(first, last + 1))
    ]
    assert missing == []
