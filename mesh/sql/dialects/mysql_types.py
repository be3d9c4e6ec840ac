"""SQLAlchemy's dialect for MariaDB and MySQL, with column types that hold what ours do.

A dialect of its own, rather than variants of each column: tables and migrations say ``String``
and ``Text`` as they do for the other databases. Only what creates tables differs, so statements
in a transaction of the user's run on the user's own engine.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.mysql.base import MySQLDDLCompiler, MySQLTypeCompiler
from sqlalchemy.engine.interfaces import DBAPIConnection

from mesh.sql.types import STRING

__all__ = ["DRIVERNAME", "MARIADB", "MeshMariaDB", "MeshMySQL"]

DRIVERNAME, MARIADB = "mysql+jobmesh", "mysql+jobmesh_mariadb"

_SERVER_LOST = 2013
"""The driver's number of a connection that broke (``CR_SERVER_LOST``)."""


class _Types(MySQLTypeCompiler):
    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        if type_.length is None:
            return f"VARCHAR({STRING})"
        return super().visit_VARCHAR(type_, **kw)

    # The plain ones end at 64 kB, and a plain FLOAT has four bytes.
    def visit_TEXT(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "LONGTEXT"

    def visit_large_binary(self, type_: Any, **kw: Any) -> str:
        return "LONGBLOB"

    def visit_FLOAT(self, type_: Any, **kw: Any) -> str:  # noqa: N802
        return "DOUBLE"


class _Tables(MySQLDDLCompiler):
    def post_create_table(self, table: Table) -> str:
        # By bytes, blanks at the end too: ids, names and keys differ if they differ anywhere.
        collation = "utf8mb4_nopad_bin" if self.dialect.is_mariadb else "utf8mb4_0900_bin"
        options = super().post_create_table(table)
        return f"{options} ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE {collation}"


class MeshMySQL(MySQLDialect_asyncmy):
    supports_statement_cache = True
    type_compiler_cls = _Types
    ddl_compiler = _Tables

    def connect(self, *arguments: Any, **named: Any) -> DBAPIConnection:
        try:
            return super().connect(*arguments, **named)
        except RuntimeError as error:
            # Of a socket that the event loop has closed already, as the other end went.
            raise self.loaded_dbapi.OperationalError(_SERVER_LOST, str(error)) from error


class MeshMariaDB(MeshMySQL):
    """For a server that is known to be MariaDB before it is asked."""

    supports_statement_cache = True
    is_mariadb = True


for _name, _kind in ((DRIVERNAME, MeshMySQL), (MARIADB, MeshMariaDB)):
    registry.register(_name.replace("+", "."), __name__, _kind.__name__)
