"""Faults on purpose: an agent or a master that fails as real ones do, by a plan that replays.

::

    plan = Plan(seed=7)
    agent = faulty_agent(MyAgent(...), plan)
    master = faulty_master(SqlMaster(...), plan)

What comes back does all that the wrapped one does, and now and then what its port allows to go
wrong: nothing that happens here may break what runs on it. The consumers, ledgers and boards that
it makes are wrapped too, as are a master's schedules and credentials. Which faults a call may meet
follows from its contract in ``mesh.ports``: a call is repeated only where that says that it may
be, and an answer is lost only where its caller can find out.

A plan decides by its seed, the call's name and how many calls of that name there were before. So
a failing seed replays as far as the program under it does the same calls, and a fault in one kind
of call does not move those in others. ``plan.injected`` says what was done.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar, cast

from mesh.errors import AgentError, AgentUnavailable, MasterUnavailable, PublishOutcomeUnknown
from mesh.ports import Agent, Delivery, Master
from mesh.wire import Accepted, Envelope, Record

__all__ = ["COSTLY", "Fault", "Injected", "Plan", "faulty_agent", "faulty_master", "unwrapped"]

T = TypeVar("T")


class Fault(StrEnum):
    """What may happen to a call."""

    FAIL = "fail"
    """It is not done: ``AgentUnavailable`` or ``MasterUnavailable``."""
    DELAY = "delay"
    """It is done after a pause."""
    DOUBT = "doubt"
    """It is done, and raises as if it had timed out: ``PublishOutcomeUnknown`` for each job of a
    push, else what the port has for an outcome that is not certain."""
    REPEAT = "repeat"
    """It is done twice, as by a driver that sent it again; the first answer counts."""
    REORDER = "reorder"
    """Another call of the same connection overtakes it, if one comes within a pause; what has no
    order among the call's arguments or in its answer is shuffled."""
    LOSE = "lose"
    """It is done and its answer lost: what it leased is leased to nobody until that lease ends."""


