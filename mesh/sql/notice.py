"""What a database sends to those who listen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects import postgresql

__all__ = ["NOTIFY", "NO_NOTICE", "Notice"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What wakes the listeners of a channel, once for each payload."""

    channel: str
    payloads: Collection[str]

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of ``NOTIFY``."""
        return {"notice_channel": self.channel, "notice_payloads": list(self.payloads)}


NO_NOTICE = Notice("", ())

NOTIFY = select(
    func.pg_notify(
        bindparam("notice_channel", type_=postgresql.TEXT),
        func.unnest(
            bindparam("notice_payloads", type_=postgresql.ARRAY(postgresql.TEXT))
        ).column_valued("payload"),
    )
)
"""The statement that sends a notice. Commits of transactions that send one queue behind one lock
of the server: not for what happens often."""
