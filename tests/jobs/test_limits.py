"""Limits, as handlers feel them, with two workers on whole clusters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import ConfigError, Job, Mesh
from mesh.config import Config
from mesh.limits import LimitRules, parse_rate
from mesh.roles import RoleOptions, make_role
from mesh.wire import Limit

from .cluster_rig import PATIENCE, Rig


class Export(Job[None], lane="narrow", concurrency_key=lambda tenant, **_: tenant):
    tenant: int


class Crowd:
    """Counts who is inside, by key."""

    def __init__(self) -> None:
        self.inside: Counter[object] = Counter()
        self.most: Counter[object] = Counter()

    async def visit(self, key: object) -> None:
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        # Long enough for all others that might come in.
        await asyncio.sleep(0.02)
        self.inside[key] -= 1


async def test_a_handlers_concurrency_is_the_clusters(rig: Rig) -> None:
    app, crowd = rig.app(), Crowd()

    @app.job(concurrency=3)
    async def work(n: int) -> None:
        await crowd.visit("all")

    async with rig.running(app), make_role("worker", app, RoleOptions()):
        jobs = await work.enqueue_many([(n,) for n in range(24)])
        await asyncio.gather(*(job.result(PATIENCE) for job in jobs))
    assert crowd.most["all"] == 3


async def test_a_key_of_its_own_for_each(rig: Rig) -> None:
    app, crowd = rig.app(), Crowd()

    @app.job(concurrency_key=lambda user, **_: None if user == "free" else user)
    async def sync(user: str, n: int = 0) -> None:
        await crowd.visit(user)

    async with rig.running(app):
        calls = [(user, n) for n in range(4) for user in ("ann", "bob", "free")]
        jobs = await sync.enqueue_many(calls)
        await asyncio.gather(*(job.result(PATIENCE) for job in jobs))
    assert (crowd.most["ann"], crowd.most["bob"]) == (1, 1)
    assert crowd.most["free"] > 1


async def test_a_lanes_and_a_requests_limits(rig: Rig) -> None:
    crowd = Crowd()
    app = rig.app(lanes={"narrow": {"concurrency": 2}})

    @app.handler
    async def export(request: Export) -> None:
        await asyncio.gather(crowd.visit("lane"), crowd.visit(request.tenant))

    async with rig.running(app):
        jobs = [await app.enqueue(Export(n % 4)) for n in range(16)]
        await asyncio.gather(*(job.result(PATIENCE) for job in jobs))
    assert crowd.most["lane"] == 2
    assert [crowd.most[n] for n in range(4)] == [1] * 4


async def test_a_worker_that_dies_gives_its_place_back(rig: Rig) -> None:
    """The job comes back when its lease ends, runs to its end, and then the next may begin."""
    app = rig.app(lease=0.5)
    begun, entered = Counter[int](), asyncio.Event()

    @app.job(concurrency=1)
    async def work(n: int) -> int:
        begun[n] += 1
        entered.set()
        if begun[n] == 1 and n == 0:
            await asyncio.Event().wait()
        return n

    async with rig.running(app, worker=False):
        first = make_role("worker", app, RoleOptions())
        await first.start()
        jobs = [await work.enqueue(n) for n in range(3)]
        async with asyncio.timeout(PATIENCE):
            await entered.wait()
        await first.abort()
        async with make_role("worker", app, RoleOptions()):
            assert [await job.result(PATIENCE) for job in jobs] == [0, 1, 2]
    assert begun == {0: 2, 1: 1, 2: 1}


async def test_a_rate_spreads_the_starts(rig: Rig) -> None:
    app = rig.app()
    at: list[float] = []

    @app.job(limit="20/second", burst=2)
    async def call(n: int) -> None:
        at.append(asyncio.get_running_loop().time())

    async with rig.running(app):
        jobs = await call.enqueue_many([(n,) for n in range(12)])
        await asyncio.gather(*(job.result(PATIENCE) for job in jobs))
    # Two at once, the other ten at 20 a second: it cannot have been faster.
    assert max(at) - min(at) >= 10 / 20 - 0.1


# rules ---------------------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.sampled_from(["second", "minute", "hour", "day"]))
def test_rates_are_read(count: int, unit: str) -> None:
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[unit]
    assert parse_rate(f"{count}/{unit}") == count / seconds
    assert parse_rate(f" {count} / {unit[0]} ") == count / seconds


def test_a_jobs_limits() -> None:
    rules = LimitRules.parse("job", "mail", "app.job()", 5, None, "60/minute", lambda to, **_: to)
    assert rules is not None
    assert rules.limits({"to": "ann"}) == [
        Limit("job:mail:concurrency", concurrency=5),
        Limit("job:mail:rate:ann", rate=1.0, burst=1.0),
    ]
    # No database keeps a NUL, and one in a key must not fail the jobs that are stored with it.
    assert "\0" not in rules.limits({"to": "a\0b"})[1].key
    assert LimitRules.parse("job", "mail", "app.job()") is None
    with pytest.raises(ConfigError, match=r"the rate key 'xxx.* has 300 characters; 200"):
        rules.limits({"to": "x" * 300})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "must be a whole number, 1 or more"),
        ({"concurrency": True}, "must be a whole number"),
        ({"limit": "100"}, "such as '100/minute'"),
        ({"limit": "0/minute"}, "such as '100/minute'"),
        ({"limit": "5/week"}, "such as '100/minute'"),
        ({"burst": 3}, "burst says nothing without limit"),
        ({"limit": "5/s", "burst": 0}, "must be 1 or more"),
        ({"limit_key": lambda **_: 1}, "limit_key says nothing without limit"),
        ({"concurrency_key": "user"}, "must be a function of the job's arguments"),
    ],
)
def test_wrong_limits_are_refused_in_the_code(options: dict[str, object], message: str) -> None:
    app = Mesh("sqlite:///unused.db")

    def declare_handler() -> None:
        app.job(**options)(lambda: None)  # type: ignore[call-overload]

    def declare_request() -> None:
        class Request(Job[None], **options):
            pass

    declarations: list[Callable[[], None]] = [declare_handler, declare_request]
    for declare in declarations:
        with pytest.raises(ConfigError, match=message):
            declare()


@pytest.mark.parametrize(
    ("lanes", "message"),
    [
        ({"a b": {}}, "lane 'a b' is not a valid name"),
        ({"mail": 5}, "must be a table"),
        ({"mail": {"concurency": 5}}, "did you mean 'concurrency'"),
        ({"mail": {"limit": "5"}}, "Mesh.*lane 'mail': limit='5'"),
        ("{", "is not JSON"),
        (5, "must map lanes"),
    ],
)
def test_wrong_lanes_are_refused(lanes: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.build("sqlite:///mesh.db", lanes=lanes)
