"""The role ``worker``: a worker on each agent."""

from __future__ import annotations

import logging

from mesh.app import Mesh
from mesh.errors import ConfigError, did_you_mean
from mesh.roles import RoleOptions, make_role
from mesh.schedules import Declaring
from mesh.service import Group, Service
from mesh_workers.drain import Drain
from mesh_workers.worker import Worker

__all__ = ["worker_role"]

log = logging.getLogger("mesh")


def worker_role(app: Mesh, options: RoleOptions) -> Service:
    """Workers for the lanes asked for (default: all that the app's handlers name), on the agents
    asked for (default: all) that serve them. Raises ``ConfigError`` if none of the agents serves
    a lane that was asked for."""
    if options.mode == "coordinator":
        return make_role("coordinator", app, options)
    if options.mode == "drain":
        return _drain(app, options)
    if options.mode == "execution":
        app.cluster.forget_master()
    lanes = {app.prefix.of(lane): n for lane, n in options.lanes.items()}
    lanes = lanes or dict.fromkeys(app.lanes, options.concurrency)
    if not lanes:
        raise ConfigError("the app has no handlers, so there is no lane to work on; name --lane")
    names = options.agents or tuple(app.config.agents)
    if not names:
        raise ConfigError("no agent is configured: give agents=..., or set MESH_AGENTS")
    workers: list[Service] = []
    served: set[str] = set()
    for name in names:
        agent = app.config.agent(name)
        here = {lane: n for lane, n in lanes.items() if agent.serves(lane)}
        served |= here.keys()
        if here:
            workers.append(Worker(app, name, here))
    if missing := lanes.keys() - served:
        lane = min(missing)
        problem = f"lane '{lane}' is served by none of the agents {', '.join(names)}"
        if options.lanes or not served:
            raise ConfigError(f"{problem}{did_you_mean(lane, served)}")
        log.warning("%s, so its jobs wait for other workers", problem)
    if app.schedules.declared and app.config.master is not None:
        workers.append(Declaring(app, app.connect_master()))
    # One after the other they would take the grace time as often.
    return Group("workers", workers, at_once=True)


def _drain(app: Mesh, options: RoleOptions) -> Service:
    if options.lanes:
        raise ConfigError(
            "--mode drain empties whole agents: leave out --lane, or see mesh lanes drain"
        )
    if app.config.master is None:
        raise ConfigError(
            "--mode drain moves jobs back to the master, and none is configured: give master=..., "
            "or set MESH_MASTER"
        )
    if not options.agents:
        raise ConfigError(
            f"--mode drain: say which agents to empty, such as --agent {min(app.config.agents)}"
        )
    for name in options.agents:
        app.config.agent(name)
    return Drain(app, options.agents)
