"""Handlers with options: what makes jobs of calls, one by one and in bulk."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import msgspec

from mesh.clock import from_datetime
from mesh.codec import ValueCodec
from mesh.errors import (
    AgentUnavailable,
    ConfigError,
    InvalidArguments,
    InvalidJob,
    MeshError,
    PartlyStored,
    PublishOutcomeUnknown,
    raised,
)
from mesh.held import After, Held, KeyRule
from mesh.job import Priority, new_job_id
from mesh.limits import LimitRules
from mesh.options import Options
from mesh.prefix import Prefix
from mesh.wire import Envelope, Limit
from mesh.workflow import Draft

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.codecs import Codec
    from mesh.handler import Handler
    from mesh.job_handle import JobHandle
    from mesh.middleware import Hooks
    from mesh.sync import Sync

__all__ = ["Bound", "Call", "Submitter", "make_envelope", "make_held"]

P = ParamSpec("P")
R = TypeVar("R")

Call = tuple[Any, ...] | Mapping[str, Any]
"""One call's arguments: a tuple of positional ones, or a mapping by name."""

_NORMAL = Priority.NORMAL

_TOGETHER = 4096
"""Calls that are stored together by ``enqueue_each``."""


class Submitter:
    """What a handler needs of its app, ``mesh.app.Mesh``."""

    def now(self) -> float:
        raise NotImplementedError

    @property
    def payload_limit(self) -> int:
        raise NotImplementedError

    @property
    def event_size(self) -> int:
        raise NotImplementedError

    async def submit(self, job: Envelope, result: ValueCodec) -> JobHandle[Any]:
        raise NotImplementedError

    async def submit_many(
        self, jobs: Sequence[Envelope], result: ValueCodec
    ) -> list[JobHandle[Any] | MeshError]:
        raise NotImplementedError

    async def submit_held(
        self,
        jobs: Sequence[Held],
        session: Any,
        results: Iterable[ValueCodec],
        *,
        together: bool = False,
    ) -> list[JobHandle[Any] | MeshError]:
        raise NotImplementedError

    def lane_limits(self, lane: str) -> LimitRules | None:
        raise NotImplementedError

    async def enqueue_child(
        self, parent: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> JobHandle[Any]:
        """What ``Context.enqueue`` does; ``parent`` is its job's id."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    prefix: Prefix
    sync: Sync
    hooks: Hooks
    codec: Codec | None
    dependency_overrides: dict[Callable[..., Any], Callable[..., Any]]


class Bound(Generic[P, R]):
    """A handler with options: what ``handler.options(...)`` returns."""

    def __init__(self, app: Submitter, handler: Handler[P, R, Any], options: Options) -> None:
        self._app = app
        self._handler = handler
        self._options = handler.defaults.merge(options)
        self._rules = [
            rules
            for rules in (handler.limits, app.lane_limits(self._options.lane or handler.lane))
            if rules is not None
        ]
        self._lane = handler.lane
        self._has_rare = self._options.has_rare
        self._is_held = self._options.conditional or bool(self._rules)
        """The master stores its jobs first."""

    def under(self, parent: str) -> Bound[P, R]:
        """The same for jobs that the handler of job ``parent`` enqueues."""
        child = copy(self)
        child._options = dataclasses.replace(self._options, parent=parent)
        child._has_rare = True
        return child

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store a job durably and return its handle.

        Raises ``InvalidArguments`` or ``PayloadTooLarge`` before anything is stored;
        ``AgentUnavailable`` if no agent and no master took it (it is not stored);
        ``PublishOutcomeUnknown``, with the id, if that cannot be known.
        """
        job = self._envelope(self._encode(args, kwargs), self._app.now())
        if self._is_held:
            return raised(*await self._store_held([job]))
        return await self._app.submit(job, self._handler.shape.result)

    async def enqueue_many(self, calls: Iterable[Call] | AsyncIterable[Call]) -> list[JobHandle[R]]:
        """Store a job for each call, in bulk; handles in the same order.

        Of a collection all calls are checked before any is stored; of an iterator, so many as
        are stored together. Raises as ``enqueue`` does if nothing was stored, else
        ``PartlyStored``, which says what became of which call.
        """
        if isinstance(calls, Collection):
            payloads = [self._encode_call(index, call) for index, call in enumerate(calls)]
            self._check_several(len(payloads))
            handles: list[JobHandle[R]] = []
            for start in range(0, len(payloads), _TOGETHER):
                handles += await self._store(payloads[start : start + _TOGETHER], start)
            return handles
        return [handle async for handle in self.enqueue_each(calls)]

    async def enqueue_each(
        self, calls: Iterable[Call] | AsyncIterable[Call]
    ) -> AsyncIterator[JobHandle[R]]:
        """The same for any number of calls, in bounded memory: yields each handle when its job
        is stored, and takes more calls when the last was used."""
        start = 0
        async for several in _together(calls):
            self._check_several(start + len(several))
            try:
                payloads = [self._encode_call(start + n, call) for n, call in enumerate(several)]
            except InvalidJob as error:
                if not start:
                    raise
                message = f"the first {start} calls are stored, no others: {error}"
                raise PartlyStored(message, tried=start) from error
            for handle in await self._store(payloads, start):
                yield handle
            start += len(several)

    def _check_several(self, count: int) -> None:
        if self._options.id is not None and count > 1:
            raise ConfigError("options(id=...) names one job; enqueue_many was given several")

    async def _store(self, payloads: list[bytes], start: int) -> list[JobHandle[R]]:
        """Store jobs of the calls that begin with number ``start``."""
        now = self._app.now()
        jobs = [self._envelope(payload, now) for payload in payloads]
        if not jobs:
            return []
        if self._is_held:
            outcomes = await self._store_held(jobs)
        else:
            outcomes = await self._app.submit_many(jobs, self._handler.shape.result)
        handles = [outcome for outcome in outcomes if not isinstance(outcome, MeshError)]
        if len(handles) < len(outcomes):
            raise _partly([job.id for job in jobs], outcomes, start)
        return handles

    async def _store_held(self, jobs: Sequence[Envelope]) -> list[JobHandle[Any] | MeshError]:
        held = [self._held(job) for job in jobs]
        results = repeat(self._handler.shape.result)
        return await self._app.submit_held(held, self._options.session, results)

    # workflows -------------------------------------------------------------------------------

    def draft(self, *args: Any, **kwargs: Any) -> Draft:
        """A call for a workflow: see ``mesh.workflow``."""
        return Draft(self, args, kwargs)

    @property
    def name(self) -> str:
        return self._handler.name

    @property
    def app(self) -> Submitter:
        return self._app

    @property
    def result_codec(self) -> ValueCodec:
        return self._handler.shape.result

    def check_draft(self) -> None:
        """Raises ``ConfigError`` if one of the options cannot be a workflow's job's."""
        for option in ("key", "after", "session", "id"):
            if getattr(self._options, option) is not None:
                raise ConfigError(
                    f"{self.name}.options({option}=...).draft(): a job of a workflow cannot have "
                    f"{option}; a session is given to the workflow's enqueue"
                )

    def first_parameter(self, given: Mapping[str, Any]) -> str | None:
        """The argument that a chain's result becomes: the first, unless ``given`` by name."""
        names = self._handler.shape.arguments.names
        return names[0] if names and names[0] not in given else None

    def draft_held(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], fed: set[str]) -> Held:
        """The job of a draft that gives all arguments but the ``fed`` ones."""
        arguments = self._handler.shape.arguments.without(fed)
        payload = arguments.encode(args, kwargs, self._app.payload_limit)
        job = self._envelope(payload, self._app.now())
        fields: dict[str, Any] = {}
        if any(rules.needs_arguments for rules in self._rules):
            fields = arguments.fields(payload)
        return make_held(job, self._options, self._rules, fields)

    def _encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        return self._handler.shape.arguments.encode(args, kwargs, self._app.payload_limit)

    def _encode_call(self, index: int, call: Call) -> bytes:
        try:
            if isinstance(call, tuple):
                return self._encode(call, {})
            if isinstance(call, Mapping):
                return self._encode((), call)
        except InvalidJob as error:
            raise type(error)(f"call {index}: {error}") from error
        raise InvalidArguments(
            f"call {index} is a {type(call).__name__}: give a tuple of positional arguments, "
            "such as (1,), or a mapping by name"
        )

    def _envelope(self, payload: bytes, now: float) -> Envelope:
        name, lane = self._handler.name, self._lane
        return make_envelope(name, lane, payload, self._options, now, rare=self._has_rare)

    def _held(self, job: Envelope) -> Held:
        arguments: dict[str, Any] = {}
        if any(rules.needs_arguments for rules in self._rules):
            arguments = self._handler.shape.arguments.fields(job.payload)
        return make_held(job, self._options, self._rules, arguments)


