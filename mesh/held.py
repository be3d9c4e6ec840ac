"""What holds a job on the master: an idempotency key, jobs that it waits for, limits.

Such a job is handed to ``Master.submit``, which decides in one transaction what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mesh.job import State
from mesh.wire import Envelope

__all__ = ["After", "Held", "KeyRule", "OnConflict", "Outcome", "Stored"]

OnConflict = Literal["keep", "replace", "debounce", "raise"]
"""What a second enqueue under a key does: leave the first as it is; give it the new arguments and
time, if it has not left the master; the same, pushing its start back; or raise ``KeyExists``."""

Outcome = Literal["success", "failure", "finished"]
"""Which end of a parent a job waits for; ``failure`` is any end but ``succeeded``."""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """How long a job's key stands for it, and what happens to those who come meanwhile."""

    on_conflict: OnConflict = "keep"
    period: float | None = None
    """Seconds from now; ``inf`` is for ever. ``None``: as long as the job has not ended."""
    max_wait: float | None = None
    """Of ``debounce``: seconds from the first enqueue after which the start is not pushed back."""


@dataclass(frozen=True, slots=True)
class After:
    """A job to wait for."""

    job_id: str
    outcome: Outcome = "success"
    name: str | None = None
    """What the waiting job calls it; ``None``: by its handler's name."""
    feeds: str | None = None
    """The argument that its result becomes. ``name[]``: one item of a list, in the order of the
    parents."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job with its conditions."""

    job: Envelope
    rule: KeyRule | None = None
    """For a job with a key."""
    after: Sequence[After] = ()
    firm: bool = False
    """It stays on the master until it is due, so that it can be replaced."""
    retry_of: str | None = None
    """The ended job that it does again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a job that was submitted."""

    job_id: str
    name: str
    """The handler's name."""
    state: State
    existing: bool = False
    """Another job stands for the key; these are its id and state."""
    replaced: bool = False
    """That one has the new arguments and time now."""
    refused: bool = False
    """``on_conflict="raise"``, or the key is another handler's: nothing was stored."""
