"""A year of the scheduler itself, on a manual clock, in five zones across both their clock
changes: the master has exactly the jobs that somebody with a watch would expect."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from schedule_oracle import slots, watch

from mesh import Mesh
from mesh.ports import JobFilter, MasterSettings
from mesh.testing import ManualClock
from mesh_master.scheduler import Scheduler
from mesh_master.store import SqlMaster

AHEAD = 60.0
YEARS = [
    ("Europe/Amsterdam", 2026),
    ("America/New_York", 2026),
    ("Australia/Lord_Howe", 2026),
    ("America/Santiago", 2026),
    ("Pacific/Apia", 2011),
]


@pytest.mark.parametrize(("zone", "year"), YEARS)
async def test_a_year(zone: str, year: int, tmp_path: Path) -> None:
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = begin + 365 * 86_400
    watched = watch(ZoneInfo(zone), begin - 86_400, end, 1800)
    daily = slots(watched, lambda now: (now.hour, now.minute) == (2, 30), 1800, fixed=True)
    paced = slots(watched, lambda now: now.hour % 12 == 0 and now.minute == 0, 1800, fixed=False)
    expected = {
        "daily": [slot for slot in daily if slot > begin],
        "paced": [slot for slot in paced if slot > begin],
    }

    clock = ManualClock(float(begin))
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    master = SqlMaster(url, MasterSettings(clock=clock))
    await master.open()
    async with Mesh(url, clock=clock) as app:

        @app.job
        async def work() -> None:
            """Never run here."""

        await app.schedules.create(work, "30 2 * * *", name="daily", timezone=zone)
        await app.schedules.create(work, "0 */12 * * *", name="paced", timezone=zone)
    scheduler = Scheduler(master, {}, ahead=AHEAD, holder="test", clock=clock)
    while clock.time() < end:
        await scheduler.round()
        # To just before the next slot: nothing happens between.
        cursors = [s.next_slot for s in await master.schedules.all() if s.next_slot is not None]
        clock.advance(max(1.0, min(cursors) - AHEAD / 2 - clock.time()))
    for name, wanted in expected.items():
        jobs = await master.list_jobs(JobFilter(schedule=name, limit=10_000))
        made = sorted(int(job.slot or 0) for job in jobs)
        assert [slot for slot in made if slot < end] == wanted
    await master.close()
