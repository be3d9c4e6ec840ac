"""Single workers: how they stand, and draining them, as the command and the HTTP API have it."""

from __future__ import annotations

import msgspec

from mesh.app import Mesh
from mesh.errors import ConfigError, did_you_mean
from mesh.notices import Drain, drain_key, is_drain
from mesh.ports import Master
from mesh.wire import Heartbeat

__all__ = ["drain_worker", "state_of"]


def state_of(worker: Heartbeat, missing_before: float) -> str:
    """What the worker said last, or ``missing`` if it has not stopped and has said nothing since
    that moment: it died, it or its agent is cut off, or nobody records its agent."""
    is_missing = worker.state != "stopped" and worker.at < missing_before
    return "missing" if is_missing else worker.state


async def drain_worker(mesh: Mesh, master: Master, worker: str, *, drained: bool) -> None:
    """Let a worker take no more jobs, or let it take some again. It hears of it within seconds,
    finishes what it has, and goes on living: then it can be stopped, and gives nothing back.
    Raises ``ConfigError`` for one that is not heard of, ``MasterError``."""
    known = {each.worker: each for each in await master.workers()}
    alive = [name for name, each in known.items() if each.state != "stopped"]
    if worker not in alive:
        raise ConfigError(f"no worker '{worker}' is heard of{did_you_mean(worker, alive)}")
    notice = Drain(worker, mesh.now()).encode() if drained else None
    changes: dict[str, bytes | None] = {drain_key(worker): notice}
    # Notices of workers that are gone are taken down on the occasion.
    board = await master.board()
    try:
        standing = await board.read(0.0)
    finally:
        await board.close()
    for key, data in standing.items():
        if is_drain(key) and data is not None and key not in changes:
            try:
                is_gone = Drain.decode(data).worker not in alive
            except msgspec.MsgspecError:
                is_gone = True
            if is_gone:
                changes[key] = None
    await master.post(changes)
