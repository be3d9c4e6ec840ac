"""Looking at history, doing again and forgetting, on whole clusters."""

from __future__ import annotations

import asyncio

import pytest

from mesh import JobCancelled, JobFailed, JobNotFound, Mesh, Retry, State, chain
from mesh.job_handle import JobHandle

from .cluster_rig import PATIENCE, Rig


class Repairable:
    """Fails until it is repaired."""

    def __init__(self, app: Mesh) -> None:
        self.broken = True

        @app.job(retry=Retry(1), result_ttl=3600)
        async def fetch(n: int) -> int:
            if self.broken:
                raise OSError("no route to host")
            return 10 * n

        @app.job
        async def store(value: int) -> str:
            return f"stored {value}"

        self.fetch = fetch
        self.store = store

    async def failed(self, n: int, tenant: str) -> JobHandle[int]:
        job = await self.fetch.options(meta={"tenant": tenant}).enqueue(n)
        with pytest.raises(JobFailed):
            await job.result(PATIENCE)
        return job


async def test_what_failed_is_found_repaired_and_done_again(rig: Rig) -> None:
    app = rig.app()
    shop = Repairable(app)
    async with rig.running(app):
        jobs = [await shop.failed(n, "7" if n else "8") for n in range(4)]
        found = {job.id: job async for job in app.jobs(state="failed", meta={"tenant": "7"})}
        assert found.keys() == {job.id for job in jobs[1:]}
        seen = found[jobs[1].id].seen
        assert seen is not None
        assert (seen.error_type, seen.result_ttl) == ("OSError", 3600)
        shop.broken = False
        again = await app.retry(name="fetch", meta={"tenant": "7"})
        results = await asyncio.gather(*[job.result(PATIENCE) for job in again])
        assert sorted(results) == [10, 20, 30]
        other = await jobs[0].retry(payload={"n": 5})
        assert await other.result(PATIENCE) == 50
        assert await app.count(name="fetch") == {State.FAILED: 4, State.SUCCEEDED: 4}
        assert await app.count(state="failed", retried=False) == {}
        assert await app.remove(state="failed") == 4
        with pytest.raises(JobNotFound):
            await jobs[0].info()


async def test_a_chain_that_broke_is_mended(rig: Rig) -> None:
    app = rig.app()
    shop = Repairable(app)
    async with rig.running(app):
        flow = await chain(shop.fetch.draft(4), shop.store.draft()).enqueue()
        with pytest.raises(JobCancelled, match="no route to host"):
            await flow.result(PATIENCE)
        shop.broken = False
        first, *_ = flow
        workflow = (await first.info()).workflow
        assert workflow is not None
        again = await app.retry(workflow=workflow, state=["failed", "cancelled"])
        results = await asyncio.gather(*[job.result(PATIENCE) for job in again])
        assert sorted(map(str, results)) == ["40", "stored 40"]
