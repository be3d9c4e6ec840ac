"""The kinds of databases there are."""

from __future__ import annotations

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from mesh.errors import ConfigError
from mesh.plugins import hide_password
from mesh.sql.dialect import Dialect
from mesh.sql.dialects.mssql import MSSQL
from mesh.sql.dialects.mysql import MariaDB, MySQL
from mesh.sql.dialects.postgresql import PostgreSQL
from mesh.sql.dialects.sqlite import SQLite

__all__ = ["BY_SCHEME", "parse_url"]

BY_SCHEME: dict[str, Dialect] = {
    "postgresql": PostgreSQL(),
    "postgres": PostgreSQL(),
    "sqlite": SQLite(),
    "mysql": MySQL(),
    "mariadb": MariaDB(),
    "mssql": MSSQL(),
    "sqlserver": MSSQL(),
}
"""Each by the schemes of its URLs."""


def parse_url(url: str, what: str) -> tuple[Dialect, URL]:
    """The dialect, and the URL with the driver's name in it. ``what`` names the owner. Raises
    ``ConfigError``."""
    scheme, _, rest = url.partition("://")
    dialect = BY_SCHEME.get(scheme.partition("+")[0])
    if dialect is None:
        raise ConfigError(f"{what}: no driver for the URL scheme '{scheme}'")
    try:
        parsed = make_url(f"{dialect.drivername}://{rest}")
    except (exc.ArgumentError, ValueError):
        # Not "from error": that one quotes the URL, password and all.
        raise ConfigError(f"{what}: '{hide_password(url)}' is not a database URL") from None
    return dialect, dialect.parse(parsed)
