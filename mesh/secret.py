"""Secrets that machines make: keys of the API, tokens of sessions.

They have 256 random bits, so a plain digest hides them; passwords, which people make, are hashed
with argon2 instead (``mesh_master.api.passwords``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from mesh.errors import ConfigError

__all__ = ["digest", "new_key", "new_token", "parse_key", "same"]

_KEY = re.compile(r"mesh_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


def new_token() -> str:
    """256 random bits, as URL-safe text."""
    return secrets.token_urlsafe(32)


def new_key() -> tuple[str, str]:
    """A new API key: the public id in it, and the whole key, ``mesh_<id>_<secret>``. Scanners
    for leaked secrets can know it by its form."""
    key_id = secrets.token_hex(6)
    return key_id, f"mesh_{key_id}_{new_token()}"


def parse_key(text: str) -> str:
    """The id in a key. Raises ``ConfigError`` if it has not the form of one; the message does not
    repeat it."""
    found = _KEY.fullmatch(text)
    if found is None:
        raise ConfigError("that is no API key: they look like mesh_<12 hex digits>_<43 characters>")
    return found[1]


def digest(secret: str) -> str:
    """What is kept of a secret: SHA-256, as 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())
