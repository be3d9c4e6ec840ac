"""A stand-in for SQL Server, of which none can be had here: it reads T-SQL, and has PostgreSQL do
what that says.

The ODBC driver is faked; everything above it is what users have. Each statement is parsed as T-SQL
(sqlglot), looked through for what is known to be none, translated, and run. So a statement that is
no T-SQL fails, and so does one that says something else than the same of other databases, by the
conformance suites. What that cannot show is said in docs/databases.md: whether SQL Server agrees,
its locks, its plans, its types where they differ from PostgreSQL's, and its driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import psycopg
import sqlglot
from psycopg import errors
from sqlalchemy.connectors.aioodbc import AsyncAdapt_aioodbc_dbapi
from sqlglot import exp

__all__ = ["PROBES", "FakeServer", "NotTSQL", "odbc_error", "translate"]

Node: TypeAlias = Any
"""Of what sqlglot has read."""

MOST_PARAMETERS = 2100


class NotTSQL(AssertionError):
    """SQL Server would not take it."""


_FOREIGN = re.compile(
    r"\b(LIMIT|RETURNING|ON CONFLICT|ON DUPLICATE|FOR UPDATE|SAVEPOINT|ILIKE|FILTER|NULLS FIRST|"
    r"NULLS LAST|true|false|greatest|least|length)\b|::|\|\|",
    re.IGNORECASE,
)
_PREFIX, _ANY_PREFIX = re.compile(r"\bt[0-9a-f]{12}_"), "tables_"
_STRING = re.compile(r"N?'(?:[^']|'')*'")
_TRIGGER = re.compile(
    r"CREATE TRIGGER (?P<name>\S+) ON (?P<table>\S+) AFTER (?P<event>\w+) AS "
    r"BEGIN SET NOCOUNT ON; (?P<body>.*;) END;?\s*\Z",
    re.DOTALL,
)
_TRANSACTION = re.compile(r"(SAVE|ROLLBACK) TRANSACTION (\w+)\Z")
_LOCK = re.compile(r"sp_getapplock @Resource = '(.*?)'")
_TEXTS = {"name", "lane", "value"}
"""Columns to which something is added, that are no numbers."""
_CONDITIONS = (exp.Predicate, exp.Connector, exp.Not)


def translate(statement: str) -> tuple[str, ...]:
    """What PostgreSQL is to do. Raises ``NotTSQL``."""
    # Whose tables they are makes no difference, and reading takes long.
    prefix = _PREFIX.search(statement)
    if prefix is None:
        return _translate(statement)
    texts = _translate(statement.replace(prefix[0], _ANY_PREFIX))
    return tuple(text.replace(_ANY_PREFIX, prefix[0]) for text in texts)


@lru_cache(4096)
def _translate(statement: str) -> tuple[str, ...]:
    if (found := _FOREIGN.search(_STRING.sub("''", statement))) is not None:
        raise NotTSQL(f"{found[0]!r} in: {statement}")
    if (savepoint := _TRANSACTION.match(statement)) is not None:
        return (
            ("SAVEPOINT " if savepoint[1] == "SAVE" else "ROLLBACK TO SAVEPOINT ") + savepoint[2],
        )
    if (lock := _LOCK.search(statement)) is not None:
        return (f"SELECT 0 FROM pg_advisory_xact_lock(hashtext('{lock[1]}'))",)
    if (trigger := _TRIGGER.match(statement)) is not None:
        return tuple(_trigger(**trigger.groupdict()))
    return tuple(_say(tree) for tree in _parse(statement))


def _trigger(name: str, table: str, event: str, body: str) -> Iterator[str]:
    rows = {
        "INSERT": "NEW TABLE AS inserted",
        "UPDATE": "OLD TABLE AS deleted NEW TABLE AS inserted",
        "DELETE": "OLD TABLE AS deleted",
    }[event]
    statements = " ".join(f"{_say(tree)};" for tree in _parse(body))
    yield (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {statements} RETURN NULL; END $$"
    )
    yield (
        f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {rows} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
    )


def _parse(statement: str) -> list[Node]:
    # It does not read how a table is ordered, nor the number of the session.
    readable = re.sub(r"PRIMARY KEY (NON)?CLUSTERED", "PRIMARY KEY", statement)
    try:
        trees = sqlglot.parse(readable.replace("@@SPID", "SPID()"), read="tsql")
    except sqlglot.errors.SqlglotError as error:
        raise NotTSQL(f"{error}: {statement}") from error
    meant = [tree for tree in trees if tree is not None]
    for tree in meant:
        _check(tree, statement)
    return meant


def _check(tree: Node, statement: str) -> None:
    if isinstance(tree, exp.Command):
        raise NotTSQL(f"cannot be read: {statement}")
    for node in tree.find_all(exp.Select):
        for said in node.expressions:
            if isinstance(said.unalias(), _CONDITIONS):
                raise NotTSQL(f"a condition as a value, {said.sql('tsql')}, in: {statement}")
        has_order, has_limit = node.args.get("order"), node.args.get("limit")
        if has_order and not has_limit and node.parent is not None:
            raise NotTSQL(f"an order without TOP within another query: {statement}")
        _check_groups(node, statement)
    for node in tree.find_all(exp.Tuple):
        if isinstance(node.parent, exp.Binary | exp.In):
            raise NotTSQL(f"columns compared as a row: {statement}")
    for node in tree.find_all(exp.Where, exp.And, exp.Or, exp.Not):
        for part in node.args.values():
            if isinstance(part, exp.Column | exp.Literal | exp.Placeholder):
                raise NotTSQL(f"a value as a condition, {part.sql('tsql')}, in: {statement}")


def _check_groups(node: Node, statement: str) -> None:
    if (group := node.args.get("group")) is None:
        return
    aliases = {said.alias for said in node.expressions if isinstance(said, exp.Alias)}
    for by in group.expressions:
        if isinstance(by, exp.Literal) or (
            isinstance(by, exp.Column) and not by.table and by.name in aliases
        ):
            raise NotTSQL(f"grouped by the name of an expression: {statement}")
        if by.find(exp.Placeholder):
            raise NotTSQL(f"grouped by a parameter: {statement}")


def _say(tree: Node) -> str:
    if isinstance(tree, exp.Set):
        return "SELECT 0 WHERE false"  # The settings of a session.
    if isinstance(tree, exp.Alter) and "LOCK_ESCALATION" in tree.sql("tsql"):
        return "SELECT 0 WHERE false"
    if isinstance(tree, exp.Drop):
        tree.set("cluster", None)  # The table of an index.
    if isinstance(tree, exp.Merge):
        # Else it would say the target's columns without their table.
        for column in list(tree.find_all(exp.Column)):
            if column.table:
                column.replace(exp.var(f'{column.table}."{column.name}"'))
    said = tree.transform(_postgres).sql("postgres")
    # It has another order of NULLs, and so have the suites.
    return re.sub(r" NULLS (FIRST|LAST)", "", said)


def _postgres(node: Node) -> Node:
    change = _CHANGES.get(type(node))
    return node if change is None else change(node)


def _type(node: Node) -> Node:
    kind, size = node.this, node.expressions
    T = exp.DataType.Type  # noqa: N806
    if kind in (T.BIT, T.BOOLEAN):
        return exp.DataType.build("SMALLINT")
    if kind in (T.NVARCHAR, T.VARCHAR) and size and size[0].name.upper() == "MAX":
        return exp.DataType.build("TEXT")
    if kind is T.VARBINARY:
        return exp.DataType.build("BYTEA", dialect="postgres")
    if kind is T.FLOAT:
        return exp.DataType.build("DOUBLE PRECISION", dialect="postgres")
    return node


def _without_collation(node: Node) -> Node:
    return node.this.transform(_postgres)  # What is replaced is not gone through by itself.


def _concat(node: Node) -> Node:
    """``+``, which is all that there is for texts."""
    sides = [side.unnest() for side in node.flatten()]
    if not any(_is_text(side) for side in sides):
        return node
    first, *others = [side.transform(_postgres) for side in sides]
    for other in others:
        first = exp.DPipe(this=first, expression=other)
    return first


def _is_text(node: Node) -> bool:
    if isinstance(node, exp.Cast):
        return node.to.is_type("text", "varchar", "nvarchar")
    return node.is_string or (isinstance(node, exp.Column) and node.name in _TEXTS)


def _function(node: Node) -> Node:
    return exp.func("pg_backend_pid") if node.name.upper() == "SPID" else node


def _json(node: Node) -> Node:
    return exp.Anonymous(this="json_array_elements_text", expressions=[exp.cast(node.this, "json")])


def _json_value(node: Node) -> Node:
    node.set("this", exp.cast(node.this, "json"))
    return node


def _difference(node: Node) -> Node:
    """How many of the unit have begun, and not how long it was, rounded."""
    since, until = (
        side.transform(_postgres).sql("postgres") for side in (node.expression, node.this)
    )
    unit = {"MINUTE": "/ 60", "SECOND": "", "MICROSECOND": "* 1000000"}[node.text("unit").upper()]
    span = f"CAST({until} AS TIMESTAMP) - CAST({since} AS TIMESTAMP)"
    said = f"CAST(FLOOR(EXTRACT(epoch FROM {span}) {unit}) AS BIGINT)"
    return sqlglot.parse_one(said, read="postgres")


def _output(node: Node) -> Node:
    for column in node.expressions:
        column.set("table", None)
    return node


def _constraint(node: Node) -> Node:
    return None if isinstance(node.kind, exp.CollateColumnConstraint) else node


def _locked(node: Node) -> Node:
    tables = [t for t in (_table_of(node), *[j.this for j in node.args.get("joins") or ()]) if t]
    for table in tables:
        hints = {h.name.upper() for hint in table.args.get("hints") or () for h in hint.expressions}
        if hints & {"UPDLOCK", "REPEATABLEREAD"}:
            skips = "READPAST" in hints
            node.append(
                "locks",
                exp.Lock(
                    update="UPDLOCK" in hints,
                    wait=False if skips else None,
                    expressions=[exp.to_identifier(table.alias_or_name)],
                ),
            )
    return node


def _table_of(node: Node) -> Node:
    found = node.args.get("from_") or node.args.get("from")
    return found.this if found is not None and isinstance(found.this, exp.Table) else None


_CHANGES: dict[type, Callable[[Node], Node]] = {
    exp.DataType: _type,
    exp.Collate: _without_collation,
    exp.ColumnConstraint: _constraint,
    exp.Add: _concat,
    exp.Anonymous: _function,
    exp.DateDiff: _difference,
    exp.OpenJSON: _json,
    exp.JSONExtractScalar: _json_value,
    exp.Returning: _output,
    exp.Select: _locked,
}


class Error(Exception):
    """pyodbc's: the SQLSTATE, and a message with the server's number."""

    __module__ = "pyodbc"


class IntegrityError(Error):
    __module__ = "pyodbc"


_NUMBERS: dict[type[Exception], tuple[type[Error], str, int]] = {
    errors.UniqueViolation: (IntegrityError, "23000", 2627),
    errors.DeadlockDetected: (Error, "40001", 1205),
    errors.InvalidCatalogName: (Error, "42000", 4060),
    psycopg.OperationalError: (Error, "08S01", 10054),
}


def odbc_error(state: str, message: str, number: int | None, kind: type[Error] = Error) -> Error:
    """What the driver raises: of itself, or with the server's number."""
    if number is None:
        return kind(state, f"[{state}] [Microsoft][ODBC Driver 18 for SQL Server]{message} (0)")
    driver = "[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]"
    return kind(state, f"[{state}] {driver}{message} ({number}) (SQLExecDirectW)")


