"""Notices: what the master tells those who have no connection to it.

A **board** is a small map of keys to bytes. The master has one; each agent has a copy, kept by
the coordinators' control duty, and workers and producers read the copies. A notice stands until
it is taken down, so one who comes later sees it too. The keys:

- ``cluster``: the cluster's settings, as ``mesh.settings`` encodes them;
- ``cancel/<job id>``: the job is to be cancelled; a ``Cancel``. Taken down when the job has ended.
- ``drain/<digest of the worker's name>``: the worker is to take no more jobs; a ``Drain``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

__all__ = [
    "CLUSTER",
    "MOST_BYTES",
    "Cancel",
    "Drain",
    "cancel_key",
    "cancelled_job",
    "check_notices",
    "drain_key",
    "is_drain",
]

CLUSTER = "cluster"

MOST_BYTES = 256 * 1024
"""What one notice may take."""

_CANCEL = "cancel/"
_DRAIN = "drain/"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64})?\Z")


class Cancel(msgspec.Struct, frozen=True):
    """A job is to be cancelled. Travels as JSON."""

    reason: str
    at: float
    """When it was asked for."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Cancel:
        """Raises ``msgspec.MsgspecError``."""
        return _decode_cancel(data)


_decode_cancel = msgspec.json.Decoder(Cancel).decode


def cancel_key(job_id: str) -> str:
    return f"{_CANCEL}{job_id}"


def cancelled_job(key: str) -> str | None:
    """The job that a key is about, if it is a cancel's."""
    return key[len(_CANCEL) :] if key.startswith(_CANCEL) else None


class Drain(msgspec.Struct, frozen=True):
    """A worker is to take no more jobs. Travels as JSON."""

    worker: str
    at: float
    """When it was asked for."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Drain:
        """Raises ``msgspec.MsgspecError``."""
        return _decode_drain(data)


_decode_drain = msgspec.json.Decoder(Drain).decode


def drain_key(worker: str) -> str:
    """Names of workers hold what keys may not, such as dots of host names."""
    return f"{_DRAIN}{hashlib.sha256(worker.encode()).hexdigest()[:40]}"


def is_drain(key: str) -> bool:
    return key.startswith(_DRAIN)


def check_notices(notices: Mapping[str, bytes | None]) -> None:
    """Raises ``ValueError`` for a key or a value that no board takes."""
    for key, value in notices.items():
        if not _KEY.match(key):
            raise ValueError(f"notice '{key}': a key is one or two names, such as 'lane/mail'")
        if value is not None and not 0 < len(value) <= MOST_BYTES:
            raise ValueError(
                f"notice '{key}' has {len(value)} bytes: must be from 1 to {MOST_BYTES}"
            )
