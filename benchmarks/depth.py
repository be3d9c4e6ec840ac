"""How fast a new job of high priority starts in a long lane: ``python -m benchmarks.depth``.

The same jobs, pushed one by one and pulled by a consumer that is free, by turns in an empty lane
and in one with ``--jobs`` of normal priority, on one agent; on NATS and on PostgreSQL. Prints a
table. Ends with 1 if the median in the long lane is more than twice that in the empty one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from statistics import median

import typer

from mesh.job import Priority
from mesh.plugins import connect_agent
from mesh.ports import Agent, AgentSettings, Consumer
from mesh.testing.conformance.agent import finish, make_job
from mesh.testing.servers import NatsServer, PostgresServer
from mesh.wire import Envelope

EMPTY, LONG = "empty", "long"
SAMPLES = 100
AT_ONCE = 4096


async def push(agent: Agent, jobs: list[Envelope]) -> None:
    for outcome in await agent.push(jobs):
        if outcome is not None:
            raise outcome


async def start_one(agent: Agent, lane: str, consumer: Consumer) -> float:
    """Seconds from the push of a job to the moment when a worker that is free has it."""
    job = make_job(lane, priority=Priority.HIGH)
    began = time.perf_counter()
    await push(agent, [job])
    while True:
        (delivery,) = await consumer.pull(1)
        took = time.perf_counter() - began
        await consumer.settle([finish(delivery)])
        if delivery.job.id == job.id:
            return took


async def measure(name: str, url: str, jobs: int) -> float:
    """Print both medians; how many times the one of the long lane is that of the empty one."""
    agent = connect_agent(name, url, AgentSettings("depth"))
    await agent.open()
    for start in range(0, jobs, AT_ONCE):
        await push(agent, [make_job(LONG) for _ in range(min(AT_ONCE, jobs - start))])
    consumers = {lane: await agent.consume(lane, lease=60) for lane in (EMPTY, LONG)}
    took: dict[str, list[float]] = {lane: [] for lane in consumers}
    for _ in range(SAMPLES):
        for lane, consumer in consumers.items():
            took[lane].append(await start_one(agent, lane, consumer))
    depth = (await agent.depth())[LONG].total
    for consumer in consumers.values():
        await consumer.close()
    await agent.close()
    empty, full = median(took[EMPTY]), median(took[LONG])
    typer.echo(
        f"{name:12} empty lane {empty * 1e3:6.2f} ms, {depth:,} jobs {full * 1e3:6.2f} ms: "
        f"x {full / empty:.2f}"
    )
    return full / empty


async def main(jobs: int) -> None:
    ratios: list[float] = []
    servers: list[tuple[str, Callable[[], NatsServer | PostgresServer]]] = [
        ("nats", NatsServer),
        ("postgresql", PostgresServer),
    ]
    typer.echo(f"median of {SAMPLES} jobs of high priority, from push to pull")
    for name, make in servers:
        with make() as server:
            url = server.url if isinstance(server, NatsServer) else server.create_database()
            ratios.append(await measure(name, url, jobs))
    sys.exit(max(ratios) > 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    asyncio.run(main(parser.parse_args().jobs))
