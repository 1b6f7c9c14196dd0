"""mend, prune and check_writes: what runs now and then, in bounded chunks."""

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
"""After this time a due delivery should long have been claimed."""


def mend(database: Database) -> int:
    """Makes installations due whose deliveries are overdue although the installation says that nothing is. Returns how many.

    A net under the protocol: the count must stay 0.
    """
    with database.read() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        ids = (
            connection.execute(sa.select(installation.c.installation_id).where(*_stranded(now)).limit(CHUNK_ROWS))
            .scalars()
            .all()
        )
        orphans = connection.execute(_without_installation().limit(CHUNK_ROWS)).scalars().all()
    mended = sum(database.transact(partial(_mend, installation_id=id_, now=now)) for id_ in sorted(ids))
    return mended + sum(database.transact(partial(_adopt, database.dialect, id_, now)) for id_ in sorted(orphans))


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


def _mend(connection: Connection, installation_id: str, now: datetime) -> int:
    row = installation.c.installation_id == installation_id
    connection.execute(sa.select(installation.c.due_at).where(row).with_for_update())
    return connection.execute(sa.update(installation).where(row, *_stranded(now)).values(due_at=now)).rowcount


def _adopt(dialect: Dialect, installation_id: str, now: datetime, connection: Connection) -> int:
    """A collector or another sweep may be inserting the same row."""
    rows = dialect.rows(installation.c.installation_id, installation.c.due_at)
    adopted = dialect.upsert(installation, sa.select(rows), lambda new: {"due_at": new.due_at})
    connection.execute(adopted, dialect.encode([{"installation_id": installation_id, "due_at": now}]))
    return 1


def prune(database: Database, attempts_for: timedelta, resolved_for: timedelta, chunk: int = CHUNK_ROWS) -> int:
    """Deletes attempts and resolved dead letters that are older than these times, by the database's clock: at most `chunk` of each.

    Returns how many; 0: none are left. Unresolved dead letters stay for ever.
    """
    old = ((attempt, attempt.c.at, attempts_for), (dead_letter, dead_letter.c.resolved_at, resolved_for))
    step = partial(_prune, dialect=database.dialect, chunk=chunk)
    return sum(
        database.transact(partial(step, table=table, time=time, kept_for=kept_for)) for table, time, kept_for in old
    )


def check_writes(database: Database) -> None:
    """Raises the database's error unless it takes writes. Writes nothing: a server that takes none refuses the statement as such."""
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
