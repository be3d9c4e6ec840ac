"""Looking for jobs in the stream, message by message.

The server finds no job by its id: it is within a frame. So all of a lane is read, in the order of
the stream and from its leader (a replica's copy may be a moment old), one message a request: about
0.2 ms each, for up to 64 jobs.

Nothing that is here all the while is overlooked, though jobs are given back and put back meanwhile:
such a job is stored again, behind the reading, before it is dropped in front of it; and the
reading ends only where the stream does. So a job that was stored as the last message was read
had been stored when the reading came by, or it is behind, where the reading has yet to come.
"""

from __future__ import annotations

import base64
from collections.abc import Collection

from mesh.errors import AgentUnavailable, CorruptMessage, UnsupportedVersion
from mesh.wire import decode_frame
from mesh_agents.nats.streams import ApiError, Streams

__all__ = ["not_in_lane"]


async def not_in_lane(streams: Streams, lane: str, job_ids: Collection[str]) -> set[str]:
    """Those of the jobs that no message of the lane holds. Raises ``AgentUnavailable``."""
    left, sequence = set(job_ids), 0
    subject = f"{streams.names.root}.*.{lane}.>"  # waiting for a worker, and for their time
    while left:
        try:
            message = await streams.first_from(sequence + 1, subject)
        except ApiError as error:
            raise AgentUnavailable(str(error)) from error
        if message is None:
            break
        sequence = message["seq"]
        try:
            jobs = decode_frame(base64.b64decode(message.get("data", "")))
            left.difference_update([job.id for job in jobs])
        except CorruptMessage:
            continue  # no worker will find a job in it either
        except UnsupportedVersion as error:
            raise AgentUnavailable(
                f"agent {streams.connection.agent}, lane {lane}: what is in message {sequence} "
                f"is not known: {error}"
            ) from error
    return left
