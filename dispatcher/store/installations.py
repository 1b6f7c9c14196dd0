"""Pause, resume and purge: stop, restart or empty one installation for an operator."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import DeadLetterReason, PauseReason
from dispatcher.store.burial import Burial, bury
from dispatcher.store.collection import collect_installation
from dispatcher.store.records import CHUNK_ROWS, READ, Delivery, Progress

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of an operator's pause, which lasts until `resume`."""


def pause(database: Database, installation_id: str) -> bool:
    """Pauses the installation until `resume`; its events are kept. The worker that holds its lease stops at the next settlement.

    Returns False if the installation is unknown and has no event.
    """

    def step(connection: Connection) -> bool:
        row = _lock(connection, database.dialect, installation_id)
        if row is not None and row.pause_reason != PauseReason.OPERATOR:
            paused = {"pause_reason": PauseReason.OPERATOR, "paused_since": row.now, "paused_until": FOREVER}
            _write(connection, row, due_at=None if row.due_at is None else FOREVER, **paused)
        return row is not None

    return database.transact(step)


def resume(database: Database, installation_id: str) -> bool:
    """Ends the installation's pause, whatever its reason: its waiting deliveries may be sent again.

    Returns False if the installation is unknown and has no event.
    """

    def step(connection: Connection) -> bool:
        row = _lock(connection, database.dialect, installation_id)
        if row is not None and row.pause_reason is not None:
            _write(connection, row, due_at=_next_look(connection, row), failures=0, **_NO_PAUSE)
        return row is not None

    return database.transact(step)


_NO_PAUSE = {"pause_reason": None, "paused_since": None, "paused_until": None}


def _lock(connection: Connection, dialect: Dialect, installation_id: str) -> Row[Any] | None:
    """Locks and returns the installation's row; inserts it first if the installation only has events that are not collected yet."""
    row = connection.execute(_locked(dialect, installation_id)).one_or_none()
    if row is None and _has_events(connection, installation_id):
        rows = dialect.rows(installation.c.installation_id)
        # An upsert, because a collector may be inserting the same row.
        insert = dialect.upsert(installation, sa.select(rows), lambda _: {"due_at": installation.c.due_at})
        connection.execute(insert, dialect.encode([{"installation_id": installation_id}]))
        row = connection.execute(_locked(dialect, installation_id)).one()
    return row


def _locked(dialect: Dialect, installation_id: str) -> Select[Any]:
    row = is_exactly(installation.c.installation_id, installation_id)
    columns = (installation.c[name] for name in ("installation_id", "due_at", "pause_reason", "throttled_until"))
    return sa.select(*columns, dialect.clock().label("now")).where(row).with_for_update()


def _has_events(connection: Connection, installation_id: str) -> bool:
    first = sa.select(outbox.c.id).where(is_exactly(outbox.c.installation_id, installation_id)).limit(1)
    return connection.execute(first).first() is not None


def _write(connection: Connection, row: Row[Any], **values: object) -> None:
    this = installation.c.installation_id == row.installation_id
    connection.execute(sa.update(installation).where(this).values(**values))


def _next_look(connection: Connection, row: Row[Any]) -> datetime | None:
    of_it = delivery.c.installation_id == row.installation_id
    first_due = connection.execute(
        sa.select(delivery.c.due_at).where(of_it).order_by(delivery.c.due_at).limit(1)
    ).scalar()
    return None if first_due is None else max(first_due, row.now, row.throttled_until or row.now)


def purge(database: Database, installation_id: str, progress: Progress, chunk: int = CHUNK_ROWS) -> int:
    """Buries all waiting events and deliveries of the installation as `purged`; returns the number of dead letters created.

    A pause that no operator ordered ends, because there is nothing left to probe with. Requests in flight finish as usual but do not
    supersede the new dead letters, which may hold changes committed after those requests began. `progress` gets the number buried
    so far.
    """
    while collect_installation(database, installation_id, chunk).full:
        pass
    buried = 0
    step = partial(_bury, dialect=database.dialect, installation_id=installation_id, chunk=chunk)
    while done := database.transact(step):
        buried += done
        progress(buried)
    return buried


def _bury(connection: Connection, dialect: Dialect, installation_id: str, chunk: int) -> int:
    """Buries the next chunk. If no delivery is left, makes the installation idle."""
    row = _lock(connection, dialect, installation_id)
    if row is None:
        return 0
    of_it = delivery.c.installation_id == installation_id
    columns = (delivery.c[name] for name in (*READ, "last_status", "last_error"))
    waiting = connection.execute(sa.select(*columns).where(of_it).order_by(delivery.c.due_at).limit(chunk)).all()
    burials = [
        Burial(Delivery.of(one, row.now), DeadLetterReason.PURGED, one.attempts, one.last_status, one.last_error)
        for one in waiting
    ]
    if burials:
        return bury(connection, dialect, burials, row.now)
    keeps_pause = row.pause_reason == PauseReason.OPERATOR
    _write(connection, row, due_at=None, **({} if keeps_pause else {"failures": 0, **_NO_PAUSE}))
    return 0
