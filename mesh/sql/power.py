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

_COMMITS = "the last commits are lost when the machine loses power"
_OFF = frozenset({"off"})
_PAGES = "a loss of power may destroy pages that were being written"


class _Server(NamedTuple):
    query: str
    """Names and values."""
    wanted: dict[str, tuple[str, frozenset[str], str]]
    """The value that a setting is to have, those that are dangerous, and what happens then."""
    where: str = "in the server's configuration"
    """Where it is set."""


_POSTGRES = _Server(
    "SELECT name, setting FROM pg_settings",
    {
        "fsync": ("on", _OFF, "a loss of power may destroy the whole database"),
        "synchronous_commit": ("on", _OFF, _COMMITS),
        "full_page_writes": ("on", _OFF, _PAGES),
    },
)
_MARIADB = _Server(
    "SHOW VARIABLES LIKE 'innodb%'",
    {
        "innodb_flush_log_at_trx_commit": ("1", frozenset({"0", "2"}), _COMMITS),
        "innodb_doublewrite": ("on", _OFF, _PAGES),
    },
)
_MSSQL = _Server(
    "SELECT 'delayed_durability', delayed_durability_desc FROM sys.databases "
    "WHERE database_id = DB_ID() UNION ALL "
    "SELECT 'page_verify', page_verify_option_desc FROM sys.databases WHERE database_id = DB_ID()",
    {
        "delayed_durability": ("disabled", frozenset({"forced"}), _COMMITS),
        "page_verify": ("checksum", frozenset({"none"}), "a page that broke is not noticed"),
    },
    "by ALTER DATABASE … SET",
)
_SERVERS = {"postgresql": _POSTGRES, "mysql": _MARIADB, "mariadb": _MARIADB, "mssql": _MSSQL}


async def on_power_loss(database: Database) -> PowerLoss:
    """By the settings of a session of ours that is to be durable. Raises the owner's errors."""
    if database.is_local:
        async with database.read() as connection:
            level = int((await connection.execute(text("PRAGMA synchronous"))).scalar_one())
        word = _SYNCHRONOUS.get(level, str(level))
        if level < 2:
            return PowerLoss(False, _LOST_COMMITS.format(word), "PRAGMA synchronous=FULL")
        return PowerLoss(True, f"synchronous={word}: what was committed is on the disk", "")
    server = _SERVERS[database.kind]
    async with database.read() as connection:
        rows = await connection.execute(text(server.query))
        found = {str(name): str(setting).lower() for name, setting in rows}
    shown = ", ".join(f"{name}={found.get(name, '?')}" for name in server.wanted)
    dangers = {
        name: danger
        for name, (_, dangerous, danger) in server.wanted.items()
        if found.get(name) in dangerous
    }
    if dangers:
        advice = ", ".join(f"{name} = {server.wanted[name][0]}" for name in dangers)
        detail = f"{shown}: {'; '.join(dangers.values())}"
        return PowerLoss(False, detail, f"{server.where}: {advice}")
    return PowerLoss(True, f"{shown}: what was committed is on the disk", "")
