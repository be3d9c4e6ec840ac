"""Handlers are known to the whole cluster."""

from __future__ import annotations

import asyncio

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
