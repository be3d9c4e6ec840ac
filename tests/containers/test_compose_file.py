"""docker-compose.yml says what the code knows."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from mesh import ConfigError
from mesh.clock import parse_duration

from .conftest import OURS
from .engine import ROOT
from .rules import check_command, config_of, lanes_of, time_to_stop

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_settings_that_there_are_and_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    config = config_of({key: str(value) for key, value in service["environment"].items()})
    assert parse_duration(service["stop_grace_period"]) > time_to_stop(config)
    assert config.health_file is not None
    assert config.health_file.startswith(f"{service['tmpfs']}/")


@pytest.mark.parametrize("name", [name for name in OURS if name != "producer"])
def test_a_service_runs_a_command_that_there_is(name: str) -> None:
    check_command(SERVICES[name]["command"])
    if check := SERVICES[name].get("healthcheck"):
        kind, program, *arguments = check["test"]
        assert (kind, program) == ("CMD", "mesh")
        check_command(arguments)


def test_each_lane_of_the_shop_has_a_worker() -> None:
    served = set().union(*(lanes_of(service.get("command", [])) for service in SERVICES.values()))
    source = (ROOT / "examples/shop/shop.py").read_text()
    assert served == set(re.findall(r'lane="(\w+)"', source))


def test_what_there_is_not_is_found_out() -> None:
    for wrong in (["workers", "drian"], ["worker", "shop:app", "--lanes", "mail"], ["worker"]):
        with pytest.raises(ValueError, match="mesh work"):
            check_command(wrong)
    with pytest.raises(ConfigError, match="did you mean"):
        config_of({"MESH_URL": "sqlite:///x", "MESH_GRACES": "1"})
