"""Hiding secrets where jobs are shown.

A rule is the name of a field; it hides the value of every object's field of that name, at any
depth, whatever its case, with ``-`` and ``_`` taken as the same. What is stored is not changed:
workers see everything. ``restore`` lets what was shown, and edited, be stored again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

__all__ = ["HIDDEN", "Redactor"]

HIDDEN = "[redacted]"
"""What stands in the place of a hidden value."""


class Redactor:
    """The rules of an app."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(_plain(name) for name in names)

    def json(self, data: bytes) -> bytes:
        """JSON with what is to be hidden replaced. Bytes that are no JSON are hidden whole, as
        nothing can be said of what they hold."""
        if not self._names:
            return data
        try:
            value = msgspec.json.decode(data)
        except msgspec.DecodeError:
            return msgspec.json.encode(HIDDEN)
        return msgspec.json.encode(self._shown(value))

    def text(self, name: str, value: str) -> str:
        """A single named value, such as a tag's."""
        return HIDDEN if _plain(name) in self._names else value

    def restore(self, edited: bytes, stored: bytes) -> bytes:
        """``edited`` with the values of ``stored`` where hidden ones still stand. Raises
        ``ValueError``, with the path, where ``stored`` has none to put there."""
        if not self._names:
            return edited
        new = self._restored(msgspec.json.decode(edited), msgspec.json.decode(stored), "$", False)
        return msgspec.json.encode(new)

    def _shown(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: HIDDEN if _plain(key) in self._names else self._shown(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._shown(item) for item in value]
        return value

    def _restored(self, new: Any, old: Any, path: str, is_hidden: bool) -> Any:
        if is_hidden and new == HIDDEN:
            if old is _NOTHING:
                raise ValueError(
                    f"{path} is '{HIDDEN}', which stands for a value that is not shown, and the "
                    "stored job has none there: give the value itself"
                )
            return old
        if isinstance(new, dict):
            olds = old if isinstance(old, dict) else {}
            return {
                key: self._restored(
                    item, olds.get(key, _NOTHING), f"{path}.{key}", _plain(key) in self._names
                )
                for key, item in new.items()
            }
        if isinstance(new, list):
            # Items are told apart by their places alone; of lists of another length none is sure.
            olds_ = old if isinstance(old, list) and len(old) == len(new) else [_NOTHING] * len(new)
            return [
                self._restored(item, before, f"{path}[{index}]", False)
                for index, (item, before) in enumerate(zip(new, olds_, strict=True))
            ]
        return new


_NOTHING = object()


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")
