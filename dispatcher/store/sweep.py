"""repair, prune and check_writes: periodic housekeeping, in bounded chunks."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Table

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, collector, dead_letter, delivery, installation
from dispatcher.store.records import CHUNK_ROWS

OVERDUE = timedelta(minutes=1)
"""A delivery that has been due for this long should have been claimed."""


def repair(database: Database) -> int:
    """Finds installations that have overdue deliveries but are not due themselves, and makes them due. Returns their number.

    This is a safety net under the protocol: the number must stay 0.
    """
    with database.read() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        ids = (
            connection.execute(sa.select(installation.c.installation_id).where(*_stranded(now)).limit(CHUNK_ROWS))
            .scalars()
            .all()
        )
        orphans = connection.execute(_without_installation().limit(CHUNK_ROWS)).scalars().all()
    repaired = sum(database.transact(partial(_make_due, installation_id=id_, now=now)) for id_ in sorted(ids))
    return repaired + sum(database.transact(partial(_adopt, database.dialect, id_, now)) for id_ in sorted(orphans))


def _stranded(now: datetime) -> tuple[ColumnElement[bool], ...]:
    columns = installation.c
    overdue = sa.exists().where(
        delivery.c.installation_id == columns.installation_id, delivery.c.due_at <= now - OVERDUE
    )
    return (
        columns.lease_token.is_(None),
        sa.or_(columns.due_at.is_(None), columns.due_at > now),
        sa.func.coalesce(columns.paused_until, now) <= now,
        sa.func.coalesce(columns.throttled_until, now) <= now,
        overdue,
    )


def _without_installation() -> sa.Select[Any]:
    known = sa.exists().where(installation.c.installation_id == delivery.c.installation_id)
    return sa.select(delivery.c.installation_id).where(~known).distinct()


def _make_due(connection: Connection, installation_id: str, now: datetime) -> int:
    row = installation.c.installation_id == installation_id
    connection.execute(sa.select(installation.c.due_at).where(row).with_for_update())
    return connection.execute(sa.update(installation).where(row, *_stranded(now)).values(due_at=now)).rowcount


def _adopt(dialect: Dialect, installation_id: str, now: datetime, connection: Connection) -> int:
    """Inserts the row of an installation that is missing although it has deliveries."""
    rows = dialect.rows(installation.c.installation_id, installation.c.due_at)
    # An upsert, because a collector or another sweep may be inserting the same row.
    adopted = dialect.upsert(installation, sa.select(rows), lambda new: {"due_at": new.due_at})
    connection.execute(adopted, dialect.encode([{"installation_id": installation_id, "due_at": now}]))
    return 1


def prune(database: Database, attempts_for: timedelta, resolved_for: timedelta, chunk: int = CHUNK_ROWS) -> int:
    """Deletes attempts and resolved dead letters older than these times by the database's clock: at most `chunk` of each.

    Returns the number deleted; 0 if none are left. Unresolved dead letters stay forever.
    """
    old = ((attempt, attempt.c.at, attempts_for), (dead_letter, dead_letter.c.resolved_at, resolved_for))
    step = partial(_prune, dialect=database.dialect, chunk=chunk)
    return sum(
        database.transact(partial(step, table=table, time=time, kept_for=kept_for)) for table, time, kept_for in old
    )


def check_writes(database: Database) -> None:
    """Raises the database's error if it refuses writes. Changes no row: a read-only server refuses the statement itself."""
    nothing = sa.update(collector).where(sa.false()).values(id=collector.c.id)
    database.transact(lambda connection: connection.execute(nothing))


def _prune(
    connection: Connection,
    dialect: Dialect,
    table: Table,
    time: ColumnElement[datetime],
    kept_for: timedelta,
    chunk: int,
) -> int:
    now: datetime = connection.execute(sa.select(dialect.clock())).scalar_one()
    old = sa.select(table.c.id).where(time < now - kept_for).order_by(time).limit(chunk)
    ids = connection.execute(old).scalars().all()
    if ids:
        connection.execute(dialect.delete(table, [table.c.id]), dialect.encode([{"id": id_} for id_ in ids]))
    return len(ids)
