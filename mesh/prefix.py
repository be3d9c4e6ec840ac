"""What tells the names of one application from those of others on the same cluster.

Names of handlers, lanes and schedules, and idempotency keys, are the cluster's: unique in it, and
shown as they are there, prefix and all. An app with a ``prefix`` gives them without; it is put in
front where a name or key enters: when a handler, an option, a setting or a question is read. What
is deeper knows of one kind of name only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Prefix"]

# One separator, at the end: so no prefix begins with another, and no app can name another's.
_VALID = re.compile(r"([A-Za-z0-9]{1,31}[-_])?\Z")


@dataclass(frozen=True, slots=True)
class Prefix:
    """``Prefix()`` is none."""

    text: str = ""

    def __post_init__(self) -> None:
        """Raises ``ValueError``, saying what it must be."""
        if not _VALID.match(self.text):
            raise ValueError("use up to 31 letters and digits, and '-' or '_' at the end: 'shop-'")

    def __bool__(self) -> bool:
        return bool(self.text)

    def of(self, name: str) -> str:
        """The cluster's name for what the app calls ``name``; one that has the prefix already is
        taken as the cluster's."""
        return name if name.startswith(self.text) else self.text + name

    def of_key(self, key: str) -> str:
        """The cluster's idempotency key for the app's. Keys are data, and may begin in any way:
        so the prefix always comes in front."""
        return self.text + key
