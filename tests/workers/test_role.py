"""The role ``worker``, its options and the command's."""

from __future__ import annotations

from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import ConfigError
from mesh.roles import RoleOptions, make_role
from mesh.service import Group
from mesh_workers import Worker, worker_role
from mesh_workers.commands import _parse_lane


def make_app() -> Mesh:
    app = Mesh(
        agents={
            "all": "memory://all",
            "mail-only": {"url": "memory://mail", "lanes": ["mail"]},
        }
    )

    @app.job(lane="mail")
    async def send() -> None: ...

    @app.job(lane="reports")
    async def report() -> None: ...

    return app


def lanes_by_agent(app: Mesh, **options: Any) -> dict[str, dict[str, int]]:
    group = make_role("worker", app, RoleOptions(**options))
    assert isinstance(group, Group)
    workers = [w for w in group.members if isinstance(w, Worker)]
    return {w._agent_name: w._lanes for w in workers}


class TestRole:
    def test_all_lanes_of_the_app_on_all_agents_that_serve_them(self) -> None:
        assert lanes_by_agent(make_app(), concurrency=3) == {
            "all": {"mail": 3, "reports": 3},
            "mail-only": {"mail": 3},
        }

    def test_the_lanes_and_agents_asked_for(self) -> None:
        assert lanes_by_agent(make_app(), lanes={"mail": 7}, agents=("mail-only",)) == {
            "mail-only": {"mail": 7}
        }

    def test_a_lane_that_no_handler_names(self) -> None:
        assert lanes_by_agent(make_app(), lanes={"other": 1}) == {"all": {"other": 1}}

    def test_an_agent_that_serves_only_some_of_the_apps_lanes(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert lanes_by_agent(make_app(), agents=("mail-only",)) == {"mail-only": {"mail": 10}}
        assert "lane 'reports' is served by none of the agents mail-only" in caplog.text

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lanes": {"mial": 1}, "agents": ("mail-only",)}, "served by none of the agents"),
            ({"agents": ("al",)}, "no agent is named 'al'; did you mean 'all'"),
            ({"lanes": {"mail": 0}}, "lane 'mail': concurrency 0 is below 1"),
            ({"lanes": {"a b": 1}}, "lane 'a b' is not a valid name"),
            ({"concurrency": -1}, "concurrency -1 is below 1"),
        ],
    )
    def test_errors_name_what_is_wrong(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            worker_role(make_app(), RoleOptions(**options))

    def test_no_handlers_and_no_lanes(self) -> None:
        with pytest.raises(ConfigError, match="name --lane"):
            worker_role(Mesh(agents={"m": "memory://m"}), RoleOptions())

    def test_no_agent(self) -> None:
        app = Mesh(master="sqlite:///unused.db")
        with pytest.raises(ConfigError, match="MESH_AGENTS"):
            worker_role(app, RoleOptions(lanes={"mail": 1}))


class TestWorker:
    @pytest.mark.parametrize(
        ("agent", "lanes", "message"),
        [
            ("all", {}, "at least one lane"),
            ("mail-only", {"reports": 1}, "does not serve lane 'reports': .* lists mail"),
            ("none", {"mail": 1}, "no agent is named 'none'"),
        ],
    )
    def test_errors(self, agent: str, lanes: dict[str, int], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Worker(make_app(), agent, lanes)

    async def test_a_signature_that_cannot_be_used_is_said_at_the_start(self) -> None:
        app = make_app()

        @app.job
        async def handler(*args: int) -> None: ...

        with pytest.raises(ConfigError, match="args cannot be checked"):
            await Worker(app, "all", {"default": 1}).start()


class TestLaneOption:
    @pytest.mark.parametrize(
        ("text", "expected"), [("mail", ("mail", 10)), ("mail=20", ("mail", 20))]
    )
    def test_with_and_without_a_concurrency(self, text: str, expected: tuple[str, int]) -> None:
        assert _parse_lane(text, 10) == expected

    @pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "²", " 1"])
    def test_no_number(self, number: str) -> None:
        with pytest.raises(ConfigError, match="is not a number of jobs"):
            _parse_lane(f"mail={number}", 10)
