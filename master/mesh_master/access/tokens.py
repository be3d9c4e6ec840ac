"""Bearer tokens: JSON Web Tokens, checked by PyJWT under an app's ``JwtRules``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt

from mesh.errors import ConfigError
from mesh.sign_in import JwtRules, Scope

__all__ = ["BadToken", "Tokens"]


class BadToken(Exception):
    """A token that is not believed, and why, without the token."""


class Tokens:
    """Checks tokens."""

    def __init__(self, rules: JwtRules) -> None:
        self._rules = rules
        self._keys: jwt.PyJWKSet | None = None
        self._read_at: tuple[int, int] | None = None

    def check(self, token: str) -> tuple[str, Scope]:
        """The user and the scope in a token. Raises ``BadToken``; ``ConfigError`` if the keys
        cannot be read."""
        rules = self._rules
        try:
            claims = jwt.decode(
                token,
                self._key_for(token),
                algorithms=list(rules.algorithms),
                issuer=rules.issuer,
                audience=rules.audience,
                leeway=rules.leeway,
                options={"require": ["exp", "iss", "aud", rules.user_claim]},
            )
        except jwt.PyJWTError as error:
            raise BadToken(f"the bearer token is not valid: {error}") from None
        user = claims[rules.user_claim]
        if not isinstance(user, str) or not user:
            raise BadToken(f"the bearer token's '{rules.user_claim}' is no name")
        return user, _scope(claims, rules.scope_claim)

    def _key_for(self, token: str) -> Any:
        if self._rules.secret is not None:
            return self._rules.secret
        keys = [key for key in self._jwks().keys if key.public_key_use in (None, "sig")]
        key_id = jwt.get_unverified_header(token).get("kid")
        for key in keys:
            if key.key_id == key_id or (key_id is None and len(keys) == 1):
                return key
        raise BadToken(f"the bearer token's key '{key_id}' is not among those of the issuer")

    def _jwks(self) -> jwt.PyJWKSet:
        path = Path(self._rules.jwks or "")
        try:
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if self._keys is None or version != self._read_at:
                self._keys = jwt.PyJWKSet.from_json(path.read_text("utf-8"))
                self._read_at = version
        except (OSError, ValueError, jwt.PyJWTError) as error:
            if self._keys is None:
                raise ConfigError(f"jwt: the keys in {path} cannot be read: {error}") from error
            # Half written, perhaps: those read before hold until it is whole.
        return self._keys


def _scope(claims: Mapping[str, Any], claim: str) -> Scope:
    given = claims.get(claim, "")
    words = given.split() if isinstance(given, str) else given
    if not isinstance(words, list):
        words = []
    for scope in reversed(Scope):
        if scope.value in words or f"mesh:{scope.value}" in words:
            return scope
    raise BadToken(
        f"the bearer token's '{claim}' names none of read, operate and admin (or mesh:read, …)"
    )
