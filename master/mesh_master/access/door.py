"""The door of the HTTP API: who a request is from, and what they may do.

A request shows one of: an API key or a JSON Web Token (``Authorization: Bearer …``), the cookie of
a session, or what the app's own hook knows. Where sign-in is *off* anybody on this machine may do
everything, if the request is plainly of this machine: from and to a loopback address, by a loopback
name (a page elsewhere whose name resolves to 127.0.0.1 has another), and through no proxy.

It goes from off to required by itself (``Credentials.required``), which is asked for again every
``_ASK_AGAIN`` seconds while it is off, and never again once it is required. When the master cannot
tell, nobody gets in.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from mesh.app import Mesh
from mesh.definition import Kind
from mesh.errors import ConfigError, MeshError
from mesh.ports import Credentials, Session
from mesh.secret import digest, new_token, parse_key, same
from mesh.sign_in import Scope
from mesh_master.access.attempts import Throttle
from mesh_master.access.passwords import Passwords
from mesh_master.access.tokens import BadToken, Tokens

__all__ = [
    "COOKIE",
    "CSRF_HEADER",
    "Door",
    "Forbidden",
    "JobAction",
    "NotSignedIn",
    "Principal",
    "Request",
    "TooManyAttempts",
    "is_loopback",
]

COOKIE = "mesh_session"
CSRF_HEADER = "x-csrf-token"

_ASK_AGAIN = 2.0
_USE_NOTED_EVERY = 60.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL_NAMES = frozenset({"localhost"})

JobAction = Literal["enqueue", "retry", "cancel", "remove"]


class NotSignedIn(MeshError):
    """Who sends the request is not known, or not believed."""


class Forbidden(MeshError):
    """Who sends the request may not do that."""


class TooManyAttempts(MeshError):
    """Wrong passwords came too fast. ``wait`` is the seconds until the next is looked at."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"too many wrong passwords: try again in {wait:.0f} s")
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Request:
    """What the door looks at. Names of headers are in lower case."""

    method: str
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    client: str
    """The address of the other end of the connection; empty if there is none, as in tests."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was let in."""

    user: str
    scope: Scope
    via: Literal["key", "jwt", "session", "hook", "off"]
    csrf: str | None = None
    """What a session's changes must bring along."""

    @property
    def who(self) -> str:
        """In the audit log."""
        return "anonymous" if self.via == "off" else f"{self.via}:{self.user}"


