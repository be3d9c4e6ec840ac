"""Routes: signing in and out, API keys, and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.datastructures import Cookie
from litestar.params import FromPath, JSONBody, QueryParameter

from mesh.clock import to_datetime
from mesh.errors import did_you_mean
from mesh.ports import ApiKey
from mesh.secret import digest, new_key
from mesh.sign_in import Scope
from mesh_master.access.door import COOKIE, NotSignedIn
from mesh_master.api.context import AnyRequest, GivenApi, SignedIn, mounted_at, require, seen
from mesh_master.api.problems import PROBLEMS, NotFound
from mesh_master.api.views import moment

__all__ = ["router"]

_ADMIN = [require(Scope.ADMIN)]
_YEAR = 366 * 86_400.0


class Me(msgspec.Struct, kw_only=True):
    """Who is asking."""

    user: str | None
    """``null``: nobody, who is to sign in."""
    scope: Scope | None = None
    sign_in: Literal["off", "required"]
    via: str | None = None
    csrf: str | None = None
    """To be sent as ``X-CSRF-Token`` with each change in a session."""
    cluster: str


class Credentials(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    username: Annotated[str, msgspec.Meta(max_length=200)]
    password: Annotated[str, msgspec.Meta(max_length=1000)]


@get("/me", responses=PROBLEMS)
async def me(api: GivenApi, request: AnyRequest) -> Me:
    """Who is asking, and whether they must sign in. Needs no scope."""
    cluster = api.mesh.config.cluster
    try:
        principal = await api.door.enter(seen(request))
    except NotSignedIn:
        if request.headers.get("authorization"):
            raise
        return Me(user=None, sign_in="required", cluster=cluster)
    return Me(
        user=principal.user,
        scope=principal.scope,
        sign_in="off" if principal.via == "off" else "required",
        via=principal.via,
        csrf=principal.csrf,
        cluster=cluster,
    )


@post("/session", status_code=200, responses=PROBLEMS)
async def sign_in(api: GivenApi, request: AnyRequest, data: JSONBody[Credentials]) -> Response[Me]:
    """Sign in with a user name and a password; the answer sets the session's cookie."""
    asking = seen(request)
    api.door.check_site(asking)
    token, session = await api.door.sign_in(data.username, data.password, asking.client)
    principal = api.door.principal_of(session, token)
    request.scope["user"] = principal
    shown = Me(
        user=principal.user,
        scope=principal.scope,
        sign_in="required",
        via=principal.via,
        csrf=principal.csrf,
        cluster=api.mesh.config.cluster,
    )
    cookie = _cookie(request, token, int(api.mesh.config.session_ttl))
    return Response(shown, cookies=[cookie])


@delete("/session", status_code=200, guards=[require(Scope.READ)], responses=PROBLEMS)
async def sign_out(api: GivenApi, request: SignedIn) -> Response[dict[str, bool]]:
    """End the session."""
    if token := request.cookies.get(COOKIE):
        await api.door.sign_out(token)
    return Response({"signed_out": True}, cookies=[_cookie(request, "", 0)])


def _cookie(request: AnyRequest, token: str, max_age: int) -> Cookie:
    return Cookie(
        COOKIE,
        value=token,
        max_age=max_age,
        path=mounted_at(request) or "/",
        httponly=True,
        secure=request.url.scheme == "https",
        samesite="strict",
    )


# API keys ------------------------------------------------------------------------------------


class Key(msgspec.Struct, kw_only=True):
    id: str
    name: str
    scope: Scope
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    scope: Scope = Scope.READ
    expires_in: Annotated[float, msgspec.Meta(gt=0, le=100 * _YEAR)] | None = None
    """Seconds; without it never."""


class MadeKey(Key, kw_only=True):
    key: str
    """The key itself, which is not shown again."""


@get("/api-keys", guards=_ADMIN, responses=PROBLEMS)
async def list_keys(api: GivenApi) -> list[Key]:
    """All API keys, the newest first."""
    return [Key(**_facts(key)) for key in await (await api.master()).credentials.keys()]


@post("/api-keys", guards=_ADMIN, status_code=201, responses=PROBLEMS)
async def create_key(api: GivenApi, request: SignedIn, data: JSONBody[NewKey]) -> MadeKey:
    """Make an API key. It is in this answer, and nowhere else."""
    key_id, key = new_key()
    now = api.mesh.now()
    expires_at = None if data.expires_in is None else now + data.expires_in
    made = ApiKey(key_id, data.name, data.scope, now, request.user.who, expires_at)
    await (await api.master()).credentials.add_key(made, digest(key))
    return MadeKey(**_facts(made), key=key)


@delete("/api-keys/{key_id:str}", guards=_ADMIN, responses=PROBLEMS)
async def revoke_key(api: GivenApi, key_id: FromPath[str]) -> None:
    """Take a key back, at once."""
    credentials = (await api.master()).credentials
    if not await credentials.revoke_key(key_id):
        known = [key.id for key in await credentials.keys() if key.revoked_at is None]
        raise NotFound(f"no key in force has the id '{key_id}'{did_you_mean(key_id, known)}")


def _facts(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "created_at": to_datetime(key.created_at),
        "created_by": key.created_by,
        "expires_at": moment(key.expires_at),
        "used_at": moment(key.used_at),
        "revoked_at": moment(key.revoked_at),
    }


# the audit log -------------------------------------------------------------------------------


class Entry(msgspec.Struct, kw_only=True):
    """Something that somebody did, or tried to do."""

    id: int
    at: datetime
    who: str
    action: str
    target: str
    status: int
    client: str
    detail: dict[str, Any]


@get("/audit", guards=_ADMIN, responses=PROBLEMS)
async def audit_log(
    api: GivenApi,
    before: Annotated[
        int | None, QueryParameter(ge=1, le=2**53, description="The last id seen.")
    ] = None,
    who: Annotated[str | None, QueryParameter(max_length=300)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> list[Entry]:
    """Who did what, the newest first."""
    found = await (await api.master()).credentials.audit_log(before=before, who=who, limit=limit)
    return [
        Entry(
            id=entry.id,
            at=to_datetime(entry.at),
            who=entry.who,
            action=entry.action,
            target=entry.target,
            status=entry.status,
            client=entry.client,
            detail=dict(entry.detail),
        )
        for entry in found
    ]


router = Router(
    "/",
    tags=["access"],
    route_handlers=[me, sign_in, sign_out, list_keys, create_key, revoke_key, audit_log],
)
