"""What is told of a handler, to people and programs that may not have its code."""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal, get_args

import msgspec

from mesh.errors import ConfigError, did_you_mean
from mesh.retry import Retry

__all__ = ["About", "Definition", "Kind", "Runs"]

Kind = Literal["user", "system"]

Runs = Literal["async", "thread", "process"]

_LONGEST = {"title": 100, "icon": 100, "description": 2_000}

MOST_BYTES = 64 * 1024
"""Of a definition as JSON. One that takes more goes without its schemas."""


class About(msgspec.Struct, frozen=True):
    """What a definition says to people."""

    title: str | None = None
    description: str | None = None
    icon: str | None = None
    """Whatever the reader understands: an emoji, or the name of an icon."""
    kind: Kind = "user"
    """``system``: upkeep, which people look for less."""

    @classmethod
    def parse(
        cls,
        where: str,
        title: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        kind: Kind | None = None,
    ) -> About:
        """Raises ``ConfigError``, which begins with ``where``, naming the option."""
        for option, value in {"title": title, "description": description, "icon": icon}.items():
            if value is None:
                continue
            most = _LONGEST[option]
            if not isinstance(value, str) or not 0 < len(value) <= most or "\0" in value:
                raise ConfigError(
                    f"{where}: {option}={value!r}: must be a text of 1 to {most} characters"
                )
        if kind is not None and kind not in get_args(Kind):
            hint = did_you_mean(str(kind), get_args(Kind))
            raise ConfigError(f"{where}: kind={kind!r}: must be 'user' or 'system'{hint}")
        return cls(title, description, icon, kind or "user")

    def described_by(self, documented: Any) -> About:
        """The same; without a description, with the first paragraph of the docstring."""
        if self.description is not None:
            return self
        text = inspect.cleandoc(getattr(documented, "__doc__", None) or "").replace("\0", "")
        words = " ".join(re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0].split())
        if not words:
            return self
        return msgspec.structs.replace(self, description=words[: _LONGEST["description"]])


class Definition(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A handler as its code has it. Travels, and is kept, as JSON: fields unknown to an older
    reader are skipped. Times in seconds; ``None`` is not given."""

    lane: str
    """Where its jobs go unless an option says otherwise."""
    title: str | None = None
    description: str | None = None
    icon: str | None = None
    kind: Kind = "user"
    runs: Runs = "async"
    """On the worker's event loop, in a thread, or in a process of its own."""
    priority: str | None = None
    retry: Retry | None = None
    timeout: float | None = None
    expires: float | None = None
    deadline: float | None = None
    result_ttl: float | None = None
    concurrency: int | None = None
    rate: float | None = None
    """How many may begin a second."""
    arguments: dict[str, Any] | None = None
    """The JSON schema of the payload; ``None``: it cannot be derived from the types."""
    result: dict[str, Any] | None = None
    """That of the result; ``None``: as above, or the code does not say what it is."""

    def encode(self) -> bytes:
        data = _encode(self)
        if len(data) > MOST_BYTES:
            data = _encode(msgspec.structs.replace(self, arguments=None, result=None))
        return data

    @classmethod
    def decode(cls, data: bytes | str) -> Definition:
        """Raises ``msgspec.MsgspecError``, or ``ConfigError`` for a policy that is none."""
        return _decode(data)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Definition).decode
