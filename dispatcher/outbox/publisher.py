"""Producer side: the INSERT that makes a change and its event one transaction. It never begins, flushes or commits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Insert

from dispatcher.outbox import drivers
from dispatcher.outbox.drivers import (
    NO_TRANSACTION,
    PSYCOPG_IDLE,
    AsyncDriverConnection,
    DBAPIConnection,
    NoTransaction,
)
from dispatcher.outbox.events import Event, subject_of
from dispatcher.outbox.tables import outbox
from dispatcher.outbox.traceparent import current_traceparent

if TYPE_CHECKING:
    # Who has a session has imported this; the service need not: it takes a tenth of its start and of its memory.
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session


def insert_event(event: Event) -> Insert:
    """The bare INSERT of an event, for whoever executes statements by other means."""
    # Inline: it must not ask for the new id, for which PostgreSQL wants SELECT, which a partner's user need not have.
    return sa.insert(outbox).values(row_of(event)).inline()


def publish(connection: "Session | Connection | DBAPIConnection", *events: Event) -> None:
    """Inserts the events into the outbox in the transaction that `connection` is in. Commits nothing: that is for the caller.

    `connection` is a SQLAlchemy Session or Connection, or a connection of a database driver (sqlite3, psycopg, PyMySQL, Django's).
    Publish after the change that the event announces. Raises NoTransaction on a connection that commits by itself, and TypeError on
    an async one (await `apublish`) or for what is no event.
    """
    _check(events)
    own = connection_of(connection)
    if own is None:
        drivers.insert(connection, map(row_of, events))
    else:
        _insert(own, events)


def connection_of(connection: object) -> Connection | None:
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
        if drivers.is_async(connection):
            raise TypeError(f"{drivers.name_of(connection)} is async: await apublish(…)")
        raise TypeError(f"expected a session or a database connection, not {drivers.name_of(connection)}")
    return None


async def apublish(connection: "AsyncSession | AsyncConnection | AsyncDriverConnection", *events: Event) -> None:
    """As `publish`, for SQLAlchemy's AsyncSession and AsyncConnection, and for connections of psycopg, asyncpg, aiosqlite, aiomysql
    and asyncmy.
    """
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    _check(events)
    if isinstance(connection, AsyncSession):
        await (await connection.connection(bind_arguments=_BIND)).run_sync(_insert, events)
    elif isinstance(connection, AsyncConnection):
        await connection.run_sync(_insert, events)
    else:
        await drivers.ainsert(connection, map(row_of, events))


def _check(events: Sequence[object]) -> None:
    """Raises TypeError for what is no event, before anything is executed."""
    if not events:
        raise TypeError("there is no event: publish(connection, ResourceUpdated(installation_id=…, resource_id=…))")
    for event in events:
        if isinstance(event, list | tuple):
            raise TypeError(
                f"events are arguments of their own, not a {type(event).__name__}: publish(connection, *events)"
            )
        if not isinstance(event, Event):
            raise TypeError(
                f"an event is ResourceUpdated(installation_id=…, resource_id=…) or InstallationUpdated(installation_id=…),"
                f" not {type(event).__name__}"
            )


def row_of(event: Event) -> dict[str, str]:
    """The event's columns in the outbox, those that are NULL left out."""
    subject = subject_of(event)
    values = {
        "installation_id": subject.installation_id,
        "type": subject.type,
        "resource_id": subject.resource_id,
        "product_id": getattr(event, "product_id", None),
        "billing_plan_id": getattr(event, "billing_plan_id", None),
        "traceparent": event.traceparent or current_traceparent(),
    }
    return {name: value for name, value in values.items() if value is not None}


def insert_and_identify(connection: Connection, event: Event) -> int:
    """Inserts the event and returns its id, for which PostgreSQL wants SELECT."""
    key = connection.execute(sa.insert(outbox).values(row_of(event))).inserted_primary_key
    return int(key[0]) if key else 0


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
        raise NoTransaction(NO_TRANSACTION)


def _has_begun(connection: Any) -> bool:
    """Whether there was an explicit BEGIN, as far as the driver says so."""
    if hasattr(connection, "in_transaction"):  # sqlite3
        return bool(connection.in_transaction)
    status = getattr(getattr(connection, "info", None), "transaction_status", PSYCOPG_IDLE)
    return bool(status != PSYCOPG_IDLE)
