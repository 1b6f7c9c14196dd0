"""The running dispatchers, as their heartbeats show them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dispatcher

SILENT_AFTER = timedelta(seconds=60)
"""A dispatcher that has not been seen for this long, four heartbeats, counts as not running."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """A row of `vercel_dispatcher`."""

    name: str
    version: str
    started_at: datetime
    seen_at: datetime
    in_flight: int
    outage: datetime | None
    """Since when Vercel as a whole has not answered it; None if it does."""
    is_running: bool


def read_dispatchers(database: Database, connection: Connection, now: datetime) -> tuple[Dispatcher, ...] | None:
    """Returns the dispatchers that run, then those that ended without a word, both by name.

    None if the database's schema is too old to tell.
    """
    if not database.has(dispatcher.c.name):
        return None
    rows = connection.execute(sa.select(dispatcher).order_by(dispatcher.c.name)).all()
    found = [
        Dispatcher(
            row.name,
            row.version,
            row.started_at,
            row.seen_at,
            row.in_flight,
            row.outage,
            is_running=row.seen_at > now - SILENT_AFTER,
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda one: not one.is_running))


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the running dispatchers have in common."""

    runs: bool
    """Whether any is running."""
    outage: datetime | None
    """Since when Vercel as a whole has been unavailable, by the first that noticed; None if it answers any of them."""


def read_fleet(database: Database, connection: Connection, now: datetime) -> Fleet | None:
    """Returns the running dispatchers as one; None if the database's schema is too old to tell."""
    known = read_dispatchers(database, connection, now)
    if known is None:
        return None
    outages = [one.outage for one in known if one.is_running]
    since = [outage for outage in outages if outage is not None]
    return Fleet(bool(outages), min(since) if since and len(since) == len(outages) else None)
