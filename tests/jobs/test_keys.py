"""Idempotency keys, as callers see them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh import ConfigError, KeyExists, Mesh, State

from .cluster_rig import PATIENCE, Rig

PRODUCER = """
import asyncio, json, sys
from mesh import KeyExists, Mesh

app = Mesh(**json.loads(sys.argv[1]))

@app.job
async def welcome(user: int) -> int: ...

async def enqueue(mode, n):
    try:
        how = welcome.options(key=mode, on_conflict=mode, delay=3600)
        job = await how.enqueue(n)
    except KeyExists as error:
        return mode, error.job_id, "raised"
    return mode, job.id, "replaced" if job.replaced else "existing" if job.existing else "new"

async def main():
    async with app:
        ready = await asyncio.gather(*(welcome.enqueue(0) for _ in range(2)))
        print("ready", flush=True)
        sys.stdin.readline()
        rows = await asyncio.gather(
            *(enqueue(m, n) for m in ("keep", "replace", "debounce", "raise") for n in range(50))
        )
        print(json.dumps(rows))

asyncio.run(main())
"""


def with_handler(app: Mesh) -> tuple[Mesh, list[int]]:
    ran: list[int] = []

    @app.job
    async def welcome(user: int) -> int:
        ran.append(user)
        return user

    return app, ran


async def test_a_key_is_one_job_until_that_has_ended(rig: Rig) -> None:
    app, ran = with_handler(rig.app())
    welcome = app.handlers["welcome"]
    async with rig.running(app):
        first = await welcome.options(key="k").enqueue(1)
        assert not first.existing
        assert await first.result(PATIENCE) == 1
        again = await welcome.options(key="k").enqueue(2)
        assert (again.existing, again.id != first.id) == (False, True)
        assert await again.result(PATIENCE) == 2
        ever = await welcome.options(key="e", key_scope="forever").enqueue(3)
        await ever.result(PATIENCE)
        same = await welcome.options(key="e").enqueue(4)
        assert (same.id, same.existing, await same.result(PATIENCE)) == (ever.id, True, 3)
        found = await app.find(key="e")
        assert found is not None
        assert found.id == ever.id
        assert await app.find(key="k") is None
    assert ran == [1, 2, 3]


async def test_processes_that_come_at_once_make_one_job(rig: Rig, tmp_path: Path) -> None:
    """50 concurrent enqueues from each of 5 processes, for a key of each way with conflicts."""
    app, _ = with_handler(rig.app())
    await app.master()  # whose tables are there now
    await app.close()
    script = tmp_path / "producer.py"
    script.write_text(PRODUCER)
    arguments = [str(script), json.dumps(rig.where)]
    producers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(5)
    ]
    async with asyncio.timeout(PATIENCE):
        for each in producers:
            assert each.stdout is not None
            assert await each.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(each.communicate(b"go\n") for each in producers))
    rows = [row for out, _ in outputs for row in json.loads(out)]
    for mode, met in (
        ("keep", "existing"),
        ("replace", "replaced"),
        ("debounce", "replaced"),
        ("raise", "raised"),
    ):
        mine = [(job_id, how) for m, job_id, how in rows if m == mode]
        assert len({job_id for job_id, _ in mine}) == 1
        assert Counter(how for _, how in mine) == {"new": 1, met: 249}


async def test_replace_and_debounce(rig: Rig) -> None:
    app, ran = with_handler(rig.app())
    welcome = app.handlers["welcome"]
    later = datetime.now(UTC) + timedelta(hours=1)
    async with rig.running(app):
        old = await welcome.options(key="r", at=later, on_conflict="replace").enqueue(1)
        new = await welcome.options(key="r", on_conflict="replace").enqueue(2)
        assert (new.id, new.existing, new.replaced) == (old.id, True, True)
        assert await old.result(PATIENCE) == 2
        calm = welcome.options(key="d", delay=0.3, on_conflict="debounce")
        jobs = [await calm.enqueue(n) for n in range(5)]
        assert len({job.id for job in jobs}) == 1
        assert await jobs[0].result(PATIENCE) == 4
    assert ran == [2, 4]


async def test_raise_says_who_has_the_key(rig: Rig) -> None:
    app, _ = with_handler(rig.app())
    welcome = app.handlers["welcome"]

    @app.job
    async def other() -> None: ...

    job = await welcome.options(key="k", delay=600).enqueue(1)
    with pytest.raises(KeyExists, match=f"stands for job {job.id} of 'welcome'.*scheduled"):
        await welcome.options(key="k", on_conflict="raise").enqueue(1)
    with pytest.raises(KeyExists, match="give yours a prefix, such as 'other:k'") as refusal:
        await other.options(key="k").enqueue()
    assert (refusal.value.key, refusal.value.job_id) == ("k", job.id)
    many = await welcome.options(key="m", delay=600).enqueue_many([(1,), (2,)])
    assert (many[0].id, many[1].existing) == (many[1].id, True)
    assert (await job.info()).state is State.SCHEDULED
    await app.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": ""}, "1 to 200 characters"),
        ({"key": 5}, "1 to 200 characters"),
        ({"key_scope": "forever"}, "says nothing without key"),
        ({"key": "k", "key_scope": "ever"}, "'unfinished', 'forever' or a number"),
        ({"key": "k", "key_scope": -1}, "'unfinished', 'forever' or a number"),
        ({"on_conflict": "keep"}, "says nothing without key"),
        ({"key": "k", "on_conflict": "replase"}, "did you mean 'replace'"),
        ({"key": "k", "on_conflict": "debounce"}, "give delay"),
        ({"key": "k", "on_conflict": "keep", "max_wait": 5}, "is for on_conflict='debounce'"),
        ({"key": "k", "on_conflict": "debounce", "delay": 1, "max_wait": 0}, "above 0"),
        ({"key": "k", "durability": "agent"}, "leave durability out"),
        ({"durability": "disk"}, "known: agent, master"),
        ({"after": []}, "at least one job"),
        ({"after": "not-a-job"}, "is not a UUID"),
        ({"on": "failure"}, "says nothing without after"),
        ({"session": object()}, "AsyncSession, Session"),
        ({"durability": "master", "agent": "nowhere"}, "no agent is named 'nowhere'"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    app, _ = with_handler(Mesh(f"sqlite:///{tmp_path}/mesh.db"))
    with pytest.raises(ConfigError, match=message):
        await app.handlers["welcome"].options(**options).enqueue(1)  # type: ignore[arg-type]
    await app.close()
