"""The behavioural suite of who may do what, as a master keeps it."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from mesh.errors import ConfigError
from mesh.ports import ApiKey, AuditEntry
from mesh.sign_in import Scope

__all__ = ["CredentialsConformance"]


class _Harness(Protocol):
    ttl: float

    async def connect(self) -> Any: ...
    def now(self) -> float: ...
    async def pass_time(self, seconds: float) -> None: ...


class CredentialsConformance:
    """A part of ``MasterConformance``."""

    async def test_sign_in_is_required_from_the_first_credential_until_told_otherwise(
        self, harness: _Harness
    ) -> None:
        credentials = (await harness.connect()).credentials
        assert not await credentials.required()
        await credentials.put_user("ann", Scope.ADMIN, "hash")
        assert await credentials.remove_user("ann")
        assert await credentials.required()
        await credentials.require(False)
        assert not await credentials.required()
        await credentials.add_key(_key(harness), "digest")
        assert await credentials.revoke_key("0123456789ab")
        assert await (await harness.connect()).credentials.required()

    async def test_keys_are_found_by_their_ids_and_stay_when_revoked(
        self, harness: _Harness
    ) -> None:
        credentials = (await harness.connect()).credentials
        key = _key(harness)
        await credentials.add_key(key, "digest")
        with pytest.raises(ConfigError, match="0123456789ab"):
            await credentials.add_key(key, "other")
        assert await credentials.find_key("0123456789ab") == (key, "digest")
        assert await credentials.find_key("ffffffffffff") is None
        await credentials.note_use(key.id, 5000.0)
        assert await credentials.revoke_key(key.id)
        assert not await credentials.revoke_key(key.id)
        (found,) = await credentials.keys()
        assert (found.used_at, found.revoked_at is not None) == (5000.0, True)

    async def test_a_changed_user_is_signed_out(self, harness: _Harness) -> None:
        credentials = (await harness.connect()).credentials
        later = harness.now() + 1000
        await credentials.put_user("ann", Scope.READ, "hash")
        await credentials.add_session("s-1", "ann", later)
        session = await credentials.find_session("s-1")
        assert session is not None
        assert (session.user.name, session.user.scope) == ("ann", Scope.READ)
        assert session.expires_at == pytest.approx(later, abs=0.001)
        await credentials.put_user("ann", Scope.ADMIN, "other")
        assert await credentials.find_session("s-1") is None
        user, stored = await credentials.find_user("ann")
        assert (user.scope, stored) == (Scope.ADMIN, "other")
        assert [u.name for u in await credentials.users()] == ["ann"]
        await credentials.add_session("s-2", "ann", later)
        assert await credentials.remove_user("ann")
        assert not await credentials.remove_user("ann")
        assert await credentials.find_session("s-2") is None
        assert await credentials.find_user("ann") is None

    async def test_sessions_end(self, harness: _Harness) -> None:
        master = await harness.connect()
        credentials = master.credentials
        await credentials.put_user("ann", Scope.READ, "hash")
        await credentials.add_session("short", "ann", harness.now() + harness.ttl)
        await credentials.add_session("long", "ann", harness.now() + 1000 * harness.ttl)
        await credentials.end_session("nobody's")
        assert await credentials.find_session("short") is not None
        await harness.pass_time(harness.ttl * 1.1)
        assert await credentials.find_session("short") is None
        assert await master.sweep(0.0, 100) == 1
        assert await credentials.find_session("long") is not None
        await credentials.end_session("long")
        assert await credentials.find_session("long") is None

    async def test_the_audit_log_is_read_from_its_end(self, harness: _Harness) -> None:
        credentials = (await harness.connect()).credentials
        for number in range(5):
            who = "user:ann" if number % 2 else "key:1"
            detail = {"name": "send", "n": number}
            await credentials.audit(
                AuditEntry(
                    at=100.0 + number,
                    who=who,
                    action="POST /jobs",
                    target=f"job-{number}",
                    status=202,
                    client="127.0.0.1",
                    detail=detail,
                )
            )
        newest = await credentials.audit_log(limit=2)
        assert [entry.target for entry in newest] == ["job-4", "job-3"]
        before = await credentials.audit_log(before=newest[-1].id)
        assert [(e.target, e.detail["n"], e.at) for e in before] == [
            ("job-2", 2, 102.0),
            ("job-1", 1, 101.0),
            ("job-0", 0, 100.0),
        ]
        assert [e.target for e in await credentials.audit_log(who="user:ann")] == ["job-3", "job-1"]


def _key(harness: _Harness) -> ApiKey:
    return ApiKey(
        "0123456789ab", "deploys", Scope.OPERATE, 1000.0, "ann", float(round(harness.now()) + 60)
    )
