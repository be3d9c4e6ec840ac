"""How people and programs show who they are to the HTTP API, as configuration has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec

from mesh.errors import ConfigError, did_you_mean

__all__ = ["Authenticator", "Identity", "JwtRules", "OperatorMay", "Scope", "SignIn"]


class Scope(StrEnum):
    """What somebody may do; each has what stands before it too."""

    READ = "read"
    """Look."""
    OPERATE = "operate"
    """Cancel, retry and remove jobs, pause lanes and schedules, run system jobs."""
    ADMIN = "admin"
    """Everything: enqueue any job, settings, agents, users and keys."""

    def covers(self, needed: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, as an app's own hook found out."""

    user: str
    """The name in the audit log."""
    scope: Scope


Authenticator = Callable[[Mapping[str, str]], Awaitable[Identity | None]]
"""Who sent a request, by its headers (names in lower case); ``None``: the hook does not know."""

SignIn = Literal["auto", "required"]

OperatorMay = Literal["retry", "cancel", "remove"]

_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_LEAST_SECRET = 32
"""Bytes: RFC 7518, section 3.2, wants a key as long as the digest."""


class JwtRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which bearer tokens (JSON Web Tokens) are believed."""

    issuer: str
    """The ``iss`` that tokens must have."""
    audience: str
    """One of the ``aud`` that tokens must have."""
    secret: str | None = None
    """The key that both sides share, for HS256, HS384 and HS512; 32 bytes or more."""
    jwks: str | None = None
    """The path of a file with the issuer's public keys (RFC 7517), for the others. It is read
    again when it has changed."""
    algorithms: tuple[str, ...] = ()
    """Those believed. Default: HS256 with a ``secret``; RS256 and ES256 with ``jwks``."""
    user_claim: str = "sub"
    scope_claim: str = "scope"
    """Where the scope is: text with spaces, or a list. ``read``, ``operate``, ``admin`` are looked
    for, each also as ``mesh:admin``; the greatest counts."""
    leeway: float = 30.0
    """Seconds that clocks may differ."""

    @classmethod
    def parse(cls, place: str, value: Any) -> JwtRules:
        """Raises ``ConfigError``, which begins with ``place``, naming the key."""
        if isinstance(value, JwtRules):
            return value._checked(place)
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise ConfigError(f"{place}: jwt is not JSON: {error}") from None
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{place}: jwt must be a table such as "
                "{issuer = 'https://login.example', audience = 'mesh', jwks = 'jwks.json'}"
            )
        for key in value:
            if key not in cls.__struct_fields__:
                hint = did_you_mean(str(key), cls.__struct_fields__)
                raise ConfigError(f"{place}: jwt: unknown key '{key}'{hint}")
        try:
            return msgspec.convert(value, cls)._checked(place)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{place}: jwt: {error}") from None

    def _checked(self, place: str) -> JwtRules:
        if (self.secret is None) == (self.jwks is None):
            raise ConfigError(f"{place}: jwt: give either secret, or jwks")
        if self.secret is not None and len(self.secret.encode()) < _LEAST_SECRET:
            # The secret itself is not shown.
            raise ConfigError(f"{place}: jwt: secret has fewer than {_LEAST_SECRET} bytes")
        known = _ASYMMETRIC if self.secret is None else _SYMMETRIC
        algorithms = self.algorithms or (("RS256", "ES256") if self.secret is None else ("HS256",))
        for name in algorithms:
            if name not in known:
                # A public key taken for a shared secret is the classic way in.
                with_what = "jwks" if self.secret is None else "secret"
                raise ConfigError(
                    f"{place}: jwt: algorithm '{name}' does not go with {with_what}; those that "
                    f"do: {', '.join(known)}"
                )
        if self.jwks is not None and not Path(self.jwks).is_file():
            raise ConfigError(f"{place}: jwt: jwks='{self.jwks}': there is no such file")
        return msgspec.structs.replace(self, algorithms=algorithms)
