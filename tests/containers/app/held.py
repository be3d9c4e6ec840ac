"""The shop, with a job whose end the test decides on."""

import asyncio
from pathlib import Path

from shop import app

from mesh import Context

__all__ = ["app", "hold"]

GATE = Path("/gate")
"""A folder that the container and the test share."""


@app.job(lane="reports")
async def hold(name: str, ctx: Context) -> int:
    """Say that it runs, and wait until the test lets it go on; returns the attempt's number."""
    (GATE / f"{name}.{ctx.attempt}").touch()
    while not (GATE / f"{name}.open").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)
    return ctx.attempt
