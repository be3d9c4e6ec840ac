"""Messages that a consumer has leased, and how long their leases may be trusted.

JetStream takes an acknowledgement from a consumer whose lease ran out, though another may hold
the message by then, and does not say so. So each process keeps account of its leases itself:
``extend``, which a lease keeper calls over its own connection and in its own thread, notes here
what it prolonged. A lease counts as lost from the moment the server may have ended it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from nats.aio.msg import Msg

from mesh_agents.nats.frames import GIVEN, PRIOR, Origin

__all__ = ["Held", "ack_subject", "extended"]


@dataclass(eq=False)
class Held:
    """One leased message. States: *buffered* (``jobs`` is empty, nothing has been handed out)
    → *handed out* (some of ``jobs`` are in ``left``) → *settled* (``left`` is empty)."""

    message: Msg
    lease: float
    sent: float
    """It was sent then or later, by the monotonic clock."""
    arrived: float = field(default_factory=time.monotonic)
    until: float = 0.0
    """When the server may give the message to another, by the monotonic clock."""
    busy: bool = False
    """It is being looked into and must not be given back."""
    left: set[int] = field(default_factory=set)
    """The places in the frame of jobs that were handed out and not settled."""

    def __post_init__(self) -> None:
        self.origin = Origin.parse(self.message.reply)
        self.until = self.sent + self.lease

    @property
    def receipt(self) -> str:
        return self.message.reply

    @property
    def headers(self) -> dict[str, str]:
        return self.message.headers or {}

    @property
    def may_be_copy(self) -> bool:
        """Whether it was pushed as a job that may have been stored before."""
        return GIVEN in self.headers

    @property
    def prior(self) -> int:
        """How many deliveries of these jobs ended unsettled before this one."""
        return int(self.headers.get(PRIOR, 0)) + self.origin.delivered - 1

    @property
    def count(self) -> int:
        """The number of its jobs, as the subject says."""
        return int(self.message.subject.rpartition(".")[2])

    @property
    def may_be_late(self) -> bool:
        """Whether too little of its lease may be left to begin anything."""
        return time.monotonic() > self.until - self.lease / 2

    @property
    def lost(self) -> bool:
        return time.monotonic() >= self.until

    def prolong(self) -> None:
        self.until = time.monotonic() + self.lease

    def hand_out(self, places: Iterable[int]) -> None:
        self.left = set(places)
        _handed_out[self.receipt] = self


_handed_out: WeakValueDictionary[str, Held] = WeakValueDictionary()


def ack_subject(receipt: str) -> tuple[str, int]:
    """A delivery's receipt is the message's acknowledgement subject and the job's place."""
    subject, _, place = receipt.rpartition("#")
    return subject, int(place)


def extended(subject: str) -> None:
    """Note that the lease of a message was prolonged just now, from any thread."""
    held = _handed_out.get(subject)
    if held is not None:
        held.prolong()
