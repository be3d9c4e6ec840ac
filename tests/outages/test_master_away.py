"""The master is away: work goes on, only the history waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from mesh import Mesh
from mesh.testing.servers import NatsServer, PostgresServer
from tests.acceptance.processes import Start

from .rig import OUTAGE, Load, eventually


def ask(url: str, body: object = None) -> tuple[int, Any]:
    """The status and the body of an answer; 0 if there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"content-type": "application/json"} if data else {})
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


@pytest.mark.timeout(600)
async def test_work_goes_on_at_full_rate(
    nats: NatsServer,
    database: PostgresServer,
    settings: Callable[..., str],
    start: Start,
    tmp_path: Path,
    report: Callable[[object], None],
) -> None:
    api = settings(database.create_database(), nats=nats.url)
    start("master", "shop:app")
    start("worker", "shop:app")
    load = Load(tmp_path, start)
    load.begin()
    await eventually(lambda: ask(f"{api}/health/ready")[0] == 200, "no API")
    before = await load.grows(OUTAGE, load.stored, load.ran)

    database.kill()
    during = await load.grows(OUTAGE / 2, load.stored, load.ran)
    status, told = ask(f"{api}/health/ready")
    assert (status, told["status"]) == (503, "degraded")
    status, told = ask(f"{api}/api/v1/jobs")
    assert (status, told["type"]) == (503, "urn:mesh:master-unavailable")
    # Who may do what is kept by the master, so here nobody enqueues either; by the SDK they do.
    job = {"name": "send_mail", "payload": {"n": -1, "text": ""}}
    status, told = ask(f"{api}/api/v1/jobs", job)
    assert (status, told["type"]) == (503, "urn:mesh:master-unavailable")
    # A worker that starts now needs no master.
    start("worker", "shop:app")
    more = await load.grows(OUTAGE / 2, load.stored, load.ran)

    database.start()
    await load.end()
    async with Mesh.from_env() as app:
        account = await load.account(app, ["nats"])
    account.must_hold()
    assert not load.refusals()
    assert not account.unknown
    await eventually(lambda: ask(f"{api}/health/ready")[0] == 200, "degraded still")
    report(f"enqueued, executed before {before}, in the outage {during} + {more}; {account}")
