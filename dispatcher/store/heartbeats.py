"""beat, leave and forget_silent: each running dispatcher's row, so that operators see what runs."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dispatcher


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a running dispatcher tells about itself."""

    name: str
    """The name under which it holds leases."""
    version: str
    in_flight: int
    """Requests in flight."""
    is_outage: bool
    """Whether Vercel as a whole does not answer it."""
    is_first: bool
    """Whether it has just started."""


def beat(database: Database, heartbeat: Heartbeat) -> None:
    """Writes the dispatcher's row, by the database's clock. Raises the database's error if it refuses writes."""

    def step(connection: Connection) -> None:
        now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        values: dict[str, Any] = {
            "version": heartbeat.version,
            "seen_at": now,
            "in_flight": heartbeat.in_flight,
            "outage": sa.func.coalesce(dispatcher.c.outage, now) if heartbeat.is_outage else None,
        }
        if heartbeat.is_first:
            values |= {"started_at": now}
        row = sa.update(dispatcher).where(dispatcher.c.name == heartbeat.name)
        if not connection.execute(row.values(**values)).rowcount:
            values |= {"name": heartbeat.name, "started_at": now, "outage": now if heartbeat.is_outage else None}
            connection.execute(sa.insert(dispatcher).values(**values))

    database.transact(step, durable=False)


def leave(database: Database, name: str) -> None:
    """Deletes the row of a dispatcher that stops."""
    database.transact(lambda connection: connection.execute(sa.delete(dispatcher).where(dispatcher.c.name == name)))


def forget_silent(database: Database, silent_for: timedelta) -> None:
    """Deletes the rows of dispatchers that have not been seen for this long: they ended without a chance to delete them."""

    def step(connection: Connection) -> None:
        now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        connection.execute(sa.delete(dispatcher).where(dispatcher.c.seen_at < now - silent_for))

    database.transact(step, durable=False)
