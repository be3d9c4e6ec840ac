"""What the master has to say: its board, the cluster's settings, cancels, agents added at run time.

The settings are a notice on the board; the board's counter is locked while they change, so
concurrent changes follow each other and revisions are seen in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlalchemy import delete, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.config import AgentConfig
from mesh.job import TERMINAL, TERMINAL_VERSION, State, is_job_id
from mesh.notices import CLUSTER, Cancel, cancel_key
from mesh.plugins import hide_password
from mesh.settings import ClusterSettings
from mesh.sql import BOARD, Database, Notices, Signals, SqlBoard, one_of, repeated
from mesh_master.tables import Tables

__all__ = ["CANCELLED", "Steering"]

CANCELLED = "Cancelled"
"""The error type of a job that somebody cancelled; a worker's word for it too."""

_OWNER = "master"
_LOOK = 0.25
"""Seconds between two looks at the board where nothing wakes its reader."""

_lanes = msgspec.json.Decoder(list[str])


class Steering:
    """The statements behind ``Master``'s methods of steering."""

    def __init__(self, database: Database, tables: Tables, signals: Signals, clock: Clock) -> None:
        self._database = database
        self._tables = tables
        self._signals = signals
        self._clock = clock
        self._notices = Notices(database, tables.notices, _OWNER, signals)

    # the board and the settings --------------------------------------------------------------

    async def post(self, notices: Mapping[str, bytes | None]) -> None:
        await self._notices.post(notices)

    def board(self) -> SqlBoard:
        return SqlBoard(self._notices, self._clock, _LOOK)

    async def settings(self) -> ClusterSettings:
        async with self._database.read() as connection:
            return await self._settings(connection)

    async def _settings(self, connection: AsyncConnection) -> ClusterSettings:
        data = await self._notices.get(connection, CLUSTER)
        return ClusterSettings() if data is None else ClusterSettings.decode(data)

    @repeated
    async def change_settings(
        self, change: Callable[[ClusterSettings], ClusterSettings]
    ) -> ClusterSettings:
        async with self._database.write() as connection:
            turn = await self._notices.turn(connection)
            before = await self._settings(connection)
            after = msgspec.structs.replace(change(before), revision=before.revision + 1)
            await self._notices.write(connection, {CLUSTER: after.encode()}, turn)
        self._signals.signal({BOARD})
        return after

    # cancels ---------------------------------------------------------------------------------

    @repeated
    async def cancel(self, job_ids: Sequence[str], reason: str) -> dict[str, State]:
        wanted = sorted({job_id for job_id in job_ids if is_job_id(job_id)})
        async with self._database.write() as connection:
            await self._end_held(connection, wanted, reason)
            states = await self._states(connection, wanted)
            asked = [job_id for job_id in wanted if states.get(job_id) not in TERMINAL]
            if asked:
                turn = await self._notices.turn(connection)
                notice = Cancel(reason, self._database.now()).encode()
                standing = await self._standing(connection, [cancel_key(i) for i in asked])
                new = {key: notice for i in asked if (key := cancel_key(i)) not in standing}
                await self._notices.write(connection, new, turn)
        if asked:
            self._signals.signal({BOARD})
        return states

    async def _end_held(
        self, connection: AsyncConnection, job_ids: Sequence[str], reason: str
    ) -> None:
        jobs = self._tables.jobs
        await connection.execute(
            update(jobs)
            .where(
                one_of(self._database, jobs.c.id, job_ids),
                jobs.c.state.in_([State.SCHEDULED, State.WAITING]),
                # One that a dispatcher has ever had in hand may be on an agent already: the
                # word of that is still to come. Its worker, or the next dispatcher's, says no.
                jobs.c.claimed_until.is_(None),
            )
            .values(
                state=State.CANCELLED,
                version=TERMINAL_VERSION,
                finished_at=self._database.now(),
                error_type=CANCELLED,
                error_message=reason,
                envelope=null(),
            )
        )

    async def _states(
        self, connection: AsyncConnection, job_ids: Sequence[str]
    ) -> dict[str, State]:
        jobs = self._tables.jobs.c
        query = select(jobs.id, jobs.state).where(one_of(self._database, jobs.id, job_ids))
        return {row.id: State(row.state) for row in await connection.execute(query)}

    async def _standing(self, connection: AsyncConnection, keys: Sequence[str]) -> set[str]:
        notices = self._tables.notices.c
        query = select(notices.key).where(
            notices.owner == _OWNER,
            one_of(self._database, notices.key, keys),
            notices.value.is_not(None),
        )
        return set((await connection.execute(query)).scalars())

    # agents ----------------------------------------------------------------------------------

    @repeated
    async def add_agent(self, agent: AgentConfig) -> None:
        agents = self._tables.agents
        lanes = None if agent.lanes is None else msgspec.json.encode(sorted(agent.lanes)).decode()
        values = {"url": hide_password(agent.url), "full_url": agent.url, "lanes": lanes}
        add = self._database.insert(agents).values(name=agent.name, **values)
        async with self._database.write() as connection:
            await connection.execute(
                add.on_conflict_do_update(index_elements=["name"], set_=values)
            )

    @repeated
    async def remove_agent(self, name: str) -> bool:
        agents = self._tables.agents
        async with self._database.write() as connection:
            gone = await connection.execute(delete(agents).where(agents.c.name == name))
            return gone.rowcount > 0

    async def added_agents(self) -> dict[str, AgentConfig]:
        agents = self._tables.agents.c
        query = select(agents.name, agents.full_url, agents.lanes).where(
            agents.full_url.is_not(None)
        )
        async with self._database.read() as connection:
            return {
                name: AgentConfig(
                    name, url, None if lanes is None else frozenset(_lanes.decode(lanes))
                )
                for name, url, lanes in await connection.execute(query)
            }