def _error(error: psycopg.Error) -> Error:
    kinds = (found for kind, found in _NUMBERS.items() if isinstance(error, kind))
    kind, state, number = next(kinds, (Error, "42000", 102))
    return odbc_error(state, str(error), number, kind)


class FakeServer:
    """In the place of the driver: ``dbapi`` is what SQLAlchemy is to be given."""

    def __init__(self, postgres_url: str) -> None:
        """``postgres_url`` is that of the databases that have the same names."""
        self._url = postgres_url.rpartition("/")[0]
        self.statements: dict[str, None] = {}
        """Those that ran, each once."""
        driver = SimpleNamespace(connect=self._connect)
        pyodbc: Any = SimpleNamespace(
            paramstyle="qmark",
            version="5.2.0",
            Binary=bytes,
            BinaryNull=None,
            Error=Error,
            IntegrityError=IntegrityError,
            SQL_WVARCHAR=-9,
            SQL_VARCHAR=12,
            SQL_DECIMAL=3,
            SQL_DRIVER_NAME=6,
            NUMBER=0,
            STRING=1,
            DATETIME=2,
            BINARY=3,
        )
        for name in (
            "Warning",
            "InterfaceError",
            "DataError",
            "DatabaseError",
            "OperationalError",
            "ProgrammingError",
            "InternalError",
            "NotSupportedError",
        ):
            setattr(pyodbc, name, type(name, (Error,), {"__module__": "pyodbc"}))
        self.dbapi = AsyncAdapt_aioodbc_dbapi(driver, pyodbc)  # type: ignore[no-untyped-call]

    async def _connect(self, *, dsn: str, **_: Any) -> _Connection:
        name = re.search(r"Database=(\w+)", dsn)
        assert name is not None, dsn
        try:
            real = await psycopg.AsyncConnection.connect(
                f"{self._url}/{name[1]}", cursor_factory=psycopg.AsyncClientCursor
            )
        except psycopg.Error as error:
            raise _error(error) from None
        return _Connection(self, real)