def make_envelope(
    name: str, lane: str, payload: bytes, options: Options, now: float, *, rare: bool
) -> Envelope:
    """A job for ``payload``, as the options say; ``rare`` is their ``has_rare``."""
    due_at = options.at or 0.0
    if options.delay:
        due_at = now + options.delay
    # By position, and the rare ones apart: this is done for each job.
    job = Envelope(
        options.id or new_job_id(),
        name,
        payload,
        options.lane or lane,
        options.priority or _NORMAL,
        now,
        1,
        due_at if due_at > now else 0.0,
        options.timeout,
        options.retry,
        options.meta,
        options.id is not None,
    )
    return _with_rare(job, options, due_at) if rare else job


def _with_rare(job: Envelope, options: Options, due_at: float) -> Envelope:
    now = job.enqueued_at
    given = {
        "result_ttl": options.result_ttl,
        "key": options.key,
        "agent": options.agent,
        "parent": options.parent,
    }
    for field, value in (("expires_at", options.expires), ("deadline", options.deadline)):
        if value is not None:
            given[field] = _until(field.removesuffix("_at"), value, now, due_at)
    return msgspec.structs.replace(job, **{f: v for f, v in given.items() if v is not None})


def _partly(
    job_ids: Sequence[str], outcomes: Sequence[JobHandle[Any] | MeshError], start: int
) -> MeshError:
    """What to raise for calls from number ``start`` on of which not all were stored."""
    errors = {n: error for n, error in enumerate(outcomes) if isinstance(error, MeshError)}
    unknown = [n for n, error in errors.items() if isinstance(error, PublishOutcomeUnknown)]
    first, stored = next(iter(errors.values())), start + len(outcomes) - len(errors)
    tried = start + len(outcomes)
    text = f"{stored} of {tried} jobs are stored, {len(errors) - len(unknown)} are not"
    if unknown:
        text += f", of {len(unknown)} that is not known"
    if not stored and not unknown:
        if not isinstance(first, AgentUnavailable):
            return first
        return AgentUnavailable(f"{tried} of {tried} jobs were not stored: {first}")
    return PartlyStored(
        f"{text}: {first}",
        tried=tried,
        not_stored=[start + n for n in errors if n not in unknown],
        unknown=[start + n for n in unknown],
        job_ids=[job_ids[n] for n in unknown],
    )


