"""Passwords: argon2id, with the parameters of RFC 9106's second recommendation.

Hashing one takes 64 MiB and tens of milliseconds, on purpose; so it is done in a thread, two at a
time at most, or somebody who tries passwords would stop the service.
"""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from mesh.errors import ConfigError

__all__ = ["LEAST", "Passwords", "hash_password"]

LEAST = 12
"""Characters of a password. NIST SP 800-63B wants length, and no rules of composition."""
_MOST = 256

_hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def hash_password(password: str) -> str:
    """What is kept of a password. Raises ``ConfigError`` if it is too short or too long."""
    if not LEAST <= len(password) <= _MOST:
        raise ConfigError(f"a password must have {LEAST} to {_MOST} characters")
    return _hasher.hash(password)


class Passwords:
    """Checks passwords, for one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(2)
        self._nobodys = _hasher.hash("nobody has this password")

    async def check(self, password: str, stored: str | None) -> bool:
        """Whether ``stored`` is the hash of ``password``; ``None``, of a user whom nobody knows,
        takes as long, so that the time does not tell who exists."""
        if len(password) > _MOST:
            return False
        async with self._turn:
            matches = await asyncio.to_thread(_matches, stored or self._nobodys, password)
        return matches and stored is not None


def _matches(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
