"""The door, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from mesh import Mesh, Scope
from mesh.errors import ConfigError
from mesh.ports import ApiKey
from mesh.secret import digest, new_key
from mesh_master.access.passwords import hash_password
from mesh_master.server import ApiServer

from .conftest import Served, handlers

PASSWORD = "correct horse battery"
AFAR = "https://mesh.example"


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Served]:
    """An API with users and no worker, asked from another machine over TLS."""
    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}", operators_may=["retry"])
    handlers(app)
    async with app:
        credentials = (await app.master()).credentials
        for name, scope in (("ann", Scope.ADMIN), ("otto", Scope.OPERATE), ("rita", Scope.READ)):
            await credentials.put_user(name, scope, hash_password(PASSWORD))
        served = Served(app)
        served.client = served.new_client(AFAR, "10.0.0.5")
        async with served.client:
            yield served


async def sign_in(served: Served, user: str) -> httpx.Response:
    body = {"username": user, "password": PASSWORD}
    answer = await served.client.post("session", json=body)
    assert answer.status_code == 200, answer.text
    served.client.headers["x-csrf-token"] = answer.json()["csrf"]
    return answer


async def test_nothing_is_told_to_who_has_not_signed_in(closed: Served) -> None:
    assert await closed.get("me") == {
        "user": None,
        "scope": None,
        "sign_in": "required",
        "via": None,
        "csrf": None,
        "cluster": "default",
    }
    paths = [
        route.path.replace("{job_id:str}", "x").replace("{name:str}", "x")
        for route in closed.asgi.routes
        if route.path.startswith("/api/v1/")
        and "GET" in getattr(route, "methods", ())
        and not route.path.endswith(("/me", "/openapi.json"))
    ]
    assert len(paths) > 12
    for path in paths:
        answer = await closed.client.get(path.removeprefix("/api/v1/"))
        assert answer.status_code in (401, 404), path
        assert answer.status_code == 401 or "{" in path, path
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_session_is_a_safe_cookie(closed: Served) -> None:
    answer = await sign_in(closed, "ann")
    cookie = answer.headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Secure", "Path=/", "Max-Age=43200"):
        assert word in cookie
    me = await closed.get("me")
    assert (me["user"], me["scope"], me["via"]) == ("ann", "admin", "session")
    await closed.get("jobs")
    await closed.ask("PATCH", "settings", json={"timeout": 5})
    del closed.client.headers["x-csrf-token"]
    problem = await closed.ask("PATCH", "settings", 403, json={"timeout": 6})
    assert "x-csrf-token" in problem["detail"]
    closed.client.headers["x-csrf-token"] = me["csrf"]
    await closed.ask("DELETE", "session")
    assert (await closed.get("me"))["user"] is None


async def test_wrong_passwords(closed: Served) -> None:
    for user, password in (("ann", "wrong"), ("nobody", PASSWORD)):
        problem = await closed.post("session", {"username": user, "password": password}, 401)
        assert problem["detail"] == "the user name or the password is wrong"
    for _ in range(4):
        await closed.post("session", {"username": "ann", "password": "wrong"}, 401)
    answer = await closed.client.post("session", json={"username": "ann", "password": PASSWORD})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


async def test_another_sites_page_cannot_sign_anybody_in(closed: Served) -> None:
    answer = await closed.client.post(
        "session",
        json={"username": "ann", "password": PASSWORD},
        headers={"origin": "https://evil.example"},
    )
    assert answer.status_code == 403


async def test_scopes(closed: Served) -> None:
    delayed = {"name": "add", "payload": {"x": 1}, "options": {"delay": 3600}}
    await sign_in(closed, "ann")
    job_id = (await closed.post("jobs", delayed, 202))["id"]
    await sign_in(closed, "rita")
    await closed.get(f"jobs/{job_id}")
    await closed.post("lanes/default/pause", None, 403)
    await closed.post(f"jobs/{job_id}/cancel", None, 403)
    await closed.get("audit", 403)
    await sign_in(closed, "otto")
    await closed.post("lanes/default/pause")
    await closed.ask("PATCH", "settings", 403, json={"timeout": 5})
    problem = await closed.post(f"jobs/{job_id}/cancel", None, 403)
    assert "operators_may" in problem["detail"]
    await closed.post("jobs", delayed, 403)
    upkeep = {"name": "upkeep", "options": {"delay": 3600}}
    made = await closed.post("jobs", upkeep, 202)
    assert made["existing"] is False
    schedules = closed.app.schedules
    for handler in ("add", "upkeep"):
        arguments = (1,) if handler == "add" else ()
        await schedules.create(handler, "@daily", *arguments, name=handler)
    assert "operators_may" in (await closed.post("schedules/add/run", None, 403))["detail"]
    await closed.post("schedules/upkeep/run", None, 202)


async def test_keys_over_http(closed: Served) -> None:
    await sign_in(closed, "ann")
    made = await closed.post("api-keys", {"name": "ci", "scope": "operate"}, 201)
    (listed,) = await closed.get("api-keys")
    assert (listed["name"], listed["created_by"]) == ("ci", "session:ann")
    assert "key" not in listed
    program = closed.new_client(AFAR, "10.0.0.6")
    program.headers["authorization"] = f"Bearer {made['key']}"
    async with program:
        assert (await program.get("me")).json()["via"] == "key"
        assert (await program.post("lanes/slow/pause")).status_code == 200
        assert (await program.get("audit")).status_code == 403
        await closed.ask("DELETE", f"api-keys/{made['id']}", 204)
        assert (await program.get("me")).status_code == 401
    assert (await closed.ask("DELETE", "api-keys/nope", 404))["status"] == 404
    assert made["key"] not in (await closed.client.get("audit")).text


async def test_who_did_what_is_kept(closed: Served) -> None:
    await closed.post("session", {"username": "ann", "password": "wrong"}, 401)
    await closed.post("lanes/slow/pause", None, 401)
    await sign_in(closed, "ann")
    await closed.post("lanes/slow/pause")
    log = await closed.get("audit")
    assert [(e["who"], e["action"], e["target"], e["status"]) for e in log] == [
        ("session:ann", "POST /api/v1/lanes/{lane}/{action}", "slow, pause", 200),
        ("session:ann", "POST /api/v1/session", "", 200),
        ("nobody", "POST /api/v1/lanes/{lane}/{action}", "slow, pause", 401),
        ("nobody", "POST /api/v1/session", "", 401),
    ]
    assert {entry["client"] for entry in log} == {"10.0.0.5"}
    assert PASSWORD not in (await closed.client.get("audit")).text
    older = await closed.get("audit", before=log[1]["id"])
    assert len(older) == 2


async def test_headers_of_every_answer(closed: Served) -> None:
    for path in ("me", "jobs", "nowhere"):
        headers = (await closed.client.get(path)).headers
        assert "default-src 'self'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


async def test_other_machines_are_not_served_while_sign_in_is_off(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    async with Mesh(url) as app:
        with pytest.raises(ConfigError, match="mesh users add"):
            await ApiServer(app, "0.0.0.0:0").start()
        key_id, key = new_key()
        made = ApiKey(key_id, "x", Scope.READ, app.now(), "me")
        await (await app.master()).credentials.add_key(made, digest(key))
    async with Mesh(url) as app:
        server = ApiServer(app, "0.0.0.0:0")
        await server.start()
        port = server.url.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1/") as client:
            assert (await client.get("jobs")).status_code == 401
            bearer = {"authorization": f"Bearer {key}"}
            assert (await client.get("jobs", headers=bearer)).status_code == 200
        await server.stop()
