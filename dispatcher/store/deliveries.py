"""retry: makes deliveries that wait for their next attempt due now."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Subquery, Table

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import belongs_to
from dispatcher.outbox.tables import delivery, installation
from dispatcher.store.records import CHUNK_ROWS, Progress


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Selects the deliveries that meet every given condition."""

    installation_id: str | None = None
    resource_id: str | None = None
    since: datetime | None = None
    """Its oldest event was written at this time or later."""

    def of(self, table: Table | Subquery = delivery) -> list[ColumnElement[bool]]:
        """Returns the conditions in SQL, for the table or a part of it."""
        conditions = belongs_to(table, self.installation_id, self.resource_id)
        if self.since is not None:
            conditions.append(table.c.first_created_at >= self.since)
        return conditions


def retry(database: Database, wanted: DeliveryFilter, progress: Progress, chunk: int = CHUNK_ROWS) -> int:
    """Makes the deliveries due that would be due later; returns their number. `progress` gets the number done so far.

    Their attempts still count. A paused installation stays paused, and the rate limit holds.
    """
    done, after = 0, ""
    step = partial(_retry, dialect=database.dialect, wanted=wanted, chunk=chunk)
    while (retried := database.transact(partial(step, after=after))) is not None:
        done, after = done + retried.deliveries, retried.last_key
        progress(done)
    return done


class _Retried(NamedTuple):
    deliveries: int
    last_key: str


def _retry(connection: Connection, dialect: Dialect, wanted: DeliveryFilter, after: str, chunk: int) -> _Retried | None:
    """Retries the next chunk; None if there is none. A delivery that is settled meanwhile is left out."""
    now: datetime = connection.execute(sa.select(dialect.clock())).scalar_one()
    key, later = delivery.c.subject_key, delivery.c.due_at > now
    next_ones = sa.select(key, delivery.c.installation_id).where(later, key > after, *wanted.of())
    rows = connection.execute(next_ones.order_by(key).limit(chunk)).all()
    if not rows:
        return None
    _make_due(connection, {row.installation_id for row in rows}, now)
    these = key.in_([row.subject_key for row in rows])
    changed = connection.execute(sa.update(delivery).where(these, later).values(due_at=now))
    return _Retried(changed.rowcount, rows[-1].subject_key)


def _make_due(connection: Connection, ids: set[str], now: datetime) -> None:
    """Locks the installations, and makes those due that are not paused."""
    columns = installation.c
    of_them = sa.select(columns.installation_id).where(columns.installation_id.in_(ids))
    connection.execute(of_them.order_by(columns.installation_id).with_for_update()).all()
    at: ColumnElement[Any] = sa.func.coalesce(columns.throttled_until, now)
    at = sa.case((at > now, at), else_=now)
    connection.execute(
        sa.update(installation)
        .where(columns.installation_id.in_(ids), columns.pause_reason.is_(None), columns.due_at > at)
        .values(due_at=at)
    )
