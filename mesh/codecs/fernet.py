"""Fernet, of the library ``cryptography``: AES-128 in CBC mode, signed with HMAC-SHA256."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.codecs.base import Codec
from mesh.errors import CannotDecrypt, ConfigError

if TYPE_CHECKING:
    from cryptography import fernet

__all__ = ["Fernet"]


class Fernet(Codec):
    """Encrypts with the first of its keys, and reads what any of them has encrypted.

    To change keys: give all processes the new one as the last, then make it the first, and drop
    the old one when the history has nothing left that it encrypted.
    """

    def __init__(self, *keys: str | bytes) -> None:
        """Keys as ``new_key`` makes them. Raises ``ConfigError``."""
        single, multi = _library()
        if not keys:
            raise ConfigError("Fernet(): give at least one key; Fernet.new_key() makes one")
        fernets = []
        for number, key in enumerate(keys, start=1):
            try:
                fernets.append(single(key))
            except (ValueError, TypeError):
                # The key is not shown: it may be a good one with a mistake in it.
                raise ConfigError(
                    f"Fernet(): key {number} of {len(keys)} is no key: it must be 32 bytes in "
                    "URL-safe base64, as Fernet.new_key() makes them"
                ) from None
        self._keys = multi(fernets)

    @staticmethod
    def new_key() -> str:
        """A new, random key. Raises ``ConfigError`` if ``cryptography`` is not installed."""
        single, _ = _library()
        return single.generate_key().decode()

    def encrypt(self, data: bytes) -> str:
        return self._keys.encrypt(data).decode()

    def decrypt(self, text: str) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            return self._keys.decrypt(text)
        except InvalidToken:
            raise CannotDecrypt(
                "it was encrypted with a key that this app does not have, or was changed since: "
                "give the app that key too, Fernet(new_key, old_key)"
            ) from None


def _library() -> tuple[type[fernet.Fernet], type[fernet.MultiFernet]]:
    try:
        from cryptography import fernet
    except ImportError as error:
        raise ConfigError(
            "Fernet needs the package cryptography: pip install 'jobmesh[crypto]'"
        ) from error
    return fernet.Fernet, fernet.MultiFernet
