"""Runs a few statements on any database that a test has at hand: a plan yields each statement and receives its rows."""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine

from dispatcher.outbox import drivers
from dispatcher.outbox.async_sqlalchemy import is_async_connection, is_async_engine
from dispatcher.outbox.publisher import connection_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from dispatcher.outbox.drivers import AsyncDriverConnection, DBAPIConnection

    SyncDatabase = Engine | Connection | Session | DBAPIConnection
    AsyncDatabase = AsyncEngine | AsyncConnection | AsyncSession | AsyncDriverConnection

Result = TypeVar("Result")
Rows = Sequence[Sequence[Any]]
Steps = Generator[str, Any, Result]
Plan = Callable[[str | None], Steps[Result]]
"""Receives the dialect: `postgresql`, `mysql`, `sqlite`, or None for an unknown driver."""


def perform(database: "SyncDatabase", plan: Plan[Result]) -> Result:
    """Runs the plan: on an engine in a transaction of its own, which is committed; otherwise in that of the connection or session.

    Raises TypeError for any other object, such as an async one.
    """
    if isinstance(database, Engine):
        with database.begin() as connection:
            return perform(connection, plan)
    _refuse_async(database)
    own = connection_of(database)
    if own is None:
        return _drive(plan(drivers.dialect_of(database)), lambda statement: drivers.query(database, statement))
    return _drive(plan(own.dialect.name.replace("mariadb", "mysql")), lambda statement: _query(own, statement))


async def aperform(database: "AsyncDatabase", plan: Plan[Result]) -> Result:
    """As `perform`, on SQLAlchemy's async engines, connections and sessions, and on connections of async drivers."""
    if is_async_engine(database):
        async with database.begin() as connection:
            return await connection.run_sync(perform, plan)
    if is_async_connection(database):
        return await database.run_sync(perform, plan)
    steps = plan(drivers.dialect_of(database))
    rows = None
    while True:
        try:
            statement = steps.send(rows)
        except StopIteration as end:
            result: Result = end.value
            return result
        rows = await drivers.aquery(database, statement)


def is_async(database: object) -> bool:
    """Whether the functions with an `a` in front are the ones for this object."""
    return is_async_engine(database) or is_async_connection(database) or drivers.is_async(database)


def _refuse_async(database: object) -> None:
    if is_async(database):
        raise TypeError(
            f"{drivers.name_of(database)} is async: await the function with an a in front, such as aannounced(…)"
        )


def _drive(steps: Steps[Result], read: Callable[[str], Rows]) -> Result:
    rows = None
    while True:
        try:
            statement = steps.send(rows)
        except StopIteration as end:
            result: Result = end.value
            return result
        rows = read(statement)


def _query(connection: Connection, statement: str) -> Rows:
    # Otherwise a % in the statement would begin a parameter.
    found = connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    return found.all() if found.returns_rows else []