class _Connection:
    """aioodbc's."""

    def __init__(self, server: FakeServer, real: Any) -> None:
        self.server, self.real = server, real
        self._conn = SimpleNamespace(autocommit=False)
        self.autocommit = False

    @property
    def closed(self) -> bool:
        return bool(self.real.closed)

    def add_output_converter(self, *_: Any) -> None: ...

    def cursor(self) -> _Cursor:
        return _Cursor(self)

    async def commit(self) -> None:
        await self._do(self.real.commit)

    async def rollback(self) -> None:
        await self._do(self.real.rollback)

    async def close(self) -> None:
        await self.real.close()

    async def _do(self, what: Callable[[], Any]) -> None:
        try:
            await what()
        except psycopg.Error as error:
            raise _error(error) from None


class _Cursor:
    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount, self.arraysize, self.lastrowid = -1, 1, None
        self._impl = SimpleNamespace(setinputsizes=lambda *_: None)

    async def __aenter__(self) -> _Cursor:
        return self

    async def close(self) -> None: ...

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        await self.executemany(statement, [parameters])

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.server.statements.setdefault(statement)
        if len(rows[0]) > MOST_PARAMETERS:
            raise NotTSQL(f"{len(rows[0])} parameters: {statement}")
        probe = next((answer for asked, answer in PROBES.items() if asked in statement), None)
        try:
            if probe is not None:
                await self._run((probe,), [()])
            elif statement.startswith("MERGE"):
                await self._merge(translate(statement), rows)
            else:
                await self._run(translate(statement), rows)
        except psycopg.Error as error:
            raise _error(error) from None

    async def _merge(self, texts: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """As HOLDLOCK has it: PostgreSQL's MERGE fails if another brought a row meanwhile."""
        real, is_done = self._connection.real, False
        while not is_done:
            await real.execute("SAVEPOINT merge")
            try:
                await self._run(texts, rows)
                is_done = True
            except errors.UniqueViolation:
                await real.execute("ROLLBACK TO SAVEPOINT merge")
            await real.execute("RELEASE SAVEPOINT merge")

    async def _run(self, texts: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            given = [int(value) if isinstance(value, bool) else value for value in row]
            for text in texts:
                cursor = await self._connection.real.execute(text, given or None)
        self.rowcount, self.description = cursor.rowcount, None
        if cursor.description is not None:
            nothing = (None,) * 5
            self.description = [(c.name, c.type_code, *nothing) for c in cursor.description]
            self._rows = await cursor.fetchall()

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def nextset(self) -> None:
        self.description = None


PROBES = {
    "SERVERPROPERTY('ProductVersion')": "SELECT '16.0.4135.4'",
    "schema_name()": "SELECT 'dbo'",
    "sys.system_views": "SELECT 'dm_exec_sessions'",
    "transaction_isolation_level": "SELECT 'READ COMMITTED'",
    "fn_listextendedproperty": "SELECT 1 WHERE false",
    "SYSUTCDATETIME()": "SELECT extract(epoch FROM clock_timestamp())",
    "sys.objects": "SELECT relname FROM pg_class WHERE relkind = 'r'",
    "sys.databases": "VALUES ('delayed_durability', 'DISABLED'), ('page_verify', 'CHECKSUM')",
}
"""What SQLAlchemy and we ask of SQL Server's own tables and clock, and what is answered."""
