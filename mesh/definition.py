"""What people are told of a handler, whether its code is there or not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec

from mesh.errors import ConfigError, did_you_mean

__all__ = ["About", "Kind"]

Kind = Literal["user", "system"]

_LONGEST = {"title": 100, "icon": 100, "description": 2_000}


class About(msgspec.Struct, frozen=True):
    """What a definition says besides the options of its jobs."""

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

    def described_by(self, *documented: Callable[..., Any] | type | None) -> About:
        """The same; without a description, with the first paragraph of the first docstring."""
        if self.description is not None:
            return self
        for each in documented:
            text = inspect.cleandoc(getattr(each, "__doc__", None) or "").replace("\0", "")
            first = re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]
            if first:
                words = " ".join(first.split())[: _LONGEST["description"]]
                return msgspec.structs.replace(self, description=words)
        return self
