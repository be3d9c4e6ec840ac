"""A filter means the same to the database as to a plain loop over all jobs."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.filter import JobFilter
from mesh.fingerprint import fingerprint
from mesh.job import TERMINAL, State, new_job_id
from mesh.ports import JobInfo, MasterSettings
from mesh.testing.conformance.master import Story, record
from mesh.testing.servers import PostgresServer
from mesh_master.store import SqlMaster

BEGIN = 1_800_000_000.0
PARENT = new_job_id()
NAMES = ["a", "a.b", "a.bc", "a_b", "A.b"]
ENDS = [None, State.SUCCEEDED, State.FAILED, State.CANCELLED]

wheres = st.fixed_dictionaries(
    {},
    optional={
        "states": st.lists(st.sampled_from(sorted(State)), max_size=3),
        "name": st.sampled_from([*NAMES, "a*", "a.*", "a_*", "*", "z*"]),
        "app": st.sampled_from(["", "a", "a.", "A", "z"]),
        "lane": st.sampled_from(["x", "y", "z"]),
        "meta": st.dictionaries(st.sampled_from("tu"), st.sampled_from("012"), max_size=2),
        "parent": st.just(PARENT),
        "error": st.sampled_from(["OSError", "ValueError"]),
        "fingerprint": st.sampled_from(NAMES).map(
            lambda name: fingerprint(name, "OSError", "no\N{REPLACEMENT CHARACTER}pe")
        ),
        "retried": st.booleans(),
        "since": st.integers(0, 60).map(lambda n: BEGIN + n),
        "until": st.integers(0, 60).map(lambda n: BEGIN + n),
        "order": st.sampled_from(["enqueued", "finished", None]),
    },
)


async def fill(master: SqlMaster) -> list[JobInfo]:
    stories = [
        Story(
            BEGIN + n // 2,
            name=NAMES[n % 5],
            lane="xy"[n % 2],
            meta={"t": str(n % 3), "u": str(n % 2)} if n % 4 else None,
            parent=PARENT if n % 7 == 0 else None,
        )
        for n in range(90)
    ]
    await record(master, *[s.accepted() for s in stories])
    for n, story in enumerate(stories):
        state = ENDS[n * 7 % 4]
        if state is not None:
            await record(master, story.finished(state=state, at=n % 9))
    await master.retry([story.id for story in stories[::5]])
    return list((await master.get_jobs([i.id for i in await master.list_jobs(ALL)])).values())


ALL = JobFilter(limit=10_000)


def is_meant(job: JobInfo, where: JobFilter) -> bool:
    moment = job.finished_at if where.by_end else job.enqueued_at
    beginning = (where.name or "*").removesuffix("*")
    is_beginning = (where.name or "*").endswith("*")
    return (
        (not where.states or job.state in where.states)
        and (not where.by_end or job.state in TERMINAL)
        and (job.name.startswith(beginning) if is_beginning else job.name == where.name)
        and job.name.startswith(where.app)
        and where.lane in (None, job.lane)
        and where.meta.items() <= (job.meta or {}).items()
        and where.parent in (None, job.parent)
        and where.error in (None, job.error_type)
        and where.fingerprint in (None, job.fingerprint)
        and where.retried in (None, job.retried_as is not None)
        and (where.since is None or (moment or 0) >= where.since)
        and (where.until is None or (moment or 0) < where.until)
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_filters_mean_what_they_say(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    with asyncio.Runner() as runner:
        master = SqlMaster(url, MasterSettings(auto_migrate=True))
        runner.run(master.open())
        jobs = runner.run(fill(master))
        assert len(jobs) == 90 + 18 - sum(1 for n in range(0, 90, 5) if ENDS[n * 7 % 4] is None)

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(wheres, st.integers(1, 40))
        def check(given: dict[str, Any], limit: int) -> None:
            states = given.get("states", [])
            if given.get("order") == "finished" and not TERMINAL.issuperset(states):
                given["states"] = [state for state in states if state in TERMINAL]
            where = JobFilter(**given, limit=limit)
            wanted = sorted(
                (job for job in jobs if is_meant(job, where)),
                key=lambda job: (getattr(job, where.moment) if where.moment else 0, job.id),
                reverse=True,
            )
            found: list[str] = []
            page = where
            while some := runner.run(master.list_jobs(page)):
                assert len(some) <= limit
                found += [job.id for job in some]
                page = page.next_page(some[-1])
            assert found == [job.id for job in wanted]
            counts = runner.run(master.count_jobs(where))
            assert counts == Counter(job.state for job in wanted)

        check()
        runner.run(master.close())
