"""Looking at history goes by indexes: what it takes does not grow with the history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Select, text

from mesh.filter import JobFilter
from mesh.job import State, new_job_id
from mesh.ports import MasterSettings
from mesh.testing.conformance.master import Story, record
from mesh.testing.servers import PostgresServer
from mesh_master import forget, listing, queries, statistics
from mesh_master.store import SqlMaster

ID = new_job_id()
LAST = "ffffffff-ffff-7fff-bfff-ffffffffffff"
FAILED, RUNNING = State.FAILED, State.RUNNING
ENDS = [State.FAILED, State.CANCELLED]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('history') / 'mesh.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


@pytest.fixture
async def master(url: str) -> AsyncIterator[SqlMaster]:
    """With some history, of which the database has statistics."""
    master = SqlMaster(url, MasterSettings(auto_migrate=True))
    await master.open()
    if not await master.count_jobs():
        stories = [
            Story(
                1_800_000_000.0 + n,
                name=f"reports.n{n % 40}",
                lane=f"lane-{n % 20}",
                meta={"tenant": str(n % 50)} if n % 2 else None,
                parent=ID if n % 100 == 0 else None,
                result_ttl=600.0 if n % 100 == 0 else None,
            )
            for n in range(4000)
        ]
        await record(master, *[s.accepted() for s in stories])
        for n, state in enumerate(sorted([State.SUCCEEDED, State.FAILED, State.CANCELLED])):
            await record(master, *[s.finished(state=state) for s in stories[n::4]])
        async with master.database.write() as connection:
            await connection.execute(text("ANALYZE"))
    yield master
    await master.close()


async def plan(master: SqlMaster, query: Select[Any]) -> str:
    compiled = query.compile(
        dialect=master.database.engine.dialect, compile_kwargs={"literal_binds": True}
    )
    explain = "EXPLAIN QUERY PLAN" if master.database.is_local else "EXPLAIN"
    async with master.database.write() as connection:
        if not master.database.is_local:
            # So little is read whole whatever the indexes.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            await connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        rows = await connection.exec_driver_sql(f"{explain} {compiled}")
        return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ({}, "jobs"),
        ({"before": LAST}, "jobs"),
        ({"states": [RUNNING]}, "mesh_jobs_state"),
        ({"states": [RUNNING], "before": LAST}, "mesh_jobs_state"),
        ({"states": [RUNNING, FAILED]}, "mesh_jobs_state"),
        ({"states": [FAILED]}, "mesh_jobs_finished"),
        ({"states": ENDS}, "mesh_jobs_finished"),
        ({"states": ENDS, "before": f"{LAST}@1800000000.0"}, "mesh_jobs_finished"),
        ({"order": "finished", "since": 1.8e9, "until": 1.9e9}, "mesh_jobs_finished"),
        ({"since": 1.8e9, "until": 1.9e9}, "mesh_jobs_enqueued"),
        ({"until": 1.9e9, "before": f"{LAST}@1800000000.0"}, "mesh_jobs_enqueued"),
        ({"fingerprint": "0123456789abcdef"}, "mesh_jobs_fingerprint"),
        ({"meta": {"tenant": "7"}}, "tag"),
        ({"meta": {"tenant": "7"}, "before": LAST}, "tag"),
        ({"schedule": "nightly"}, "mesh_jobs_sch"),
        ({"key": "k"}, "mesh_jobs_key"),
        ({"workflow": ID}, "mesh_jobs_workflow"),
        ({"parent": ID}, "mesh_jobs_parent"),
        ({"error": "ValueError"}, "mesh_jobs_error"),
    ],
)
async def test_a_page_is_read_in_the_order_of_an_index(
    master: SqlMaster, where: dict[str, Any], index: str
) -> None:
    shown = await plan(master, listing.page(master.database, master.tables, JobFilter(**where)))
    assert index in shown, shown
    assert "Seq Scan" not in shown, shown
    for line in shown.splitlines():
        # Of the pages of several states the best is made, and each is short.
        is_page = "SCAN page" in line or "SCAN best" in line
        assert is_page or "SCAN" not in line or "INDEX" in line, shown
    if len(where.get("states", ())) < 2 and where.get("order") is None:
        # What is sorted, at most, is what ended at the same moment.
        assert "USE TEMP B-TREE FOR ORDER BY" not in shown, shown
        assert "->  Sort " not in shown, shown


FEW, MANY = 100, 1_000_000


@pytest.mark.parametrize(
    ("where", "meant", "index"),
    [
        # Each kind's page is at the end of what an index has of it.
        ({"name": "reports.n7"}, MANY, "mesh_jobs_name"),
        ({"name": "reports.n7", "lane": "lane-7", "states": [FAILED]}, FEW, "mesh_jobs_name"),
        ({"name": "reports.*", "before": LAST, "order": "enqueued"}, FEW, "mesh_jobs_name"),
        ({"lane": "lane-7"}, MANY, "mesh_jobs_name"),
        # By a moment: past those of others, or all of them.
        ({"name": "reports.n7", "states": ENDS}, MANY, "mesh_jobs_finished"),
        ({"lane": "lane-7", "states": [FAILED]}, MANY, "mesh_jobs_finished"),
        ({"lane": "lane-7", "until": 1.9e9}, MANY, "mesh_jobs_enqueued"),
        ({"name": "reports.n7", "states": [FAILED]}, FEW, "mesh_jobs_name"),
        ({"name": "reports.n7", "states": ENDS, "lane": "lane-7"}, FEW, "mesh_jobs_name"),
        ({"lane": "lane-7", "states": [FAILED]}, FEW, "mesh_jobs_lane"),
    ],
)
async def test_how_many_there_are_says_which_way_to_go(
    master: SqlMaster, where: dict[str, Any], meant: int, index: str
) -> None:
    filter_ = JobFilter(**where)
    states = where.get("states", [FAILED, RUNNING])
    known = [listing.Kind(s, "reports.n7", "lane-7", meant, 2_000_000) for s in states]
    shown = await plan(master, listing.page(master.database, master.tables, filter_, known))
    assert index in shown, shown
    assert "Seq Scan" not in shown, shown
    for line in shown.splitlines():
        is_page = "SCAN page" in line or "SCAN best" in line or "SCAN meant" in line
        assert is_page or "SCAN" not in line or "INDEX" in line, shown


async def test_what_waits_is_seen_at_the_end_of_an_index(master: SqlMaster) -> None:
    query = queries.oldest(master.tables, "lane-7", State.QUEUED, 1.9e9)
    shown = await plan(master, query)
    assert "mesh_jobs_unstarted" in shown, shown
    assert "Sort" not in shown, shown
    assert "B-TREE" not in shown, shown


async def test_counts_are_read_where_they_are_kept(master: SqlMaster) -> None:
    database, tables = master.database, master.tables
    until = 1.8e9 + 3600
    for query, index in (
        (statistics.totals(database, tables, JobFilter(name="reports.n7")), "totals"),
        (statistics.totals(database, tables, JobFilter(states=ENDS)), "totals"),
        (statistics.spans(database, tables, 1.8e9, until, 60, None, None, None), "series"),
        (statistics.spans(database, tables, 1.8e9, until, 60, "a", None, "name"), "series_pkey"),
        (statistics.groups(database, tables, 0.0, 50), "mesh_jobs_fingerprint"),
        (statistics.groups(database, tables, 2.0e9, 50), "mesh_jobs_finished"),
        (statistics.newest(tables, "0123456789abcdef", 1.8e9), "mesh_jobs_fingerprint"),
    ):
        assert query is not None
        shown = await plan(master, query)
        assert (index.partition("_pkey")[0] if database.is_local else index) in shown, shown
        assert "Seq Scan" not in shown, shown
        if index == "totals":
            assert "mesh_jobs" not in shown, shown
    assert statistics.totals(database, tables, JobFilter(since=0.0)) is None


async def test_what_is_to_go_is_found_by_indexes_of_ended_jobs(master: SqlMaster) -> None:
    jobs, after = master.tables.jobs.c, (1_800_000_000.0, ID)
    of_state = (jobs.state == FAILED) & jobs.result_ttl.is_(None)
    for query, index in (
        (
            forget.oldest(master.database, master.tables, of_state, 1.9e9, None, 100),
            "mesh_jobs_finished",
        ),
        (
            forget.oldest(master.database, master.tables, of_state, 1.9e9, after, 100),
            "mesh_jobs_finished",
        ),
        (
            forget.oldest(
                master.database, master.tables, jobs.result_ttl == 600, 1.9e9, after, 100
            ),
            "mesh_jobs_ttl",
        ),
        (forget.next_ttl(master.tables, 60.0), "mesh_jobs_ttl"),
    ):
        shown = await plan(master, query)
        assert index in shown, shown
        assert "->  Sort " not in shown, shown
        assert "USE TEMP B-TREE FOR ORDER BY" not in shown, shown
