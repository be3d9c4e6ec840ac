"""Handlers are known to the whole cluster."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from mesh import Job, Retry
from mesh.ports import HandlerInfo

from .cluster_rig import PATIENCE, Rig


class Render(Job[int], title="Render", lane="images", priority="high", retry=Retry(2), timeout=9):
    """Render a page."""

    page: int


async def test_workers_tell_the_master_which_handlers_there_are(rig: Rig) -> None:
    app = rig.app()

    @app.handler
    async def render(request: Render) -> int:
        return request.page

    @app.job(kind="system", icon="🧹")
    def tidy(days: int = 7) -> None:
        """Remove what is old."""

    async with rig.running(app):
        master = await app.master()

        async def known() -> dict[str, HandlerInfo]:
            async with asyncio.timeout(PATIENCE):
                while len(found := await master.handlers()) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            return {handler.name: handler for handler in found}

        found = await known()
        producer = rig.app()
        async with producer:
            # Definition and handler live apart: it has the class alone.
            job = await producer.enqueue(Render(3))
            assert await job.result(timeout=PATIENCE) == 3
            told = (await producer.get_job(job.id)).seen
    assert told is not None
    assert (told.lane, told.priority) == ("images", 4)
    assert found["Render"].definition == render.definition
    assert found["tidy"].definition == tidy.definition
    assert found["tidy"].definition.description == "Remove what is old."


APP = """
from mesh import Mesh

app = Mesh(**WHERE)
"""
JOBS = """
from shop_apart import app

@app.job
def add(a: int, b: int) -> int:
    return a + b
"""


async def test_a_worker_imports_the_modules_that_it_is_told(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "shop_apart.py").write_text(APP.replace("WHERE", repr(rig.where)))
    (tmp_path / "jobs_apart").mkdir()
    (tmp_path / "jobs_apart" / "__init__.py").touch()
    (tmp_path / "jobs_apart" / "sums.py").write_text(JOBS)
    app = rig.app()

    @app.job
    def add(a: int, b: int) -> int:
        raise NotImplementedError

    async with rig.running(app, worker=False):
        command = ["worker", "shop_apart:app", "--import", "jobs_apart", "--processes", "2"]
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from mesh.cli import main; main()", *command), cwd=tmp_path
        )
        try:
            jobs = await add.enqueue_many([(n, n) for n in range(10)])
            results = await asyncio.gather(*(job.result(timeout=PATIENCE) for job in jobs))
            assert results == [2 * n for n in range(10)]
        finally:
            worker.send_signal(signal.SIGTERM)
            assert await worker.wait() == 0
