"""Enqueuing for handlers whose code is elsewhere: what a worker published is not trusted further
than a description of arguments."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import msgspec

from mesh import Mesh

from .conftest import PATIENCE, Served, serving

ELSEWHERE: dict[str, str] = {}
"""A part of a schema, which is to be found at an address."""


async def test_nothing_is_fetched_and_nothing_large_is_looked_at(tmp_path: Path) -> None:
    asked: list[str] = []

    class Schemas(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    # In a thread: who fetched it would hold up the event loop.
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Schemas)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    ELSEWHERE["$ref"] = f"http://127.0.0.1:{listening.server_port}/schema.json"

    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}")

    @app.job
    async def greet(name: Annotated[str, msgspec.Meta(extra_json_schema=ELSEWHERE)]) -> None: ...

    @app.job
    async def store(text: str) -> None: ...

    async with serving(app), Mesh(app.config.master) as other:
        asking = Served(other)
        async with asking.client, asyncio.timeout(PATIENCE):
            while len(await asking.get("handlers")) < 2:
                await asyncio.sleep(0.02)
            body = {"name": "greet", "payload": {"name": "ann"}}
            problem = await asking.post("jobs", body, 422)
            assert ELSEWHERE["$ref"] in problem["detail"]
            assert asked == []
            large = {"name": "store", "payload": {"text": "x" * 200_000, "odd": 1}}
            await asking.post("jobs", large, 413)
    listening.shutdown()
    listening.server_close()
