"""Pause, resume and purge: an installation that an operator stops, lets go on, or empties."""

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
"""How long an operator's pause lasts, unless it is ended."""


def pause(database: Database, installation_id: str) -> bool:
    """Sends nothing for it until `resume`; its events are kept. Whoever holds its lease stops at its next settlement.

    False if nothing is known of the installation, not even an event.
    """

    def step(connection: Connection) -> bool:
        row = _lock(connection, database.dialect, installation_id)
        if row is not None and row.pause_reason != PauseReason.OPERATOR:
            paused = {"pause_reason": PauseReason.OPERATOR, "paused_since": row.now, "paused_until": FOREVER}
            _write(connection, row, due_at=None if row.due_at is None else FOREVER, **paused)
        return row is not None

    return database.transact(step)


def resume(database: Database, installation_id: str) -> bool:
    """Ends its pause, whatever the reason: what waits is due at once. False if nothing is known of the installation."""

    def step(connection: Connection) -> bool:
        row = _lock(connection, database.dialect, installation_id)
        if row is not None and row.pause_reason is not None:
            _write(connection, row, due_at=_next_look(connection, row), failures=0, **_NO_PAUSE)
        return row is not None

    return database.transact(step)


_NO_PAUSE = {"pause_reason": None, "paused_since": None, "paused_until": None}


def _lock(connection: Connection, dialect: Dialect, installation_id: str) -> Row[Any] | None:
    """Its row, which from now on is ours; made, if there are events of it that nobody has collected yet."""
    found = connection.execute(_locked(dialect, installation_id)).one_or_none()
    if found is None and _has_events(connection, installation_id):
        rows = dialect.rows(installation.c.installation_id)
        # A collector may be inserting the same.
        made = dialect.upsert(installation, sa.select(rows), lambda _: {"due_at": installation.c.due_at})
        connection.execute(made, dialect.encode([{"installation_id": installation_id}]))
        found = connection.execute(_locked(dialect, installation_id)).one()
    return found


def _locked(dialect: Dialect, installation_id: str) -> Select[Any]:
    row = is_exactly(installation.c.installation_id, installation_id)
    return sa.select(installation, dialect.clock().label("now")).where(row).with_for_update()


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
    """Buries everything that waits for it, also in the outbox, as `purged`; returns how many dead letters that made.

    A pause that is not an operator's ends: there is nothing to probe any more. Requests that are in flight meanwhile end as they
    would, and supersede nothing: a dead letter may hold a change that was committed after they began. `progress` is told how many
    are buried so far.
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
    """The next chunk; once there is none, the installation is idle."""
    row = _lock(connection, dialect, installation_id)
    if row is None:
        return 0
    of_it = delivery.c.installation_id == installation_id
    columns = (delivery.c[name] for name in (*READ, "last_status", "last_error"))
    found = connection.execute(sa.select(*columns).where(of_it).order_by(delivery.c.due_at).limit(chunk)).all()
    burials = [
        Burial(Delivery.of(one, row.now), DeadLetterReason.PURGED, one.attempts, one.last_status, one.last_error)
        for one in found
    ]
    if burials:
        return bury(connection, dialect, burials, row.now)
    keeps_pause = row.pause_reason == PauseReason.OPERATOR
    _write(connection, row, due_at=None, **({} if keeps_pause else {"failures": 0, **_NO_PAUSE}))
    return 0
