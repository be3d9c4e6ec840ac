"""Three places, one set of keys, and errors that name what is wrong but never a password."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import AgentConfig, Config, ConfigError, Mesh, Retry
from mesh.job import TERMINAL, State
from mesh.plugins import connect_agent, connect_master, hide_password
from mesh.ports import AgentSettings, MasterSettings

SECRET = "hunter2"


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "mesh.toml").write_text(text)

    return write


# where values come from --------------------------------------------------------------------------


def test_later_places_win(toml: Callable[[str], None]) -> None:
    toml('url = "sqlite:///a.db"\nlease = 1\ngrace = 1\nheartbeat = 1\n')
    environ = {"MESH_GRACE": "2", "MESH_HEARTBEAT": "2"}
    config = Config.from_env(environ, heartbeat=3)
    assert (config.lease, config.grace, config.heartbeat) == (1, 2, 3)


def test_one_url_is_master_and_agent() -> None:
    config = Config.build("sqlite:///a.db")
    assert config.master == "sqlite:///a.db"
    assert config.agents == {"local": AgentConfig("local", "sqlite:///a.db")}


@pytest.mark.parametrize(
    ("environ", "values", "master", "agents"),
    [
        ({}, {}, "sqlite:///toml.db", ["toml-1"]),
        ({"MESH_URL": "sqlite:///env.db"}, {}, "sqlite:///env.db", ["local"]),
        ({"MESH_MASTER": "sqlite:///env.db"}, {}, "sqlite:///env.db", []),
        ({"MESH_AGENTS": "env-1=nats://h"}, {}, None, ["env-1"]),
        (
            {"MESH_AGENTS": "env-1=nats://h", "MESH_MASTER": "sqlite:///env.db"},
            {"master": "sqlite:///arg.db"},
            "sqlite:///arg.db",
            [],
        ),
        ({"MESH_MASTER": ""}, {"master": None}, "sqlite:///toml.db", ["toml-1"]),
    ],
)
def test_a_place_that_says_where_the_cluster_is_says_it_whole(
    toml: Callable[[str], None],
    environ: dict[str, str],
    values: dict[str, Any],
    master: str | None,
    agents: list[str],
) -> None:
    toml('master = "sqlite:///toml.db"\n[agents]\ntoml-1 = "nats://h"\n')
    config = Config.from_env(environ, **values)
    assert (config.master, list(config.agents)) == (master, agents)


def test_everything_in_a_file(toml: Callable[[str], None]) -> None:
    toml("""
        cluster = "shop"
        master = "postgresql://h/shop"
        timeout = 30
        auto_migrate = true
        retry = {max_attempts = 3, delay = 1, backoff = "linear", on = ["OSError"]}
        [agents]
        nats-1 = "nats://h:4222"
        nats-2 = {url = "nats://h2:4222", lanes = ["mail", "reports"]}
    """)
    config = Config.from_env({})
    assert config.cluster == "shop"
    assert config.timeout == 30.0
    assert config.auto_migrate is True
    assert config.retry == Retry(3, delay=1, backoff="linear", on=(OSError,))
    assert config.agents["nats-2"].lanes == frozenset({"mail", "reports"})
    assert [agent.name for agent in config.agents_for("mail")] == ["nats-1", "nats-2"]
    assert [agent.name for agent in config.agents_for("other")] == ["nats-1"]


def test_a_file_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text('url = "sqlite:///x.db"')
    assert Config.from_env({"MESH_CONFIG": str(path)}).master == "sqlite:///x.db"


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ("a=nats://h", {"a": "nats://h"}),
        ("a=nats://h:1,b=nats://h:2", {"a": "nats://h:1", "b": "nats://h:2"}),
        (" a=nats://h , b=sqlite:///x.db, ", {"a": "nats://h", "b": "sqlite:///x.db"}),
        ("a=nats://h1:1,h2:2 b=nats://h", {"a": "nats://h1:1,h2:2", "b": "nats://h"}),
        (
            "a=nats://h,b=postgresql+asyncpg://h/d",
            {"a": "nats://h", "b": "postgresql+asyncpg://h/d"},
        ),
        ("a=nats://h?replicas=3,b=nats://h", {"a": "nats://h?replicas=3", "b": "nats://h"}),
    ],
)
def test_agents_in_one_string(text: str, agents: dict[str, str]) -> None:
    config = Config.from_env({"MESH_AGENTS": text})
    assert {agent.name: agent.url for agent in config.agents.values()} == agents


def test_numbers_and_flags_in_the_environment() -> None:
    config = Config.from_env(
        {"MESH_URL": "sqlite:///x.db", "MESH_PAYLOAD_LIMIT": "1000", "MESH_AUTO_MIGRATE": "false"}
    )
    assert (config.payload_limit, config.auto_migrate) == (1000, False)


def test_variables_of_others_are_left_alone() -> None:
    environ = {
        "MESH_URL": "sqlite:///x.db",
        "MESH_LOG": "debug",
        "MESH_PORT": "1",
        "MESH_APP": "a:b",
    }
    assert Config.from_env(environ).master == "sqlite:///x.db"


def test_a_time_zone_is_called_by_its_name(toml: Callable[[str], None]) -> None:
    toml('url = "sqlite:///a.db"\ntimezone = "europe/amsterdam"\n')
    assert Config.from_env({}).timezone == "Europe/Amsterdam"
    assert Config.from_env({"MESH_TIMEZONE": "Asia/Tokyo"}).timezone == "Asia/Tokyo"
    assert Config.build("sqlite:///a.db").timezone == "UTC"


# what is wrong -----------------------------------------------------------------------------------

URL = {"url": "sqlite:///x.db"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mastr": "sqlite:///x.db"}, "Mesh(...): unknown key 'mastr'; did you mean 'master'?"),
        ({"ulr": "sqlite:///x.db"}, "did you mean 'url'?"),
        (
            URL | {"payload_limits": 5},
            "unknown key 'payload_limits'; did you mean 'payload_limit'?",
        ),
        ({}, "Mesh(...) names no cluster: give a URL such as 'sqlite:///mesh.db'"),
        ({"agents": {}}, "names no cluster"),
        (URL | {"master": "sqlite:///y.db"}, "give either one URL, or master and agents"),
        ({"url": "mesh.db"}, "url is not a URL, such as"),
        ({"master": 5}, "master is not a URL, such as"),
        (URL | {"lease": "long"}, "lease='long': Expected `float`"),
        (URL | {"lease": 0}, "lease=0: must be a number, above 0"),
        (URL | {"grace": -1}, "grace=-1: must be a number, 0 or more"),
        (URL | {"lease": math.nan}, "lease=nan: must be a number, above 0"),
        (URL | {"timeout": math.inf}, "timeout=inf: must be a number, above 0"),
        (URL | {"payload_limit": 1.5}, "payload_limit=1.5: Expected `int`"),
        (
            URL | {"timezone": "Amsterdam"},
            "timezone='Amsterdam': time zone 'Amsterdam' is unknown;",
        ),
        (URL | {"timezone": "Europe/Lndon"}, "did you mean 'Europe/London'?"),
        (URL | {"timezone": 3}, "timezone=3: Expected `str`"),
        (URL | {"cluster": "my shop"}, "cluster 'my shop' is not a valid name"),
        (URL | {"retry": 3}, "retry=3: must be a Retry, or a table"),
        (URL | {"retry": {"atempts": 3}}, "retry: unknown key 'atempts'"),
        (URL | {"retry": {"dely": 3}}, "retry: unknown key 'dely'; did you mean 'delay'?"),
        (URL | {"retry": {"delay": "x"}}, "retry: delay='x': Expected `float`"),
        (URL | {"retry": {"when": "x"}}, "retry: unknown key 'when'"),
        (URL | {"retry": {"on": "OSError"}}, "retry: on='OSError': Expected `array`, got `str`"),
        (URL | {"retry": Retry(when=callable)}, "retry=Retry(when=...): a function is for one"),
        (URL | {"retry": {"max_attempts": 0}}, "the first execution counts"),
        ({"agents": ["nats://h"]}, "agents must map names to URLs; a list does not"),
        ({"agents": {"a": "h:4222"}}, "the URL of agent 'a' is not a URL"),
        ({"agents": {"a": {"lanes": []}}}, "the URL of agent 'a' is not a URL"),
        ({"agents": {"a": 5}}, "agent 'a' must be a URL, or a table of url and lanes"),
        ({"agents": {"a.b": "nats://h"}}, "agent 'a.b' is not a valid name"),
        ({"agents": {5: "nats://h"}}, "agent '5' is not a valid name"),
        (
            {"agents": {"a": {"url": "nats://h", "lane": ["x"]}}},
            "agent 'a': unknown key 'lane'; did you mean 'lanes'?",
        ),
        (
            {"agents": {"a": {"url": "nats://h", "lanes": "mail"}}},
            "agent 'a': lanes='mail': must be a list of names",
        ),
        (
            {"agents": {"a": {"url": "nats://h", "lanes": ["x y"]}}},
            "lane 'x y' is not a valid name",
        ),
        ({"agents": {"a": AgentConfig("b", "nats://h")}}, "agent 'a' is configured as 'b'"),
    ],
)
def test_wrong_arguments(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.build(**values)
    assert says in str(error.value)
    with pytest.raises(ConfigError):
        Mesh(**values)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"MESH_MASTR": "x"}, "unknown environment variable MESH_MASTR; did you mean 'master'?"),
        ({"MESH_LEASE": "x"}, "the environment (MESH_*): lease='x': Expected `float`"),
        ({"MESH_RETRY": "3"}, "the environment (MESH_*): retry='3': must be a Retry, or a table"),
        ({"MESH_AGENTS": "nats://h"}, "agents must be of the form name=url,name=url"),
        ({"MESH_AGENTS": "a=h:4222"}, "the URL of agent 'a' is not a URL"),
        ({"MESH_AGENTS": "a=nats://1,a=nats://2"}, "'a' is there twice"),
        ({"MESH_CONFIG": "/nowhere/x.toml"}, "MESH_CONFIG names /nowhere/x.toml, which does not"),
        ({"MESH_CLUSTER": "c"}, "the configuration names no cluster"),
    ],
)
def test_wrong_environment(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_env(environ)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('mastr = "sqlite:///x.db"', "mesh.toml: unknown key 'mastr'; did you mean 'master'?"),
        ("lease = ", "mesh.toml: Invalid value"),
        (
            '[agents.a]\nulr = "nats://h"',
            "mesh.toml: agent 'a': unknown key 'ulr'; did you mean 'url'?",
        ),
        ("[retry]\njiter = 0.1", "mesh.toml: retry: unknown key 'jiter'; did you mean 'jitter'?"),
    ],
)
def test_a_wrong_file(toml: Callable[[str], None], text: str, says: str) -> None:
    toml(text)
    with pytest.raises(ConfigError) as error:
        Config.from_env({})
    assert says in str(error.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('cluster = "ä"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.toml: "):
        Config.from_env({"MESH_CONFIG": str(path)})


def test_a_config_and_settings_together_are_refused() -> None:
    config = Config.build("sqlite:///x.db")
    assert Mesh(config=config).config is config
    with pytest.raises(ConfigError, match="either config, or"):
        Mesh("sqlite:///y.db", config=config)
    with pytest.raises(ConfigError, match="either config, or"):
        Mesh(config=config, lease=5)


def test_an_unknown_agent_is_named() -> None:
    with pytest.raises(ConfigError, match="no agent is named 'nast'; did you mean 'nats'"):
        Config.build(agents={"nats": "nats://h"}).agent("nast")


# passwords ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///mesh.db", "sqlite:///mesh.db"),
        ("nats://h:4222", "nats://h:4222"),
        ("nats://h:4222?creds=a@b", "nats://h:4222?creds=a@b"),
        ("postgresql://u@h/d", "postgresql://***@h/d"),
        (f"postgresql://u:{SECRET}@h:5/d?x=1", "postgresql://u:***@h:5/d?x=1"),
        (f"nats://{SECRET}@h1:4222,h2:4222", "nats://***@h1:4222,h2:4222"),
        (f"postgresql://u:p@{SECRET}@h/d", "postgresql://u:***@h/d"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@given(st.text("ab#/?[]@:%& ", max_size=12), st.sampled_from(["", "?x=1", "/d?e=a@b.c"]))
def test_a_password_that_should_have_been_quoted_is_hidden_all_the_same(
    odd: str, rest: str
) -> None:
    shown = hide_password(f"postgresql://u:x{odd}{SECRET}@h{rest}")
    assert SECRET not in shown


@pytest.mark.parametrize(
    "values",
    [
        {"url": f"u:{SECRET}@h/d"},
        {"master": f"u:{SECRET}@h/d"},
        {"master": [f"postgresql://u:{SECRET}@h/d"]},
        {"agents": [f"nats://u:{SECRET}@h"]},
        {"agents": {"a": f"u:{SECRET}@h"}},
        {"agents": {"a": [f"nats://u:{SECRET}@h"]}},
        {"agents": {"a": {"url": f"u:{SECRET}@h"}}},
        {"agents": f"a=u:{SECRET}@h"},
        {"agents": f"nats://u:{SECRET}@h"},
        {"agents": f"a=nats://u:{SECRET}@h,a=nats://u:{SECRET}@h"},
    ],
)
def test_no_error_shows_a_password(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        Config.build(**values)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("url", [f"ftp://u:{SECRET}@h/d", f"ftp://u:x#{SECRET}@h", f"u:{SECRET}@h"])
def test_no_part_for_a_scheme(url: str) -> None:
    with pytest.raises(ConfigError, match="which no installed part serves") as error:
        connect_master(url, MasterSettings())
    assert SECRET not in str(error.value)
    with pytest.raises(ConfigError, match=r"known: .*memory, .*nats"):
        connect_agent("a", "x://h", AgentSettings())
    with pytest.raises(ConfigError, match="did you mean 'sqlite'"):
        connect_master("sqlit:///x", MasterSettings())


# retention -----------------------------------------------------------------------------------


def test_ended_jobs_are_kept_for_a_while() -> None:
    kept = Config.build("sqlite:///a.db").retention
    assert kept["succeeded"] == 7 * 86_400
    assert {kept[state] for state in TERMINAL - {State.SUCCEEDED}} == {30 * 86_400}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"succeeded": "1h 30m", "failed": 60}, {"succeeded": 5400, "failed": 60}),
        ("succeeded=7d, failed=2w", {"succeeded": 604_800, "failed": 1_209_600}),
        ({}, {}),
        ("off", {}),
    ],
)
def test_retention_is_by_state(given: Any, kept: dict[str, float]) -> None:
    """What is not named is kept for ever."""
    assert Config.build("sqlite:///a.db", retention=given).retention == kept


def test_retention_has_a_table_and_a_variable(toml: Callable[[str], None]) -> None:
    toml('url = "sqlite:///a.db"\n[retention]\nexpired = "1d"\n')
    assert Config.from_env({}).retention == {"expired": 86_400}
    assert Config.from_env({"MESH_RETENTION": "off"}).retention == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"suceeded": 1}, "'suceeded' is no state in which jobs end; did you mean 'succeeded'"),
        ({"running": 1}, "'running' is no state in which jobs end"),
        ({"failed": "1 year"}, "failed: '1 year' is no duration: write seconds"),
        ({"failed": -1}, "failed: '-1' is no duration"),
        ("failed", "failed: '' is no duration"),
        (7, "must map states to durations, such as"),
    ],
)
def test_a_retention_that_makes_no_sense_is_told(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"retention.*{re.escape(words)}"):
        Config.build("sqlite:///a.db", retention=given)
