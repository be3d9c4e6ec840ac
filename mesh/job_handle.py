"""A job, as those see it who enqueued it or looked it up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from mesh import history
from mesh.codec import ValueCodec, encode_payload
from mesh.codecs.base import seal, unseal
from mesh.errors import (
    ConfigError,
    InvalidResult,
    JobCancelled,
    JobFailed,
    JobNotFound,
    ResultTimeout,
)
from mesh.feed import unsealed
from mesh.held import Stored
from mesh.job import TERMINAL, State
from mesh.ports import EventInfo, JobInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import Client

__all__ = ["NO_REASON", "JobHandle"]

R = TypeVar("R")

NO_REASON = "no reason given"


class JobHandle(Generic[R]):
    """A job that was enqueued, or looked up."""

    __slots__ = ("_client", "_result", "_state", "_stored", "id", "name", "seen")

    def __init__(
        self,
        job_id: str,
        name: str,
        client: Callable[[], Client],
        result: ValueCodec,
        state: State | None = None,
        stored: Stored | None = None,
    ) -> None:
        self.id = job_id
        self.name = name
        """The handler's name."""
        self._client = client
        self._result = result
        self._state = state
        self._stored = stored
        self.seen: JobInfo | None = None
        """What the master knew of it when it was looked up; ``info()`` asks anew."""

    @property
    def existing(self) -> bool:
        """Its key stood for it already: nothing new was stored."""
        return self._stored is not None and self._stored.existing

    @property
    def replaced(self) -> bool:
        """It existed, and has the new arguments and time now."""
        return self._stored is not None and self._stored.replaced

    def __repr__(self) -> str:
        return f"<JobHandle {self.name} {self.id}>"

    async def info(self) -> JobInfo:
        """All that the master knows of the job. Raises ``JobNotFound``: a job that went straight
        to an agent is known there as soon as its ledger was recorded."""
        return await self._client().job(self.id)

    async def status(self) -> State:
        """The job's state. Raises ``JobNotFound`` as ``info`` does, but not for a job that this
        process enqueued: that one is ``queued`` until the master has heard more."""
        try:
            return (await self.info()).state
        except JobNotFound:
            if self._state is None:
                raise
            return self._state

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the job to end and return what its handler returned.

        Raises ``JobFailed`` or ``JobCancelled`` if it did not succeed, ``InvalidResult`` if it
        returned something that is not of the handler's result type, ``CannotDecrypt`` if it is
        encrypted with a key that this app does not have, ``ResultTimeout`` after
        ``timeout`` seconds (the job goes on), ``ConfigError`` if this process has no master,
        ``MasterError`` if that cannot be opened.
        """
        job = await self._client().wait(self.id, timeout)
        what = f"job {self.id} ({self.name}) {job.state}"
        if job.state is State.SUCCEEDED:
            data = job.result or b"null"
            try:
                value: R = self._result.decode(unseal(self._client().codec, data))
            except msgspec.ValidationError as error:
                raise InvalidResult(
                    f"{what} with {data[:200].decode(errors='replace')}, which is not what the "
                    f"handler's annotation says: {error}"
                ) from error
            return value
        if job.state is State.FAILED:
            raise JobFailed(
                f"{what} at attempt {job.attempt}: {job.error_type}: {job.error_message}",
                self.id,
                job.state,
                job.error_type or "",
                job.error_traceback or "",
            )
        raise JobCancelled(f"{what}: {job.error_message or 'no reason given'}", self.id, job.state)

    async def cancel(self, reason: str = "", *, wait: float = 5.0) -> State:
        """Cancel the job, and return its state after waiting up to ``wait`` seconds for its end:
        ``cancelled``; another terminal state, if that came first; or, while its handler has not
        let go, the state that it is in: the request stands until the job has ended.

        One that has not started never does. A running ``async`` handler gets
        ``CancelledError``, one in a thread finds ``ctx.cancelled`` true. ``reason`` is kept with
        the job. Raises ``ConfigError`` if this process has no master, ``MasterError``.
        """
        if not 0 <= wait < inf:
            raise ConfigError(f"job.cancel(wait={wait!r}): must be seconds, 0 or more")
        client = self._client()
        why = reason or NO_REASON
        state = (await (await client.master()).cancel([self.id], why)).get(self.id)
        if state not in TERMINAL and wait:
            try:
                return (await client.wait(self.id, wait)).state
            except ResultTimeout:
                state = None
        return state or await self.status()

    async def retry(self, payload: Mapping[str, Any] | None = None) -> JobHandle[R]:
        """Do the ended job again, as a new job whose handle is returned: with the same arguments,
        or, by name, those of ``payload``.

        Raises ``JobNotFound``, ``JobNotEnded``, ``JobRetried`` if it was done again already,
        ``ClusterArchived``, and for ``payload`` what ``enqueue`` raises.
        """
        client = self._client()
        data = None
        if payload is not None:
            data = encode_payload(self.name, payload, client.config.payload_limit)
            client.check_payload(self.name, data)
            data = seal(client.codec, data)
        new_id = await history.retry_one(await client.master(), self.id, data)
        return JobHandle(new_id, self.name, self._client, self._result, State.SCHEDULED)

    async def remove(self) -> None:
        """Forget the ended job. Raises ``JobNotFound`` or ``JobNotEnded``."""
        await history.remove_one(await self._client().master(), self.id)

    async def events(self, after: int = -1) -> AsyncIterator[EventInfo]:
        """All that happens to the job and that its handler says, from the beginning or after the
        ``seq`` that you saw last, until the job ends; see ``mesh.events`` for the order. Raises
        ``MasterError``, ``CannotDecrypt``."""
        client = self._client()
        async for event in client.events(self.id, after):
            yield unsealed(client.codec, event)
