"""The outbox's INSERT on a connection of a database driver, without SQLAlchemy, in the connection's current transaction.

Drivers differ in their parameter markers, and in how they report that a transaction is open or that the next statement opens one.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

from dispatcher.outbox.tables import outbox

Row = Mapping[str, str]


class DBAPIConnection(Protocol):
    """A connection of a database driver (PEP 249) or of Django."""

    def cursor(self) -> Any:
        """Returns a cursor with `execute` and `close`."""

    def commit(self) -> None:
        """Commits. An async driver returns an awaitable here, so type checkers refuse its connections."""


class AsyncDriverConnection(Protocol):
    """A connection of psycopg (AsyncConnection), asyncpg, aiosqlite, aiomysql or asyncmy."""

    async def close(self) -> None:
        """Closes the connection."""


class NoTransaction(RuntimeError):
    """The connection commits each statement by itself, so the event and the change it announces cannot share a transaction."""


NO_TRANSACTION = (
    "this connection commits each statement by itself, so an event could be lost or sent for a change that was rolled back:"
    " begin a transaction, make the change and publish in it"
)

_QUESTION_MARKS = {"sqlite3", "pysqlite3", "sqlcipher3", "mariadb", "aiosqlite"}
_DRIVERS = {
    "postgresql": {"psycopg", "psycopg2", "asyncpg", "pg8000"},
    "mysql": {"pymysql", "MySQLdb", "mysql", "mariadb", "aiomysql", "asyncmy"},
    "sqlite": {"sqlite3", "pysqlite3", "sqlcipher3", "aiosqlite"},
}
_ASYNC_ONLY = {"asyncpg", "aiosqlite", "aiomysql", "asyncmy"}
_MYSQL_STATUS_IN_TRANSACTION = 1
PSYCOPG_STATUS_IDLE = 0


def name_of(connection: object) -> str:
    """Returns the connection's class with its package, such as `psycopg.AsyncConnection`."""
    return f"{_package(type(connection))}.{type(connection).__qualname__}".removeprefix("builtins.")


def is_async(connection: object) -> bool:
    """Whether this connection's methods must be awaited."""
    commit = getattr(type(connection), "commit", None)
    return inspect.iscoroutinefunction(commit) or not _drivers_of(connection).isdisjoint(_ASYNC_ONLY)


def insert(connection: Any, rows: Iterable[Row], schema: str | None = None) -> None:
    """Inserts the rows into the outbox, in this schema.

    Raises NoTransaction on an autocommit connection without an open transaction, and TypeError on an async one, where nothing would be
    executed.
    """
    if is_async(connection):
        _refuse_async(connection)
    refuse_autocommit(connection)
    mark = "?" if _drivers_of(connection) & _QUESTION_MARKS else "%s"
    table = outbox_name(dialect_of(connection), schema)
    cursor = connection.cursor()
    if inspect.isawaitable(cursor):
        _refuse_async(connection, cursor)
    try:
        for row in rows:
            executed = cursor.execute(_statement(table, row, [mark] * len(row)), tuple(row.values()))
            if inspect.isawaitable(executed):
                _refuse_async(connection, executed)
    finally:
        closed = cursor.close()
        if inspect.iscoroutine(closed):
            closed.close()


async def ainsert(connection: Any, rows: Iterable[Row], schema: str | None = None) -> None:
    """As `insert`, on a connection of psycopg (async), asyncpg, aiosqlite, aiomysql or asyncmy.

    Raises NoTransaction on an autocommit connection without an open transaction, and TypeError for any other object.
    """
    driver = _async_driver_of(connection)
    refuse_autocommit(connection)
    table = outbox_name(dialect_of(connection), schema)
    for row in rows:
        marks = [_MARK[driver].format(number) for number in range(1, len(row) + 1)]
        await _EXECUTE[driver](connection, _statement(table, row, marks), tuple(row.values()))


def _async_driver_of(connection: object) -> str:
    drivers = _drivers_of(connection) & _EXECUTE.keys()
    if not drivers or not is_async(connection):
        raise TypeError(
            "expected an AsyncSession or AsyncConnection of SQLAlchemy, or a connection of psycopg (AsyncConnection), asyncpg, aiosqlite,"
            f" aiomysql or asyncmy, not {name_of(connection)}"
            + (": use publish(…)" if hasattr(connection, "rollback") and not is_async(connection) else "")
        )
    (driver,) = drivers
    return driver


