"""``Mesh``: the application's handlers, and its door to the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakKeyDictionary

import msgspec

from mesh import feed, history
from mesh.bound import Bound, make_envelope, make_held
from mesh.client import Client, agent_settings, master_settings
from mesh.clock import Clock, SystemClock
from mesh.cluster import Cluster
from mesh.codec import ValueCodec, encode_payload
from mesh.codecs import Codec
from mesh.codecs.base import seal
from mesh.config import AgentConfig, Config
from mesh.errors import (
    ConfigError,
    InvalidArguments,
    JobNotFound,
    MeshError,
    raised,
)
from mesh.feed import JobEvent, unsealed
from mesh.filter import JobFilter
from mesh.handler import Handler
from mesh.held import Held, Stored
from mesh.history import Where, parse_where
from mesh.job import State, check_job_id
from mesh.job_handle import NO_REASON, JobHandle
from mesh.limits import LimitRules
from mesh.middleware import Hooks, Middleware, OpenTelemetry
from mesh.monitor import Monitor
from mesh.options import JobOptions, Options
from mesh.place import Place
from mesh.plugins import connect_agent, connect_master
from mesh.ports import Agent, EventInfo, JobInfo, Master
from mesh.prefix import Prefix
from mesh.redact import Redactor
from mesh.registry import Registry
from mesh.request import DEFAULT_LANE, Job, request_codecs, requested
from mesh.schedules import AppSchedules
from mesh.sign_in import Authenticator
from mesh.sinks import Callback, Sink, Wanted
from mesh.sinks.callback import OnEvent
from mesh.sync import Sync
from mesh.wire import Envelope
from mesh.workflow import WorkflowHandle

__all__ = ["Mesh"]

R = TypeVar("R")
T = TypeVar("T")
OnEventT = TypeVar("OnEventT", bound=OnEvent)
AuthenticatorT = TypeVar("AuthenticatorT", bound=Authenticator)


class Mesh(Registry):
    """An application on a cluster.

    ::

        app = Mesh("sqlite:///mesh.db")       # master and agent in one file, no server
        app = Mesh("postgresql://host/shop")  # master and agent in one database
        app = Mesh(master="postgresql://…", agents={"nats-1": "nats://…"}, cluster="shop")
        app = Mesh.from_env()                 # mesh.toml and MESH_* variables

    Further arguments are the fields of ``mesh.config.Config``. Nothing connects before it is
    needed; ``async with app`` or ``await app.close()`` disconnects. May be used from any number
    of event loops and, through ``sync``, from code without one.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        master: str | None = None,
        agents: Mapping[str, str | AgentConfig | Mapping[str, Any]] | None = None,
        config: Config | None = None,
        clock: Clock | None = None,
        middleware: Iterable[Middleware] = (),
        codec: Codec | None = None,
        sinks: Iterable[Sink] = (),
        **settings: Any,
    ) -> None:
        """``middleware`` is around every job, the first outermost; ``codec`` encrypts what jobs
        carry; ``sinks`` are told of events. Raises ``ConfigError``, naming the setting."""
        values = {"url": url, "master": master, "agents": agents, **settings}
        if config is None:
            config = Config.build(**values)
        elif any(value is not None for value in values.values()):
            raise ConfigError("Mesh(...): give either config, or the settings one by one")
        self.cluster = Cluster(config)
        """What this process knows of its cluster."""
        self.prefix = Prefix(config.prefix)
        """In front of the app's own names, in the cluster."""
        self.clock: Clock = clock or SystemClock()
        self.handlers: dict[str, Handler[..., Any, Any]] = {}
        """The registered handlers by their names in the cluster, with the app's prefix."""
        middleware = list(middleware)
        if config.otel and not any(isinstance(each, OpenTelemetry) for each in middleware):
            middleware.insert(0, OpenTelemetry())
        self.hooks = Hooks(middleware)
        if codec is not None and not isinstance(codec, Codec):
            raise ConfigError(f"codec={codec!r}: must be a mesh.codecs.Codec, such as Fernet(key)")
        self.codec = codec
        place, file = config.monitor, config.health_file
        self.monitor = Monitor(
            None if place is None else Place.parse(place), None if file is None else Path(file)
        )
        """What this process can tell of itself."""
        self._dresses = bool(self.hooks.enqueue) or codec is not None
        """Something is to be done to jobs before they are stored."""
        self.redactor = Redactor(config.redact)
        """Hides what ``redact`` names, wherever jobs are shown."""
        self.authenticator: Authenticator | None = None
        """The hook that was given to ``authenticate``."""
        self.dependency_overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        """For tests: what to use instead of a provider, ``{get_session: fake_session}``."""
        self.schedules = AppSchedules(self)
        """Create, change, list and run schedules."""
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Client] = WeakKeyDictionary()
        self._latest: tuple[asyncio.AbstractEventLoop | None, Client | None] = None, None
        # The one that was asked for last: nearly always the one that is asked for next.
        self.sync = Sync(self.close)
        """``app.sync(awaitable)``: wait for it in code that has no event loop."""
        self.sinks: list[Sink] = []
        """What is told of events by the processes that record ledgers."""
        for sink in sinks:
            if not isinstance(sink, Sink):
                raise ConfigError(f"sinks={sink!r}: must be an object of a subclass of Sink")
            self.sinks.append(sink)
            sink.attach(self)

    def on_event(
        self, *events: str, name: str | None = None, lane: str | None = None
    ) -> Callable[[OnEventT], OnEventT]:
        """A decorator: call a function, ``async`` or not, for events of these kinds, or of these
        moments in a job's life (default: all of its life), of jobs of this handler
        (``reports.*``), in this lane::

            @app.on_event("failed", "lost", name="reports.*")
            async def alarm(told: JobEvent) -> None: ...

        It runs in the processes that record ledgers (``mesh master``, ``mesh up``), once for each
        event, and again if such a process dies; the ledger waits while it runs, so let it enqueue
        a job if it takes long. See ``mesh.sinks``. Raises ``ConfigError``."""
        of_job = None if name is None else self.prefix.of(name)
        of_lane = None if lane is None else self.prefix.of(lane)
        wanted = Wanted(events or ("lifecycle",), of_job, of_lane)

        def decorate(function: OnEventT) -> OnEventT:
            self.sinks.append(Callback(function, wanted, self.codec))
            return function

        return decorate

    def authenticate(self, hook: AuthenticatorT) -> AuthenticatorT:
        """A decorator: let an ``async`` function say who sends a request to the HTTP API::

            @app.authenticate
            async def by_proxy(headers: Mapping[str, str]) -> Identity | None:
                user = headers.get("x-forwarded-user")
                return Identity(user, Scope.OPERATE) if user else None

        It is asked about requests with neither a session nor an API key nor a believed token.
        Raises ``ConfigError`` if there is one already."""
        if self.authenticator is not None:
            raise ConfigError("@app.authenticate: the app has such a hook already")
        self.authenticator = hook
        return hook

    @property
    def config(self) -> Config:
        """The configuration in effect: what this process was given, over the cluster's settings,
        over the defaults."""
        return self.cluster.config

    @classmethod
    def from_env(
        cls,
        *,
        middleware: Iterable[Middleware] = (),
        codec: Codec | None = None,
        sinks: Iterable[Sink] = (),
        **settings: Any,
    ) -> Self:
        """Configured by ``mesh.toml``, ``MESH_*`` variables and ``settings``; the later win.

        Raises ``ConfigError``.
        """
        config = Config.from_env(**settings)
        return cls(config=config, middleware=middleware, codec=codec, sinks=sinks)

    # jobs ------------------------------------------------------------------------------------

    async def enqueue(self, request: Job[R], **options: Unpack[JobOptions]) -> JobHandle[R]:
        """Store a typed request's job durably. Raises as ``Bound.enqueue`` does."""
        if not isinstance(request, Job):
            raise InvalidArguments(
                f"app.enqueue() takes a typed request, a subclass of mesh.Job, not {request!r}; "
                "functions have an enqueue of their own"
            )
        return await self._enqueue(request, Options.parse(options).for_one_job())

    async def enqueue_child(
        self, parent: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> JobHandle[Any]:
        if isinstance(target, Handler | Bound):
            handle: JobHandle[Any] = await target.under(parent).enqueue(*args, **kwargs)
            return handle
        if not isinstance(target, Job) or args:
            raise InvalidArguments(
                f"ctx.enqueue({target!r}): give a handler with its arguments, such as "
                "ctx.enqueue(send_mail, 42), handler.options(...), or a typed request"
            )
        options = Options.parse(kwargs).for_one_job()
        return await self._enqueue(target, replace(options, parent=parent))

    async def _enqueue(self, request: Job[R], options: Options) -> JobHandle[R]:
        kind: Any = type(request)
        arguments, result = request_codecs(kind)
        payload = arguments.encode((request,), {}, self.payload_limit)
        defined = requested(kind, self.prefix)
        options = defined.options.merge(options.named_for(self.prefix))
        lane = self.prefix.of(DEFAULT_LANE)
        job = make_envelope(
            *(defined.name, lane, payload, options, self.now()), rare=options.has_rare
        )
        rules = [r for r in (defined.limits, self.lane_limits(job.lane)) if r is not None]
        if options.conditional or rules:
            held = make_held(job, options, rules, vars(request))
            return raised(*await self.submit_held([held], options.session, [result]))
        return await self.submit(job, result)

    async def find(self, *, key: str) -> JobHandle[Any] | None:
        """The job for which an idempotency key stands now. Raises ``MasterError``."""
        job_id = await (await self.master()).find_key(self.prefix.of_key(key))
        return None if job_id is None else await self.get_job(job_id)

    def events(self, job_id: str, after: int = -1) -> AsyncIterator[EventInfo]:
        """As ``job.events``, of a job that is known by its id alone, and that the master may not
        have heard of yet: that is waited for. Raises ``ConfigError`` for what is no id."""
        wanted = check_job_id(job_id)
        return self._handle(wanted, "", ValueCodec(Any, "a result"), None).events(after)

    async def get_job(self, job_id: str) -> JobHandle[Any]:
        """A job by its id. Raises ``JobNotFound``."""
        return self._seen(await self._client().job(check_job_id(job_id)))

    async def jobs(
        self, *, limit: int | None = None, **where: Unpack[Where]
    ) -> AsyncIterator[JobHandle[Any]]:
        """The jobs of the history that ``where`` means, the newest first, ``limit`` at most; what
        the master knew of each is its ``seen``. Raises ``ConfigError`` or ``MasterError``."""
        wanted = parse_where(where, self.now(), prefix=self.prefix)
        async for info in history.search(await self.master(), wanted, limit):
            yield self._seen(info)

    async def count(self, **where: Unpack[Where]) -> dict[State, int]:
        """How many such jobs there are in each state. Raises as ``jobs`` does."""
        wanted = parse_where(where, self.now(), "app.count()", self.prefix)
        return await (await self.master()).count_jobs(wanted)

    async def watch(self, **where: Unpack[Where]) -> AsyncIterator[JobEvent]:
        """What happens from now on to the jobs that ``where`` means, and what their handlers say,
        without end: of each job every event once, in order. For boards and people: where
        hundreds of jobs begin and end at the same time some are left out; ``job.events()`` leaves
        out none. Raises ``ConfigError``, ``MasterError``, ``CannotDecrypt``."""
        wanted = parse_where(where, self.now(), "app.watch()", self.prefix)
        async for told in feed.watch(await self.master(), self.clock, wanted):
            yield JobEvent(told.job, unsealed(self.codec, told.event))

    async def retry(
        self, *, payload: Mapping[str, Any] | None = None, **where: Unpack[Where]
    ) -> list[JobHandle[Any]]:
        """Do all ended jobs again that ``where`` means: by default of ``failed`` and
        ``expired`` ones. Returns the new jobs. See ``JobHandle.retry``; left out are those
        that were done again already."""
        wanted = parse_where(where, self.now(), "app.retry()", self.prefix)
        return [
            self._handle(new_id, name, self._result_codec(name), State.SCHEDULED)
            async for _, new_id, name in self.retry_each(wanted, payload)
        ]

    async def retry_each(
        self, where: JobFilter, payload: Mapping[str, Any] | None = None
    ) -> AsyncIterator[tuple[str, str, str]]:
        """The same, as it is done: of each job its id, the new one's, and its handler's name."""
        data = sealed = None
        if payload is not None:
            data = encode_payload("retry", payload, self.payload_limit)
            sealed = seal(self.codec, data)

        def check(name: str) -> None:
            if data is not None:
                self.check_payload(name, data)

        async for done in history.retry(await self.master(), where, sealed, check):
            yield done

    async def cancel(self, reason: str = "", **where: Unpack[Where]) -> int:
        """Ask for all jobs to be cancelled that ``where`` means and that have not ended. Returns
        how many; see ``JobHandle.cancel``."""
        wanted = parse_where(where, self.now(), "app.cancel()", self.prefix)
        return await history.cancel(await self.master(), wanted, reason or NO_REASON)

    async def workflow(self, workflow_id: str) -> WorkflowHandle:
        """A workflow by its id, its jobs by their ids. Raises ``JobNotFound``."""
        known = check_job_id(workflow_id)
        jobs = {job.id: job async for job in self.jobs(workflow=known)}
        if not jobs:
            raise JobNotFound(known, ", as no job of such a workflow is")
        return WorkflowHandle(self, known, jobs)

    async def remove(self, **where: Unpack[Where]) -> int:
        """Forget all ended jobs that ``where`` means. Returns how many. Left out are those that
        something unfinished needs."""
        wanted = parse_where(where, self.now(), "app.remove()", self.prefix)
        return await history.remove(await self.master(), wanted)

    def check_payload(self, name: str, payload: bytes) -> None:
        """Raises ``InvalidArguments`` if the handler of that name is known here and cannot take
        the payload."""
        handler = self.handlers.get(name)
        if handler is not None:
            try:
                handler.decode(payload)
            except msgspec.MsgspecError as error:
                shown = payload[:200].decode(errors="replace")
                raise InvalidArguments(f"handler '{name}', arguments {shown}: {error}") from None

    def _seen(self, info: JobInfo) -> JobHandle[Any]:
        handle = self._handle(info.id, info.name, self._result_codec(info.name), None)
        handle.seen = info
        return handle

    def handle_of(self, job: Envelope) -> JobHandle[Any]:
        """The handle of a job that the master holds."""
        return self._handle(job.id, job.name, self._result_codec(job.name), State.SCHEDULED)

    def _result_codec(self, name: str) -> ValueCodec:
        handler = self.handlers.get(name)
        return ValueCodec(Any, f"result of '{name}'") if handler is None else handler.shape.result

    def _handle(
        self, job_id: str, name: str, result: ValueCodec, state: State | None
    ) -> JobHandle[Any]:
        return JobHandle(job_id, name, self._client, result, state)

    # what handlers need ----------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.time()

    @property
    def payload_limit(self) -> int:
        return self.config.payload_limit

    @property
    def event_size(self) -> int:
        return self.config.event_size

    async def submit(self, job: Envelope, result: ValueCodec) -> JobHandle[Any]:
        if self._dresses:
            post = self._client().post
            (outcome,) = await self._dressed([job], lambda jobs: asyncio.gather(*map(post, jobs)))
        else:
            outcome = await self._client().post(job)
        if isinstance(outcome, MeshError):
            raise outcome
        return JobHandle(job.id, job.name, self._client, result, outcome)

    async def submit_many(
        self, jobs: Sequence[Envelope], result: ValueCodec
    ) -> list[JobHandle[Any] | MeshError]:
        store = self._client().submit_many
        if self._dresses:
            outcomes = await self._dressed(jobs, store)
        else:
            outcomes = await store(jobs)
        return [
            outcome
            if isinstance(outcome, MeshError)
            else JobHandle(job.id, job.name, self._client, result, outcome)
            for job, outcome in zip(jobs, outcomes, strict=True)
        ]

    async def submit_held(
        self,
        jobs: Sequence[Held],
        session: Any,
        results: Iterable[ValueCodec],
        *,
        together: bool = False,
    ) -> list[JobHandle[Any] | MeshError]:
        store = partial(self._client().submit_held, session=session, together=together)

        def store_dressed(dressed: list[Envelope]) -> Awaitable[Sequence[Stored | MeshError]]:
            return store([replace(held, job=job) for held, job in zip(jobs, dressed, strict=True)])

        if self._dresses:
            outcomes = await self._dressed([held.job for held in jobs], store_dressed)
        else:
            outcomes = await store(jobs)
        return [
            outcome
            if isinstance(outcome, MeshError)
            else JobHandle(
                outcome.job_id, outcome.name, self._client, result, outcome.state, outcome
            )
            for outcome, result in zip(outcomes, results, strict=False)
        ]

    async def _dressed(
        self,
        jobs: Sequence[Envelope],
        store: Callable[[list[Envelope]], Awaitable[Sequence[T | MeshError]]],
    ) -> Sequence[T | MeshError]:
        """Store jobs as middleware, and then the codec, make them; one outcome each, in order."""
        outcomes: Sequence[T | MeshError] = ()
        try:
            async with self.hooks.storing(jobs) as dressed:
                if self.codec is not None:
                    dressed = [
                        msgspec.structs.replace(job, payload=seal(self.codec, job.payload))
                        for job in dressed
                    ]
                outcomes = await store(dressed)
                for outcome in outcomes:
                    if isinstance(outcome, MeshError):
                        raise outcome  # for middleware to know
        except MeshError as error:
            if not any(error is outcome for outcome in outcomes):
                raise
        return outcomes

    def lane_limits(self, lane: str) -> LimitRules | None:
        return self.config.lanes.get(lane)

    # connections -----------------------------------------------------------------------------

    def _client(self) -> Client:
        loop = asyncio.get_running_loop()
        latest, client = self._latest
        if latest is not loop:
            client = self._clients.get(loop)
            if client is None:
                client = Client(self.cluster, self.clock, self.check_payload, self.codec)
                self._clients[loop] = client
            self._latest = loop, client
        assert client is not None
        return client

    async def master(self) -> Master:
        """This event loop's connection to the master, opened. Raises ``MasterError``, or
        ``ConfigError`` if there is none."""
        return await self._client().master()

    async def meet_agents(self) -> None:
        """Learn from the master which agents were added at run time: ``config`` has them then.
        A process that enqueues does so by itself. Raises ``MasterError``, or ``ConfigError`` if
        there is no master."""
        await self._client().meet_agents()

    async def agent(self, name: str) -> Agent:
        """This event loop's connection to an agent, opened. Raises ``AgentError``, or
        ``ConfigError`` if there is none."""
        return await self._client().agent(name)

    def connect_agent(self, name: str) -> Agent:
        """A connection of the caller's own to an agent, not yet opened."""
        return self.connect_agent_of(self.config.agent(name))

    def connect_agent_of(self, agent: AgentConfig) -> Agent:
        """The same, to one that need not be in the configuration."""
        return connect_agent(agent.name, agent.url, agent_settings(self.config, self.clock))

    def connect_master(self) -> Master:
        """A connection of the caller's own to the master, not yet opened."""
        if self.config.master is None:
            raise ConfigError("no master is configured: give master=..., or set MESH_MASTER")
        return connect_master(self.config.master, master_settings(self.config, self.clock))

    async def close(self) -> None:
        """Disconnect what this event loop uses. It connects anew when used again."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        self._latest = None, None
        if client is not None:
            await client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
