"""forget_idle: deletes the rows of installations for which nothing has happened for long, chunk by chunk."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.store.collection import known
from dispatcher.store.records import CHUNK_ROWS


def forget_idle(database: Database, idle_for: timedelta, after: str = "", chunk: int = CHUNK_ROWS) -> str | None:
    """Looks at the next `chunk` installations with an id above `after` that seem idle, and deletes the rows of those that are.

    Idle: nothing waits, no lease, no pause, and no delivery and no request for `idle_for`, which must not be shorter than the rate
    window. Returns the last id for the next call; None if there are no more. A later event inserts a new row.
    """
    key = installation.c.installation_id
    with database.read() as connection:
        before = connection.execute(sa.select(database.dialect.clock())).scalar_one() - idle_for
        first = sa.select(key).where(key > after, *_idle(before)).order_by(key).limit(chunk)
        ids = connection.execute(first).scalars().all()
    if ids:
        database.transact(partial(_forget, dialect=database.dialect, ids=ids, before=before))
    return ids[-1] if ids else None


def is_quiet(row: Any, before: datetime) -> bool:
    """Whether no lease on the installation is valid, and no request since `before` occupies a slot of its rate window."""
    leased = row.leased_until is not None and row.leased_until > row.now
    return not leased and _last_request(row.rate_window) < before.timestamp()


def _idle(before: datetime) -> tuple[ColumnElement[bool], ...]:
    columns = installation.c
    long_ago = [sa.or_(time.is_(None), time < before) for time in (columns.throttled_until, columns.last_delivered_at)]
    waiting = sa.exists().where(delivery.c.installation_id == columns.installation_id)
    nothing = (column.is_(None) for column in (columns.due_at, columns.lease_token, columns.pause_reason))
    return (*nothing, *long_ago, ~waiting)


def _forget(connection: Connection, dialect: Dialect, ids: Sequence[str], before: datetime) -> None:
    keys = dialect.encode([{"installation_id": id_} for id_ in ids])
    locked = connection.execute(known(dialect).with_for_update(of=installation, skip_locked=True), keys).scalars().all()
    # Read in a second statement, once the rows are locked: a collection may have made one of them due in the meantime.
    columns = (installation.c[name] for name in ("installation_id", "leased_until", "rate_window"))
    rows = connection.execute(
        sa.select(*columns, dialect.clock().label("now")).where(
            installation.c.installation_id.in_(locked), *_idle(before)
        )
    )
    quiet = [{"installation_id": row.installation_id} for row in rows if is_quiet(row, before)]
    connection.execute(dialect.delete(installation, [installation.c.installation_id]), dialect.encode(quiet))


def _last_request(window: str | None) -> float:
    """Returns the end of the last request that a stored rate window holds, in epoch seconds; 0 if there is none."""
    try:
        return max(map(float, json.loads(window or "[]")), default=0.0)
    except (ValueError, TypeError):  # somebody changed the row; a worker would begin with an empty window
        return 0.0
