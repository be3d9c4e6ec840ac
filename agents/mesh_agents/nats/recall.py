"""What became of jobs that may have been run before: asking the recorder, and what follows.

The recorder answers on the agent's ``ask`` subject once it has read the ledger to its end (see
``ledger``). An answer is about the past, and a job only moves forward: acting on it can repeat a
job, never lose one. Without an answer in ``ASK_TIMEOUT`` seconds every delivery that ended
unsettled counts as an attempt, so that a job that kills its workers comes to an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec

from mesh.errors import AgentError
from mesh.job import TERMINAL, State
from mesh.ports import Known
from mesh.wire import Envelope
from mesh_agents.nats.connection import Connection
from mesh_agents.nats.frames import Names
from mesh_agents.nats.held import Held

__all__ = [
    "ASK_TIMEOUT",
    "ask",
    "decode_question",
    "encode_answer",
    "is_over",
    "lost_attempts",
]

log = logging.getLogger("mesh")

ASK_TIMEOUT = 2.0

_question = msgspec.msgpack.Decoder(list[str]).decode
_answer = msgspec.msgpack.Decoder(dict[str, tuple[int, State]]).decode


def decode_question(data: bytes) -> list[str]:
    """The job ids of a question. Raises ``msgspec.MsgspecError``."""
    return _question(data)


def encode_answer(known: Mapping[str, Known]) -> bytes:
    return msgspec.msgpack.encode({i: (k.attempt, k.state) for i, k in known.items()})


async def ask(
    connection: Connection, names: Names, held: Held, jobs: Sequence[Envelope]
) -> Mapping[str, Known] | None:
    """What the recorder knows of a message's jobs; ``None`` if nobody says.

    Only a redelivered message and a copy of a job with a chosen id are in doubt; for others
    nobody is asked. The lease, which may be shorter than the wait, is kept meanwhile.
    """
    if not held.prior and not held.may_be_copy:
        return {}
    question = msgspec.msgpack.encode([job.id for job in jobs])
    request = asyncio.create_task(connection.request(names.ask, question, ASK_TIMEOUT))
    try:
        while not request.done():
            await connection.send(held.receipt, b"+WPI")
            held.prolong()
            await asyncio.wait([request], timeout=held.lease / 3)
        answer = _answer(request.result().data)
    except (AgentError, msgspec.MsgspecError) as error:
        log.debug("nobody knows of %d jobs: %s", len(jobs), error)
        return None
    finally:
        request.cancel()
    return {i: Known(attempt, state) for i, (attempt, state) in answer.items()}


def is_over(held: Held, job: Envelope, known: Mapping[str, Known] | None) -> bool:
    """Whether the job has ended or goes on elsewhere, so that this delivery of it is void."""
    it = known.get(job.id) if known else None
    if it is None:
        return False
    if it.state in TERMINAL:
        return True
    if it.state is State.RUNNING:
        # On its first delivery nobody can have started this message's job: it is a copy.
        return held.prior == 0 and it.attempt >= job.attempt
    # Passed on: a retry, or an attempt to come, is on the agent in a message of its own.
    passed_on = it.attempt if it.state is State.RETRYING else it.attempt - 1
    return passed_on >= job.attempt


def lost_attempts(held: Held, job: Envelope, known: Mapping[str, Known] | None) -> int:
    """How many attempts from ``job.attempt`` on were started by workers that never settled."""
    if known is None:
        return held.prior
    it = known.get(job.id)
    if it is None or it.state is not State.RUNNING or it.attempt < job.attempt:
        return 0
    return it.attempt - job.attempt + 1
