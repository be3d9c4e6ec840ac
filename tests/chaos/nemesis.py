"""Does what the plan says, and mends it. Each fault is written down with what it concerns, from its
beginning to its end: the checker explains with them what ran twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy import text

from mesh.testing.servers import MariaServer, PostgresServer, ServerFailed

from .cluster import GRACE, PATIENCE, Cluster, Member
from .plan import Step

__all__ = ["Nemesis"]

HURRY = 0.5
"""Seconds of grace for those that are hurried."""


class Nemesis:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._servers = {name: asyncio.Lock() for name in ("agent", "master")}

    async def run(self, steps: list[Step]) -> None:
        """All steps, and all mended."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                await asyncio.sleep(begin + step.at - loop.time())
                tasks.create_task(self._do(step))

    async def _do(self, step: Step) -> None:
        verb, what = [*step.fault.split(), ""][:2]
        if step.fault == "upgrade":
            await self._upgrade()
        elif verb == "delete":
            await self._delete(what, step)
        elif what in self._servers:
            await self._to_server(verb, what, step)
        else:
            members = self._cluster.of(what)
            await self._to_process(verb, members[step.which % len(members)], step)

    @asynccontextmanager
    async def _fault(self, fault: str, concerns: str) -> AsyncIterator[None]:
        number = f"{fault} {id(asyncio.current_task())}"
        self._cluster.journal.write("fault", fault=fault, concerns=concerns, number=number)
        try:
            yield
        finally:
            self._cluster.journal.write("mended", number=number)

    def _leave_out(self, step: Step, why: str) -> None:
        self._cluster.journal.write("left out", fault=step.fault, why=why)

    # processes --------------------------------------------------------------------------------

    async def _to_process(self, verb: str, member: Member, step: Step) -> None:
        cluster = self._cluster
        if verb in ("cut", "hang", "slow"):
            names = sorted(member.proxies)
            proxy = member.proxies[names[step.which // 7 % len(names)]]
            if proxy.mode != "pass":
                self._leave_out(step, "another is going on")
                return
            async with self._fault(f"{verb} {member.role}", member.who):
                await proxy.become(verb)  # type: ignore[arg-type]
                await asyncio.sleep(step.lasts)
                await proxy.become("pass")
            return
        if member.busy.locked() or member.process is None:
            self._leave_out(step, "another is going on")
            return
        async with member.busy, self._fault(f"{verb} {member.role}", member.who):
            if verb == "stop":
                cluster.signal(member, signal.SIGSTOP)
                await asyncio.sleep(step.lasts)
                cluster.signal(member, signal.SIGCONT)
                return
            if verb == "skew":
                member.skew = step.size * 40 - 20
            if verb in ("drain", "hurry", "skew"):
                cluster.signal(member, signal.SIGTERM)
                if verb == "hurry":
                    await cluster.gone(member, HURRY)
                else:
                    await cluster.ends(member)
            await cluster.kill(member)
            await asyncio.sleep(step.lasts if verb == "kill" else 0)
            member.version = cluster.version
            cluster.launch(member)

    async def _upgrade(self) -> None:
        """Roll out the next version: workers first, then who enqueues what only they know."""
        cluster = self._cluster
        cluster.version += 1
        for role in ("worker", "coordinator", "producer"):
            for member in cluster.of(role):
                async with member.busy, self._fault("upgrade", member.who):
                    if member.version == cluster.version:
                        continue
                    cluster.signal(member, signal.SIGTERM)
                    await cluster.ends(member)
                    member.version = cluster.version
                    cluster.launch(member)

    # servers ----------------------------------------------------------------------------------

    async def _to_server(self, verb: str, name: str, step: Step) -> None:
        cluster = self._cluster
        if self._servers[name].locked():
            self._leave_out(step, "another is going on")
            return
        if verb == "fill" and name not in cluster.disks:
            self._leave_out(step, "may not mount")
            return
        async with self._servers[name], self._fault(f"{verb} {name}", name):
            if verb == "fill":
                await self._fill(name, step.lasts)
                return
            server = cluster.servers[name]
            if verb == "restart" and isinstance(server, PostgresServer):
                await asyncio.to_thread(server.stop_at_once)
            else:
                await asyncio.to_thread(server.stop if verb == "restart" else server.kill)
            await asyncio.sleep(step.lasts)
            await asyncio.to_thread(server.start)

    async def _fill(self, name: str, seconds: float) -> None:
        """The disk is full for a while. A server that gave up is started again, as people do who
        have made room."""
        cluster = self._cluster
        filler = cluster.disks[name] / "filler"
        await asyncio.to_thread(_fill_up, filler)
        await asyncio.sleep(seconds)
        filler.unlink()
        if name in cluster.servers:
            server = cluster.servers[name]
            # JetStream is off after it could not write, though the server runs.
            if not await asyncio.to_thread(server.stop, GRACE):
                cluster.journal.write("killed", server=name)
            with suppress(ServerFailed):
                await asyncio.to_thread(server.start)
            await asyncio.to_thread(server.start)  # if it was not ready in time
            if isinstance(server, MariaServer):
                await self._rebuild(name)

    async def _rebuild(self, name: str) -> None:
        """Build anew the tables that MariaDB says are corrupt: a full disk may leave its indexes
        so (docs/databases.md)."""
        for database in self._cluster.databases(name):
            async with database.connect() as connection:
                tables = (await connection.execute(text("SHOW TABLES"))).scalars().all()
                for table in tables:
                    told = (await connection.execute(text(f"CHECK TABLE {table}"))).all()
                    if any(line.Msg_type == "error" for line in told):
                        self._cluster.journal.write("rebuilt", server=name, table=table)
                        await connection.execute(text(f"ALTER TABLE {table} FORCE"))

    # what an agent keeps ----------------------------------------------------------------------

    async def _delete(self, what: str, step: Step) -> None:
        """A consumer or the stream of jobs of a NATS agent: somebody's slip, or a server that came
        back without its disk."""
        import nats

        cluster = self._cluster
        async with self._servers["agent"], self._fault(f"delete {what}", "agent"):
            try:
                async with asyncio.timeout(PATIENCE):
                    client = await nats.connect(cluster.url("nats-1"), error_cb=_say_nothing)
                    try:
                        streams = client.jetstream()
                        stream = next(
                            name
                            for info in await streams.streams_info()
                            if (name := info.config.name or "").endswith("JOBS")
                        )
                        if what == "stream":
                            await streams.delete_stream(stream)
                            return
                        names = sorted(c.name for c in await streams.consumers_info(stream))
                        if names:
                            await streams.delete_consumer(stream, names[step.which % len(names)])
                    finally:
                        await client.close()
            except (OSError, TimeoutError, nats.errors.Error, StopIteration) as error:
                self._leave_out(step, str(error))


async def _say_nothing(_: Exception) -> None:
    """Of a server that is away, and tried again."""


def _fill_up(path: Path) -> None:
    piece = b"\0" * (1 << 20)
    with path.open("wb", buffering=0) as file:
        for size in (len(piece), 4096, 1):
            with suppress(OSError):
                while True:
                    if os.write(file.fileno(), piece[:size]) < size:
                        break