async def _together(calls: Iterable[Call] | AsyncIterable[Call]) -> AsyncIterator[list[Call]]:
    """The calls, so many at a time as are stored together."""
    several: list[Call] = []
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            several.append(call)
            if len(several) == _TOGETHER:
                yield several
                several = []
        if several:
            yield several
        return
    each = iter(calls)
    while several := list(islice(each, _TOGETHER)):
        yield several


def make_held(
    job: Envelope, options: Options, rules: Iterable[LimitRules], arguments: Mapping[str, Any]
) -> Held:
    """The job with its conditions; ``arguments`` are for the functions of ``rules``."""
    limits: list[Limit] = [limit for each in rules for limit in each.limits(arguments)]
    if limits:
        job = msgspec.structs.replace(job, limits=limits)
    rule = None
    if options.key is not None:
        rule = KeyRule(options.on_conflict or "keep", options.key_scope or None, options.max_wait)
    return Held(
        job,
        rule,
        [After(job_id, options.on or "success") for job_id in options.after or ()],
        # What may be replaced must not be on an agent before it is due.
        firm=options.on_conflict in ("replace", "debounce"),
    )


def _until(option: str, value: float | datetime, now: float, due_at: float) -> float:
    """The moment that is meant. Raises ``ConfigError`` if the job could not start before it."""
    start = max(now, due_at)
    if not isinstance(value, datetime):
        return start + value
    moment = from_datetime(value)
    if moment <= start:
        when = "past already" if moment <= now else "before the job is due"
        raise ConfigError(f"options({option}={value.isoformat()}): is {when}")
    return moment
