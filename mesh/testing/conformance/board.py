"""The behavioural suite of boards: an agent's and the master's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import pytest

from mesh.job import new_job_id
from mesh.notices import MOST_BYTES
from mesh.ports import Board

__all__ = ["BoardConformance"]

PATIENCE = 30.0


class _Owner(Protocol):
    async def post(self, notices: Mapping[str, bytes | None]) -> None: ...
    async def board(self) -> Board: ...


class _Harness(Protocol):
    async def connect(self) -> Any: ...


async def read_until(board: Board, wanted: Mapping[str, bytes | None]) -> None:
    """Read until all of this has been told, and nothing else last of those keys."""
    told: dict[str, bytes | None] = {}
    async with asyncio.timeout(PATIENCE):
        while not wanted.items() <= told.items():
            told |= await board.read(1.0)


async def standing(owner: _Owner) -> Mapping[str, bytes | None]:
    board = await owner.board()
    try:
        return await board.read(0.0)
    finally:
        await board.close()


class BoardConformance:
    """A part of the suites of those that have a board."""

    async def test_a_first_read_gives_what_stands(self, harness: _Harness) -> None:
        owner = await harness.connect()
        before = await standing(owner)
        await owner.post({"lane/mail": b"1", "cluster": b"2", "gone": b"3"})
        await owner.post({"lane/mail": b"4", "gone": None, "never": None})
        other = await harness.connect()
        assert await standing(other) == {**before, "lane/mail": b"4", "cluster": b"2"}

    async def test_a_first_read_does_not_wait(self, harness: _Harness) -> None:
        board = await (await harness.connect()).board()
        async with asyncio.timeout(PATIENCE):
            await board.read(3600.0)

    async def test_later_reads_give_what_changed(self, harness: _Harness) -> None:
        owner = await harness.connect()
        await owner.post({"a": b"1", "b": b"1"})
        board = await (await harness.connect()).board()
        await board.read(0.0)
        assert await board.read(0.0) == {}
        await owner.post({"b": b"2", "c": b"1"})
        await owner.post({"a": None})
        await read_until(board, {"a": None, "b": b"2", "c": b"1"})
        assert await board.read(0.0) == {}

    async def test_a_change_wakes_a_waiting_read(self, harness: _Harness) -> None:
        owner, other = await harness.connect(), await harness.connect()
        board = await owner.board()
        await board.read(0.0)
        reading = asyncio.create_task(read_until(board, {"woken": b"1"}))
        assert not (await asyncio.wait([reading], timeout=0.1))[0]
        # Through the same connection, which needs no server to be woken, and through another.
        await owner.post({"woken": b"1"})
        await reading
        reading = asyncio.create_task(read_until(board, {"woken": b"2"}))
        await asyncio.wait([reading], timeout=0.1)
        await other.post({"woken": b"2"})
        await reading

    async def test_every_reader_is_told(self, harness: _Harness) -> None:
        owner = await harness.connect()
        boards = [await (await harness.connect()).board() for _ in range(3)]
        for board in boards:
            await board.read(0.0)
        await owner.post({"all": b"1"})
        for board in boards:
            await read_until(board, {"all": b"1"})

    async def test_many_who_post_at_once(self, harness: _Harness) -> None:
        owners = [await harness.connect() for _ in range(3)]
        board = await owners[0].board()
        await board.read(0.0)
        notices = [{f"cancel/{new_job_id()}": b"x"} for _ in range(30)]
        reading = asyncio.create_task(
            read_until(board, {k: v for n in notices for k, v in n.items()})
        )
        async with asyncio.TaskGroup() as tasks:
            for index, notice in enumerate(notices):
                tasks.create_task(owners[index % 3].post(notice))
        await reading

    async def test_a_large_board(self, harness: _Harness) -> None:
        owner = await harness.connect()
        notices = {f"cancel/{new_job_id()}": b"y" * 200 for _ in range(1000)}
        await owner.post(notices)
        assert notices.items() <= (await standing(owner)).items()
        await owner.post(dict.fromkeys(notices))
        assert not notices.keys() & (await standing(owner)).keys()

    @pytest.mark.parametrize(
        "notices",
        [{"": b"1"}, {"a b": b"1"}, {"a/b/c": b"1"}, {"a": b""}, {"a": b"x" * (MOST_BYTES + 1)}],
        ids=["empty", "space", "deep", "nothing", "too much"],
    )
    async def test_what_no_board_takes(
        self, harness: _Harness, notices: Mapping[str, bytes]
    ) -> None:
        owner = await harness.connect()
        before = await standing(owner)
        with pytest.raises(ValueError, match="notice"):
            await owner.post({"fine": b"1", **notices})
        assert await standing(owner) == before
