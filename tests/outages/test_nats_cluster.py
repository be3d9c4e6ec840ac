"""A NATS cluster of three, with R3 streams, loses its leader, then its majority."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.testing.servers import NatsCluster, PostgresServer
from tests.acceptance.processes import Start

from .rig import LONG, OUTAGE, Load, eventually


@pytest.fixture
def cluster() -> Iterator[NatsCluster]:
    with NatsCluster() as cluster:
        yield cluster


@pytest.mark.skipif(not LONG, reason="elections take a minute: make outages")
@pytest.mark.timeout(1200)
async def test_a_cluster_loses_its_leader_then_its_majority(
    cluster: NatsCluster,
    postgres: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    settings(postgres.create_database(), nats=cluster.url)
    processes = [start("master", "shop:app"), start("worker", "shop:app")]
    load = Load(tmp_path, start)
    load.begin()
    before = await load.grows(OUTAGE, load.stored, load.ran)

    stream = f"MESH+outage-{os.getpid()}+nats+JOBS"
    first = cluster.leader(stream)
    assert first is not None
    first.kill()
    without_leader = await load.grows(OUTAGE, load.stored, load.ran)

    await eventually(lambda: cluster.leader(stream) is not None, "no new leader")
    second = cluster.leader(stream)
    assert second is not None
    second.kill()
    # No majority is left: jobs are held on the master, or their callers are told.
    without_majority = await load.grows(OUTAGE, load.stored)

    cluster.start()
    after = await load.grows(OUTAGE, load.stored, load.ran)
    await load.end()
    async with Mesh.from_env() as app:
        account = await load.account(app, ["nats"])
    account.must_hold(runs_again=True)
    assert all(process.poll() is None for process in processes)
    report(
        f"enqueued, executed before {before}, leader lost {without_leader}, majority lost "
        f"{without_majority}, after {after}; refused {len(load.refusals())}; {account}"
    )
