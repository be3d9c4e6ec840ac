"""Who gets in, and who does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from mesh import Identity, Mesh, Scope
from mesh.errors import ConfigError, MasterUnavailable
from mesh.ports import ApiKey
from mesh.secret import digest, new_key
from mesh.testing import ManualClock
from mesh_master.access.door import COOKIE, Door, Forbidden, NotSignedIn, Request, TooManyAttempts
from mesh_master.access.passwords import hash_password

SHARED = "0123456789abcdef0123456789abcdef"
PASSWORD = "correct horse battery"


def request(method: str = "GET", client: str = "127.0.0.1", **headers: str) -> Request:
    given = {"host": "localhost:8642"} | {k.replace("_", "-"): v for k, v in headers.items()}
    cookies = {COOKIE: given.pop("session")} if "session" in given else {}
    return Request(method, given, cookies, client)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with Mesh(f"sqlite:///{tmp_path / 'mesh.db'}", clock=ManualClock()) as app:
        yield app


async def add_key(app: Mesh, scope: Scope = Scope.READ, expires_at: float | None = None) -> str:
    key_id, key = new_key()
    made = ApiKey(key_id, "tests", scope, app.now(), "me", expires_at)
    await (await app.master()).credentials.add_key(made, digest(key))
    return key


async def add_user(app: Mesh, name: str = "ann", scope: Scope = Scope.OPERATE) -> None:
    credentials = (await app.master()).credentials
    await credentials.put_user(name, scope, hash_password(PASSWORD))


async def test_this_machine_may_do_everything_while_sign_in_is_off(app: Mesh) -> None:
    principal = await Door(app).enter(request("POST"))
    assert (principal.who, principal.scope) == ("anonymous", Scope.ADMIN)
    for host in ("127.0.0.1:1", "[::1]:8642", "localhost"):
        await Door(app).enter(request(host=host))


@pytest.mark.parametrize(
    "given",
    [
        {"client": "10.0.0.5"},
        {"host": "rebound.example:8642"},  # a page elsewhere, whose name resolves to 127.0.0.1
        {"host": ""},
        {"x_forwarded_for": "10.0.0.5"},
        {"forwarded": "for=10.0.0.5"},
    ],
)
async def test_others_may_do_nothing_while_sign_in_is_off(app: Mesh, given: Any) -> None:
    with pytest.raises(NotSignedIn, match="mesh users add"):
        await Door(app).enter(request(**given))


@pytest.mark.parametrize(
    "given",
    [{"sec_fetch_site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}],
)
async def test_a_page_of_another_site_changes_nothing(app: Mesh, given: Any) -> None:
    door = Door(app)
    with pytest.raises(Forbidden, match="another site"):
        await door.enter(request("POST", **given))
    await door.enter(request("GET", **given))
    await door.enter(request("POST", origin="http://localhost:8642", sec_fetch_site="same-origin"))


async def test_the_door_closes_with_the_first_key_and_stays_so(app: Mesh) -> None:
    door = Door(app)
    await door.enter(request())
    key = await add_key(app)
    app.clock.advance(2.5)  # type: ignore[attr-defined]
    with pytest.raises(NotSignedIn, match="sign in"):
        await door.enter(request())
    principal = await door.enter(request(authorization=f"Bearer {key}"))
    assert principal.who == f"key:{key.split('_')[1]} (tests)"
    await (await app.master()).credentials.revoke_key(key.split("_")[1])
    with pytest.raises(NotSignedIn, match="revoked"):
        await door.enter(request(authorization=f"Bearer {key}"))
    with pytest.raises(NotSignedIn, match="sign in"):
        await Door(app).enter(request())


async def test_keys_that_are_none(app: Mesh) -> None:
    door, key = Door(app), await add_key(app)
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    strange = "mesh_" + "0" * 12 + key[17:]
    for wrong, why in ((other, "not known"), (strange, "not known"), ("mesh_x", "no API key")):
        with pytest.raises(NotSignedIn, match=why):
            await door.enter(request(authorization=f"Bearer {wrong}"))
    late = await add_key(app, expires_at=app.now() + 10)
    await door.enter(request(authorization=f"bearer {late}"))
    app.clock.advance(11)  # type: ignore[attr-defined]
    with pytest.raises(NotSignedIn, match="expired"):
        await door.enter(request(authorization=f"Bearer {late}"))


async def test_a_keys_use_is_noted_to_the_minute(app: Mesh) -> None:
    door, key = Door(app), await add_key(app)
    credentials = (await app.master()).credentials
    used = []
    for seconds in (0, 30, 40):
        app.clock.advance(seconds)  # type: ignore[attr-defined]
        await door.enter(request(authorization=f"Bearer {key}"))
        (found,) = await credentials.keys()
        assert found.used_at is not None
        used.append(found.used_at - found.created_at)
    assert used == pytest.approx([0, 0, 70], abs=0.01)


async def test_a_session_needs_its_token_for_changes(app: Mesh) -> None:
    await add_user(app)
    door = Door(app)
    token, _ = await door.sign_in("ann", PASSWORD, "10.0.0.5")
    from_afar = {"client": "10.0.0.5", "host": "mesh.example"}
    principal = await door.enter(request(session=token, **from_afar))
    assert (principal.who, principal.scope) == ("session:ann", Scope.OPERATE)
    assert principal.csrf
    for given in ({}, {"x_csrf_token": "x" * 64}):
        with pytest.raises(Forbidden, match="x-csrf-token"):
            await door.enter(request("POST", session=token, **from_afar, **given))
    await door.enter(request("POST", session=token, **from_afar, x_csrf_token=principal.csrf))
    await door.sign_out(token)
    with pytest.raises(NotSignedIn):
        await door.enter(request(session=token, **from_afar))


async def test_a_session_ends_by_itself(app: Mesh) -> None:
    await add_user(app)
    door = Door(app)
    token, session = await door.sign_in("ann", PASSWORD, "")
    assert session.expires_at == pytest.approx(app.now() + 12 * 3600)
    app.clock.advance(12 * 3600 + 1)  # type: ignore[attr-defined]
    with pytest.raises(NotSignedIn):
        await door.enter(request(session=token))


async def test_wrong_passwords_are_slowed_down_and_say_no_more_than_that(app: Mesh) -> None:
    await add_user(app)
    door = Door(app)
    said = set()
    for user, password in (("ann", "wrong"), ("nobody", PASSWORD)):
        with pytest.raises(NotSignedIn) as raised:
            await door.sign_in(user, password, "10.0.0.5")
        said.add(str(raised.value))
    assert len(said) == 1
    for _ in range(4):
        with pytest.raises(NotSignedIn):
            await door.sign_in("ann", "wrong", "10.0.0.5")
    with pytest.raises(TooManyAttempts) as slowed:
        await door.sign_in("ann", PASSWORD, "10.0.0.5")
    assert slowed.value.wait == pytest.approx(30.0)
    await door.sign_in("ann", PASSWORD, "10.0.0.6")  # who is elsewhere is not locked out
    app.clock.advance(31)  # type: ignore[attr-defined]
    await door.sign_in("ann", PASSWORD, "10.0.0.5")


async def test_bearer_tokens_and_the_apps_own_hook(tmp_path: Path) -> None:
    rules = {"issuer": "us", "audience": "mesh", "secret": SHARED}
    async with Mesh(f"sqlite:///{tmp_path / 'mesh.db'}", jwt=rules) as app:

        @app.authenticate
        async def by_proxy(headers: Mapping[str, str]) -> Identity | None:
            user = headers.get("x-remote-user")
            return Identity(user, Scope.READ) if user else None

        door = Door(app)
        claims = {"iss": "us", "aud": "mesh", "sub": "bob", "exp": app.now() + 60, "scope": "admin"}
        principal = await door.enter(request(authorization=f"Bearer {jwt.encode(claims, SHARED)}"))
        assert (principal.who, principal.scope) == ("jwt:bob", Scope.ADMIN)
        principal = await door.enter(request(x_remote_user="carol"))
        assert (principal.who, principal.scope) == ("hook:carol", Scope.READ)
        with pytest.raises(Forbidden):
            await door.enter(request("POST", x_remote_user="carol", sec_fetch_site="cross-site"))
        for given in ({}, {"authorization": "Bearer x.y.z"}):
            with pytest.raises(NotSignedIn):
                await door.enter(request(**given))
        with pytest.raises(ConfigError, match="already"):
            app.authenticate(by_proxy)


async def test_scopes_and_the_policy_for_jobs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mesh.db'}"
    async with Mesh(url, operators_may=["retry"]) as app:

        @app.job(kind="system")
        async def upkeep() -> None: ...

        @app.job
        async def mail() -> None: ...

        door = Door(app)
        await add_user(app)
        token, _ = await door.sign_in("ann", PASSWORD, "")
        ann = await door.enter(request(session=token))
        door.check_scope(ann, Scope.OPERATE)
        with pytest.raises(Forbidden, match="needs the scope 'admin'"):
            door.check_scope(ann, Scope.ADMIN)
        kinds = [await door.kind(name) for name in ("upkeep", "mail", "unknown")]
        assert kinds == ["system", "user", "user"]
        for action in ("enqueue", "retry", "cancel", "remove"):
            door.check_job(ann, action, "system")
        door.check_job(ann, "retry", "user")
        for action in ("enqueue", "cancel", "remove"):
            with pytest.raises(Forbidden, match="operators_may"):
                door.check_job(ann, action, "user")  # type: ignore[arg-type]


async def test_nobody_gets_in_while_the_master_cannot_tell(tmp_path: Path) -> None:
    app = Mesh(
        master="postgresql://127.0.0.1:1/none", agents={"m": "memory://x"}, connect_timeout=0.5
    )
    async with app:
        with pytest.raises(MasterUnavailable):
            await Door(app).enter(request())
