"""``mesh.ports.Credentials`` on the master's database."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import ConfigError
from mesh.ports import ApiKey, AuditEntry, Session, User
from mesh.sign_in import Scope
from mesh.sql import Change, Database, repeated
from mesh_master.tables import Tables

__all__ = ["AUDIT_KEPT", "SqlCredentials"]

_REQUIRED = "sign_in"
"""The key in the table of what the cluster agreed on."""

AUDIT_KEPT = 400 * 86_400.0
"""Seconds for which the audit log is kept: a year, and time to look at it."""


class SqlCredentials:
    """Statements of a few rows each."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._tables = tables

    # whether sign-in is required -------------------------------------------------------------

    async def required(self) -> bool:
        cluster = self._tables.cluster
        query = select(cluster.c.value).where(cluster.c.key == _REQUIRED)
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none() == "required"

    @repeated
    async def require(self, required: bool) -> None:
        async with self._database.write() as connection:
            await self._require(connection, required)

    async def _require(self, connection: AsyncConnection, required: bool) -> None:
        value = "required" if required else "off"
        put = self._database.insert(self._tables.cluster).values(key=_REQUIRED, value=value)
        await connection.execute(
            put.on_conflict_do_update(index_elements=["key"], set_={"value": value})
        )

    # keys ------------------------------------------------------------------------------------

    @repeated
    async def add_key(self, key: ApiKey, digest: str) -> None:
        add = insert(self._tables.api_keys).values(
            id=key.id,
            name=key.name,
            scope=key.scope.value,
            digest=digest,
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
        )
        async with self._database.write() as connection:
            known = select(self._tables.api_keys.c.id).where(self._tables.api_keys.c.id == key.id)
            if (await connection.execute(known)).first() is not None:
                raise ConfigError(f"there is an API key '{key.id}' already")
            await connection.execute(add)
            await self._require(connection, True)

    async def find_key(self, key_id: str) -> tuple[ApiKey, str] | None:
        keys = self._tables.api_keys
        async with self._database.read() as connection:
            row = (await connection.execute(select(keys).where(keys.c.id == key_id))).first()
        return None if row is None else (_key(row), row.digest)

    async def keys(self) -> list[ApiKey]:
        keys = self._tables.api_keys
        async with self._database.read() as connection:
            rows = await connection.execute(
                select(keys).order_by(keys.c.created_at.desc(), keys.c.id)
            )
            return [_key(row) for row in rows]

    @repeated
    async def note_use(self, key_id: str, at: float) -> None:
        keys = self._tables.api_keys
        note = update(keys).where(keys.c.id == key_id).values(used_at=at)
        async with self._database.write() as connection:
            await connection.execute(note)

    @repeated
    async def revoke_key(self, key_id: str) -> bool:
        keys = self._tables.api_keys
        revoke = update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
        async with self._database.write() as connection:
            done = await connection.execute(revoke.values(revoked_at=self._database.now()))
        return done.rowcount == 1

    # users -----------------------------------------------------------------------------------

    @repeated
    async def put_user(self, name: str, scope: Scope, password_hash: str) -> None:
        users, now = self._tables.users, self._database.now()
        values = {"scope": scope.value, "password_hash": password_hash, "changed_at": now}
        put = self._database.insert(users).values(name=name, created_at=now, **values)
        async with self._database.write() as connection:
            await connection.execute(
                put.on_conflict_do_update(index_elements=["name"], set_=values)
            )
            await self._end_sessions(connection, name)
            await self._require(connection, True)

    async def find_user(self, name: str) -> tuple[User, str] | None:
        users = self._tables.users
        async with self._database.read() as connection:
            row = (await connection.execute(select(users).where(users.c.name == name))).first()
        return None if row is None else (_user(row), row.password_hash)

    async def users(self) -> list[User]:
        users = self._tables.users
        async with self._database.read() as connection:
            rows = await connection.execute(select(users).order_by(users.c.name))
            return [_user(row) for row in rows]

    @repeated
    async def remove_user(self, name: str) -> bool:
        users = self._tables.users
        async with self._database.write() as connection:
            await self._end_sessions(connection, name)
            gone = await connection.execute(delete(users).where(users.c.name == name))
        return gone.rowcount == 1

    async def _end_sessions(self, connection: AsyncConnection, user: str) -> None:
        sessions = self._tables.sessions
        await connection.execute(delete(sessions).where(sessions.c.user_name == user))

    # sessions --------------------------------------------------------------------------------

    @repeated
    async def add_session(self, digest: str, user: str, expires_at: float) -> None:
        add = insert(self._tables.sessions).values(
            digest=digest, user_name=user, expires_at=expires_at
        )
        async with self._database.write() as connection:
            await connection.execute(add)

    async def find_session(self, digest: str) -> Session | None:
        sessions, users = self._tables.sessions, self._tables.users
        query = (
            select(sessions.c.expires_at, users)
            .join(users, users.c.name == sessions.c.user_name)
            .where(sessions.c.digest == digest, sessions.c.expires_at > self._database.now())
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Session(_user(row), row.expires_at)

    @repeated
    async def end_session(self, digest: str) -> None:
        sessions = self._tables.sessions
        async with self._database.write() as connection:
            await connection.execute(delete(sessions).where(sessions.c.digest == digest))

    # the audit log ---------------------------------------------------------------------------

    @repeated
    async def audit(self, entry: AuditEntry) -> None:
        add = insert(self._tables.audit).values(
            at=entry.at,
            who=entry.who,
            action=entry.action,
            target=entry.target,
            status=entry.status,
            client=entry.client,
            detail=msgspec.json.encode(entry.detail).decode(),
        )
        async with self._database.write() as connection:
            await connection.execute(add)

    async def audit_log(
        self, *, before: int | None = None, who: str | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        audit = self._tables.audit
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.id < before)
        if who is not None:
            query = query.where(audit.c.who == who)
        async with self._database.read() as connection:
            rows = await connection.execute(query)
            return [
                AuditEntry(
                    id=row.id,
                    at=row.at,
                    who=row.who,
                    action=row.action,
                    target=row.target,
                    status=row.status,
                    client=row.client,
                    detail=msgspec.json.decode(row.detail),
                )
                for row in rows
            ]

    async def sweep(self, connection: AsyncConnection, limit: int) -> int:
        """Forget up to ``limit`` sessions that are over, and as many old entries of the log."""
        sessions, audit = self._tables.sessions, self._tables.audit
        now = self._database.now()
        over = select(sessions.c.digest).where(sessions.c.expires_at <= now).limit(limit)
        old = (
            select(audit.c.id)
            .where(audit.c.at < now - AUDIT_KEPT)
            .order_by(audit.c.id)
            .limit(limit)
        )
        gone = 0
        for table, which in ((sessions, over), (audit, old)):
            gone += await Change(self._database, delete(table), which).count(connection)
        return gone


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scope=Scope(row.scope),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
    )


def _user(row: Row[Any]) -> User:
    return User(row.name, Scope(row.scope), row.created_at, row.changed_at)
