"""Leases: a conditional upsert each, judged by the database's clock."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, case, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import LeaseLost
from mesh.ports import Lease
from mesh.sql import Database, repeated
from mesh_master.tables import Tables

__all__ = ["Leases"]


class Leases:
    """``Master``'s leases, on a SQL database."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._table = tables.leases

    @repeated
    async def acquire(self, name: str, holder: str, ttl: float) -> Lease | None:
        leases, now = self._table, self._database.now()
        insert = self._database.insert(leases).values(
            name=name, holder=holder, token=1, expires_at=now + ttl
        )
        is_own = leases.c.holder == holder
        has_expired = leases.c.expires_at <= now
        take = insert.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "holder": holder,
                "token": case(
                    (and_(is_own, ~has_expired), leases.c.token), else_=leases.c.token + 1
                ),
                "expires_at": now + ttl,
            },
            where=or_(is_own, has_expired, leases.c.holder.is_(None)),
        )
        is_mine = select(leases.c.token).where(leases.c.name == name, is_own)
        async with self._database.write() as connection:
            await connection.execute(take)
            token = (await connection.execute(is_mine)).scalar_one_or_none()
        return None if token is None else Lease(name, holder, token, ttl)

    @repeated
    async def renew(self, lease: Lease) -> bool:
        extend = update(self._table).where(self._is_held(lease))
        async with self._database.write() as connection:
            result = await connection.execute(
                extend.values(expires_at=self._database.now() + lease.ttl)
            )
        return result.rowcount == 1

    @repeated
    async def release(self, lease: Lease) -> None:
        free = update(self._table).where(self._is_held(lease))
        async with self._database.write() as connection:
            await connection.execute(free.values(holder=null(), expires_at=self._database.now()))

    async def held(self) -> dict[str, str]:
        columns, now = self._table.c, self._database.now()
        query = select(columns.name, columns.holder).where(
            columns.holder.is_not(None), columns.expires_at > now
        )
        async with self._database.read() as connection:
            return {row.name: row.holder for row in await connection.execute(query)}

    async def check(self, connection: AsyncConnection, lease: Lease) -> None:
        """Keep the lease as it is to the end of the transaction; raises ``LeaseLost`` if it is
        not the newest of its name any more."""
        held = select(self._table.c.token).where(self._is_held(lease))
        if (await connection.execute(self._database.locking(held, shared=True))).first() is None:
            raise LeaseLost(
                f"lease '{lease.name}' (token {lease.token}) of {lease.holder} went to another "
                "holder: nothing was written"
            )

    def _is_held(self, lease: Lease) -> ColumnElement[bool]:
        columns = self._table.c
        return and_(
            columns.name == lease.name,
            columns.token == lease.token,
            columns.holder == lease.holder,
        )
