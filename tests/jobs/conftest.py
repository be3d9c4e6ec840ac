from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

from mesh.testing.servers import NatsServer, PostgresServer

from .cluster_rig import Rig

_number = count()


@pytest.fixture(params=["sqlite", "nats and postgres"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    if request.param == "sqlite":
        return Rig(url=f"sqlite:///{tmp_path / 'mesh.db'}")
    nats: NatsServer = request.getfixturevalue("nats_server")
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return Rig(
        master=postgres.create_database(),
        agents={"nats-1": nats.url},
        cluster=f"jobs-{os.getpid()}-{next(_number)}",
    )
