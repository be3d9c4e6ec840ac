"""Routes: workers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from litestar import Router, get, post
from litestar.params import FromPath

from mesh.clock import to_datetime
from mesh.sign_in import Scope
from mesh.wire import Heartbeat
from mesh_master.api.context import Api, GivenApi, require
from mesh_master.api.problems import PROBLEMS
from mesh_master.worker_work import drain_worker, state_of

__all__ = ["router"]

_OPERATE = [require(Scope.OPERATE)]


class Load(msgspec.Struct, kw_only=True):
    """How busy a worker is in one lane."""

    lane: str
    concurrency: int
    running: int
    held: int


class Worker(msgspec.Struct, kw_only=True):
    """A worker, as it last said."""

    worker: str
    state: str
    """``running``, ``draining``, ``stopped``, or ``missing``: it has not said anything for long."""
    agent: str
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    finished: int
    lanes: list[Load]


@get("/", guards=[require(Scope.READ)], responses=PROBLEMS)
async def list_workers(api: GivenApi) -> list[Worker]:
    """The workers that were heard of in the last hour, the latest first."""
    return await _workers(api)


@post("/{worker:str}/{action:str}", guards=_OPERATE, status_code=200, responses=PROBLEMS)
async def set_worker(
    api: GivenApi, worker: FromPath[str], action: FromPath[Literal["drain", "resume"]]
) -> list[Worker]:
    """`drain`: take no more jobs, finish what there is, and go on living, to be stopped with
    nothing to give back; `resume`: take jobs again."""
    await drain_worker(api.mesh, await api.master(), worker, drained=action == "drain")
    return await _workers(api)


async def _workers(api: Api) -> list[Worker]:
    now, silence = api.mesh.now(), api.mesh.config.silence
    found = await (await api.master()).workers(seen_after=now - 3600)
    return [_shown(worker, now - silence) for worker in found]


def _shown(worker: Heartbeat, missing_before: float) -> Worker:
    return Worker(
        worker=worker.worker,
        state=state_of(worker, missing_before),
        agent=worker.agent,
        host=worker.host,
        pid=worker.pid,
        version=worker.version,
        started_at=to_datetime(worker.started_at),
        seen_at=to_datetime(worker.at),
        finished=worker.finished,
        lanes=[
            Load(lane=x.lane, concurrency=x.concurrency, running=x.running, held=x.held)
            for x in worker.lanes
        ],
    )


router = Router("/workers", tags=["workers"], route_handlers=[list_workers, set_worker])