def query(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    """Executes a statement without parameters and returns its rows, if it has any."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return _plain(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()


async def aquery(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    """As `query`, on a connection that `ainsert` accepts. Raises TypeError for any other object."""
    driver = _async_driver_of(connection)
    if driver == "asyncpg":
        return _plain(await connection.fetch(statement))
    if driver == "aiosqlite":
        return _plain(await connection.execute_fetchall(statement))
    async with connection.cursor() as cursor:
        await cursor.execute(statement)
        return _plain(await cursor.fetchall()) if cursor.description else []


def _plain(rows: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Some drivers can be configured to return each row as a dictionary."""
    return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in rows]


def refuse_autocommit(connection: Any) -> None:
    """Raises NoTransaction if no transaction is open and the next statement will not open one."""
    if hasattr(connection, "in_atomic_block"):  # Django
        autocommits = not connection.in_atomic_block and connection.get_autocommit()
    elif hasattr(connection, "is_in_transaction"):  # asyncpg
        autocommits = not connection.is_in_transaction()
    elif hasattr(connection, "in_transaction") and hasattr(connection, "isolation_level"):  # sqlite3, aiosqlite
        begins = connection.isolation_level is not None or getattr(connection, "autocommit", None) is False
        autocommits = not connection.in_transaction and not begins
    elif hasattr(connection, "get_autocommit"):  # PyMySQL, mysqlclient, aiomysql, asyncmy
        autocommits = connection.get_autocommit() and not _mysql_status(connection) & _MYSQL_STATUS_IN_TRANSACTION
    elif hasattr(connection, "in_transaction"):  # mysql.connector
        autocommits = connection.autocommit and not connection.in_transaction
    else:  # psycopg, pg8000, pyodbc
        status = getattr(getattr(connection, "info", None), "transaction_status", PSYCOPG_STATUS_IDLE)
        autocommits = getattr(connection, "autocommit", False) and status == PSYCOPG_STATUS_IDLE
    if autocommits:
        raise NoTransaction(NO_TRANSACTION)


def _mysql_status(connection: Any) -> int:
    if hasattr(connection, "get_transaction_status"):  # aiomysql, asyncmy: True in a transaction
        return int(connection.get_transaction_status())
    return int(getattr(connection, "server_status", 0))


def dialect_of(connection: object) -> str | None:
    """Returns `postgresql`, `mysql` or `sqlite`; None if the driver is not known."""
    vendor = getattr(connection, "vendor", None)  # Django
    drivers = _drivers_of(connection)
    return next(
        (name for name, packages in _DRIVERS.items() if name == vendor or not drivers.isdisjoint(packages)), None
    )


def outbox_name(dialect: str | None, schema: str | None) -> str:
    """Returns the outbox's name as it stands in statements of this dialect (None: not known)."""
    mark = "`" if dialect == "mysql" else '"'
    return f"{mark}{schema}{mark}.{outbox.name}" if schema else outbox.name


def _statement(table: str, row: Row, marks: list[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(marks)})"  # noqa: S608 (our own names)


def _refuse_async(connection: object, unused: object = None) -> NoReturn:
    if inspect.iscoroutine(unused):
        unused.close()
    raise TypeError(f"{name_of(connection)} is async, so publish(…) would insert nothing: await apublish(…)")


def _package(of: type) -> str:
    return of.__module__.partition(".")[0]


def _drivers_of(connection: object) -> set[str]:
    """The packages of the connection's class and its bases: a partner's class may extend a driver's."""
    return {_package(parent) for parent in type(connection).__mro__}


async def _by_cursor(connection: Any, statement: str, values: tuple[str, ...]) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute(statement, values)


async def _by_connection(connection: Any, statement: str, values: tuple[str, ...]) -> None:
    await connection.execute(statement, *values)


async def _by_connection_cursor(connection: Any, statement: str, values: tuple[str, ...]) -> None:
    cursor = await connection.execute(statement, values)
    await cursor.close()


_EXECUTE: dict[str, Callable[[Any, str, tuple[str, ...]], Awaitable[None]]] = {
    "psycopg": _by_cursor,
    "asyncpg": _by_connection,
    "aiosqlite": _by_connection_cursor,
    "aiomysql": _by_cursor,
    "asyncmy": _by_cursor,
}
_MARK = {"psycopg": "%s", "asyncpg": "${}", "aiosqlite": "?", "aiomysql": "%s", "asyncmy": "%s"}
