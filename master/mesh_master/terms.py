"""What a job was enqueued with and no column of its row tells. With it, a job that its agent lost
is dispatched again as it was."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.retry import Retry
from mesh.wire import Envelope, Parent

__all__ = ["Terms", "read_terms", "terms_of"]


class Terms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Those fields of an ``Envelope``, under their names."""

    timeout: float | None = None
    retry: Retry | None = None
    deadline: float = 0.0
    parents: list[Parent] | None = None
    headers: dict[str, str] | None = None
    agent: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


_NONE = Terms()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Terms).decode


def terms_of(job: Envelope) -> bytes | None:
    """Most jobs have none."""
    if not (job.timeout or job.retry or job.deadline or job.parents or job.headers or job.agent):
        return None
    return _encode(Terms(job.timeout, job.retry, job.deadline, job.parents, job.headers, job.agent))


def read_terms(data: bytes | None) -> Terms:
    return _NONE if data is None else _decode(data)
