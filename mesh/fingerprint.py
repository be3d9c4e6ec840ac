"""Which failures look alike.

A fingerprint stands for a handler, an error's type and what stays of its message when all that
differs from case to case is taken out: quoted texts, UUIDs, hexadecimal and other numbers. It is
stored with each failed job, so changing what is taken out makes new groups of old failures.
"""

from __future__ import annotations

import re
from hashlib import blake2b

__all__ = ["fingerprint", "normalized"]

_LOOKED_AT, _KEPT = 2000, 200
"""Characters of a message, before and after."""

_VARYING = re.compile(
    r"""
      (?P<quoted> "[^"\n]*" | `[^`\n]*` | (?<![^\W\d]) '[^'\n]*' (?![^\W\d])
                | \u201c[^\u201d\n]*\u201d | \u2018[^\u2019\n]*\u2019 )
    | (?P<uuid> \b [0-9a-f]{8} (?: -? [0-9a-f]{4} ){3} -? [0-9a-f]{12} \b )
    | (?P<hex> \b 0x [0-9a-f]+ \b | \b (?= [a-f]*\d ) [0-9a-f]{8,} \b (?! [.,:]\d ) )
    | (?P<number> [-+]? \d+ (?: [.,:] \d+ )* (?: e [-+]? \d+ )? )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SPACE = re.compile(r"\s+")


def normalized(message: str) -> str:
    """The message with ``…`` for each quoted text and ``#`` for each number or id, of one line
    and up to 200 characters."""
    text = _VARYING.sub(
        lambda found: "…" if found.lastgroup == "quoted" else "#", message[:_LOOKED_AT]
    )
    return _SPACE.sub(" ", text).strip()[:_KEPT]


def fingerprint(name: str, error_type: str | None, message: str | None) -> str:
    """16 hexadecimal digits: the same for failures of one handler that look alike."""
    said = "\0".join((name, error_type or "", normalized(message or "")))
    return blake2b(said.encode(errors="replace"), digest_size=8).hexdigest()
