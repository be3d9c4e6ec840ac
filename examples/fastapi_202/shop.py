"""A web service that hands work off and answers at once: 202 Accepted, and where to follow it.

uvicorn shop:site                # the service, on http://127.0.0.1:8000
mesh up shop:app --no-http       # what does the work
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Header, Response
from fastapi.responses import FileResponse, StreamingResponse

from mesh import Context, JobNotFound, Mesh, State

app = Mesh.from_env()  # MESH_URL=sqlite:///shop.db


@app.job(lane="exports")
async def export_orders(ctx: Context, shop: str, rows: int = 50) -> dict[str, Any]:
    for done in range(rows):
        await ctx.progress(done + 1, rows, "rows")
        await asyncio.sleep(0.05)
    return {"shop": shop, "rows": rows}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with app:
        yield


site = FastAPI(lifespan=lifespan)


@site.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).parent / "index.html")


@site.post("/exports", status_code=202)
async def submit(shop: str, response: Response) -> dict[str, str]:
    """Stored durably when this answers."""
    job = await export_orders.enqueue(shop)
    response.headers["Location"] = f"/exports/{job.id}"
    return {"id": job.id}


@site.get("/exports/{job_id}")
async def poll(job_id: str) -> dict[str, Any]:
    """For those who ask again and again."""
    try:
        job = await app.get_job(job_id)
    except JobNotFound:
        # Just stored: the master hears of it in a moment.
        return {"id": job_id, "state": State.QUEUED}
    answer: dict[str, Any] = {"id": job_id, "state": await job.status()}
    if answer["state"] is State.SUCCEEDED:
        answer["result"] = await job.result()
    return answer


@site.get("/exports/{job_id}/events")
async def stream(job_id: str, last_event_id: int = Header(default=-1)) -> StreamingResponse:
    """For browsers: EventSource comes again by itself, with the last id that it saw."""

    async def events() -> AsyncIterator[bytes]:
        async for event in app.events(job_id, last_event_id):
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                event.seq,
                event.kind.encode(),
                event.data,
            )
        yield b"event: end\ndata: {}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