COSTLY = frozenset({Fault.LOSE})
"""Those that a program survives only after waiting for a lease to end: none of them unless asked
for."""


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault that was done: in the ``number``-th call (from 0) of that name."""

    call: str
    """Such as ``nats-1.consumer.settle``."""
    number: int
    fault: Fault


class Plan:
    """Which calls meet which fault. May be shared by many connections, of any threads."""

    def __init__(
        self,
        seed: int,
        *,
        rate: float = 0.2,
        faults: Collection[Fault] = frozenset(Fault) - COSTLY,
        in_a_row: int = 2,
        pause: float = 0.01,
    ) -> None:
        """``rate`` is the share of calls that meet one of ``faults``; after ``in_a_row`` calls of
        one name that raised, the next does not, so that who tries again gets on. ``pause`` is in
        seconds of real time, whatever clock the wrapped one has."""
        self.seed = seed
        self.rate = rate
        self.faults = frozenset(faults)
        self.in_a_row = in_a_row
        self.pause = pause
        self.injected: list[Injected] = []
        self._calls: Counter[str] = Counter()
        self._raised: Counter[str] = Counter()
        self._lock = threading.Lock()

    def draw(self, call: str, allowed: Collection[Fault]) -> tuple[Fault | None, random.Random]:
        """The fault for the next call of that name, and the source of what else is random."""
        with self._lock:
            number = self._calls[call]
            self._calls[call] += 1
            source = random.Random(f"{self.seed}/{call}/{number}")
            fault = None
            if source.random() < self.rate and (among := sorted(self.faults & set(allowed))):
                fault = source.choice(among)
            if fault in _RAISING and self._raised[call] >= self.in_a_row:
                fault = None
            self._raised[call] = self._raised[call] + 1 if fault in _RAISING else 0
            if fault is not None:
                self.injected.append(Injected(call, number, fault))
        return fault, source

    def __repr__(self) -> str:
        return f"Plan(seed={self.seed}, rate={self.rate}, injected={len(self.injected)})"


_RAISING = frozenset({Fault.FAIL, Fault.DOUBT, Fault.LOSE})

_CALM = frozenset({Fault.DELAY})
_MADE = frozenset({Fault.FAIL, Fault.DELAY})
_READ = frozenset({Fault.FAIL, Fault.DELAY, Fault.REORDER})
_ONCE = _READ | {Fault.DOUBT}
_AGAIN = _ONCE | {Fault.REPEAT}
_LEASING = _MADE | COSTLY


@dataclass(frozen=True, slots=True)
class _Port:
    """The calls of a port, and what each may meet."""

    calls: Mapping[str, frozenset[Fault]]
    error: Callable[[str], Exception]
    parts: Mapping[str, _Port] = field(default_factory=dict)
    """Of the objects that its calls make, and of those that its properties are."""


def _calls(**faults: str) -> dict[str, frozenset[Fault]]:
    kinds = {
        **{"calm": _CALM, "made": _MADE, "read": _READ, "once": _ONCE, "again": _AGAIN},
        **{"leasing": _LEASING, "shut": _CALM | {Fault.REPEAT}, "open": _MADE | {Fault.REPEAT}},
        **{"told": _MADE | {Fault.REPEAT}, "pull": _LEASING | {Fault.REORDER}},
    }
    return {call: kinds[kind] for kind, names in faults.items() for call in names.split()}


CONSUMER = _Port(_calls(pull="pull", again="settle", calm="rest", shut="close"), AgentUnavailable)
LEDGER = _Port(
    _calls(made="read lag end", read="has_passed", again="ack", calm="serve", shut="close"),
    AgentUnavailable,
)
BOARD = _Port(_calls(told="read", shut="close"), AgentUnavailable)
AGENT = _Port(
    _calls(
        **{"open": "open"},
        shut="close",
        again="push extend post",
        # Withdrawn twice it is not there the second time; appended twice it is told twice.
        once="withdraw append",
        made="consume ledger board",
        read="depth missing",
        calm="check",
    ),
    AgentUnavailable,
    {"consume": CONSUMER, "ledger": LEDGER, "board": BOARD},
)
SCHEDULES = _Port(
    _calls(
        read="get all due open_jobs outcomes declarations",
        once="insert update remove make add withdraw",
        again="release declare",
    ),
    MasterUnavailable,
)
CREDENTIALS = _Port(
    _calls(
        read="required find_key keys find_user users find_session audit_log",
        once="add_key revoke_key remove_user add_session audit",
        again="require note_use put_user end_session",
    ),
    MasterUnavailable,
)
MASTER = _Port(
    _calls(
        **{"open": "open"},
        shut="close",
        read="find_key waits backlog get_jobs list_jobs count_jobs series failures attempts links "
        "events last_events outlived cluster_settings added_agents known workers handlers agents "
        "leases suspects doubtful",
        # What was rescued, or given up, is not so the second time.
        once="change_settings rescue give_up",
        again="submit unblock hold take_back cancel unclaim retry remove sweep roll_up post "
        "add_agent remove_agent record remove_handler register_agents acquire renew release",
        leasing="claim_due claim_gated",
        made="board",
        calm="check",
    ),
    MasterUnavailable,
    {
        "schedules": SCHEDULES,
        "credentials": CREDENTIALS,
        "board": _Port(BOARD.calls, MasterUnavailable),
    },
)


def faulty_agent(agent: Agent, plan: Plan) -> Agent:
    """The agent, with the plan's faults."""
    return cast(Agent, _Faulty(agent, plan, AGENT, agent.name))


def faulty_master(master: Master, plan: Plan) -> Master:
    """The master, with the plan's faults. A call within the caller's own transaction is at most
    refused or delayed: how that ends is the caller's to know."""
    return cast(Master, _Faulty(master, plan, MASTER, "master"))


def unwrapped(connection: T) -> T:
    """What is behind ``faulty_agent`` or ``faulty_master``; anything else as it is."""
    return cast(T, connection.inner) if isinstance(connection, _Faulty) else connection


