"""Messages that no consumer delivers any more, though the stream has them.

A server whose disk was full, or that was killed, may come back with a stream and a consumer that
do not agree: the consumer's acknowledgement floor is beyond a message that the stream still (or
again) has. JetStream never delivers it; its jobs would wait for ever. Such a message is put back
on its lane as a copy: who gets it asks the recorder first whether its jobs are over.

The floor moves an instant before an acknowledged message is gone, so a message counts as a stray
once two sweeps have seen it. One process at a time sweeps, the one that reads the ledger; two
would store nothing twice either, since copies have ids of their own.
"""

from __future__ import annotations

import base64
import logging
from email.parser import BytesHeaderParser
from typing import Any, NamedTuple

from mesh_agents.nats.frames import GIVEN, MESSAGE_ID, PRIOR, Message
from mesh_agents.nats.streams import Streams

__all__ = ["SWEEP_EVERY", "Strays"]

log = logging.getLogger("mesh")

SWEEP_EVERY = 10.0
"""Seconds between sweeps."""

_MOST = 1000
"""How many messages of a consumer a sweep looks at."""


class _Stray(NamedTuple):
    era: str
    sequence: int


class Strays:
    """One agent's."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._seen: set[_Stray] = set()
        """By the sweep before."""

    async def sweep(self) -> int:
        """Look, and put back what was seen before already. Returns how many messages that were.
        Raises ``AgentError``."""
        streams, seen = self._streams, set[_Stray]()
        era = str((await streams.info("JOBS"))["created"])
        waiting = await streams.subjects("JOBS", f"{streams.names.root}.jobs.>")
        lanes = {subject.rpartition(".")[0] for subject in waiting}
        put_back = 0
        for consumer in await streams.consumers():
            subject = consumer["config"]["filter_subject"]
            if subject.rpartition(".")[0] not in lanes:
                continue
            for message in await self._below(subject, consumer["ack_floor"]["stream_seq"]):
                stray = _Stray(era, message["seq"])
                if stray in self._seen:
                    await self._put_back(message)
                    put_back += 1
                else:
                    seen.add(stray)
        self._seen = seen
        if put_back:
            log.warning(
                "agent %s: %d messages of jobs were in the stream, and no consumer would have "
                "delivered them, as after a full disk or a crash of the server: put back",
                streams.connection.agent,
                put_back,
            )
        return put_back

    async def _below(self, subject: str, floor: int) -> list[dict[str, Any]]:
        """The messages of a consumer that are at its floor or below."""
        found: list[dict[str, Any]] = []
        after = 0
        while after < floor and len(found) < _MOST:
            message = await self._streams.first_from(after + 1, subject)
            if message is None:
                break
            after = message["seq"]
            if after <= floor:
                found.append(message)
        return found

    async def _put_back(self, message: dict[str, Any]) -> None:
        stream, sequence = self._streams.names.stream("JOBS"), message["seq"]
        block = base64.b64decode(message.get("hdrs", "")).partition(b"\r\n")[2]
        old = BytesHeaderParser().parsebytes(block)
        headers = {MESSAGE_ID: f"{sequence}/stray", PRIOR: old.get(PRIOR, "0"), GIVEN: "1"}
        data = base64.b64decode(message.get("data", ""))
        await self._streams.store([Message(message["subject"], data, headers)])
        await self._streams.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