class Door:
    """One for an API process."""

    def __init__(self, app: Mesh) -> None:
        """Raises ``ConfigError`` if the keys for bearer tokens cannot be read."""
        self._app = app
        self._clock = app.clock
        self._tokens = None if app.config.jwt is None else Tokens(app.config.jwt)
        self._passwords = Passwords()
        self._by_client = Throttle(20, 3.0)
        self._by_name = Throttle(5, 30.0)
        self._is_required = False
        self._asked_at = float("-inf")
        self._noted: dict[str, float] = {}
        """When a key's use was last written down, by its id."""

    @property
    def is_configured(self) -> bool:
        """Sign-in is required by what this process was told, whatever the master says."""
        config = self._app.config
        hook = self._app.authenticator
        return config.sign_in == "required" or config.jwt is not None or hook is not None

    async def is_required(self) -> bool:
        """Raises ``MasterError`` if that cannot be known."""
        if self.is_configured or self._is_required:
            return True
        now = self._clock.monotonic()
        if now - self._asked_at >= _ASK_AGAIN:
            self._is_required = await (await self._credentials()).required()
            self._asked_at = now
        return self._is_required

    async def _credentials(self) -> Credentials:
        return (await self._app.master()).credentials

    # coming in -------------------------------------------------------------------------------

    async def enter(self, request: Request) -> Principal:
        """Who it is. Raises ``NotSignedIn``; ``Forbidden`` for a change that a page elsewhere may
        have brought about; ``MasterError`` if that cannot be known."""
        principal = await self._identify(request)
        if request.method not in _SAFE:
            _check_origin(request, principal)
        return principal

    async def _identify(self, request: Request) -> Principal:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await self._by_bearer(bearer.strip())
        if (token := request.cookies.get(COOKIE)) and (found := await self._session(token)):
            return found
        if (hook := self._app.authenticator) is not None:
            identity = await hook(request.headers)
            if identity is not None:
                return Principal(identity.user, identity.scope, "hook")
        if await self.is_required():
            raise NotSignedIn(
                "sign in, or send an API key as 'Authorization: Bearer …' (mesh api-keys create)"
            )
        if why := _not_of_this_machine(request):
            raise NotSignedIn(
                f"sign-in is off, so only this machine is served, and {why}: let people sign in "
                "with 'mesh users add NAME --scope admin', or programs with 'mesh api-keys create'"
            )
        return Principal("anonymous", Scope.ADMIN, "off")

    async def _by_bearer(self, bearer: str) -> Principal:
        if bearer.startswith("mesh_"):
            return await self._by_key(bearer)
        if self._tokens is None:
            raise NotSignedIn("the bearer token is no API key, and 'jwt' is not configured")
        try:
            user, scope = self._tokens.check(bearer)
        except BadToken as error:
            raise NotSignedIn(str(error)) from None
        return Principal(user, scope, "jwt")

    async def _by_key(self, text: str) -> Principal:
        try:
            key_id = parse_key(text)
        except ConfigError as error:
            raise NotSignedIn(str(error)) from None
        credentials = await self._credentials()
        found = await credentials.find_key(key_id)
        now = self._app.now()
        key, stored = found if found is not None else (None, digest(""))
        if not same(digest(text), stored) or key is None:
            raise NotSignedIn("the API key is not known")
        if key.revoked_at is not None:
            raise NotSignedIn(f"the API key {key_id} was revoked")
        if key.expires_at is not None and key.expires_at <= now:
            raise NotSignedIn(f"the API key {key_id} has expired")
        if now - self._noted.get(key_id, float("-inf")) >= _USE_NOTED_EVERY:
            self._noted[key_id] = now
            await credentials.note_use(key_id, now)
        return Principal(f"{key_id} ({key.name})", key.scope, "key")

    async def _session(self, token: str) -> Principal | None:
        session = await (await self._credentials()).find_session(digest(token))
        if session is None:
            return None
        return self.principal_of(session, token)

    def principal_of(self, session: Session, token: str) -> Principal:
        """Who has that session."""
        return Principal(session.user.name, session.user.scope, "session", _csrf(token))

    def check_site(self, request: Request) -> None:
        """Whether a request without a session may be of a page of ours. Raises ``Forbidden``."""
        _check_origin(request, Principal("", Scope.READ, "off"))

    # sessions --------------------------------------------------------------------------------

    async def sign_in(self, user: str, password: str, client: str) -> tuple[str, Session]:
        """A new session, and the token for its cookie. Raises ``NotSignedIn``, the same for a
        wrong password as for a user whom nobody knows; ``TooManyAttempts``."""
        now = self._clock.monotonic()
        name = f"{client} {user}"
        wait = max(self._by_client.wait(client, now), self._by_name.wait(name, now))
        if wait > 0:
            raise TooManyAttempts(wait)
        # Counted before it is looked at: many at once are many.
        self._by_client.failed(client, now)
        self._by_name.failed(name, now)
        credentials = await self._credentials()
        found = await credentials.find_user(user)
        if not await self._passwords.check(password, None if found is None else found[1]):
            raise NotSignedIn("the user name or the password is wrong")
        assert found is not None
        self._by_client.succeeded(client)
        self._by_name.succeeded(name)
        token = new_token()
        session = Session(found[0], self._app.now() + self._app.config.session_ttl)
        await credentials.add_session(digest(token), user, session.expires_at)
        return token, session

    async def sign_out(self, token: str) -> None:
        await (await self._credentials()).end_session(digest(token))

    # what they may do ------------------------------------------------------------------------

    def check_scope(self, principal: Principal, needed: Scope) -> None:
        """Raises ``Forbidden``."""
        if not principal.scope.covers(needed):
            raise Forbidden(
                f"that needs the scope '{needed}'; {principal.who} has '{principal.scope}'"
            )

    def check_job(self, principal: Principal, action: JobAction, kind: Kind) -> None:
        """Whether they may do that to a job of a handler of this kind. Raises ``Forbidden``."""
        self.check_scope(principal, Scope.OPERATE)
        if principal.scope.covers(Scope.ADMIN) or kind == "system":
            return
        if action not in self._app.config.operators_may:
            allowed = ", ".join(self._app.config.operators_may) or "nothing"
            raise Forbidden(
                f"operators may not {action} jobs of kind 'user' (they may: {allowed}); that needs "
                "the scope 'admin', or another 'operators_may' in the configuration"
            )

    async def kind(self, handler: str) -> Kind:
        """The kind of a handler's jobs, as workers told; of one that nobody knows, ``user``."""
        own = self._app.handlers.get(handler)
        if own is not None:
            return own.definition.kind
        for known in await (await self._app.master()).handlers():
            if known.name == handler:
                return known.definition.kind
        return "user"


def _csrf(token: str) -> str:
    """Of a session: only who can read our own answers knows it."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def _check_origin(request: Request, principal: Principal) -> None:
    if principal.via in ("key", "jwt"):
        return  # no browser adds those by itself
    if principal.csrf is not None:
        if not same(request.headers.get(CSRF_HEADER, ""), principal.csrf):
            raise Forbidden(
                f"a change in a session needs the header {CSRF_HEADER}, with 'csrf' of GET /me"
            )
        return
    site = request.headers.get("sec-fetch-site", "none")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if site not in ("same-origin", "none") or (origin and urlsplit(origin).netloc != host):
        raise Forbidden("a page of another site sent this: it is refused")


def _not_of_this_machine(request: Request) -> str:
    """Why it may not be of this machine; empty if it plainly is."""
    for header in ("forwarded", "x-forwarded-for", "x-real-ip"):
        if header in request.headers:
            return f"this came through a proxy ('{header}')"
    if request.client and not is_loopback(request.client):
        return f"this came from {request.client}"
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        return f"this was sent to '{host}'"
    return ""


def is_loopback(host: str) -> bool:
    """Whether that address or name can be of this machine alone."""
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