class _Faulty:
    """An object of a port, its calls by the plan."""

    def __init__(self, inner: Any, plan: Plan, port: _Port, label: str) -> None:
        self.inner = inner
        self._plan = plan
        self._port = port
        self._label = label
        self._overtaken = asyncio.Event()
        self._told: dict[str, bytes | None] = {}

    def __repr__(self) -> str:
        return f"<faulty {self.inner!r}>"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if (allowed := self._port.calls.get(name)) is not None:
            return partial(self._call, name, allowed)
        if (port := self._port.parts.get(name)) is not None:
            return _Faulty(value, self._plan, port, f"{self._label}.{name}")
        return value

    async def _call(self, name: str, allowed: frozenset[Fault], *args: Any, **options: Any) -> Any:
        if (name == "submit" and len(args) > 1) or options.get("within") is not None:
            allowed &= _MADE
        label = f"{self._label}.{name}"
        fault, source = self._plan.draw(label, allowed)
        if fault is Fault.FAIL:
            return self._refuse(name, label, args)
        if fault is Fault.DELAY:
            await asyncio.sleep(self._plan.pause)
        elif fault is Fault.REORDER:
            await self._let_pass()
            args = _mixed(name, args, source)
        call: Callable[..., Awaitable[Any]] = getattr(self.inner, name)
        answer = await call(*args, **options)
        if fault is Fault.REPEAT and name != "read":
            await call(*args, **options)
        self._overtaken.set()
        if fault in (Fault.DOUBT, Fault.LOSE):
            return self._doubt(name, label, args, answer)
        return self._answer(name, answer, fault, source)

    def _answer(self, name: str, answer: Any, fault: Fault | None, source: random.Random) -> Any:
        if (port := self._port.parts.get(name)) is not None:
            return _Faulty(answer, self._plan, port, f"{self._label}.{name}")
        if name == "pull" and fault is Fault.REORDER:
            return _mixed_deliveries(answer, source)
        if name == "read" and self._port.calls is BOARD.calls:
            told, self._told = self._told, answer
            # A change may be told twice.
            return {**told, **answer} if fault is Fault.REPEAT else answer
        return answer

    async def _let_pass(self) -> None:
        """Wait until another call of this connection is through."""
        self._overtaken.clear()
        try:
            async with asyncio.timeout(self._plan.pause):
                await self._overtaken.wait()
        except TimeoutError:
            pass

    def _refuse(self, name: str, label: str, args: Sequence[Any]) -> list[AgentError | None]:
        error = self._port.error(f"{label}: refused on purpose, {self._plan!r}; it was not done")
        if name == "push":
            return [cast(AgentError, error)] * len(args[0])
        raise error

    def _doubt(self, name: str, label: str, args: Sequence[Any], answer: Any) -> Any:
        message = f"{label}: done, and its answer lost on purpose, {self._plan!r}"
        if name != "push":
            raise self._port.error(message)
        jobs: Sequence[Envelope] = args[0]
        return [
            PublishOutcomeUnknown(message, (job.id,)) if outcome is None else outcome
            for job, outcome in zip(jobs, answer, strict=True)
        ]


def _mixed(name: str, args: tuple[Any, ...], source: random.Random) -> tuple[Any, ...]:
    """The arguments, with what has no order among them shuffled."""
    if name == "settle":
        return (source.sample(args[0], len(args[0])), *args[1:])
    if name == "record":
        agent, records, *rest = args
        places: dict[str, float] = {}
        ordered = sorted(records, key=lambda r: places.setdefault(_whose(r), source.random()))
        return (agent, ordered, *rest)
    return args


def _whose(record: Record) -> str:
    """The job, or the worker, within whose records the order counts."""
    if isinstance(record, Accepted):
        return record.job.id
    return str(getattr(record, "id", None) or getattr(record, "worker", ""))


def _mixed_deliveries(deliveries: Sequence[Delivery], source: random.Random) -> list[Delivery]:
    """In another order, among those of a priority."""
    priorities = list(dict.fromkeys(delivery.job.priority for delivery in deliveries))
    return sorted(
        source.sample(deliveries, len(deliveries)), key=lambda d: priorities.index(d.job.priority)
    )
