"""The behavioural suite of what a master knows of handlers."""

from __future__ import annotations

from typing import Any, Protocol

from mesh.definition import Definition
from mesh.ports import HandlerInfo, Master
from mesh.retry import Retry
from mesh.wire import Defined

__all__ = ["HandlersConformance"]

SCHEMA = {"type": "object", "properties": {"user_id": {"type": "integer"}}}
MAIL = Definition(lane="mail", title="Mail", retry=Retry(3), timeout=5.0, arguments=SCHEMA)


class _Harness(Protocol):
    async def connect(self) -> Any: ...


async def _tell(master: Master, *records: Defined) -> None:
    lease = await master.acquire("recorder:a-1", "me", 30)
    assert lease is not None
    await master.record("a-1", records, lease)


def _defined(name: str, at: float, definition: Definition = MAIL, app: str = "") -> Defined:
    return Defined(name, definition.lane, at, app, definition.encode())


class HandlersConformance:
    """A part of ``MasterConformance``."""

    async def test_handlers_are_known_as_workers_tell(self, harness: _Harness) -> None:
        master = await harness.connect()
        assert await master.handlers() == []
        plain = Definition(lane="default")
        await _tell(master, _defined("send", 100.0, app="shop-"), _defined("report", 100.0, plain))
        assert await master.handlers() == [
            HandlerInfo("report", "", plain, 100.0, 100.0, 100.0),
            HandlerInfo("send", "shop-", MAIL, 100.0, 100.0, 100.0),
        ]

    async def test_who_started_last_is_right(self, harness: _Harness) -> None:
        master = await harness.connect()
        old, new = Definition(lane="old", title="Old"), Definition(lane="new", title="New")
        await _tell(master, _defined("send", 100.0, old))
        await _tell(master, _defined("send", 110.0, new), _defined("send", 105.0, old))
        (after,) = await master.handlers()
        assert after == HandlerInfo("send", "", new, 100.0, 110.0, 110.0)
        await _tell(master, _defined("send", 109.0, old))
        assert await master.handlers() == [after]

    async def test_the_same_said_again_is_seen_again_and_not_changed(
        self, harness: _Harness
    ) -> None:
        master = await harness.connect()
        await _tell(master, _defined("send", 100.0))
        await _tell(master, _defined("send", 1000.0))
        assert await master.handlers() == [
            HandlerInfo("send", "", MAIL, first_seen=100.0, changed_at=100.0, seen_at=1000.0)
        ]

    async def test_a_definition_of_a_later_version_is_listed_as_far_as_it_is_understood(
        self, harness: _Harness
    ) -> None:
        master = await harness.connect()
        more = b'{"lane":"mail","title":"Mail","colour":"red"}'
        strange = b'{"lane":"mail","title":{"en":"Mail"}}'
        await _tell(
            master,
            Defined("more", "mail", 1.0, "", more),
            Defined("strange", "mail", 1.0, "", strange),
        )
        found = {handler.name: handler.definition for handler in await master.handlers()}
        assert found == {
            "more": Definition(lane="mail", title="Mail"),
            "strange": Definition(lane="mail"),
        }

    async def test_a_handler_is_forgotten_until_it_is_told_of_again(
        self, harness: _Harness
    ) -> None:
        master = await harness.connect()
        await _tell(master, _defined("send", 100.0))
        assert await master.remove_handler("send") is True
        assert await master.remove_handler("send") is False
        assert await master.handlers() == []
        await _tell(master, _defined("send", 90.0))
        assert [handler.first_seen for handler in await master.handlers()] == [90.0]
