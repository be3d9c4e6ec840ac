from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from mesh.testing.servers import NatsServer, PostgresServer

from .cluster_rig import Rig

_number = count()


MakeRig = Callable[[], Rig]


@pytest.fixture(params=["sqlite", "nats and postgres"])
def make_rig(request: pytest.FixtureRequest, tmp_path: Path) -> MakeRig:
    """Makes a cluster of its own each time that it is called."""

    def make() -> Rig:
        number = next(_number)
        if request.param == "sqlite":
            return Rig(url=f"sqlite:///{tmp_path / f'mesh-{number}.db'}")
        nats: NatsServer = request.getfixturevalue("nats_server")
        postgres: PostgresServer = request.getfixturevalue("postgres")
        return Rig(
            master=postgres.create_database(),
            agents={"nats-1": nats.url},
            cluster=f"jobs-{os.getpid()}-{number}",
        )

    return make


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()
