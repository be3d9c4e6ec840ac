"""The application under a path of somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import fastapi
import httpx
import litestar
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from mesh import Mesh, Scope
from mesh_master.access.passwords import hash_password
from mesh_master.api import create_app

from .conftest import handlers

PASSWORD = "correct horse battery"


def in_fastapi(app: Any) -> Any:
    site = fastapi.FastAPI()
    site.mount("/ops", app)
    return site


def in_starlette(app: Any) -> Any:
    return Starlette(routes=[Mount("/ops", app=app)])


def in_litestar(app: Any) -> Any:
    return litestar.Litestar([litestar.asgi("/ops", is_mount=True, copy_scope=True)(app)])


@pytest.mark.parametrize("mounted", [in_fastapi, in_starlette, in_litestar])
async def test_it_works_under_a_path(mounted: Any, tmp_path: Path) -> None:
    async with Mesh(f"sqlite:///{tmp_path / 'mesh.db'}") as app:
        handlers(app)
        await (await app.master()).credentials.put_user("ann", Scope.ADMIN, hash_password(PASSWORD))
        site = mounted(create_app(app))
        transport = httpx.ASGITransport(cast(Any, site), client=("10.0.0.5", 5))
        async with httpx.AsyncClient(
            transport=transport, base_url="https://shop.example"
        ) as client:
            page = await client.get("/ops/")
            assert page.status_code == 200
            assert 'src="assets/app.js"' in page.text
            bare = await client.get("/ops")
            if bare.status_code != 200 or bare.url.path.endswith("/"):
                assert bare.headers["location"].endswith("ops/")
            script = await client.get("/ops/assets/app.js")
            assert script.headers["content-type"].startswith("text/javascript")
            again = await client.get(
                "/ops/assets/app.js", headers={"if-none-match": script.headers["etag"]}
            )
            assert again.status_code == 304
            assert (await client.get("/ops/assets/../app.py")).status_code == 404
            credentials = {"username": "ann", "password": PASSWORD}
            me = await client.post("/ops/api/v1/session", json=credentials)
            assert "Path=/ops" in me.headers["set-cookie"]
            made = await client.post(
                "/ops/api/v1/jobs",
                json={"name": "add", "payload": {"x": 1}, "options": {"delay": 3600}},
                headers={"x-csrf-token": me.json()["csrf"]},
            )
            assert made.headers["location"] == f"/ops/api/v1/jobs/{made.json()['id']}"
            assert (await client.get(made.headers["location"])).json()["state"] == "scheduled"
