"""Who may do what over the HTTP API, as the master keeps it. Secrets are kept as digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mesh.sign_in import Scope

__all__ = ["ApiKey", "AuditEntry", "Credentials", "Session", "User"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key for programs. Moments are seconds since the epoch."""

    id: str
    """Public: the part of the key that names it."""
    name: str
    """What it is for."""
    scope: Scope
    created_at: float
    created_by: str
    expires_at: float | None = None
    used_at: float | None = None
    """To the minute."""
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signs in with a password."""

    name: str
    scope: Scope
    created_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that signed in."""

    user: User
    expires_at: float


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Somebody did something, or tried to."""

    at: float
    who: str
    """``user:ann``, ``key:1a2b3c (deploys)``, ``jwt:…``, ``anonymous``, ``cli:ann``."""
    action: str
    """Such as ``POST /jobs/{job_id}/cancel``."""
    target: str
    """What it was done to: an id, a name."""
    status: int
    """The HTTP status of the answer; below 400 it was done."""
    client: str = ""
    """The address that it came from."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0
    """Given by the master, growing."""


class Credentials(Protocol):
    """A part of a master. ``digest`` is ``mesh.secret.digest``'s of a secret."""

    async def required(self) -> bool:
        """Whether the API lets in those alone who sign in. So it is from the first user or key
        on, until it is told otherwise, even if the last of them was removed."""
        ...

    async def require(self, required: bool) -> None: ...

    async def add_key(self, key: ApiKey, digest: str) -> None:
        """Requires sign-in from now on. ``ConfigError`` if the id is taken."""
        ...

    async def find_key(self, key_id: str) -> tuple[ApiKey, str] | None:
        """A key and its digest, revoked and expired ones too."""
        ...

    async def keys(self) -> list[ApiKey]:
        """All, the newest first."""
        ...

    async def note_use(self, key_id: str, at: float) -> None: ...

    async def revoke_key(self, key_id: str) -> bool:
        """Whether there was such a key, not revoked."""
        ...

    async def put_user(self, name: str, scope: Scope, password_hash: str) -> None:
        """Add a user, or change both; requires sign-in from now on. Ends the user's sessions."""
        ...

    async def find_user(self, name: str) -> tuple[User, str] | None:
        """A user, and the hash of the password."""
        ...

    async def users(self) -> list[User]:
        """All, by name."""
        ...

    async def remove_user(self, name: str) -> bool:
        """Ends the user's sessions. Whether there was one."""
        ...

    async def add_session(self, digest: str, user: str, expires_at: float) -> None: ...

    async def find_session(self, digest: str) -> Session | None:
        """The session, unless it is over or its user is gone; with the scope that the user has
        now."""
        ...

    async def end_session(self, digest: str) -> None: ...

    async def audit(self, entry: AuditEntry) -> None: ...

    async def audit_log(
        self, *, before: int | None = None, who: str | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """The newest first; ``before`` is the id of the last one seen."""
        ...
