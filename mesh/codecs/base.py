"""Encryption of what jobs carry: arguments, results, and what handlers say.

What is encrypted is still JSON, ``{"$encrypted": "…"}``, so that it passes through agents, the
master and the history as everything does, and can be seen to be encrypted. The master may add
results of parents, encrypted too, as further arguments beside it: all are opened in one go.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from mesh.errors import CannotDecrypt

__all__ = ["Codec", "is_sealed", "seal", "unseal", "unseal_arguments"]

_KEY = "$encrypted"
_MARK = b'{"$encrypted":'


class Codec(ABC):
    """Encrypts for an app. Its methods may be called from any thread; they are called for each
    job, on the event loop too, so they must not wait for anything."""

    @abstractmethod
    def encrypt(self, data: bytes) -> str:
        """The data as text that only a holder of the key can read."""

    @abstractmethod
    def decrypt(self, text: str) -> bytes:
        """What ``encrypt`` was given. Raises ``CannotDecrypt``."""


class _Sealed(msgspec.Struct, rename={"text": _KEY}, forbid_unknown_fields=True):
    text: str


_decoder = msgspec.json.Decoder(_Sealed)
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def is_sealed(document: bytes) -> bool:
    return document.startswith(_MARK)


def seal(codec: Codec | None, document: bytes) -> bytes:
    """A JSON document, encrypted if there is a codec."""
    return document if codec is None else _encode(_Sealed(codec.encrypt(document)))


def unseal(codec: Codec | None, document: bytes) -> bytes:
    """What was sealed; a document that was not, as it is. Raises ``CannotDecrypt``."""
    if not is_sealed(document):
        return document
    try:
        text = _decoder.decode(document).text
    except msgspec.MsgspecError:
        return document  # somebody's own word
    if codec is None:
        raise CannotDecrypt(
            "it is encrypted, and this app has no codec: give it the one of the app that "
            "encrypted, Mesh(..., codec=Fernet(key))"
        )
    return codec.decrypt(text)


def unseal_arguments(codec: Codec | None, payload: bytes) -> bytes:
    """The same for a payload, to which the master may have added. Raises ``CannotDecrypt``."""
    if b'"$encrypted":' not in payload:
        return payload
    try:
        parts = _parts.decode(payload)
    except msgspec.MsgspecError:
        return payload
    if _KEY not in parts:
        return payload  # the word stands somewhere inside
    own = unseal(codec, _MARK + bytes(parts.pop(_KEY)) + b"}")
    if not parts:
        return own
    fed = {name: msgspec.Raw(_unseal_fed(codec, bytes(value))) for name, value in parts.items()}
    return _encode({**fed, **_parts.decode(own)})


def _unseal_fed(codec: Codec | None, value: bytes) -> bytes:
    """The result of a parent, or the list of several."""
    if not value.startswith(b"["):
        return unseal(codec, value)
    return _encode([msgspec.Raw(unseal(codec, bytes(item))) for item in _items.decode(value)])
