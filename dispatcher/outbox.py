"""Producer side: the INSERT that makes a change and its event one transaction. It never begins, flushes or commits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, Insert

from dispatcher.events import Event, subject_of
from dispatcher.tables import outbox
from dispatcher.tracing import current_traceparent

if TYPE_CHECKING:
    # Who has a session has imported this; the service need not: it takes a tenth of its start and of its memory.
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session


class DBAPIConnection(Protocol):
    """A connection of a database driver (PEP 249), or Django's: anything with cursors."""

    def cursor(self) -> Any:
        """A cursor with `execute`."""


class NoTransaction(RuntimeError):
    """The connection commits each statement by itself, so the event could not be one with the change it announces."""


def insert_event(event: Event) -> Insert:
    """The bare INSERT of an event, for whoever executes statements by other means."""
    # Inline: it must not ask for the new id, for which PostgreSQL wants SELECT, which a partner's user need not have.
    return sa.insert(outbox).values(row_of(event)).inline()


def publish(connection: "Session | Connection | DBAPIConnection", *events: Event) -> None:
    """Inserts the events into the outbox in the transaction that `connection` is in. Commits nothing: that is for the caller.

    `connection` is a SQLAlchemy Session or Connection, or a connection of a database driver (sqlite3, psycopg, PyMySQL, Django's).
    Publish after the change that the event announces. Raises NoTransaction on a connection that commits by itself.
    """
    own = connection_of(connection)
    if own is None:
        _insert_by_driver(connection, events)
    else:
        _insert(own, events)


def connection_of(connection: "Session | Connection | DBAPIConnection") -> Connection | None:
    """SQLAlchemy's own connection in the transaction that `connection` is in; None: it is a database driver's.

    Raises TypeError for anything else.
    """
    if isinstance(connection, Connection):
        return connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(connection, AsyncSession | AsyncConnection):
        raise TypeError("this is an async session or connection: await apublish(…), or run_sync(…) what reads")
    if isinstance(connection, Session | scoped_session):
        return connection.connection(bind_arguments=_BIND)
    if not hasattr(connection, "cursor"):
        raise TypeError(f"expected a session or a database connection, not {type(connection).__name__}")
    return None


async def apublish(connection: "AsyncSession | AsyncConnection", *events: Event) -> None:
    """As `publish`, for SQLAlchemy's AsyncSession and AsyncConnection."""
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    if not isinstance(connection, AsyncSession | AsyncConnection):
        raise TypeError(f"expected an AsyncSession or AsyncConnection, not {type(connection).__name__}: use publish(…)")
    own = await connection.connection(bind_arguments=_BIND) if isinstance(connection, AsyncSession) else connection
    await own.run_sync(_insert, events)


def row_of(event: Event) -> dict[str, str | None]:
    """The event's columns in the outbox, those that are NULL left out."""
    subject = subject_of(event)
    values = {
        "installation_id": subject.installation_id,
        "type": subject.type,
        "resource_id": subject.resource_id,
        "product_id": subject.product_id,
        "billing_plan_id": getattr(event, "billing_plan_id", None),
        "traceparent": event.traceparent or current_traceparent(),
    }
    return {name: value for name, value in values.items() if value is not None}


# Of a session's databases, the one of this table. It executes nothing itself, for then it would flush what is pending.
_BIND = {"clause": outbox}


def _insert(connection: Connection, events: Sequence[Event]) -> None:
    _refuse_autocommit(connection)
    for event in events:
        connection.execute(insert_event(event))


def _refuse_autocommit(connection: Connection) -> None:
    opened = connection.connection
    dbapi = opened.dbapi_connection
    commits = dbapi is not None and connection.dialect.detect_autocommit_setting(dbapi)
    if commits and not _has_begun(opened.driver_connection):
        raise NoTransaction(_NO_TRANSACTION)


def _has_begun(connection: Any) -> bool:
    """Whether there was an explicit BEGIN, as far as the driver says so."""
    if hasattr(connection, "in_transaction"):  # sqlite3
        return bool(connection.in_transaction)
    status = getattr(getattr(connection, "info", None), "transaction_status", _PSYCOPG_IDLE)
    return bool(status != _PSYCOPG_IDLE)


_NO_TRANSACTION = (
    "this connection commits each statement by itself, so an event could be lost or sent for a change that was rolled back:"
    " begin a transaction, make the change and publish in it"
)


def _insert_by_driver(connection: Any, events: Sequence[Event]) -> None:
    _refuse_driver_autocommit(connection)
    mark = "?" if type(connection).__module__.partition(".")[0] in _QUESTION_MARKS else "%s"
    cursor = connection.cursor()
    try:
        for event in events:
            row = row_of(event)
            columns, marks = ", ".join(row), ", ".join([mark] * len(row))
            cursor.execute(f"INSERT INTO {outbox.name} ({columns}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 (our own names)
    finally:
        cursor.close()


_QUESTION_MARKS = {"sqlite3", "pysqlite3", "sqlcipher3", "mariadb"}
_MYSQL_IN_TRANSACTION = 1
_PSYCOPG_IDLE = 0


def _refuse_driver_autocommit(connection: Any) -> None:
    """Each driver says in its own way whether it is in a transaction, or will begin one by itself at the first statement."""
    if hasattr(connection, "in_atomic_block"):  # Django
        by_itself = not connection.in_atomic_block and connection.get_autocommit()
    elif hasattr(connection, "in_transaction") and hasattr(connection, "isolation_level"):  # sqlite3
        begins = connection.isolation_level is not None or getattr(connection, "autocommit", None) is False
        by_itself = not connection.in_transaction and not begins
    elif hasattr(connection, "get_autocommit"):  # PyMySQL, mysqlclient
        by_itself = connection.get_autocommit() and not getattr(connection, "server_status", 0) & _MYSQL_IN_TRANSACTION
    else:  # psycopg
        by_itself = connection.autocommit and connection.info.transaction_status == _PSYCOPG_IDLE
    if by_itself:
        raise NoTransaction(_NO_TRANSACTION)
