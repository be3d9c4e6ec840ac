"""What is left of a database's commits when its machine loses power: what its settings say."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import text

from mesh.sql.database import Database

__all__ = ["PowerLoss", "on_power_loss"]


class PowerLoss(NamedTuple):
    """A finding for ``mesh doctor``."""

    ok: bool
    detail: str
    advice: str


_LOST_COMMITS = "SQLite's synchronous is {}: the last commits are lost when the machine loses power"
_SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}

_DANGERS = {
    ("fsync", "off"): "a loss of power may destroy the whole database",
    ("full_page_writes", "off"): "a loss of power may destroy pages that were being written",
    ("synchronous_commit", "off"): "the last commits are lost when the machine loses power",
}
_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")


async def on_power_loss(database: Database) -> PowerLoss:
    """By the settings of a session of ours that is to be durable. Raises the owner's errors."""
    if database.is_local:
        async with database.read() as connection:
            level = int((await connection.execute(text("PRAGMA synchronous"))).scalar_one())
        word = _SYNCHRONOUS.get(level, str(level))
        if level < 2:
            return PowerLoss(False, _LOST_COMMITS.format(word), "PRAGMA synchronous=FULL")
        return PowerLoss(True, f"synchronous={word}: what was committed is on the disk", "")
    query = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
    async with database.read() as connection:
        rows = await connection.execute(query, {"names": list(_SETTINGS)})
        found = {row.name: row.setting for row in rows}
    shown = ", ".join(f"{name}={found.get(name, '?')}" for name in _SETTINGS)
    dangers = {pair[0]: text for pair, text in _DANGERS.items() if found.get(pair[0]) == pair[1]}
    if dangers:
        advice = ", ".join(f"{name} = on" for name in dangers)
        detail = f"{shown}: {'; '.join(dangers.values())}"
        return PowerLoss(False, detail, f"in postgresql.conf: {advice}")
    return PowerLoss(True, f"{shown}: what was committed is on the disk", "")
