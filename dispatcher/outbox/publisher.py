"""Producer side: inserts events in the transaction of the change that they announce. Never begins, flushes or commits."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection, Insert

from dispatcher.outbox import drivers
from dispatcher.outbox.async_sqlalchemy import is_async_connection
from dispatcher.outbox.drivers import AsyncDriverConnection, DBAPIConnection
from dispatcher.outbox.events import Event, subject_of
from dispatcher.outbox.schema import choose_schema, outbox_in
from dispatcher.outbox.tables import outbox
from dispatcher.outbox.traceparent import current_traceparent

_VERCELS = "icfg_"
"""Every id that Vercel gives to an installation begins with it."""

if TYPE_CHECKING:
    # A caller with a session has already imported the ORM. The service has not: it would cost 10 % of its start-up time and memory.
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session


def insert_event(event: Event, *, schema: str | None = None) -> Insert:
    """Returns the INSERT of an event, for callers that execute statements by other means. `schema` is as in `publish`."""
    # `inline()` prevents RETURNING id, which would require the partner's user to have SELECT on PostgreSQL.
    return sa.insert(outbox_in(choose_schema(schema))).values(row_of(event)).inline()


def publish(connection: "Session | Connection | DBAPIConnection", *events: Event, schema: str | None = None) -> None:
    """Inserts the events into the outbox in the current transaction of `connection`. The caller commits.

    `connection` is a SQLAlchemy Session or Connection, or a connection of a database driver (sqlite3, psycopg, PyMySQL, Django's).
    `schema` is the schema of the dispatcher's tables (on MySQL: their database); None: the one that the environment variable
    DISPATCHER_SCHEMA names, else the connection's own.

    Publish after the change that the event announces. Raises NoTransaction on an autocommit connection without an open transaction,
    TypeError on an async connection (await `apublish`) or if an argument is not an event, and ValueError for an impossible schema name.
    """
    _check(events)
    _insert(connection, events, choose_schema(schema))


def connection_of(connection: object) -> Connection | None:
    """Returns SQLAlchemy's connection in the current transaction, or None if `connection` is a database driver's.

    Raises TypeError for any other object.
    """
    if isinstance(connection, Connection):
        return connection
    if is_async_connection(connection):
        raise TypeError(
            "this is an async session or connection: await apublish(…), or call run_sync(…) with the function that reads"
        )
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(connection, Session | scoped_session):
        return connection.connection(bind_arguments=_BIND)
    if not hasattr(connection, "cursor"):
        if drivers.is_async(connection):
            raise TypeError(f"{drivers.name_of(connection)} is async: await apublish(…)")
        raise TypeError(f"expected a session or a database connection, not {drivers.name_of(connection)}")
    return None


async def apublish(
    connection: "AsyncSession | AsyncConnection | AsyncDriverConnection", *events: Event, schema: str | None = None
) -> None:
    """As `publish`, on SQLAlchemy's AsyncSession and AsyncConnection, and on connections of psycopg, asyncpg, aiosqlite, aiomysql and
    asyncmy.
    """
    _check(events)
    place = choose_schema(schema)
    if is_async_connection(connection):
        await connection.run_sync(_insert, events, place)
    else:
        await drivers.ainsert(connection, map(row_of, events), place)


def _check(events: Sequence[object]) -> None:
    """Raises TypeError unless each argument is an event, before anything is executed."""
    if not events:
        raise TypeError("there is no event: publish(connection, ResourceUpdated(installation_id=…, resource_id=…))")
    for event in events:
        if isinstance(event, list | tuple):
            raise TypeError(
                f"pass each event as a separate argument, not in a {type(event).__name__}: publish(connection, *events)"
            )
        if not isinstance(event, Event):
            raise TypeError(
                "an event is ResourceUpdated(installation_id=…, resource_id=…), InstallationUpdated(installation_id=…)"
                f" or InstallationRemoved(installation_id=…), not {type(event).__name__}"
            )
        if _is_swapped(event):
            warnings.warn(
                "resource_id begins with icfg_ and installation_id does not: are they swapped? Vercel would refuse this event",
                stacklevel=3,
            )


def _is_swapped(event: Event) -> bool:
    resource_id = getattr(event, "resource_id", None) or ""
    return resource_id.startswith(_VERCELS) and not event.installation_id.startswith(_VERCELS)


def row_of(event: Event) -> dict[str, str]:
    """Returns the event's columns in the outbox, without those that are NULL."""
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
    """Inserts the event and returns its id, which on PostgreSQL requires SELECT."""
    key = connection.execute(sa.insert(outbox).values(row_of(event))).inserted_primary_key
    return int(key[0]) if key else 0


# Selects the outbox's database if a session has several. `Session.execute` is not used: it would flush pending objects.
_BIND = {"clause": outbox}


def _insert(connection: "Session | Connection | DBAPIConnection", events: Sequence[Event], schema: str | None) -> None:
    own = connection_of(connection)
    if own is None:
        drivers.insert(connection, map(row_of, events), schema)
        return
    _refuse_autocommit(own)
    for event in events:
        own.execute(insert_event(event, schema=schema))


def _refuse_autocommit(connection: Connection) -> None:
    opened = connection.connection
    # With asyncpg, SQLAlchemy begins the transaction only with the first statement, so the driver does not show it yet.
    if getattr(opened.dbapi_connection, "autocommit", None) is not False:
        drivers.refuse_autocommit(opened.driver_connection)
