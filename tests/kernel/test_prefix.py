"""One prefix in front of all names of an app, put there where they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import AgentConfig, Config, ConfigError, Job, Mesh, UnknownHandler
from mesh.history import parse_where
from mesh.prefix import Prefix
from mesh.request import requested

from .conftest import MemoryMesh

URL = "memory://prefix"

prefixes = st.from_regex(r"[A-Za-z0-9]{1,31}[-_]", fullmatch=True).map(Prefix)
names = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)


class Report(Job[int], lane="reports", concurrency=1, limit="5/minute"):
    day: str


def make_app(**settings: Any) -> Mesh:
    return Mesh(agents={"m": URL}, prefix="shop-", **settings)


@given(prefixes, names)
def test_a_name_may_be_given_as_it_is_shown(prefix: Prefix, name: str) -> None:
    assert prefix.of(prefix.of(name)) == prefix.of(name)
    assert prefix.of(name).startswith(prefix.text)
    assert Prefix().of(name) == Prefix().of_key(name) == name


@given(prefixes, prefixes, names, names)
def test_no_two_apps_meet(one: Prefix, two: Prefix, a: str, b: str) -> None:
    if one != two:
        assert one.of(a) != two.of(b)
        assert one.of_key(a) != two.of_key(b)
    elif a != b:
        assert one.of_key(a) != one.of_key(b)


@pytest.mark.parametrize("text", ["shop", "-", "a-b-", "shop.", "sh op-", "é-", "a" * 32 + "-"])
def test_what_cannot_be_a_prefix_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^Mesh\(...\): prefix=.*and '-' or '_' at the end"):
        Mesh(agents={"m": URL}, prefix=text)


def test_the_old_setting_says_what_it_is_now(tmp_path: Path) -> None:
    said = r"schedule_prefix: is prefix now, which goes in front of .*prefix='shop-'$"
    with pytest.raises(ConfigError, match=rf"^Mesh\(...\): {said}"):
        Mesh(agents={"m": URL}, schedule_prefix="shop.")
    with pytest.raises(ConfigError, match=rf"^the environment \(MESH_\*\): {said}"):
        Config.from_env({"MESH_URL": URL, "MESH_SCHEDULE_PREFIX": "shop."})
    toml = tmp_path / "mesh.toml"
    toml.write_text('schedule_prefix = "shop."')
    with pytest.raises(ConfigError, match=said):
        Config.from_env({"MESH_CONFIG": str(toml), "MESH_URL": URL})


def test_handlers_are_found_by_either_name() -> None:
    app = make_app()

    @app.job(lane="mail", concurrency=1)
    async def send() -> None: ...

    @app.job
    async def plain() -> None: ...

    assert (send.name, send.lane, plain.lane) == ("shop-send", "shop-mail", "shop-default")
    assert app.lanes == ["shop-default", "shop-mail"]
    assert app.get_handler("send") is app.get_handler("shop-send") is send
    assert send.limits is not None
    assert [limit.key for limit in send.limits.limits({})] == ["job:shop-send:concurrency"]
    with pytest.raises(UnknownHandler, match="'shop-sent'; did you mean 'shop-send'"):
        app.get_handler("sent")
    with pytest.raises(ConfigError, match="two handlers are named 'shop-send'"):
        app.job(name="shop-send")(send.function)


def test_a_request_class_serves_any_app() -> None:
    for text in ("shop-", "bank_", ""):
        found = requested(Report, Prefix(text))
        assert (found.name, found.options.lane) == (f"{text}Report", f"{text}reports")
        assert found.limits is not None
        assert [limit.key for limit in found.limits.limits({})] == [
            f"job:{text}Report:concurrency",
            f"job:{text}Report:rate",
        ]


async def test_jobs_carry_the_clusters_names() -> None:
    class Shop(MemoryMesh):
        def __init__(self) -> None:
            super().__init__()
            self.prefix = Prefix("shop-")

    async with Shop() as app:

        @app.job
        async def send(n: int) -> None: ...

        await send.enqueue(1)
        await send.options(lane="mail").enqueue(2)
        await send.options(lane="shop-mail").enqueue(3)
        (plain,) = await app.taken("shop-default")
        assert (plain.name, plain.lane) == ("shop-send", "shop-default")
        assert [job.payload for job in await app.taken("shop-mail")] == [b'{"n":2}', b'{"n":3}']


def test_the_lanes_of_the_configuration_are_the_apps_own() -> None:
    app = Mesh(
        agents={"m": {"url": URL, "lanes": ["mail"]}, "n": AgentConfig("n", URL)},
        lanes={"mail": {"concurrency": 3}},
        prefix="shop-",
    )
    assert app.config.agents["m"].lanes == frozenset({"shop-mail"})
    assert app.config.agents["n"].lanes is None
    rules = app.lane_limits("shop-mail")
    assert rules is not None
    assert [limit.key for limit in rules.limits({})] == ["lane:shop-mail:concurrency"]


def test_names_that_are_too_long_with_the_prefix_are_refused() -> None:
    async def work() -> None: ...

    app = make_app()
    with pytest.raises(ConfigError, match=r"lane 'shop-a*' is not a valid name: use 1 to 64"):
        app.job(lane="a" * 60)(work)
    with pytest.raises(ConfigError, match=r"handler name 'shop-a*' is not valid: use 1 to 200"):
        app.job(name="a" * 200)(work)
    with pytest.raises(ConfigError, match=r"lane 'shop-a*' is not a valid name"):
        make_app(lanes={"a" * 64: {"concurrency": 1}})


def test_an_app_asks_for_its_own_jobs() -> None:
    shop = Prefix("shop-")
    asked = parse_where({"name": "se*", "lane": "mail", "key": "shop-1"}, 0.0, prefix=shop)
    assert (asked.app, asked.name, asked.lane) == ("shop-", "shop-se*", "shop-mail")
    assert asked.key == "shop-shop-1"
    assert not asked.is_any
    assert parse_where({}, 0.0, prefix=shop).is_any
    assert parse_where({}, 0.0).app == ""
